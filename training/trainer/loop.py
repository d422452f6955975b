"""training loop: the optimizer step, and the logging, validation and checkpoints after it

`train` is called alike on every rank, by training/pretrain.py under any launcher or by Ray Train in
a thread. It returns the record of a finished run, and resumes an unfinished one from its newest
checkpoint. Preparations are in setup.py, the export and the record in finish.py.

    train ─▶ prepare_run ─▶ start_session ─▶ run_steps ─▶ publish
                                 ▲               │
                                 └─── Rollback ──┘   too many bad steps in a row (step_guard.py)

A logged step costs one all-reduce of metrics and one host sync, any other step neither, except that
DeepSpeed reads the gradient's norm in some configurations (step_guard.py).
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from data_prep.core.errors import Interrupted
from training import run_record
from training.config import RunConfig
from training.engine import deepspeed_engine
from training.metrics.model_stats import ModelStats
from training.optim.lr_schedule import learning_rate
from training.optim.step_guard import Rollback, StepGuard
from training.run import initial_weights
from training.run.batches import BatchReader, TrainBatch
from training.run.run_context import RunContext
from training.run_record import HeldOutLoss, RunRecord
from training.trainer import finish, gc_pauses, preemption, setup, validation
from training.trainer.finish import LoopResult
from training.trainer.preemption import StopVote
from training.trainer.setup import TrainSession
from training.trainer.step_metrics import StepMetrics, StepResult


def train(
    root: str, run: RunConfig, *, deepspeed_overlay: dict[str, Any] | None = None
) -> RunRecord:
    """Train `run` below the object root, or return its record if it is finished; a collective.

    Raises ConfigurationError, ArtefactMissing or ArtefactCorrupt for what a retry cannot cure, and
    Interrupted after a preemption (preemption.py).
    """
    finished = run_record.find(root, run.run_id)
    if finished:
        run_record.expect_same(finished.config, run, run_record.run_uri(root, run.run_id))
        return finished
    context, settings = setup.prepare_run(root, run, deepspeed_overlay)
    rollback_ends: list[int] = []
    while True:
        try:
            return _train_from_checkpoint(context, settings, rollback_ends)
        except Rollback as rollback:
            rollback_ends.append(rollback.end)


def _train_from_checkpoint(
    context: RunContext, settings: dict[str, Any], rollback_ends: list[int]
) -> RunRecord:
    """Train from the newest checkpoint to the last step, and publish the run."""
    session = setup.start_session(context, settings, rollback_ends)
    try:
        with session.watchdog:
            result = run_steps(session)
    except (Rollback, Interrupted):
        session.checkpoints.finish()
        deepspeed_engine.release(session.engine)
        raise
    finally:
        if session.metrics_log:
            session.metrics_log.close()
    return finish.publish(session, result)


def run_steps(session: TrainSession) -> LoopResult:
    """Take every step from first_step on, and after each the work that is due."""
    context, engine, guard = session.context, session.engine, session.guard
    run = context.run
    train = run.train
    n_steps = run.mixture.n_steps
    clean, toxic = context.reader("clean", "train"), context.reader("toxic", "train")
    batches = BatchReader(run.mixture, clean, toxic, context.world)
    stats = ModelStats(engine, context.world)
    metrics = StepMetrics(context, guard, stats, session.first_step, session.stopwatch.seconds)
    stop_vote = StopVote(context.world)
    held_out: tuple[HeldOutLoss, ...] = ()

    session.stopwatch.start()
    session.watchdog.begin("batch")
    preemption.stepping.set()
    prefetched = batches.prefetch(session.first_step, n_steps)
    for batch, wait_seconds in gc_pauses.gc_between_steps(prefetched):
        session.watchdog.begin("step")
        done = batch.step + 1
        rate = learning_rate(train.optimizer.learning_rate, train.schedule, batch.step, n_steps)
        deepspeed_engine.set_learning_rate(engine, rate)
        stops = stop_vote.is_stopping() and done < n_steps
        saves = stops or (done < n_steps and _is_due(done, train.checkpoint.every_steps, n_steps))
        # A step with a checkpoint is logged, since a resumed run begins with new metrics there.
        logs = saves or _is_due(done, train.metrics.every_steps, n_steps)

        stats.collect(logs)
        result = train_step(context, engine, guard, batch)
        stats.collect(False)
        if batch.step == session.first_step:
            session.checkpoints.prepare(engine)
        metrics.add(batch, wait_seconds, result)

        if logs:
            logged = metrics.log(done, session.stopwatch.lap(), rate)
            saves = saves and not logged.n_bad
            if session.metrics_log:
                session.metrics_log.log_step(logged)
        if _is_due(done, train.validation.every_steps, n_steps):
            held_out = _validate(session, done)
        probe_every = train.validation.probe_every_steps
        if probe_every and _is_due(done, probe_every, n_steps):
            _probe(session, done)
        if saves:
            _save(session, done, must_save=stops)
        if stops:
            raise Interrupted(
                f"run {run.run_id}: stopped at step {done} of {n_steps} on request (SIGTERM); the "
                "same command resumes from its checkpoint"
            )
        session.watchdog.begin("batch")
    return LoopResult(held_out, session.stopwatch.stop(), guard.skipped_ranges(), guard.n_rollbacks)


def train_step(context: RunContext, engine: Any, guard: StepGuard, batch: TrainBatch) -> StepResult:
    """One optimizer step: forward and backward over the micro-batches, then the optimizer.

    The gradient is that of the mean loss over the V valid rows of the global batch, with T − 1
    predictions each, on any number of ranks. Gradients of micro-batches are summed, those of the W
    data-parallel ranks averaged by DeepSpeed, so

        objective of a micro-batch = Σ over its valid rows: the row's summed loss · W / (V·(T − 1))

    The losses and the guard's verdict stay on the device; nothing here waits for it.
    """
    device = context.world.device
    loss_S = torch.zeros(2, dtype=torch.float64, device=device)  # S: the sources, clean and toxic
    guard.begin_step(batch.step, batch.n_valid, loss_S)
    tokens_BT, valid_B, toxic_B = (
        part.to(device, non_blocking=True) for part in (batch.tokens, batch.valid, batch.toxic)
    )
    source_BS = torch.stack([~toxic_B & valid_B, toxic_B], dim=1)
    n_predictions = batch.n_valid * (context.run.train.sequence_length - 1)
    weight = context.world.n_data_ranks / n_predictions
    for start in range(0, len(tokens_BT), context.micro_batch):
        rows = slice(start, start + context.micro_batch)
        starts = context.document_starts(batch.tokens[rows])
        objective, loss_B = engine(tokens_BT[rows], valid_B[rows] * weight, starts)
        loss_S += (loss_B[:, None] * source_BS[rows]).sum(0)
        is_last = rows.stop == len(tokens_BT)
        deepspeed_engine.backward_and_step(engine, objective, last=is_last)
    return StepResult(loss_S, guard.end_step())


def _is_due(done: int, every: int, n_steps: int) -> bool:
    """Whether work every `every` steps, and after the last one, is due after `done` steps."""
    return done == n_steps or bool(every and done % every == 0)


@contextmanager
def _off_the_clock(session: TrainSession, kind: str) -> Iterator[float]:
    """Work beside the steps: the stopwatch stands still, at the seconds that are yielded."""
    train_seconds = session.stopwatch.stop()
    session.watchdog.begin(kind)
    yield train_seconds
    session.stopwatch.start()


def _validate(session: TrainSession, done: int) -> tuple[HeldOutLoss, ...]:
    with _off_the_clock(session, "held-out loss"):
        losses = validation.held_out_losses(session.context, session.engine)
        if session.metrics_log:
            session.metrics_log.log_held_out(done, losses)
    return losses


def _probe(session: TrainSession, done: int) -> None:
    with _off_the_clock(session, "probe"):
        point = validation.probe_heads(session.context, session.engine)
        if session.metrics_log and point:
            session.metrics_log.log_probe(done, point)


def _save(session: TrainSession, done: int, *, must_save: bool) -> None:
    """Save a checkpoint, committed once the metrics up to it are published."""
    with _off_the_clock(session, "checkpoint") as train_seconds:
        published = session.metrics_log.publish_in_background() if session.metrics_log else None
        extra = session.guard.state_dict() | initial_weights.state_dict(session.context)
        session.checkpoints.save(
            session.engine, done, train_seconds, extra, commit_after=published, must_save=must_save
        )
