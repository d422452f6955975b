"""set-up of a run: checks, ranks and micro-batch, then model, engine and restored state"""

from dataclasses import replace
from typing import Any, NamedTuple

import torch

from data_prep.core import storage
from data_prep.core.records import digest
from training import run_record
from training.checkpoint.manager import CheckpointManager
from training.checkpoint.verify_and_prune import RestoredCheckpoint, RunIdentity
from training.config import RunConfig, TrainConfig
from training.engine import (
    auto_micro_batch,
    deepspeed_engine,
    process_group,
    rank_env,
    throughput,
)
from training.engine.throughput import Stopwatch
from training.metrics import sinks
from training.metrics.metrics_log import MetricsLog
from training.model import compilation, determinism
from training.model.loss import OLMoForTraining
from training.optim import muon
from training.optim.step_guard import StepGuard
from training.run import initial_weights, preflight
from training.run.branching import Trunk
from training.run.run_context import RunContext
from training.trainer.watchdog import Watchdog


class TrainSession(NamedTuple):
    """One attempt at a run: what its steps use, from first_step to the last.

    metrics_log: on rank 0 only. stopwatch: runs while steps are taken, and starts at the seconds of
    the restored checkpoint.
    """

    context: RunContext
    engine: Any
    guard: StepGuard
    checkpoints: CheckpointManager
    metrics_log: MetricsLog | None
    stopwatch: Stopwatch
    watchdog: Watchdog
    first_step: int


def prepare_run(
    root: str, run: RunConfig, deepspeed_overlay: dict[str, Any] | None
) -> tuple[RunContext, dict[str, Any]]:
    """The context of a run and DeepSpeed's settings for it; a collective.

    Whatever can be refused is refused here, before a model is built, with the same words on every
    rank.
    """
    _, world_size = rank_env.rank_and_world_size()
    deepspeed_engine.deepspeed_settings(run.train, world_size, deepspeed_overlay)  # checks them
    sinks.check_available(run.train.metrics.sinks)
    inputs = preflight.check(root, run)
    device_type = "cuda" if torch.cuda.is_available() else "cpu"
    determinism.configure(device_type, deterministic=run.train.compute.deterministic)
    torch.manual_seed(run.seed)
    if device_type == "cpu":
        torch.set_num_threads(run.train.parallel.threads_per_rank)
    world = process_group.join(run.train.parallel.tensor_parallel)
    peak = throughput.measure_peak(world, compilation.compute_dtype(run.train.compute))
    micro_batch = auto_micro_batch.choose_micro_batch(run.train, world)
    settings = deepspeed_engine.deepspeed_settings(
        replace(run.train, micro_batch=micro_batch), world_size, deepspeed_overlay
    )
    return RunContext(root, run, inputs, world, peak, micro_batch), settings


def start_session(
    context: RunContext, settings: dict[str, Any], rollback_ends: list[int]
) -> TrainSession:
    """Build model and engine, and restore the newest checkpoint; a collective.

    rollback_ends: ends of the rollbacks so far in this process (step_guard.py).
    """
    run = context.run
    world = context.world
    model = _build_model(run.train)
    context = initial_weights.load_initial_weights(model, context)
    compilation.prepare(model, run.train.compute, world.device)
    checkpoints = _checkpoints(context, run)
    engine = deepspeed_engine.initialise(
        model, settings, muon.optimizer_for(model, run.train.optimizer)
    )
    muon.assign_partitions(engine)
    guard = StepGuard(engine, run, world)
    restored = checkpoints.restore(engine) or _restore_from_trunk(context, engine)
    step = 0
    train_seconds = 0.0
    if restored:
        step = restored.commit.step
        train_seconds = restored.commit.train_seconds
        context = initial_weights.load_state_dict(context, restored.extra)
        guard.load_state_dict(restored.extra)
    return TrainSession(
        context=context,
        engine=engine,
        guard=guard,
        checkpoints=checkpoints,
        first_step=guard.skip_after_rollback(step, rollback_ends),
        metrics_log=_open_metrics_log(context, step) if world.rank == 0 else None,
        stopwatch=Stopwatch(world.device, train_seconds),
        watchdog=Watchdog(context.uri, world.rank, run.train.guard.watchdog_seconds),
    )


def _build_model(train: TrainConfig) -> OLMoForTraining:
    if train.parallel.tensor_parallel == 1:
        return OLMoForTraining(train.model, z_loss=train.z_loss)
    # imported here only, since it imports megatron-core
    from training.engine.tensor_parallel import TensorParallelOLMo

    return TensorParallelOLMo(train.model, z_loss=train.z_loss)


def _open_metrics_log(context: RunContext, first_step: int) -> MetricsLog:
    run = context.run
    return MetricsLog(
        context.uri,
        run.run_id,
        run.train.metrics,
        n_steps=run.mixture.n_steps,
        first_step=first_step,
    )


def _checkpoints(context: RunContext, run: RunConfig) -> CheckpointManager:
    """The checkpoints of `run`, which is the context's or its trunk."""
    return CheckpointManager(
        storage.join(run_record.run_uri(context.root, run.run_id), "checkpoints"),
        RunIdentity(digest(run), context.inputs.data_digest),
        context.world,
        context.run.run_id,
        context.run.train.checkpoint,
    )


def _restore_from_trunk(context: RunContext, engine: Any) -> RestoredCheckpoint | None:
    """Restore the trunk's newest checkpoint that a branch shares with it (branching.py).

    From its own first checkpoint on, a branch resumes like any other run.
    """
    if not context.run.trunk:
        return None
    trunk = Trunk.load(context.root, context.run)
    n_shared = trunk.n_shared_steps(context.run)
    return _checkpoints(context, trunk.run).restore(engine, max_step=n_shared)
