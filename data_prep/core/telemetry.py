"""log lines, progress bars, tables on the terminal, and metrics for Prometheus

Every metric is in METRICS, with its unit, meaning and labels; `emit` refuses any other. Inside a
Ray process a value goes to Ray's Prometheus endpoint, as `ray_<name>` (and `_total` for a counter).
Without Ray it is dropped; training also writes its metrics to JSON lines and TensorBoard files. Ray
is never imported here, so training runs where Ray is not installed.
"""

import logging
import re
import sys
from contextlib import suppress
from functools import lru_cache
from typing import Any, Literal, NamedTuple

from rich.console import Console
from rich.text import Text
from tqdm import tqdm

from data_prep.core.errors import mask_secrets

logger = logging.getLogger("hormesis")

WIDTH = 160  # of tables in a file or a job's log: the widest table fits
MIN_WIDTH = 60  # in a narrower terminal lines are broken, where rich would leave out their ends
SCALED_FROM = 10_000  # a bar with more units counts in k and M
# All control characters but tab and line end, and marks that reverse the direction of writing.
_TERMINAL_CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
CHATTY_LOGGERS = ("botocore", "aiobotocore")  # every process logs where it found its credentials


def configure(level: int = logging.INFO) -> None:
    """Send log lines to stderr, above any progress bar; called by entry modules only."""
    if not logger.handlers:
        handler = _BarSafeHandler()
        handler.setFormatter(log_formatter())
        logger.addHandler(handler)
    logger.setLevel(level)
    logger.propagate = False
    for name in CHATTY_LOGGERS:
        logging.getLogger(name).setLevel(logging.WARNING)


def log_formatter() -> logging.Formatter:
    """Time and text of a line; credentials in URLs are masked."""
    return _MaskingFormatter("%(asctime)s %(message)s", "%H:%M:%S")


def printable(name: str) -> str:
    """A name that others chose as one line for terminals, its control characters escaped."""
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in name)


def _without_controls(text: str) -> str:
    """The text with every character escaped that could control a terminal."""
    return _TERMINAL_CONTROLS.sub(lambda match: ascii(match[0])[1:-1], text)


class _MaskingFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        text = mask_secrets(super().format(record))
        return _without_controls(text)


