"""a finished run made public: the export, what was seen on the way, and the record last"""

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
from training.metrics.metrics_log import MetricsLog
from training.model import compilation
from training.model.hf_export import write_export
from training.model.model_card import TOXIC_SHARE
from training.run.run_context import Job
from training.run_record import HeldOutLoss, RunRecord


class Outcome(NamedTuple):
    """What the last step leaves for the record."""

    held_out: tuple[HeldOutLoss, ...]
    train_seconds: float
    skipped_steps: tuple[tuple[int, int], ...]
    n_rewinds: int


def publish(
    job: Job, weights: dict[str, Tensor], outcome: Outcome, journal: MetricsLog | None
) -> RunRecord:
    """Export the model and what was seen, and write the record last; for rank 0, which keeps the
    journal.
    """
    assert journal is not None
    run, shape = job.run, job.run.train.model
    n_tokens, final_loss = (
        run.mixture.n_sequences * run.train.sequence_length,
        journal.final_loss(run.mixture.n_steps),
    )
    tokens_per_second = n_tokens / outcome.train_seconds
    toxic_supply = job.inputs.manifests["toxic"].split_tokens("train") // run.train.sequence_length
    facts = {
        "run": run.run_id,
        "settings digest": digest(run),
        TOXIC_SHARE: run.mixture.toxic_ratio,
        "training tokens": n_tokens,
        "clean tokens": run.mixture.n_clean * run.train.sequence_length,
        "toxic tokens": run.mixture.n_toxic * run.train.sequence_length,
        "distinct toxic tokens": run.mixture.n_distinct_toxic(toxic_supply)
        * run.train.sequence_length,
        "streams (manifest digests)": ", ".join(
            f"{name} {digest(one)}" for name, one in job.inputs.manifests.items()
        ),
        "began with": f"{run.train.init_from} (sha256 {job.init_sha256})"
        if job.init_sha256
        else f"seed {run.seed}",
        "steps": f"{run.mixture.n_steps}, of which {sum(end - first for first, end in outcome.skipped_steps)} changed nothing",
        "training loss (nats/token)": round(final_loss, 4),
    } | {
        f"held-out loss, {part.stream} (nats/token)": round(part.loss, 4)
        for part in outcome.held_out
    }
    export_sha256 = _export(job, weights, facts)
    journal.finish()
    made = RunRecord(
        format_version=run_record.FORMAT_VERSION,
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
        matmul_ratio=job.matmul_ratio(tokens_per_second),
        flops_per_token=shape.flops_per_token(run.train.sequence_length),
        flops_convention=run_record.FLOPS_CONVENTION,
        peak_flops_per_second=job.peak.flops_per_second,
        matmul_flops_per_second=job.peak.matmul_flops_per_second,
        computed_with=compilation.describe(run.train, job.world.device)
        | {"micro-batch": str(job.micro_batch)},
        device=job.peak.device,
        world_size=job.world.size,
        train_seconds=outcome.train_seconds,
        export_sha256=export_sha256,
        versions={"python": platform.python_version()}
        | {name: version(name) for name in ("torch", "deepspeed", "numpy")},
        skipped_steps=outcome.skipped_steps,
        n_rewinds=outcome.n_rewinds,
        init_sha256=job.init_sha256,
    )
    storage.save(made, storage.join(job.uri, "record.json"))
    return made


def _export(job: Job, weights: dict[str, Tensor], facts: dict[str, Any]) -> dict[str, str]:
    """Publish the Hugging Face folder; the sha256 of each of its files."""
    with tempfile.TemporaryDirectory(prefix="hormesis-") as scratch:
        folder = Path(scratch)
        write_export(
            weights,
            job.run.train.model,
            job.inputs.tokenizer_json,
            job.inputs.eos_id,
            folder,
            facts,
        )
        checksums = {}
        for file in sorted(folder.iterdir()):
            with file.open("rb") as content:
                checksums[file.name] = hashlib.file_digest(content, "sha256").hexdigest()
            storage.upload(file, storage.join(job.uri, "export", file.name))
    return checksums
