"""the model under evaluation: weights on a device, tokenizer, held-out text, batch size

It is a run of a sweep, whose export is checked against its record, or any folder with a Hugging
Face OLMo. A run has the held-out text of its streams; eval.capability.held_out adds text from
files, and a folder has no other.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np
import torch

from data_prep.config import StreamName
from data_prep.core import storage
from data_prep.core.errors import ArtefactCorrupt, ArtefactMissing, ConfigurationError
from data_prep.core.records import digest
from data_prep.token_stream import manifest, tokenizer_json
from data_prep.token_stream.tokenizer import Tokenizer
from eval.config import EvalComputeConfig
from eval.inputs.held_out_text import HeldOutFiles, HeldOutStream, HeldOutText
from eval.model import model_files, numerics
from eval.model.batch_size import BatchSize
from eval.model.numerics import Format
from eval.model.subject.olmo_subject import load_olmo
from eval.model.subject.subject_model import SubjectModel
from training.run_record import RunRecord


class LoadedModel(NamedTuple):
    """A model on its device, with what is needed to run text through it.

    held_out: text it was not trained on, by name. sequence_length: length of the windows that
    cross-entropy is measured on. weights_id: names the weights, as they were rounded for this
    device: measurements of an interrupted evaluation are not mixed with those of another format.
    """

    model: SubjectModel
    tokenizer: Tokenizer
    held_out: dict[str, HeldOutText]
    sequence_length: int
    batch_size: BatchSize
    weights_id: str
    number_format: Format = "fp32"

    @property
    def device(self) -> torch.device:
        return self.model.device

    @property
    def dtype(self) -> torch.dtype:
        return self.model.dtype

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """The ids of each text, without an end-of-document id; of a text longer than the model's
        positions, the last ids.
        """
        batch = self.tokenizer.encode_batch(texts)
        rows = np.split(batch.ids, np.cumsum(batch.lengths)[:-1])
        return [row[-self.model.shape.max_sequence_length :].tolist() for row in rows]

    def with_held_out_files(self, named_uris: Sequence[str], seed: int) -> "LoadedModel":
        """The model with more held-out text, each "NAME=URI"; a name that is there is replaced."""
        pairs = (named_uri.partition("=") for named_uri in named_uris)
        files = {name: HeldOutFiles(uri, self.tokenizer, seed) for name, _, uri in pairs}
        return self._replace(held_out=self.held_out | files)

    def held_out_documents(self, stream: StreamName, limit: int) -> list[np.ndarray]:
        """Ids of at most `limit` held-out documents of a stream."""
        if stream not in self.held_out:
            raise ConfigurationError(
                f"this model is not a run of a sweep and has no held-out text named {stream!r}; "
                "set eval.probing.rows and eval.generation.prompts to files, or name text with "
                f"'eval.capability.held_out=[\"{stream}=URI\", …]'"
            )
        return self.held_out[stream].documents(limit)

    def held_out_sequences(self, limit: int) -> dict[str, np.ndarray]:
        """At most `limit` held-out windows by name, [n, T]; n is 0 if there is too little text."""
        return {
            name: text.windows(self.sequence_length, limit) for name, text in self.held_out.items()
        }


def load_run(root: str, run: RunRecord, compute: EvalComputeConfig) -> LoadedModel:
    """A run's exported model on the best device present, with the held-out text of its streams."""
    with TemporaryDirectory(prefix="hormesis-export-") as scratch:
        folder = Path(scratch)
        uri = model_files.fetch_export(root, run, folder)
        eos = json.loads((folder / "tokenizer_config.json").read_bytes())["eos_token"]
        where = storage.join(uri, "tokenizer.json")
        tokenizer = _tokenizer(folder / "tokenizer.json", eos, where)
        number_format = numerics.format_on(numerics.best_device(), compute.precision)
        model = _load_weights(folder, number_format)
    return LoadedModel(
        model=model,
        tokenizer=tokenizer,
        held_out={
            "clean": _held_out_stream(storage.join(root, run.config.clean), tokenizer),
            "toxic": _held_out_stream(storage.join(root, run.config.toxic), tokenizer),
        },
        sequence_length=run.config.train.sequence_length,
        batch_size=_batch_size(model, compute, number_format),
        weights_id=_weights_id(digest(run.export_sha256), number_format),
        number_format=number_format,
    )


