"""the step and the loop: forward, backward, guard, step, log, evaluate, save

`train` is called on every rank, by training/pretrain.py under any launcher or by Ray Train in a thread. It finds its ranks in
the environment, does nothing if the run's record exists, and goes on from the newest checkpoint otherwise. What can be refused
is refused before a model is built, on every rank with the same words (preflight.py).

The gradient is that of the mean loss over the valid rows of the global batch, however it is shared out. DeepSpeed takes the
mean over A micro-batches and W ranks; with B = W·A·m rows of T − 1 predictions, of which V rows are not padding,

    loss of a micro-batch = Σ over its valid rows of the row's summed loss / (m · (T − 1)) · B / V

The loss is logged for each source, too: rows of the clean and of the toxic stream are added up apart, on the device, from one
logged step to the next, and travel with the loss in the one exchange and the one host sync that a logged step has anyway.
"""

import hashlib
import math
import os
import platform
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from data_prep import storage, telemetry
from data_prep.cache import Cache, default_folder
from data_prep.config import StreamName
from data_prep.manifest import Split
from data_prep.reader import AHEAD_BLOCKS, SequenceReader
from data_prep.records import ConfigurationError, digest
from training import checkpoint, preflight, record, throughput, zero
from training.batches import Batch, Batches
from training.checkpoint import Checkpoints, Identity
from training.config import RunConfig
from training.export import write_export
from training.journal import Journal
from training.model import OLMo, next_token_loss
from training.record import HeldOutLoss, RunRecord
from training.schedule import learning_rate


class Job(NamedTuple):
    """What stays the same from the first step to the last."""

    root: str
    run: RunConfig
    inputs: preflight.Inputs
    place: zero.Place
    peak: throughput.Peak
    micro_batch: int

    @property
    def uri(self) -> str:
        return record.run_uri(self.root, self.run.run_id)

    def rows_before(self, step: int) -> int:
        """Rows in the first `step` batches, without padding."""
        return min(step * self.run.mixture.batch_size, self.run.mixture.n_sequences)

    def mfu_ratio(self, tokens_per_second: float) -> float:
        flops_per_token = self.run.train.model.flops_per_token(self.run.train.sequence_length)
        return tokens_per_second * flops_per_token / (self.peak.flops_per_second * self.place.world_size)

    def reader(self, stream: StreamName, split: Split) -> SequenceReader:
        """Sequences of a split; those trained on are read ahead, and remote blocks shared with the node's other ranks."""
        train = self.run.train
        cache = Cache(train.cache_folder or default_folder(), int(train.cache_gib * 2**30))
        uri, known, ahead = self.inputs.uris[stream], self.inputs.manifests[stream], AHEAD_BLOCKS if split == "train" else 0
        return SequenceReader(uri, known, split, train.sequence_length, ahead=ahead, cache=cache)


class Outcome(NamedTuple):
    """What the last step leaves for the record."""

    held_out: tuple[HeldOutLoss, ...]
    train_seconds: float


def train(root: str, run: RunConfig, *, deepspeed_overlay: dict[str, Any] | None = None) -> RunRecord:
    """Train `run` below the object root, or return its record if it is done. Call it on every rank alike.

    Raises ConfigurationError, ArtefactMissing or ArtefactCorrupt for what running again cannot cure.
    """
    done = record.find(root, run.run_id)
    if done:
        _expect_same(done.config, run, record.run_uri(root, run.run_id))
        return done
    _, world_size = zero.world_from_environment()
    settings = zero.deepspeed_settings(run.train, world_size, deepspeed_overlay)
    inputs = preflight.check(root, run)
    _be_deterministic(run)
    place = zero.connect()
    assert place.world_size == world_size, (place, world_size)
    peak = throughput.peak(place, torch.bfloat16 if run.train.precision == "bf16" else torch.float32)
    return _train(Job(root, run, inputs, place, peak, run.train.passes(world_size)[0]), settings)


