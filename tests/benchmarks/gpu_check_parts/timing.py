"""time and memory of small pieces of work on the device"""

import time
from collections.abc import Callable
from statistics import median
from typing import Any

import torch

N_WARM_UP = 3


def synchronize() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def median_seconds(work: Callable[[], Any], n: int = 10) -> float:
    """Median seconds of `work`; on a GPU between two events on its stream."""
    for _ in range(N_WARM_UP):
        work()
    synchronize()
    return median(
        _event_seconds(work) if torch.cuda.is_available() else seconds_of(work) for _ in range(n)
    )


def seconds_of(work: Callable[[], Any]) -> float:
    """Seconds of `work` by the clock, until the device is done."""
    synchronize()
    start = time.perf_counter()
    work()
    synchronize()
    return time.perf_counter() - start


def _event_seconds(work: Callable[[], Any]) -> float:
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    work()
    end.record()
    end.synchronize()
    return start.elapsed_time(end) / 1e3
