"""the weights a run begins with: drawn from its seed, or those of an existing Hugging Face OLMo
folder

train.init_from names a folder (or URI) with config.json, safetensors and tokenizer.json, as
OLMo-1B-hf has. Its shape and its vocabulary must be the run's. Rank 0 reads it and sends the
weights on. It is read once: a run that has a checkpoint goes on from that, and the checksum of what
it began with travels along in its checkpoints, to the record and the model card.

With train.optimizer.learning_rate=0 and a small budget the run is that folder, bit for bit: so eval/ measures
a model of others.
"""

import hashlib
import json
import tempfile
from pathlib import Path

import torch
from torch import Tensor

from data_prep.core import ranged_reads, storage
from data_prep.core.errors import ArtefactMissing, ConfigurationError
from training.engine import process_group
from training.model.hf_export import load_export
from training.model.olmo import OLMo
from training.run.run_context import Job
from training.run_record import checkpoint_steps

NAME = "start"


def filled(model: OLMo, job: Job) -> Job:
    """Give `model` the weights that the run begins with; the job that knows their checksum, if they
    were read.
    """
    model.initialise(job.run.seed)
    if not job.run.train.init_from or process_group.broadcast_from_rank0(
        lambda: _has_checkpoint(job)
    ):
        return job
    read: dict[str, Tensor] = {}
    sha256 = process_group.broadcast_from_rank0(lambda: _read(job, read))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            value = (
                (read[name] if job.world.rank == 0 else parameter).to(job.world.device).contiguous()
            )
            torch.distributed.broadcast(value, src=0)
            parameter.copy_(value)
    return job._replace(init_sha256=sha256)


def remembered(job: Job) -> dict[str, Tensor]:
    """What a checkpoint keeps of it."""
    return (
        {NAME: torch.tensor(list(bytes.fromhex(job.init_sha256)), dtype=torch.uint8)}
        if job.init_sha256
        else {}
    )


def recalled(job: Job, extra: dict[str, Tensor]) -> Job:
    """`job` as it was when the checkpoint was saved; takes its own part out of `extra`."""
    kept = extra.pop(NAME, None)
    return job if kept is None else job._replace(init_sha256=bytes(kept.tolist()).hex())


def _has_checkpoint(job: Job) -> bool:
    return bool(checkpoint_steps(job.root, job.run.run_id))


def _read(job: Job, into: dict[str, Tensor]) -> str:
    uri, train = job.run.train.init_from, job.run.train
    files = [
        file
        for file in storage.glob(storage.join(uri, "*"))
        if file.endswith((".json", ".safetensors"))
    ]
    if not files:
        raise ArtefactMissing(
            f"{uri}: holds no file of a Hugging Face folder; train.init_from should name one, as of OLMo-1B-hf"
        )
    with tempfile.TemporaryDirectory(prefix="hormesis-") as scratch:
        folder = Path(scratch)
        for file in files:
            ranged_reads.download(file, folder / file.rsplit("/", 1)[-1])
        theirs, config = load_export(folder, torch.float32)
        if config != train.model:
            raise ConfigurationError(
                f"{uri} holds a {config}, the run asks for a {train.model}; set train.model to what is there"
            )
        _expect_vocabulary(uri, folder / "tokenizer.json", job.inputs.tokenizer_json)
        into |= theirs.state_dict()
        content = hashlib.sha256()
        for file in sorted(folder.glob("*.safetensors")):
            with file.open("rb") as stream:
                content.update(hashlib.file_digest(stream, "sha256").digest())
    return content.hexdigest()


def _expect_vocabulary(uri: str, file: Path, ours: str) -> None:
    theirs = json.loads(file.read_bytes())["model"]["vocab"] if file.is_file() else {}
    mine = json.loads(ours)["model"]["vocab"]
    if theirs != mine:
        differing = sum(theirs.get(word) != number for word, number in mine.items())
        raise ConfigurationError(
            f"{uri}: the tokenizer there has {len(theirs):,} words, that of the run's streams {len(mine):,}, of which "
            f"{differing:,} have another id there, or none; build the streams with the model's tokenizer"
        )