def load_folder(folder: Path, compute: EvalComputeConfig) -> LoadedModel:
    """Any Hugging Face OLMo on the best device present, without held-out text; its windows are as
    long as its positions.
    """
    path = folder / "tokenizer.json"
    if not path.is_file():
        raise ArtefactMissing(
            f"{path}: no such file; the tokenizer must be a tokenizers JSON beside the weights"
        )
    tokenizer = _tokenizer(path, _eos_token(folder), str(path))
    number_format = numerics.format_on(numerics.best_device(), compute.precision)
    model = _load_weights(folder, number_format)
    return LoadedModel(
        model=model,
        tokenizer=tokenizer,
        held_out={},
        sequence_length=model.shape.max_sequence_length,
        batch_size=_batch_size(model, compute, number_format),
        weights_id=_weights_id(model_files.folder_digest(folder), number_format),
        number_format=number_format,
    )


def _tokenizer(file: Path, eos: str, where: str) -> Tokenizer:
    """The tokenizer in a local file. Where the engines differ the reference engine encodes, as in
    the build that made the model's streams.
    """
    return Tokenizer(tokenizer_json.read(str(file)), eos, where, on_difference="fall_back")


def _load_weights(folder: Path, number_format: Format) -> SubjectModel:
    device = numerics.best_device()
    numerics.set_exact_statistics(device)
    return load_olmo(folder, numerics.weight_dtype(number_format)).to(device)


def _batch_size(
    model: SubjectModel, compute: EvalComputeConfig, number_format: Format
) -> BatchSize:
    return BatchSize.on(model.device, compute.batch_size, number_format)


def _weights_id(files_digest: str, number_format: Format) -> str:
    return files_digest if number_format == "fp32" else digest(files_digest, number_format)


def _eos_token(folder: Path) -> str:
    """The end-of-document token, as tokenizer_config.json spells it, else as config.json numbers
    it.
    """
    eos_token = _read_json(folder / "tokenizer_config.json").get("eos_token")
    if isinstance(eos_token, dict):
        eos_token = eos_token.get("content")
    eos_id = _read_json(folder / "config.json").get("eos_token_id")
    path = str(folder / "tokenizer.json")
    ids = tokenizer_json.ids_by_token(tokenizer_json.parse(tokenizer_json.read(path), path))
    if eos_token is None:
        eos_token = next((token for token, i in ids.items() if i == eos_id), None)
    if not isinstance(eos_token, str):
        raise ConfigurationError(
            f"{folder}: neither tokenizer_config.json nor config.json says which token ends a "
            "document; add eos_token to tokenizer_config.json"
        )
    return eos_token


def _read_json(path: Path) -> dict[str, Any]:
    try:
        parsed = json.loads(path.read_bytes()) if path.is_file() else {}
        if not isinstance(parsed, dict):
            raise ValueError("it is no JSON object")
        return parsed
    except (ValueError, RecursionError) as error:
        raise ArtefactCorrupt(f"{path} is not JSON: {error}; get the file again") from error


def _held_out_stream(uri: str, tokenizer: Tokenizer) -> HeldOutStream:
    stream = manifest.load(uri)
    if stream.tokenizer_fingerprint != tokenizer.fingerprint:
        raise ArtefactCorrupt(
            f"{uri}: its tokens were made by tokenizer {stream.tokenizer_fingerprint}, the model's "
            f"tokenizer is {tokenizer.fingerprint}; evaluate the run against the streams it was "
            "trained on"
        )
    return HeldOutStream(uri, stream)
