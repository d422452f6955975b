"""end of a run: export of the model, metrics, and the record, which is written last"""

import hashlib
import platform
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from data_prep.core import storage
from data_prep.core.records import digest
from training import run_record
from training.engine import deepspeed_engine, deepspeed_state, process_group
from training.metrics.metrics_log import MetricsLog
from training.model import compilation
from training.model.hf_export import write_export
from training.model.model_card import TOXIC_SHARE
from training.run.run_context import RunContext
from training.run_record import HeldOutLoss, RunRecord
from training.trainer.setup import TrainSession


class LoopResult(NamedTuple):
    """What the last step leaves for the record; skipped_steps: ranges [first, end)."""

    held_out: tuple[HeldOutLoss, ...]
    train_seconds: float
    skipped_steps: tuple[tuple[int, int], ...]
    n_rollbacks: int


def publish(session: TrainSession, result: LoopResult) -> RunRecord:
    """Export the trained model and write the run's record; a collective that returns the record on
    every rank.
    """
    context = session.context
    run = session.context.run
    session.checkpoints.finish()
    weights = _gather_weights(context, session.engine)
    deepspeed_engine.release(session.engine)
    record = process_group.broadcast_from_rank0(
        lambda: _publish(context, weights, result, session.metrics_log)
    )
    if context.world.rank == 0:
        session.checkpoints.prune(run.mixture.n_steps, run.train.checkpoint.keep_last)
    return record


def _gather_weights(context: RunContext, engine: Any) -> dict[str, Tensor]:
    """All weights on rank 0; the other ranks take part and keep nothing."""
    weights = {}
    for name, value in deepspeed_state.gather_parameters(engine):
        if context.world.rank == 0:
            weights[name] = value.cpu()
    return weights


def _publish(
    context: RunContext,
    weights: dict[str, Tensor],
    result: LoopResult,
    metrics_log: MetricsLog | None,
) -> RunRecord:
    assert metrics_log is not None  # rank 0 has one
    run = context.run
    final_loss = metrics_log.final_loss(run.mixture.n_steps)
    export_sha256 = _export(context, weights, _model_card_facts(context, result, final_loss))
    metrics_log.publish_final()
    n_parameters = sum(value.numel() for value in weights.values())
    record = _record(context, result, final_loss, n_parameters, export_sha256)
    storage.save(record, storage.join(context.uri, "record.json"))
    return record


def _n_distinct_toxic(context: RunContext) -> int:
    run = context.run
    n_train_tokens = context.inputs.manifests["toxic"].split_tokens("train")
    return run.mixture.n_distinct_toxic(n_train_tokens // run.train.sequence_length)


def _model_card_facts(context: RunContext, result: LoopResult, final_loss: float) -> dict[str, Any]:
    run = context.run
    length = context.run.train.sequence_length
    initial_weights = f"drawn from seed {run.seed}"
    if context.init_sha256:
        initial_weights = f"{run.train.init_from} (sha256 {context.init_sha256})"
    digests = (f"{name} {digest(stream)}" for name, stream in context.inputs.manifests.items())
    n_skipped = sum(end - first for first, end in result.skipped_steps)
    facts = {
        "run": run.run_id,
        "settings digest": digest(run),
        TOXIC_SHARE: run.mixture.toxic_ratio,
        "training tokens": run.mixture.n_sequences * length,
        "clean tokens": run.mixture.n_clean * length,
        "toxic tokens": run.mixture.n_toxic * length,
        "distinct toxic tokens": _n_distinct_toxic(context) * length,
        "streams (manifest digests)": ", ".join(digests),
        "initial weights": initial_weights,
        "steps": f"{run.mixture.n_steps}, of which {n_skipped} were skipped",
        "training loss (nats per token)": round(final_loss, 4),
    }
    for part in result.held_out:
        facts[f"held-out loss, {part.stream} (nats per token)"] = round(part.loss, 4)
    return facts


def _record(
    context: RunContext,
    result: LoopResult,
    final_loss: float,
    n_parameters: int,
    export_sha256: dict[str, str],
) -> RunRecord:
    run = context.run
    mixture = context.run.mixture
    world = context.world
    n_tokens = mixture.n_sequences * run.train.sequence_length
    tokens_per_second = n_tokens / result.train_seconds
    versions = {name: version(name) for name in ("torch", "deepspeed", "numpy")}
    computed_with = compilation.describe(
        run.train.compute,
        world.device,
        tensor_parallel=run.train.parallel.tensor_parallel,
        d_head=run.train.model.d_head,
        document_mask=run.train.document_mask,
    )
    return RunRecord(
        format_version=run_record.FORMAT_VERSION,
        config=run,
        clean_manifest_digest=digest(context.inputs.manifests["clean"]),
        toxic_manifest_digest=digest(context.inputs.manifests["toxic"]),
        n_parameters=n_parameters,
        n_steps=mixture.n_steps,
        n_tokens=n_tokens,
        realised_toxic_ratio=mixture.toxic_ratio,
        n_distinct_toxic=_n_distinct_toxic(context),
        final_train_loss=final_loss,
        held_out=result.held_out,
        tokens_per_second=tokens_per_second,
        mfu_ratio=context.mfu_ratio(tokens_per_second),
        matmul_ratio=context.matmul_ratio(tokens_per_second),
        flops_per_token=run.train.model.flops_per_token(run.train.sequence_length),
        flops_convention=run_record.FLOPS_CONVENTION,
        peak_flops_per_second=context.peak.flops_per_second,
        matmul_flops_per_second=context.peak.matmul_flops_per_second,
        computed_with=computed_with | {"micro-batch": str(context.micro_batch)},
        device=context.peak.device,
        world_size=world.size,
        train_seconds=result.train_seconds,
        export_sha256=export_sha256,
        versions={"python": platform.python_version()} | versions,
        skipped_steps=result.skipped_steps,
        n_rollbacks=result.n_rollbacks,
        init_sha256=context.init_sha256,
    )


def _export(
    context: RunContext, weights: dict[str, Tensor], facts: dict[str, Any]
) -> dict[str, str]:
    """Upload the model as a Hugging Face folder; the sha256 of each of its files."""
    inputs = context.inputs
    with tempfile.TemporaryDirectory(prefix="hormesis-") as scratch:
        folder = Path(scratch)
        model = context.run.train.model
        write_export(weights, model, inputs.tokenizer_json, inputs.eos_id, folder, facts)
        checksums = {}
        for file in sorted(folder.iterdir()):
            with file.open("rb") as content:
                checksums[file.name] = hashlib.file_digest(content, "sha256").hexdigest()
            storage.upload(file, storage.join(context.uri, "export", file.name))
    return checksums
