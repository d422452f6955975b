"""log lines, progress bars, tables on the terminal, and metrics for Prometheus

Metrics have the names and labels of METRICS (metric_names.py); `emit` refuses any other. Inside a
Ray process a value goes to Ray's Prometheus endpoint, as `ray_<name>`. Without Ray it goes nowhere:
training's own log writes JSON lines and TensorBoard files itself. Ray is never imported here, so
training runs where Ray is not installed.
"""

import logging
import sys
from functools import lru_cache
from typing import Any

from rich.console import Console
from tqdm import tqdm

from data_prep.core.metric_names import METRICS

logger = logging.getLogger("hormesis")

WIDTH = 160  # of tables in a file or a job's log, enough for all of ours
SCALED_FROM = 10_000  # a bar with more units counts in k and M
CHATTY_LOGGERS = ("botocore", "aiobotocore")  # every process logs where it found its credentials


def configure(level: int = logging.INFO) -> None:
    """Send log lines to stderr, above any progress bar; called by entry modules only."""
    if not logger.handlers:
        handler = _BarSafeHandler()
        handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
        logger.addHandler(handler)
    logger.setLevel(level)
    logger.propagate = False
    for name in CHATTY_LOGGERS:
        logging.getLogger(name).setLevel(logging.WARNING)


class _BarSafeHandler(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        tqdm.write(self.format(record), file=sys.stderr)


def console() -> Console:
    """Where tables are printed: as wide as the terminal, or WIDTH in a file."""
    return Console(width=None if sys.stdout.isatty() else WIDTH)


def progress(total: int, title: str, unit: str, *, initial: int = 0) -> Any:
    """A progress bar with rate and time left: `.update(n)`, `.set_description(text)`, `.close()`.

    The driver draws the bar of a Ray worker.
    """
    if _in_ray_worker():
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


def _in_ray_worker() -> bool:
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
