"""save without stalling, publish to object storage, resume on any world size

A checkpoint is one safetensors file of whole fp32 tensors, `parameter/<name>`, `exp_avg/<name>`, `exp_avg_sq/<name>`, gathered
from whatever ZeRO stage and number of ranks trained it. DeepSpeed's own format was the alternative: it is one pickle a rank,
loads at another world size only after an offline conversion, and cannot be written to S3. Ours costs a gather of 12 bytes a
parameter to rank 0's memory; a 1B model is 14 GB, so beyond some 10B parameters this needs sharding.

    checkpoints/step-00000200/state.safetensors
                              commit.json             written last, with the file's checksums: no commit, no checkpoint

The gather stops training; hashing and uploading run in a thread beside it, until the next save. Resuming takes the newest
commit whose file verifies: rank 0 reads it, and sends each tensor to the others.
"""

import hashlib
import tempfile
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from time import perf_counter
from typing import Any, NamedTuple

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from data_prep import storage, telemetry
from data_prep.records import ArtefactCorrupt, ArtefactMissing, ConfigurationError, record
from training import zero, zero_state

FORMAT_VERSION = 1
STATE, COMMIT = "state.safetensors", "commit.json"


@record
class Commit:
    """What a checkpoint holds; its existence means the checkpoint is whole.

    step: optimizer steps done, so the next batch's number. optimizer_steps: those AdamW counted (non-finite ones are skipped).
    run_digest, data_digest: of the run's settings and of both manifests; train_seconds: spent in steps so far.
    """

    format_version: int
    run_digest: str
    data_digest: str
    step: int
    optimizer_steps: int
    train_seconds: float
    world_size: int
    n_bytes: int
    block_sha256: tuple[str, ...]


class Identity(NamedTuple):
    """What must be equal for a checkpoint to be this run's."""

    run_digest: str
    data_digest: str


class Checkpoints:
    """The checkpoints of one run, in `folder` (a URI). Reading and pruning are for rank 0; `save` is for all ranks."""

    def __init__(self, folder: str, identity: Identity, *, keep: int) -> None:
        self._folder, self._identity, self._keep = folder, identity, max(1, keep)  # one is needed to resume
        self._publisher = ThreadPoolExecutor(max_workers=1, thread_name_prefix="checkpoint")
        self._published: Future[None] | None = None

    def save(self, engine: Any, step: int, train_seconds: float, label: str, extra: dict[str, Tensor]) -> None:
        """Gather the whole state, and `extra` tensors that all ranks have alike, and publish them in the background; an error
        of the save before comes out here."""
        self.finish()
        rank, world_size = torch.distributed.get_rank(), torch.distributed.get_world_size()
        n_steps, state = zero_state.optimizer_steps(engine), {}
        for name, key, value in zero_state.full_state(engine):
            if rank == 0:
                state[f"{key}/{name}"] = value.cpu().contiguous()
        if rank == 0:
            state |= {f"extra/{name}": value.cpu().clone() for name, value in extra.items()}
            facts = {"step": step, "optimizer_steps": n_steps, "train_seconds": train_seconds, "world_size": world_size}
            self._published = self._publisher.submit(self._publish, state, facts, label)

    def finish(self) -> None:
        """Wait until what was saved is published."""
        if self._published:
            self._published.result()
            self._published = None

    def newest(self, into: Path) -> Commit | None:
        """Bring the newest checkpoint that verifies to the file `into`; None if the run has none yet."""
        commits = storage.glob(storage.join(self._folder, "step-*", COMMIT))
        for uri in reversed(commits):
            try:
                return self._fetch(uri, into)
            except (ArtefactCorrupt, ArtefactMissing) as error:
                telemetry.logger.warning("checkpoint passed over, the one before is tried: %s", error)
        if commits:
            raise ArtefactCorrupt(
                f"{self._folder}: none of its {len(commits)} checkpoints verifies (the lines above name file and block); delete "
                "this folder to train from the start, or restore it from a copy"
            )
        return None

    def prune(self, step: int, keep: int) -> None:
        """Leave the `keep` newest up to `step`; later ones did not verify, or this run would not be at `step`."""
        folders: dict[str, list[str]] = {}
        for uri in storage.glob(storage.join(self._folder, "step-*", "*")):
            folders.setdefault(uri.split("/")[-2], []).append(uri)
        past = sorted(name for name in folders if name <= _name(step))
        kept = past[len(past) - keep :] if keep else []
        for name in folders.keys() - set(kept):
            for uri in sorted(folders[name], key=lambda uri: not uri.endswith(COMMIT)):
                storage.delete(uri)  # the commit first: half a checkpoint must not look whole

    def _publish(self, state: dict[str, Tensor], facts: dict[str, Any], label: str) -> None:
        start = perf_counter()
        folder = storage.join(self._folder, _name(facts["step"]))
        with tempfile.TemporaryDirectory(prefix="hormesis-") as scratch:
            local = Path(scratch, STATE)
            save_file(state, local)
            checksums = _block_sha256(local)
            storage.upload(local, storage.join(folder, STATE))
            n_bytes = local.stat().st_size
        commit = Commit(format_version=FORMAT_VERSION, **self._identity._asdict(), **facts, n_bytes=n_bytes, block_sha256=checksums)
        storage.save(commit, storage.join(folder, COMMIT))
        self.prune(facts["step"], self._keep)
        telemetry.emit("hormesis_checkpoint_seconds", perf_counter() - start, run=label)

    def _fetch(self, uri: str, into: Path) -> Commit:
        commit = storage.load(Commit, uri)
        for name, mine in (("format_version", FORMAT_VERSION), *self._identity._asdict().items()):
            theirs = getattr(commit, name)
            if theirs != mine:
                raise ConfigurationError(
                    f"{uri}: its {name} is {theirs}, this run's is {mine}: a checkpoint of other settings, data or program; "
                    "plan the run under another id, or delete this checkpoints folder to train from the start"
                )
        _download_verified(storage.join(self._folder, _name(commit.step), STATE), commit, into)
        return commit


