"""training time, and the peak FLOP/s that a run's throughput is compared with

Model FLOPs are 6N + 12·L·D·T per token (config.py), without what activation checkpointing computes
again. MFU divides by the vendor's peak, which no program reaches; the second ratio divides by the
rate of a large matrix product measured on this very device, hot or throttled as it is.
"""

import time
from typing import NamedTuple

import torch

from training.engine import devices, process_group
from training.engine.process_group import World

MEASURE_SECONDS = 0.2


class PeakFlops(NamedTuple):
    """The highest FLOP/s of one rank's device.

    flops_per_second: the vendor's figure, or the measured one for an unknown device.
    matmul_flops_per_second: measured, of a large matrix product.
    """

    device: str
    flops_per_second: float
    matmul_flops_per_second: float


class Stopwatch:
    """Total seconds between start and stop; both wait for the device, which runs asynchronously.

    They wait for what was computed, not for a checkpoint that is copied beside it (staging.py).
    """

    def __init__(self, device: torch.device, seconds: float) -> None:
        self._is_cuda = device.type == "cuda"
        self.seconds = seconds
        self._started_at = 0.0

    def start(self) -> None:
        self._synchronize()
        self._started_at = time.perf_counter()

    def stop(self) -> float:
        """Stop; the total seconds so far."""
        self._synchronize()
        self.seconds += time.perf_counter() - self._started_at
        return self.seconds

    def lap(self) -> float:
        """The total seconds so far; the stopwatch keeps running."""
        seconds = self.stop()
        self._started_at = time.perf_counter()
        return seconds

    def _synchronize(self) -> None:
        if self._is_cuda:
            torch.cuda.current_stream().synchronize()


def measure_peak(world: World, dtype: torch.dtype) -> PeakFlops:
    """The peak of this rank's device; the measured one is the mean over all ranks at work."""
    if world.device.type == "cuda":
        name = torch.cuda.get_device_name(world.device)
        device = devices.find_accelerator(name)
    else:
        capability = torch.backends.cpu.get_cpu_capability()
        name = f"CPU, {torch.get_num_threads()} threads per rank, {capability}"
        device = None
    (total,) = process_group.sum_over_ranks(world, _measure_matmul(world.device, dtype))
    measured = total / world.size
    if device and dtype is torch.bfloat16:
        return PeakFlops(f"{name} (vendor's peak)", device.peak_flops_per_second, measured)
    return PeakFlops(f"{name} (measured peak)", measured, measured)


def _measure_matmul(device: torch.device, dtype: torch.dtype) -> float:
    """FLOP/s of the fastest of several large matrix products."""
    n = 1024 if device.type == "cpu" else 8192
    # random numbers: with ones a GPU would draw less power and run faster
    a, b = (torch.randn(n, n, device=device).to(dtype) for _ in range(2))
    torch.mm(a, b)
    watch = Stopwatch(device, 0.0)
    elapsed, best = 0.0, 0.0
    watch.start()
    while elapsed < MEASURE_SECONDS:
        torch.mm(a, b)
        now = watch.lap()
        best = max(best, 2 * n**3 / (now - elapsed))
        elapsed = now
    return best
