"""the model under evaluation: its folder fetched and verified, its tokenizer, its held-out text

It is a run of a sweep, whose export is checked against its record, or any folder with a Hugging
Face OLMo. A run brings the held-out text of its streams; eval.capability.held_out adds text from files, or is
all there is.
"""

import json
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal, NamedTuple

import numpy as np
import torch

from data_prep.config import StreamName
from data_prep.core import ranged_reads, storage
from data_prep.core.errors import ArtefactCorrupt, ArtefactMissing, ConfigurationError
from data_prep.core.records import digest
from data_prep.token_stream import manifest
from data_prep.token_stream.tokenizer import Tokenizer
from eval.config import EvalConfig
from eval.inputs.held_out_text import Files, HeldOut, Stream
from eval.model.batching import BatchSize
from training import run_record
from training.model.hf_export import load_export
from training.model.olmo import OLMo
from training.run_record import RunRecord, run_uri


class Subject(NamedTuple):
    """A loaded model. held_out: text it was not trained on, by name. sequence_length: of the
    windows its cost is measured on.
    batch: how many rows fit. weights: a name of its bytes.
    """

    model: OLMo
    tokenizer: Tokenizer
    held_out: dict[str, HeldOut]
    sequence_length: int
    batch: BatchSize
    weights: str

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """The ids of each text, no end-of-document id; of a text longer than the model's positions,
        the end.
        """
        batch = self.tokenizer.encode_batch(texts)
        rows = np.split(batch.ids, np.cumsum(batch.lengths)[:-1])
        return [row[-self.model.config.max_sequence_length :].tolist() for row in rows]

    def held_out_documents(self, stream: StreamName, limit: int) -> list[np.ndarray]:
        """Ids of at most `limit` held-out documents of a stream."""
        if stream not in self.held_out:
            raise ConfigurationError(
                f"held-out text is asked for, and this model, no run of a sweep, has none named {stream!r}; give eval.probing.rows and "
                f"eval.generation.prompts a file, or 'eval.capability.held_out=[\"{stream}=URI\", …]'"
            )
        return self.held_out[stream].documents(limit)

    def held_out_sequences(self, limit: int) -> dict[str, np.ndarray]:
        """At most `limit` held-out windows by name, [n, T]; n is 0 where there is too little text."""
        return {
            name: text.windows(self.sequence_length, limit) for name, text in self.held_out.items()
        }


def finished_run(root: str, run_id: str) -> RunRecord:
    run = run_record.find(root, run_id)
    if run is None:
        raise ArtefactMissing(
            f"{run_uri(root, run_id)}/record.json: the run is not finished; train it first, or name another"
        )
    return run


def load_run(root: str, run: RunRecord, config: EvalConfig) -> Subject:
    """The run's exported model on the best device present."""
    with TemporaryDirectory(prefix="hormesis-export-") as scratch:
        folder = Path(scratch)
        uri = fetch_export(root, run, folder)
        eos = json.loads((folder / "tokenizer_config.json").read_bytes())["eos_token"]
        tokenizer = Tokenizer(
            (folder / "tokenizer.json").read_text(encoding="utf-8"),
            eos,
            storage.join(uri, "tokenizer.json"),
        )
        model = _loaded(folder, config.compute.precision)
    streams: dict[str, HeldOut] = {
        "clean": _stream(storage.join(root, run.config.clean), tokenizer),
        "toxic": _stream(storage.join(root, run.config.toxic), tokenizer),
    }
    return Subject(
        model,
        tokenizer,
        streams | _files(config, tokenizer),
        run.config.train.sequence_length,
        BatchSize(config.compute.batch_size),
        digest(run.export_sha256),
    )


def load_folder(folder: Path, config: EvalConfig) -> Subject:
    """Any Hugging Face OLMo, with the text of eval.capability.held_out alone, in windows as long as its
    positions.
    """
    path = folder / "tokenizer.json"
    if not path.is_file():
        raise ArtefactMissing(
            f"{path}: no such file; the tokenizer must be a tokenizers JSON beside the weights"
        )
    tokenizer = Tokenizer(path.read_text(encoding="utf-8"), _eos(folder), str(path))
    model = _loaded(folder, config.compute.precision)
    batch = BatchSize(config.compute.batch_size)
    return Subject(
        model,
        tokenizer,
        _files(config, tokenizer),
        model.config.max_sequence_length,
        batch,
        folder_digest(folder),
    )