@contextmanager
def resumed(checkpoints: Checkpoints, model: nn.Module, device: torch.device) -> Iterator[tuple[Commit | None, "Source"]]:
    """The commit to go on from, agreed by all ranks, with `model` holding its weights; None leaves the model as it is."""
    with tempfile.TemporaryDirectory(prefix="hormesis-") as scratch:
        local = Path(scratch, STATE)
        commit = zero.agree(lambda: checkpoints.newest(local))
        source = Source(local, model, device)
        if commit:
            with torch.no_grad():
                for name, parameter in model.named_parameters():
                    parameter.copy_(source(name, "parameter"))
        yield commit, source


class Source:
    """A checkpoint's tensors on every rank: rank 0 reads the file and sends."""

    def __init__(self, local: Path, model: nn.Module, device: torch.device) -> None:
        self._local, self._device = local, device
        self._shapes = {name: parameter.shape for name, parameter in model.named_parameters()}

    def extra(self) -> dict[str, Tensor]:
        """The extra tensors that were saved, on every rank."""
        return zero.agree(self._read_extra)

    def _read_extra(self) -> dict[str, Tensor]:
        with safe_open(self._local, framework="pt") as file:
            names = [name for name in file.keys() if name.startswith("extra/")]  # noqa: SIM118  # it is no dict
            return {name.removeprefix("extra/"): file.get_tensor(name) for name in names}

    def __call__(self, name: str, key: str) -> Tensor:
        value = torch.empty(self._shapes[name], dtype=torch.float32, device=self._device)
        if torch.distributed.get_rank() == 0:
            with safe_open(self._local, framework="pt") as file:
                value.copy_(file.get_tensor(f"{key}/{name}"))
        torch.distributed.broadcast(value, src=0)
        return value


def _name(step: int) -> str:
    return f"step-{step:08d}"


def _block_sha256(local: Path) -> tuple[str, ...]:
    with local.open("rb") as file:
        return tuple(hashlib.sha256(block).hexdigest() for block in iter(lambda: file.read(storage.BLOCK_BYTES), b""))


def _download_verified(uri: str, commit: Commit, into: Path) -> None:
    """Copy `uri` to a local file, each block checked on the way."""
    n_bytes = storage.size(uri)
    if n_bytes != commit.n_bytes:
        raise ArtefactCorrupt(f"{uri}: holds {n_bytes:,} bytes, its commit says {commit.n_bytes:,}; delete the commit")
    with storage.open_stream(uri) as stream, into.open("wb") as file:
        for block, expected in enumerate(commit.block_sha256):
            content = stream.read(storage.BLOCK_BYTES)
            storage.verify_block(content, expected, uri, block)
            file.write(content)