class _BarSafeHandler(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        with suppress(OSError):  # the work goes on when nobody can read the log any more
            tqdm.write(self.format(record), file=sys.stderr)


class _PlainConsole(Console):
    """A console that prints every text as it is: names that users chose are no markup."""

    def __init__(self, width: int | None = None) -> None:
        super().__init__(width=width, markup=False, emoji=False)

    def render_str(self, text: str, **options: Any) -> Text:
        return super().render_str(_without_controls(text), **options)

    def on_broken_pipe(self) -> None:
        raise BrokenPipeError  # rich itself would end the process, with another exit status


def console() -> Console:
    """Where tables are printed: as wide as the terminal, or WIDTH in a file. Text is no markup."""
    if not sys.stdout.isatty():
        return _PlainConsole(width=WIDTH)
    terminal = _PlainConsole()
    return terminal if terminal.width >= MIN_WIDTH else _PlainConsole(width=MIN_WIDTH)


def progress(total: int, title: str, unit: str, *, initial: int = 0) -> Any:
    """A progress bar with rate and time left: `.update(n)`, `.set_description(text)`, `.close()`.

    The driver draws the bar of a Ray worker.
    """
    if in_ray_worker():
        from ray.experimental import tqdm_ray

        bar = tqdm_ray.tqdm(total=total, desc=title, unit=unit)
        bar.update(initial)
        return bar
    return tqdm(
        total=total,
        desc=title,
        unit=unit,
        unit_scale=total >= SCALED_FROM,
        initial=initial,
        dynamic_ncols=True,
        mininterval=0.5,
        leave=False,
    )


def close_bars() -> None:
    """Remove every progress bar from the terminal, before the last line of a command."""
    for bar in list(getattr(tqdm, "_instances", ())):
        bar.close()


class Metric(NamedTuple):
    """The metric behind a name in METRICS.

    labels: each value of a label is a time series in Prometheus, so none has unbounded values.
    """

    kind: Literal["gauge", "counter"]
    unit: str
    help: str
    labels: tuple[str, ...]


def _gauge(unit: str, help: str, *more_labels: str) -> Metric:  # noqa: A002
    """A value of one training run."""
    return Metric("gauge", unit, help, ("run", *more_labels))


def _counter(unit: str, help: str, *labels: str) -> Metric:  # noqa: A002
    return Metric("counter", unit, help, labels)


METRICS: dict[str, Metric] = {
    # data preparation
    "hormesis_documents": _counter("documents", "documents read", "stream"),
    "hormesis_documents_dropped": _counter(
        "documents", "documents dropped by cleaning", "stream", "reason"
    ),
    "hormesis_tokens_written": _counter("tokens", "tokens written to shards", "stream"),
    # storage
    "hormesis_storage_read_bytes": _counter("bytes", "bytes read from object storage"),
    "hormesis_storage_retries": _counter(
        "requests", "retries of object storage requests", "reason"
    ),
    "hormesis_cache_hits": _counter("blocks", "token blocks read from the node's cache"),
    # training: progress and loss
    "hormesis_train_step": _gauge("steps", "optimizer steps done"),
    "hormesis_train_steps_planned": _gauge("steps", "optimizer steps the run will take"),
    "hormesis_train_loss": _gauge("nats/token", "training loss of the last logged step"),
    "hormesis_train_source_loss": _gauge(
        "nats/token", "training loss on the sequences of one stream since the last log", "stream"
    ),
    "hormesis_held_out_loss": _gauge("nats/token", "loss on held-out text", "stream"),
    "hormesis_probe_auroc": _gauge(
        "1", "AUROC of the best head's probe on held-out toxic and clean text"
    ),
    "hormesis_batch_toxic_share_ratio": _gauge(
        "ratio", "toxic sequences / all sequences of the batches since the last log"
    ),
    "hormesis_toxic_share_ratio": _gauge(
        "ratio", "toxic sequences / all sequences of the batches so far"
    ),
    # training: health of the model
    "hormesis_learning_rate": _gauge("1", "learning rate of the last step"),
    "hormesis_grad_norm": _gauge("1", "global gradient norm before clipping"),
    "hormesis_block_grad_norm": _gauge("1", "gradient norm of one block before clipping", "block"),
    "hormesis_residual_rms": _gauge(
        "1", "root mean square of the residual stream after a layer", "layer"
    ),
    "hormesis_attention_logit_max": _gauge(
        "1", "largest attention logit of a layer, on the first sequence of a logged step", "layer"
    ),
    "hormesis_skipped_steps": _gauge(
        "steps", "steps skipped: not finite, loss spikes, or batches skipped by a rollback"
    ),
    "hormesis_rollbacks": _gauge(
        "times", "times training rolled back to a checkpoint and skipped batches"
    ),
    # training: speed and memory
    "hormesis_tokens_per_second": _gauge("tokens/s", "training tokens per second, all ranks"),
    "hormesis_mfu_ratio": _gauge("ratio", "model FLOPs utilisation of the device's peak"),
    "hormesis_matmul_ratio": _gauge("ratio", "model FLOPs per second / those of a measured matmul"),
    "hormesis_data_wait_seconds": _gauge(
        "s", "mean time per step that training waited for data, since the last log"
    ),
    "hormesis_memory_bytes": _gauge("bytes", "memory of rank 0, on its device or host", "kind"),
    # training: checkpoints
    "hormesis_checkpoint_seconds": _gauge("s", "time to publish the last checkpoint"),
    "hormesis_checkpoint_stall_seconds": _gauge(
        "s", "time until the last checkpoint was copied to host memory; it stalls training at most"
    ),
    "hormesis_checkpoint_bytes": _gauge(
        "bytes", "size of the last published checkpoint, all ranks"
    ),
    "hormesis_checkpoints_failed": _counter(
        "checkpoints", "checkpoints that could not be published", "run"
    ),
    "hormesis_checkpoints_skipped": _counter(
        "checkpoints", "checkpoints skipped while the previous one was being published", "run"
    ),
    # evaluation
    "hormesis_evaluations": _counter("runs", "runs evaluated", "run"),
}


def emit(name: str, value: float, **labels: str) -> None:
    """Set a gauge, or add to a counter, on this process's Prometheus endpoint."""
    metric = METRICS[name]
    assert set(labels) == set(metric.labels), (name, labels, metric.labels)
    if not _in_ray():
        return
    instrument = _instrument(name)
    if metric.kind == "gauge":
        instrument.set(value, tags=labels)
    elif value > 0:  # Ray's counters refuse 0
        instrument.inc(value, tags=labels)


def _in_ray() -> bool:
    ray = sys.modules.get("ray")
    return ray is not None and ray.is_initialized()


def in_ray_worker() -> bool:
    if not _in_ray():
        return False
    ray = sys.modules["ray"]
    return ray._private.worker.global_worker.mode == ray.WORKER_MODE


@lru_cache
def _instrument(name: str) -> Any:
    from ray.util import metrics

    metric = METRICS[name]
    instrument = metrics.Gauge if metric.kind == "gauge" else metrics.Counter
    return instrument(name, description=f"{metric.help} [{metric.unit}]", tag_keys=metric.labels)
