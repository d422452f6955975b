"""the model under evaluation: weights on a device, tokenizer, held-out text, batch size

It is a run of a sweep, whose export is checked against its record, or a folder with a causal
language model of Hugging Face. A run has the held-out text of its streams;
eval.capability.held_out adds text from files, and a folder has no other.
"""

from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import numpy as np
import torch

from data_prep.config import StreamName
from data_prep.core import storage
from data_prep.core.errors import ArtefactCorrupt, ConfigurationError
from data_prep.core.records import digest
from data_prep.token_stream import manifest
from data_prep.token_stream.tokenizer import Tokenizer
from eval.config import EvalComputeConfig
from eval.inputs import condition_text
from eval.inputs.held_out_text import HeldOutFiles, HeldOutStream, HeldOutText
from eval.model import model_files, numerics
from eval.model.batch_size import BatchSize
from eval.model.numerics import Format
from eval.model.subject import folder_tokenizer, load_subject, model_folder
from eval.model.subject.model_folder import ModelFolder
from eval.model.subject.subject_model import SubjectModel
from training.run_record import RunRecord

# a window of 131,072 positions, which some models have, would take the memory of a whole device
LONGEST_WINDOW = 2048


class LoadedModel(NamedTuple):
    """A model on its device, with what is needed to run text through it.

    held_out: text it was not trained on, by name. sequence_length: length of the windows that
    cross-entropy is measured on. weights_id: names the weights, as they were rounded for this
    device: measurements of an interrupted evaluation are not mixed with those of another format.
    prefix: ids that stand before each text, as a beginning-of-text token does in some families.
    """

    model: SubjectModel
    tokenizer: Tokenizer
    held_out: dict[str, HeldOutText]
    sequence_length: int
    batch_size: BatchSize
    weights_id: str
    number_format: Format = "fp32"
    prefix: tuple[int, ...] = ()

    @property
    def device(self) -> torch.device:
        return self.model.device

    @property
    def dtype(self) -> torch.dtype:
        return self.model.dtype

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """The ids of each text behind `prefix`, without an end-of-document id; of a text longer
        than the model's positions, the last ids.
        """
        room = self.model.shape.max_sequence_length - len(self.prefix)
        return [[*self.prefix, *row[-room:]] for row in self.encode_ends(texts)]

    def encode_ends(self, texts: Sequence[str]) -> list[list[int]]:
        """The ids of texts that follow another text: all of them, without `prefix`."""
        batch = self.tokenizer.encode_batch(texts)
        rows = np.split(batch.ids, np.cumsum(batch.lengths)[:-1])
        return [row.tolist() for row in rows]

    @property
    def reserved_tokens(self) -> int:
        """Positions that prompts and held-out windows leave to the prefix of a condition, so that
        all conditions are measured on the same tokens.
        """
        return condition_text.reserved_tokens(self.sequence_length)

    def encode_prefix(self, text: str, what: str) -> list[int]:
        """The ids of the text before every prompt, of the condition that `what` names."""
        return condition_text.encode(text, self.tokenizer, self.sequence_length, what)

    def bytes_per_token(self, tokens_RT: np.ndarray) -> float:
        """UTF-8 bytes of text per token that is predicted in these windows, all but the first of
        each; 0 if there is none. What stands before a document or ends it has no bytes.
        """
        n_bytes = sum(
            len(self.tokenizer.decode(row[~np.isin(row, self._control_ids)]).encode())
            for row in tokens_RT[:, 1:]
        )
        return n_bytes / max(1, tokens_RT[:, 1:].size)

    @property
    def _control_ids(self) -> list[int]:
        return [self.tokenizer.eos_id, *self.prefix]

    def with_held_out_files(self, named_uris: Sequence[str], seed: int) -> "LoadedModel":
        """The model with more held-out text, each "NAME=URI"; a name that is there is replaced."""
        pairs = (named_uri.partition("=") for named_uri in named_uris)
        files = {
            name: HeldOutFiles(uri, self.tokenizer, seed, self.prefix) for name, _, uri in pairs
        }
        return self._replace(held_out=self.held_out | files)

    def held_out_documents(self, stream: StreamName, limit: int) -> list[np.ndarray]:
        """Ids of at most `limit` held-out documents of a stream."""
        if stream not in self.held_out:
            raise ConfigurationError(
                f"this model is not a run of a sweep and has no held-out text named {stream!r}; "
                "set eval.probes and eval.prompts to files, or name text with "
                f"'eval.capability.held_out=[\"{stream}=URI\", …]'"
            )
        return self.held_out[stream].documents(limit)

    def held_out_sequences(self, limit: int) -> dict[str, np.ndarray]:
        """At most `limit` held-out windows by name, [n, T]; n is 0 if there is too little text. T
        leaves the reserved positions free.
        """
        n_tokens = self.sequence_length - self.reserved_tokens
        return {name: text.windows(n_tokens, limit) for name, text in self.held_out.items()}


def load_run(root: str, run: RunRecord, compute: EvalComputeConfig) -> LoadedModel:
    """A run's exported model on the best device present, with the held-out text of its streams."""
    with TemporaryDirectory(prefix="hormesis-export-") as scratch:
        folder = Path(scratch)
        uri = model_files.fetch_export(root, run, folder)
        tokenizer = folder_tokenizer.load_of_run(folder, storage.join(uri, "tokenizer.json"))
        number_format = numerics.format_on(numerics.best_device(), compute.precision)
        model = _load_weights(model_folder.read(folder), number_format)
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
    """A causal language model of Hugging Face on the best device present, without held-out text;
    its windows are as long as its positions, up to LONGEST_WINDOW.
    """
    looked_at = model_folder.read(folder)
    tokenizer, prefix = folder_tokenizer.load(folder)
    number_format = numerics.format_on(numerics.best_device(), compute.precision)
    model = _load_weights(looked_at, number_format)
    folder_tokenizer.check_fits(tokenizer, model.shape, folder)
    return LoadedModel(
        model=model,
        tokenizer=tokenizer,
        held_out={},
        sequence_length=min(model.shape.max_sequence_length, LONGEST_WINDOW),
        batch_size=_batch_size(model, compute, number_format),
        weights_id=_weights_id(model_files.folder_digest(folder), number_format),
        number_format=number_format,
        prefix=prefix,
    )


def _load_weights(folder: ModelFolder, number_format: Format) -> SubjectModel:
    device = numerics.best_device()
    numerics.set_exact_statistics(device)
    return load_subject.load(folder, numerics.weight_dtype(number_format), device)


def _batch_size(
    model: SubjectModel, compute: EvalComputeConfig, number_format: Format
) -> BatchSize:
    return BatchSize.on(model.device, compute.batch_size, number_format)


def _weights_id(files_digest: str, number_format: Format) -> str:
    return files_digest if number_format == "fp32" else digest(files_digest, number_format)


def _held_out_stream(uri: str, tokenizer: Tokenizer) -> HeldOutStream:
    stream = manifest.load(uri)
    if stream.tokenizer_fingerprint != tokenizer.fingerprint:
        raise ArtefactCorrupt(
            f"{uri}: its tokens were made by tokenizer {stream.tokenizer_fingerprint}, the model's "
            f"tokenizer is {tokenizer.fingerprint}; evaluate the run against the streams it was "
            "trained on"
        )
    return HeldOutStream(uri, stream)