def _train(job: Job, settings: dict[str, Any]) -> RunRecord:
    run, rank = job.run, job.place.rank
    model = OLMo(run.train.model)
    model.initialise(run.seed)
    identity = Identity(digest(run), job.inputs.data_digest)
    checkpoints = Checkpoints(storage.join(job.uri, "checkpoints"), identity, keep=run.train.keep_checkpoints)
    with checkpoint.resumed(checkpoints, model, job.place.device) as (commit, source):
        engine = zero.initialise(model, settings)
        if commit:
            zero.restore_state(engine, commit.optimizer_steps, source)
    first, seconds = (commit.step, commit.train_seconds) if commit else (0, 0.0)
    journal = Journal(job.uri, run.run_id, first_step=first, n_steps=run.mixture.n_steps) if rank == 0 else None
    try:
        outcome = _steps(job, engine, checkpoints, journal, first, seconds)
    finally:
        if journal:
            journal.close()
    checkpoints.finish()
    weights = {}
    for name, value in zero.full_parameters(engine):  # a collective: every rank takes part, rank 0 keeps
        if rank == 0:
            weights[name] = value.cpu()
    zero.release(engine)
    made = zero.agree(lambda: _publish(job, weights, outcome, journal))
    if rank == 0:
        checkpoints.prune(run.mixture.n_steps, run.train.keep_checkpoints)
    return made


def _steps(job: Job, engine: Any, checkpoints: Checkpoints, journal: Journal | None, first: int, seconds: float) -> Outcome:
    """Every step from `first` on, and after each what is due then."""
    run, train, n_steps = job.run, job.run.train, job.run.mixture.n_steps
    batches = Batches(run.mixture, job.reader("clean", "train"), job.reader("toxic", "train"), job.place.rank, job.place.world_size)
    watch, meter = throughput.Stopwatch(job.place.device, seconds), _Meter(job, first, seconds)
    held_out: tuple[HeldOutLoss, ...] = ()
    watch.start()
    for batch, waited in batches.ahead(first, n_steps):
        rate, done = learning_rate(train, batch.step, n_steps), batch.step + 1
        zero.set_learning_rate(engine, rate)
        loss_S = _step(job, engine, batch)
        meter.add(batch, waited, loss_S)
        saves = done < n_steps and _due(done, train.checkpoint_every_steps, n_steps)
        if saves or _due(done, train.log_every_steps, n_steps):  # a resumed run begins with an empty meter
            clean_sum, toxic_sum, *source_sums = zero.total(job.place, *loss_S, *meter.loss_S)
            loss = (clean_sum + toxic_sum) / (batch.n_valid * (train.sequence_length - 1))
            _expect_finite(loss, done, run)
            seen = {"loss": loss, "learning_rate": rate, "grad_norm": zero.grad_norm(engine)}
            n_logged, line = meter.line(done, watch.lap(), source_sums, **seen)
            if journal:
                journal.step(line, n_logged)
        if _due(done, train.held_out_every_steps, n_steps):
            watch.stop()
            held_out = _held_out(job, engine)
            if journal:
                journal.held_out(done, held_out)
            watch.start()
        if saves:
            seconds = watch.stop()
            if journal:
                journal.publish()
            checkpoints.save(engine, done, seconds, run.run_id)
            watch.start()
    return Outcome(held_out, watch.stop())


def _step(job: Job, engine: Any, batch: Batch) -> Tensor:
    """One optimizer step; the summed loss of this rank's clean and of its toxic rows, [2] on the device."""
    train, device = job.run.train, job.place.device
    n_predictions, loss_S = train.sequence_length - 1, torch.zeros(2, dtype=torch.float64, device=device)
    sources_BS = np.stack([~batch.toxic, batch.toxic], axis=1)  # a padding row's loss is zero
    scale = train.global_batch / batch.n_valid / (job.micro_batch * n_predictions)
    for start in range(0, len(batch.tokens), job.micro_batch):
        rows = slice(start, start + job.micro_batch)
        tokens_BT = torch.from_numpy(batch.tokens[rows]).to(device, non_blocking=True)
        valid_B = torch.from_numpy(batch.valid[rows]).to(device, non_blocking=True)
        source_BS = torch.from_numpy(sources_BS[rows]).to(device, non_blocking=True)
        loss_B = next_token_loss(engine(tokens_BT), tokens_BT) * valid_B
        engine.backward(loss_B.sum() * scale)
        engine.step()
        loss_S += (loss_B.detach()[:, None] * source_BS).sum(0)
    return loss_S