def folder_name(folder: Path) -> str:
    """NAME-DIGEST of a folder with a Hugging Face OLMo: another digest is another model."""
    if not (folder / "config.json").is_file():
        raise ArtefactMissing(
            f"{folder}/config.json: no such file; name a folder that holds a Hugging Face OLMo"
        )
    return f"{folder.resolve().name}-{folder_digest(folder)[:8]}"


def folder_home(root: str, folder: Path) -> str:
    """Where what is measured of a folder's model goes."""
    return storage.join(root, "models", folder_name(folder))


def folder_digest(folder: Path) -> str:
    """16 hex digits that name a model: of its config, weights and tokenizer."""
    whole = sha256()
    for path in sorted(
        [*folder.glob("*.safetensors"), folder / "config.json", folder / "tokenizer.json"]
    ):
        if path.is_file():
            with path.open("rb") as file:
                whole.update(f"{path.name} {_sha256(file)}\n".encode())
    return whole.hexdigest()[:16]


def fetch_export(root: str, run: RunRecord, folder: Path) -> str:
    """Bring the run's export to a local folder, each file checked against its record; returns where
    it came from.
    """
    uri = storage.join(run_uri(root, run.config.run_id), "export")
    for name, expected in run.export_sha256.items():
        _fetch(storage.join(uri, name), folder / name, expected)
    return uri


def _fetch(uri: str, local: Path, expected: str) -> None:
    ranged_reads.download(uri, local)
    with local.open("rb") as file:
        got = _sha256(file)
    if got != expected:
        raise ArtefactCorrupt(
            f"{uri}: sha256 is {got[:16]}…, the run's record says {expected[:16]}…; delete the run's record.json "
            "and run the same command again, which exports it anew"
        )


def _sha256(file: Any) -> str:
    whole = sha256()
    while chunk := file.read(storage.BLOCK_BYTES):
        whole.update(chunk)
    return whole.hexdigest()


def _loaded(folder: Path, precision: Literal["fp32", "bf16"]) -> OLMo:
    model, _ = load_export(folder, torch.bfloat16 if precision == "bf16" else torch.float32)
    return model.to(torch.device("cuda" if torch.cuda.is_available() else "cpu"))


def _files(config: EvalConfig, tokenizer: Tokenizer) -> dict[str, HeldOut]:
    named = (text.partition("=") for text in config.capability.held_out)
    return {name: Files(uri, tokenizer, config.seed) for name, _, uri in named}


def _eos(folder: Path) -> str:
    """The end-of-document token, as tokenizer_config.json spells it, else as config.json numbers
    it.
    """
    of_tokenizer, of_model = (
        _read_json(folder / name) for name in ("tokenizer_config.json", "config.json")
    )
    named, number = of_tokenizer.get("eos_token"), of_model.get("eos_token_id")
    if isinstance(named, dict):
        named = named.get("content")
    for token in _read_json(folder / "tokenizer.json").get("added_tokens", []):
        if named is None and token["id"] == number:
            named = token["content"]
    if not isinstance(named, str):
        raise ConfigurationError(
            f"{folder}: neither tokenizer_config.json nor config.json says which token ends a document"
        )
    return named


def _read_json(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_bytes()) if path.is_file() else {}
    except ValueError as error:
        raise ArtefactCorrupt(f"{path} is not JSON: {error}; get the file again") from error


def _stream(uri: str, tokenizer: Tokenizer) -> Stream:
    found = manifest.load(uri)
    if found.tokenizer_fingerprint != tokenizer.fingerprint:
        raise ArtefactCorrupt(
            f"{uri}: its tokens were made by tokenizer {found.tokenizer_fingerprint}, the model's is {tokenizer.fingerprint}; "
            "evaluate the run against the streams it was trained on"
        )
    return Stream(uri, found)
