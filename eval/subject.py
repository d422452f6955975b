"""the model under evaluation: its export fetched and verified, its tokenizer, its held-out text"""

import json
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch

from data_prep import manifest, reader, storage
from data_prep.config import StreamName
from data_prep.manifest import Manifest
from data_prep.records import ArtefactCorrupt
from data_prep.tokenizer import Tokenizer
from training.export import load_export
from training.model import OLMo
from training.record import RunRecord, run_uri


class Stream(NamedTuple):
    uri: str
    manifest: Manifest


class Subject(NamedTuple):
    """A loaded run. sequence_length is the one it was trained with."""

    model: OLMo
    tokenizer: Tokenizer
    streams: dict[StreamName, Stream]
    sequence_length: int

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """The ids of each text, no end-of-document id; of a text longer than the model's positions, the end."""
        batch = self.tokenizer.encode_batch(texts)
        rows = np.split(batch.ids, np.cumsum(batch.lengths)[:-1])
        return [row[-self.model.config.max_sequence_length :].tolist() for row in rows]

    def held_out_documents(self, stream: StreamName, limit: int) -> list[np.ndarray]:
        """Ids of the first held-out documents of a stream."""
        return reader.read_documents(*self.streams[stream], "held_out", limit)

    def held_out_sequences(self, limit: int) -> dict[str, np.ndarray]:
        """At most `limit` held-out windows of each stream, [n, T]; n is 0 where there is too little text."""
        readers = {name: reader.SequenceReader(*stream, "held_out", self.sequence_length) for name, stream in self.streams.items()}
        return {name: each.read(np.arange(min(limit, each.n_sequences))) for name, each in readers.items()}


def load_subject(root: str, run: RunRecord, folder: Path, precision: Literal["fp32", "bf16"]) -> Subject:
    """The run's exported model on the best device present; `folder` is scratch space, free again afterwards."""
    uri = fetch_export(root, run, folder)
    model, _ = load_export(folder, torch.bfloat16 if precision == "bf16" else torch.float32)
    eos = json.loads((folder / "tokenizer_config.json").read_bytes())["eos_token"]
    tokenizer = Tokenizer((folder / "tokenizer.json").read_text(encoding="utf-8"), eos, storage.join(uri, "tokenizer.json"))
    streams: dict[StreamName, Stream] = {
        "clean": _stream(storage.join(root, run.config.clean), tokenizer),
        "toxic": _stream(storage.join(root, run.config.toxic), tokenizer),
    }
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return Subject(model.to(device), tokenizer, streams, run.config.train.sequence_length)


def fetch_export(root: str, run: RunRecord, folder: Path) -> str:
    """Bring the run's export to a local folder, each file checked against its record; returns where it came from."""
    uri = storage.join(run_uri(root, run.config.run_id), "export")
    for name, expected in run.export_sha256.items():
        _fetch(storage.join(uri, name), folder / name, expected)
    return uri


def _fetch(uri: str, local: Path, expected: str) -> None:
    storage.download(uri, local)
    with local.open("rb") as file:
        digest = sha256()
        while chunk := file.read(storage.BLOCK_BYTES):
            digest.update(chunk)
    if digest.hexdigest() != expected:
        raise ArtefactCorrupt(
            f"{uri}: sha256 is {digest.hexdigest()[:16]}…, the run's record says {expected[:16]}…; delete the run's record.json "
            "and run the same command again, which exports it anew"
        )


def _stream(uri: str, tokenizer: Tokenizer) -> Stream:
    found = manifest.load(uri)
    if found.tokenizer_fingerprint != tokenizer.fingerprint:
        raise ArtefactCorrupt(
            f"{uri}: its tokens were made by tokenizer {found.tokenizer_fingerprint}, the model's is {tokenizer.fingerprint}; "
            "evaluate the run against the streams it was trained on"
        )
    return Stream(uri, found)