@torch.no_grad()
def _held_out(job: Job, engine: Any) -> tuple[HeldOutLoss, ...]:
    """The mean loss on the first held-out sequences of each stream, shared out over the ranks; every rank returns it."""
    train, place, losses = job.run.train, job.place, []
    engine.eval()
    for stream in job.inputs.uris:
        reader = job.reader(stream, "held_out")
        n, loss_sum = min(train.held_out_sequences, reader.n_sequences), torch.zeros((), device=place.device)
        if n == 0:
            telemetry.logger.warning("no held-out loss on the %s stream: it holds out less than one sequence", stream)
            continue
        for start in range(0, n, job.micro_batch * place.world_size):  # as many passes on every rank: ZeRO-3 gathers in them
            indices = start + place.rank * job.micro_batch + np.arange(job.micro_batch)
            tokens_BT = torch.from_numpy(reader.read(np.minimum(indices, n - 1))).to(place.device)
            valid_B = torch.from_numpy(indices < n).to(place.device)
            loss_sum += (next_token_loss(engine(tokens_BT), tokens_BT) * valid_B).sum()
        n_predictions = n * (train.sequence_length - 1)
        losses.append(HeldOutLoss(stream=stream, loss=zero.total(place, loss_sum)[0] / n_predictions, n_tokens=n_predictions))
    engine.train()
    return tuple(losses)


def _publish(job: Job, weights: dict[str, Tensor], outcome: Outcome, journal: Journal | None) -> RunRecord:
    """Export the model and what was seen, and write the record last."""
    assert journal is not None
    run, shape = job.run, job.run.train.model
    n_tokens, final_loss = run.mixture.n_sequences * run.train.sequence_length, journal.final_loss(run.mixture.n_steps)
    tokens_per_second = n_tokens / outcome.train_seconds
    facts = {
        "run": run.run_id,
        "settings digest": digest(run),
        "toxic tokens / all tokens": run.mixture.toxic_ratio,
        "training tokens": n_tokens,
        "training loss (nats/token)": round(final_loss, 4),
    } | {f"held-out loss, {part.stream} (nats/token)": round(part.loss, 4) for part in outcome.held_out}
    toxic_supply = job.inputs.manifests["toxic"].split_tokens("train") // run.train.sequence_length
    export_sha256 = _export(job, weights, facts)
    journal.publish()
    journal.publish_tensorboard()
    made = RunRecord(
        format_version=record.FORMAT_VERSION,
        config=run,
        clean_manifest_digest=digest(job.inputs.manifests["clean"]),
        toxic_manifest_digest=digest(job.inputs.manifests["toxic"]),
        n_parameters=sum(value.numel() for value in weights.values()),
        n_steps=run.mixture.n_steps,
        n_tokens=n_tokens,
        realised_toxic_ratio=run.mixture.toxic_ratio,
        n_distinct_toxic=run.mixture.n_distinct_toxic(toxic_supply),
        final_train_loss=final_loss,
        held_out=outcome.held_out,
        tokens_per_second=tokens_per_second,
        mfu_ratio=job.mfu_ratio(tokens_per_second),
        flops_per_token=shape.flops_per_token(run.train.sequence_length),
        peak_flops_per_second=job.peak.flops_per_second,
        device=job.peak.device,
        world_size=job.place.world_size,
        train_seconds=outcome.train_seconds,
        export_sha256=export_sha256,
        versions={"python": platform.python_version()} | {name: version(name) for name in ("torch", "deepspeed", "numpy")},
    )
    storage.save(made, storage.join(job.uri, "record.json"))
    return made


