"""the loop: step, log, evaluate, save, and what is due before the first step and after the last

`train` is called on every rank, by training/pretrain.py under any launcher or by Ray Train in a
thread. It finds its ranks in the environment, does nothing if the run's record exists, and goes on
from the newest checkpoint otherwise. What can be refused is refused before a model is built, on
every rank with the same words (preflight.py).

A step is taken by step.py and added up in step_metrics.py; a step that is logged costs one exchange
and one host sync, another none.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, NamedTuple

import torch

from data_prep.core import storage
from data_prep.core.errors import Interrupted
from data_prep.core.records import digest
from training import run_record
from training.checkpoint.manager import CheckpointManager, RestoredCheckpoint, RunIdentity
from training.config import RunConfig, TrainConfig
from training.engine import (
    auto_micro_batch,
    deepspeed_engine,
    deepspeed_state,
    process_group,
    rank_env,
    throughput,
)
from training.engine.throughput import Stopwatch
from training.metrics.metrics_log import MetricsLog
from training.metrics.model_stats import ModelStats
from training.model import compilation
from training.model.loss import OLMoForTraining
from training.optim import muon
from training.optim.lr_schedule import learning_rate
from training.optim.step_guard import Guard, Rewind
from training.run import branching, initial_weights, preflight
from training.run.batches import Batches
from training.run.run_context import Job
from training.run_record import HeldOutLoss, RunRecord
from training.trainer import preemption
from training.trainer.finish import Outcome, publish
from training.trainer.held_out import held_out_losses
from training.trainer.step import take_step
from training.trainer.step_metrics import Meter
from training.trainer.validation import probe
from training.trainer.watchdog import Watchdog


def train(
    root: str, run: RunConfig, *, deepspeed_overlay: dict[str, Any] | None = None
) -> RunRecord:
    """Train `run` below the object root, or return its record if it is done. Call it on every rank
    alike.

    Raises ConfigurationError, ArtefactMissing or ArtefactCorrupt for what running again cannot
    cure, and Interrupted when it has stopped because it was asked to (preemption.py).
    """
    done = run_record.find(root, run.run_id)
    if done:
        run_record.expect_same(done.config, run, run_record.run_uri(root, run.run_id))
        return done
    _, world_size = rank_env.rank_and_world_size()
    deepspeed_engine.deepspeed_settings(
        run.train, world_size, deepspeed_overlay
    )  # what cannot be is refused here
    inputs = preflight.check(root, run)
    _be_deterministic(run)
    world = process_group.join(run.train.parallel.tensor_parallel)
    peak = throughput.measure_peak(
        world, torch.bfloat16 if run.train.compute.precision == "bf16" else torch.float32
    )
    micro_batch = auto_micro_batch.choose_micro_batch(run.train, world)
    settings = deepspeed_engine.deepspeed_settings(
        replace(run.train, micro_batch=micro_batch), world_size, deepspeed_overlay
    )
    return _train(Job(root, run, inputs, world, peak, micro_batch), settings)


def _train(job: Job, settings: dict[str, Any]) -> RunRecord:
    """Train from the newest checkpoint to the end; where the guard gives up, again, without the
    steps in question.
    """
    ends: list[int] = []
    while True:
        try:
            return _attempt(job, settings, ends)
        except Rewind as rewind:
            ends.append(rewind.end)


def _attempt(job: Job, settings: dict[str, Any], ends: list[int]) -> RunRecord:
    run, rank = job.run, job.world.rank
    model = _model(run.train)
    job = initial_weights.filled(model, job)
    compilation.prepare(model, run.train, job.world.device)
    identity = RunIdentity(digest(run), job.inputs.data_digest)
    checkpoints = CheckpointManager(
        storage.join(job.uri, "checkpoints"), identity, job.world, run.run_id, run.train.checkpoint
    )
    engine = deepspeed_engine.initialise(model, settings, muon.chosen(model, run.train.optimizer))
    muon.share_out(engine)
    guard = Guard(job, engine)
    found = checkpoints.restore(engine) or _restored_from_trunk(job, engine)
    if found:
        job = initial_weights.recalled(job, found.extra)
        guard.restore(found.extra)
    at, seconds = (found.commit.step, found.commit.train_seconds) if found else (0, 0.0)
    first = guard.leave_out(at, ends)
    journal = MetricsLog(job.uri, run, first_step=at) if rank == 0 else None
    try:
        with Watchdog(job) as watchdog:
            outcome = _steps(
                _Parts(
                    job,
                    engine,
                    guard,
                    watchdog,
                    checkpoints,
                    journal,
                    Stopwatch(job.world.device, seconds),
                ),
                first,
            )
    except (Rewind, Interrupted):
        checkpoints.finish()
        deepspeed_engine.release(engine)
        raise
    finally:
        if journal:
            journal.close()
    checkpoints.finish()
    weights = {}
    for name, value in deepspeed_state.gather_parameters(
        engine
    ):  # a collective: every rank takes part, rank 0 keeps
        if rank == 0:
            weights[name] = value.cpu()
    deepspeed_engine.release(engine)
    made = process_group.broadcast_from_rank0(lambda: publish(job, weights, outcome, journal))
    if rank == 0:
        checkpoints.prune(run.mixture.n_steps, run.train.checkpoint.keep_last)
    return made


def _restored_from_trunk(job: Job, engine: Any) -> RestoredCheckpoint | None:
    """A run that branches off another begins with its state; with its own from its first checkpoint
    on.
    """
    if not job.run.trunk:
        return None
    trunk, n_shared = branching.trunk_of(job.root, job.run)
    folder = storage.join(run_record.run_uri(job.root, trunk.run_id), "checkpoints")
    its = CheckpointManager(
        folder,
        RunIdentity(digest(trunk), job.inputs.data_digest),
        job.world,
        job.run.run_id,
        job.run.train.checkpoint,
    )
    return its.restore(engine, at_most=n_shared)


def _model(train: TrainConfig) -> OLMoForTraining:
    if train.parallel.tensor_parallel == 1:
        return OLMoForTraining(train.model, z_loss=train.z_loss)
    from training.engine.tensor_parallel import (
        TensorParallelOLMo,  # only here: it imports megatron-core
    )

    return TensorParallelOLMo(train.model, z_loss=train.z_loss)


class _Parts(NamedTuple):
    """What works together from an attempt's first step to its last, and what it does beside the
    steps.
    """

    job: Job
    engine: Any
    guard: Guard
    watchdog: Watchdog
    checkpoints: CheckpointManager
    journal: MetricsLog | None
    watch: Stopwatch

    @contextmanager
    def _aside(self, kind: str) -> Iterator[float]:
        """Work that is no step, while the clock of training stands still at the seconds that are
        yielded.
        """
        seconds = self.watch.stop()
        self.watchdog.expect(kind)
        yield seconds
        self.watch.start()

    def held_out(self, done: int) -> tuple[HeldOutLoss, ...]:
        with self._aside("held-out loss"):
            found = held_out_losses(self.job, self.engine)
            if self.journal:
                self.journal.held_out(done, found)
        return found

    def probe(self, done: int) -> None:
        with self._aside("probe"):
            found = probe(self.job, self.engine)
            if self.journal and found:
                self.journal.probe(done, found)

    def save(self, done: int, *, in_any_case: bool) -> None:
        with self._aside("checkpoint") as seconds:
            seen_so_far = self.journal.publishing() if self.journal else None
            extra = self.guard.state() | initial_weights.remembered(self.job)
            self.checkpoints.save(
                self.engine, done, seconds, extra, after=seen_so_far, in_any_case=in_any_case
            )


def _steps(parts: _Parts, first: int) -> Outcome:
    """Every step from `first` on, and after each what is due then."""
    job, engine, guard, watchdog, _, journal, watch = parts
    run, train, world, n_steps = job.run, job.run.train, job.world, job.run.mixture.n_steps
    batches = Batches(
        run.mixture,
        job.reader("clean", "train"),
        job.reader("toxic", "train"),
        world.data_rank,
        world.n_data_ranks,
        world.device,
    )
    observer = ModelStats(engine, world)
    meter, stop = Meter(job, guard, observer, first, watch.seconds), preemption.Agreement(world)
    held_out: tuple[HeldOutLoss, ...] = ()
    watch.start()
    watchdog.expect("batch")
    for batch, waited in compilation.gc_between_steps(batches.ahead(first, n_steps)):
        watchdog.expect("step")
        done = batch.step + 1
        rate = learning_rate(train.optimizer.learning_rate, train.schedule, batch.step, n_steps)
        deepspeed_engine.set_learning_rate(engine, rate)
        stops = stop.reached() and done < n_steps
        saves = stops or (done < n_steps and _due(done, train.checkpoint.every_steps, n_steps))
        logs = saves or _due(
            done, train.metrics.every_steps, n_steps
        )  # a resumed run begins with an empty meter
        observer.look(logs)
        meter.add(batch, waited, *take_step(job, engine, guard, batch))
        observer.look(False)
        if logs:
            seen = meter.read(done, watch.lap(), rate)
            saves = saves and not seen.n_bad
            if journal:
                journal.step(seen)
        if _due(done, train.validation.every_steps, n_steps):
            held_out = parts.held_out(done)
        if train.validation.probe_every_steps and _due(
            done, train.validation.probe_every_steps, n_steps
        ):
            parts.probe(done)
        if saves:
            parts.save(done, in_any_case=stops)
        if stops:
            raise Interrupted(
                f"run {run.run_id} stopped at step {done} of {n_steps}, as asked; the same command goes on"
            )
        watchdog.expect("batch")
    return Outcome(held_out, watch.stop(), guard.skipped(), guard.n_rewinds)


def _due(done: int, every: int, n_steps: int) -> bool:
    return done == n_steps or bool(every and done % every == 0)


def _be_deterministic(run: RunConfig) -> None:
    """The same numbers each time on the same number of ranks, whatever the launcher left in the
    environment.

    Tested on CPUs. On a GPU, what has no deterministic kernel warns and runs; the backward pass of
    torch's own attention may be such a one, flash-attn's is not (attention.py).
    """
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # pyright: ignore[reportAttributeAccessIssue]  # costs a pass over every new tensor, and we read none
    torch.manual_seed(run.seed)
    if not torch.cuda.is_available():
        torch.set_num_threads(run.train.parallel.threads_per_rank)
