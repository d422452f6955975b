"""initial weights of a run: drawn from its seed, or read from a Hugging Face OLMo folder

train.init_from names a folder (or URI) with config.json, safetensors and tokenizer.json, such as
OLMo-1B-hf. Its shape and its vocabulary must be the run's. Rank 0 reads it and broadcasts the
weights. It is read once: a run that has a checkpoint resumes from that, and the checksum of the
initial weights is kept in the checkpoints, in the record and in the model card.

With train.optimizer.learning_rate=0 and a small budget the trained model is that folder, bit for
bit; so eval/ can measure models that were trained elsewhere.
"""

import hashlib
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from fnmatch import fnmatch
from pathlib import Path

import torch
from torch import Tensor

from data_prep.core import storage
from data_prep.core.errors import ArtefactCorrupt, ArtefactMissing, ConfigurationError
from data_prep.core.store import ranged_reads
from data_prep.token_stream import tokenizer_json
from training.config import ModelConfig
from training.engine import process_group
from training.model.hf_export import load_export, read_model_config
from training.model.olmo import OLMo
from training.run.run_context import RunContext
from training.run_record import checkpoint_steps

SHA256_KEY = "start"  # among the extra tensors of a checkpoint
REMEDY = "train.init_from should name a whole one, such as a download of allenai/OLMo-1B-hf"


def load_initial_weights(model: OLMo, context: RunContext) -> RunContext:
    """Set the initial weights of `model`; a collective.

    Returns the context with their checksum, if they were read from files.
    """
    run = context.run
    world = context.world
    model.initialise(run.seed)
    if not run.train.init_from:
        return context
    steps = process_group.broadcast_from_rank0(lambda: checkpoint_steps(context.root, run.run_id))
    if steps:  # the weights come from the checkpoint
        return context
    weights: dict[str, Tensor] = {}
    sha256 = process_group.broadcast_from_rank0(lambda: _read(context, weights))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            value = weights[name] if world.rank == 0 else parameter
            value = value.to(world.device).contiguous()
            torch.distributed.broadcast(value, src=0)
            parameter.copy_(value)
    return context._replace(init_sha256=sha256)


def state_dict(context: RunContext) -> dict[str, Tensor]:
    """The checksum of the initial weights as a checkpoint keeps it; empty if there is none."""
    if not context.init_sha256:
        return {}
    digest = list(bytes.fromhex(context.init_sha256))
    return {SHA256_KEY: torch.tensor(digest, dtype=torch.uint8)}


def load_state_dict(context: RunContext, extra: dict[str, Tensor]) -> RunContext:
    """The context with the checksum that a checkpoint keeps; removes it from `extra`."""
    digest = extra.pop(SHA256_KEY, None)
    if digest is None:
        return context
    return context._replace(init_sha256=bytes(digest.tolist()).hex())


def check_folder(uri: str, model_config: ModelConfig) -> None:
    """Raise ConfigurationError unless the folder has the files of a model of this shape; reads its
    config.json alone. The vocabulary is compared when a run starts.
    """
    files = {file.rsplit("/", 1)[-1]: file for file in _list_files(uri)}
    for pattern in ("config.json", "tokenizer.json", "*.safetensors"):
        if not any(fnmatch(name, pattern) for name in files):
            raise ConfigurationError(f"{uri}: has no {pattern} of a Hugging Face folder; {REMEDY}")
    with _fetched(uri, [files["config.json"]]) as folder:
        _check_same_model(uri, read_model_config(folder), model_config)


def _read(context: RunContext, weights: dict[str, Tensor]) -> str:
    """Fill `weights` from train.init_from; the sha256 over the sha256 of each weights file."""
    uri = context.run.train.init_from
    model_config = context.run.train.model
    with _fetched(uri, _list_files(uri)) as folder:
        model, exported_config = load_export(folder, torch.float32)
        _check_same_model(uri, exported_config, model_config)
        _check_vocabulary(uri, folder / "tokenizer.json", context.inputs.tokenizer_json)
        weights |= model.state_dict()
        content = hashlib.sha256()
        for file in sorted(folder.glob("*.safetensors")):
            with file.open("rb") as stream:
                content.update(hashlib.file_digest(stream, "sha256").digest())
    return content.hexdigest()


def _list_files(uri: str) -> list[str]:
    files = [
        file
        for file in storage.list_files(uri, "[!.]*")  # no side files of macOS
        if file.endswith((".json", ".safetensors"))
    ]
    if not files:
        raise ConfigurationError(f"{uri}: holds no file of a Hugging Face folder; {REMEDY}")
    return files


@contextmanager
def _fetched(uri: str, files: list[str]) -> Iterator[Path]:
    """A local copy of the files. What is wrong with them is a ConfigurationError, which names their
    own folder: every rank meets it, and restarting the workers would not help.
    """
    with tempfile.TemporaryDirectory(prefix="hormesis-") as scratch:
        folder = Path(scratch)
        for file in files:
            ranged_reads.download(file, folder / file.rsplit("/", 1)[-1])
        try:
            yield folder
        except (ArtefactCorrupt, ArtefactMissing, ConfigurationError) as error:
            raise ConfigurationError(str(error).replace(scratch, uri)) from error


def _check_same_model(uri: str, exported_config: ModelConfig, model_config: ModelConfig) -> None:
    if exported_config != model_config:
        raise ConfigurationError(
            f"{uri} holds a {exported_config}, but the run's model is {model_config}; "
            "set train.model to the folder's"
        )


def _check_vocabulary(uri: str, tokenizer: Path, run_tokenizer_json: str) -> None:
    vocabulary: dict[str, int] = {}
    if tokenizer.is_file():
        vocabulary = _model_vocabulary(tokenizer_json.read(str(tokenizer)), f"{uri}/tokenizer.json")
    expected = _model_vocabulary(run_tokenizer_json, "the run's tokenizer")
    if vocabulary != expected:
        n_differing = sum(vocabulary.get(token) != i for token, i in expected.items())
        raise ConfigurationError(
            f"{uri}: its tokenizer has {len(vocabulary):,} tokens, that of the run's streams "
            f"{len(expected):,}, of which {n_differing:,} have another id there or none; build the "
            "streams with the model's tokenizer"
        )


def _model_vocabulary(text: str, where: str) -> dict[str, int]:
    """The ids of the model's own tokens, without the added ones."""
    return tokenizer_json.ids_by_token(tokenizer_json.parse(text, where) | {"added_tokens": []})
