"""the one way to emit a log line, a progress bar or a metric; every metric name with its unit

A metric is named here once, with its unit in the name; `emit` refuses any other. Inside a Ray
process the value goes to Ray's Prometheus endpoint (as `ray_<name>`); elsewhere only to whoever
called `emit`'s own record (JSON lines, TensorBoard). Ray is never imported: where it is not
running, nothing happens.
"""

import logging
import sys
from functools import lru_cache
from typing import Any, Literal, NamedTuple

from rich.console import Console
from tqdm import tqdm

logger = logging.getLogger("hormesis")


class Metric(NamedTuple):
    kind: Literal["gauge", "counter"]
    unit: str
    help: str
    labels: tuple[str, ...]


METRICS: dict[str, Metric] = {
    "hormesis_documents": Metric("counter", "documents", "documents read", ("stream",)),
    "hormesis_documents_dropped": Metric(
        "counter", "documents", "documents dropped by cleaning", ("stream", "reason")
    ),
    "hormesis_tokens_written": Metric("counter", "tokens", "tokens written to shards", ("stream",)),
    "hormesis_storage_read_bytes": Metric("counter", "bytes", "bytes read from object storage", ()),
    "hormesis_storage_retries": Metric(
        "counter", "requests", "requests to object storage tried again", ("reason",)
    ),
    "hormesis_cache_hits": Metric(
        "counter", "blocks", "blocks of tokens found in the node's cache", ()
    ),
    "hormesis_train_step": Metric("gauge", "steps", "optimizer steps done", ("run",)),
    "hormesis_train_steps_planned": Metric(
        "gauge", "steps", "optimizer steps the run will take", ("run",)
    ),
    "hormesis_train_loss": Metric(
        "gauge", "nats/token", "training loss of the last logged step", ("run",)
    ),
    "hormesis_train_source_loss": Metric(
        "gauge",
        "nats/token",
        "training loss on one stream's rows since the last logged step",
        ("run", "stream"),
    ),
    "hormesis_held_out_loss": Metric(
        "gauge", "nats/token", "loss on held-out text", ("run", "stream")
    ),
    "hormesis_probe_auroc": Metric(
        "gauge", "1", "AUROC of the best head's probe on held-out toxic and clean text", ("run",)
    ),
    "hormesis_learning_rate": Metric("gauge", "1", "learning rate of the last step", ("run",)),
    "hormesis_grad_norm": Metric("gauge", "1", "global gradient norm before clipping", ("run",)),
    "hormesis_block_grad_norm": Metric(
        "gauge", "1", "gradient norm of one block before clipping", ("run", "block")
    ),
    "hormesis_residual_rms": Metric(
        "gauge", "1", "root mean square of the residual stream after a layer", ("run", "layer")
    ),
    "hormesis_attention_logit_max": Metric(
        "gauge",
        "1",
        "largest attention logit of a layer, in the first row of a logged step",
        ("run", "layer"),
    ),
    "hormesis_memory_bytes": Metric(
        "gauge", "bytes", "memory of rank 0: of its card, or of the host", ("run", "kind")
    ),
    "hormesis_skipped_steps": Metric(
        "gauge", "steps", "steps not finite, spikes, or left out by a rewind", ("run",)
    ),
    "hormesis_rollbacks": Metric(
        "gauge", "times", "times training went back to a checkpoint and left batches out", ("run",)
    ),
    "hormesis_tokens_per_second": Metric(
        "gauge", "tokens/s", "training tokens per second, all ranks", ("run",)
    ),
    "hormesis_mfu_ratio": Metric(
        "gauge", "ratio", "model FLOPs utilisation against the device's peak", ("run",)
    ),
    "hormesis_matmul_ratio": Metric(
        "gauge", "ratio", "model FLOPs a second against a measured product of matrices", ("run",)
    ),
    "hormesis_data_wait_seconds": Metric(
        "gauge", "s", "mean time a step since the last logged one waited for data", ("run",)
    ),
    "hormesis_batch_toxic_share_ratio": Metric(
        "gauge",
        "ratio",
        "toxic rows / all rows of the batches since the last logged step",
        ("run",),
    ),
    "hormesis_toxic_share_ratio": Metric(
        "gauge", "ratio", "toxic rows of the batches so far / all rows", ("run",)
    ),
    "hormesis_checkpoint_seconds": Metric(
        "gauge", "s", "time to publish the last checkpoint", ("run",)
    ),
    "hormesis_checkpoint_stall_seconds": Metric(
        "gauge", "s", "time that training stood still for the last checkpoint", ("run",)
    ),
    "hormesis_checkpoint_bytes": Metric(
        "gauge", "bytes", "bytes of the last checkpoint published, all ranks", ("run",)
    ),
    "hormesis_checkpoints_failed": Metric(
        "counter", "checkpoints", "checkpoints that could not be published", ("run",)
    ),
    "hormesis_checkpoints_skipped": Metric(
        "counter",
        "checkpoints",
        "checkpoints left out while the one before was being published",
        ("run",),
    ),
    "hormesis_evaluations": Metric("counter", "runs", "runs evaluated", ("run",)),
}


def configure(level: int = logging.INFO) -> None:
    """Send log lines to stderr, above any progress bar; called by entry modules only."""
    if not logger.handlers:
        handler = _BarSafeHandler()
        handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
        logger.addHandler(handler)
    logger.setLevel(level)
    logger.propagate = False
    for chatty in (
        "botocore",
        "aiobotocore",
    ):  # each process would tell where it found its credentials
        logging.getLogger(chatty).setLevel(logging.WARNING)


def emit(name: str, value: float, **labels: str) -> None:
    """Set a gauge, or add to a counter, on this process's Prometheus endpoint."""
    metric = METRICS[name]
    assert set(labels) == set(metric.labels), (name, labels, metric.labels)
    instrument = _instrument(name) if _in_ray() else None
    if instrument is None:
        return
    if metric.kind == "gauge":
        instrument.set(value, tags=labels)
    elif value > 0:
        instrument.inc(value, tags=labels)


def console() -> Console:
    """Where tables are printed: a terminal as wide as it is, a file or a job's log wide enough for
    any of ours.
    """
    return Console(width=None if sys.stdout.isatty() else 160)


def progress(total: int, title: str, unit: str, *, initial: int = 0) -> Any:
    """A bar with rate and time left: `.update(n)`, `.set_description(text)`, `.close()`. A Ray
    worker's is drawn by the driver.
    """
    if _in_ray_worker():
        from ray.experimental import tqdm_ray

        bar = tqdm_ray.tqdm(total=total, desc=title, unit=unit)
        bar.update(initial)
        return bar
    scaled = total >= 10_000
    return tqdm(
        total=total,
        desc=title,
        unit=unit,
        unit_scale=scaled,
        initial=initial,
        dynamic_ncols=True,
        mininterval=0.5,
        leave=False,
    )


class _BarSafeHandler(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        tqdm.write(self.format(record), file=sys.stderr)


def _in_ray() -> bool:
    ray = sys.modules.get("ray")
    return ray is not None and ray.is_initialized()


def _in_ray_worker() -> bool:
    return (
        _in_ray()
        and sys.modules["ray"]._private.worker.global_worker.mode == sys.modules["ray"].WORKER_MODE
    )


@lru_cache
def _instrument(name: str) -> Any:
    from ray.util import metrics

    metric = METRICS[name]
    maker = metrics.Gauge if metric.kind == "gauge" else metrics.Counter
    return maker(name, description=f"{metric.help} [{metric.unit}]", tag_keys=metric.labels)