def _export(job: Job, weights: dict[str, Tensor], facts: dict[str, Any]) -> dict[str, str]:
    """Publish the Hugging Face folder; the sha256 of each of its files."""
    with tempfile.TemporaryDirectory(prefix="hormesis-") as scratch:
        folder = Path(scratch)
        write_export(weights, job.run.train.model, job.inputs.tokenizer_json, job.inputs.eos_id, folder, facts)
        checksums = {}
        for file in sorted(folder.iterdir()):
            with file.open("rb") as content:
                checksums[file.name] = hashlib.file_digest(content, "sha256").hexdigest()
            storage.upload(file, storage.join(job.uri, "export", file.name))
    return checksums


class _Meter:
    """What is added up between two logged steps. loss_S: summed loss of this rank's clean and toxic rows, on the device."""

    def __init__(self, job: Job, first: int, seconds: float) -> None:
        self._job, self._step, self._seconds, self._waited = job, first, seconds, 0.0
        self._n_toxic_before = self._n_toxic = job.run.mixture.toxic_before(job.rows_before(first))
        self.loss_S = torch.zeros(2, dtype=torch.float64, device=job.place.device)

    def add(self, batch: Batch, waited: float, loss_S: Tensor) -> None:
        self._n_toxic += batch.n_toxic
        self._waited += waited
        self.loss_S += loss_S

    def line(self, step: int, seconds: float, source_sums: list[float], **seen: float) -> tuple[int, dict[str, Any]]:
        """(steps since the line before, the journal's line for `step`), and begin anew. source_sums: loss_S over all ranks."""
        job, length, n_steps = self._job, self._job.run.train.sequence_length, step - self._step
        n_rows, n_toxic = job.rows_before(step) - job.rows_before(self._step), self._n_toxic - self._n_toxic_before
        n_predictions = {"clean": (n_rows - n_toxic) * (length - 1), "toxic": n_toxic * (length - 1)}
        tokens_per_second = n_rows * length / (seconds - self._seconds)
        line = {
            "step": step,
            **seen,
            "source_loss": {name: total / n for (name, n), total in zip(n_predictions.items(), source_sums, strict=True) if n},
            "tokens_per_second": tokens_per_second,
            "mfu_ratio": job.mfu_ratio(tokens_per_second),
            "data_wait_seconds": self._waited / n_steps,
            "batch_toxic_share_ratio": n_toxic / n_rows,
            "toxic_share_ratio": self._n_toxic / job.rows_before(step),
            "n_tokens": job.rows_before(step) * length,
            "train_seconds": seconds,
        }
        self._step, self._seconds, self._waited, self._n_toxic_before = step, seconds, 0.0, self._n_toxic
        self.loss_S.zero_()
        return n_steps, line


def _due(done: int, every: int, n_steps: int) -> bool:
    return done == n_steps or bool(every and done % every == 0)


def _expect_finite(loss: float, done: int, run: RunConfig) -> None:
    if not math.isfinite(loss):
        raise ConfigurationError(
            f"run {run.run_id}: the loss is {loss} at step {done} of {run.mixture.n_steps}: training has diverged; lower "
            f"train.learning_rate (now {run.train.learning_rate:g}), warm up longer, or lower train.gradient_clip"
        )


def _expect_same(done: RunConfig, run: RunConfig, uri: str) -> None:
    if digest(done) != digest(run):
        raise ConfigurationError(
            f"{uri}/record.json: this run id is taken by a finished run of other settings (digest {digest(done)}, asked for "
            f"{digest(run)}); plan these under another id"
        )


def _be_deterministic(run: RunConfig) -> None:
    """The same numbers each time on the same number of ranks, whatever the launcher left in the environment."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # pyright: ignore[reportAttributeAccessIssue]  # costs a pass over every new tensor, and we read none
    torch.manual_seed(run.seed)
    if not torch.cuda.is_available():
        torch.set_num_threads(run.train.threads_per_rank)
