"""how fast a run is: seconds in which it trained, and the two rates its FLOPs are compared with

Model FLOPs are 6N + 12·L·D·T a token (config.py), whatever is computed again. MFU divides by the
vendor's peak, which no program reaches; the second ratio divides by what a large product of
matrices gets on this very device, hot or throttled as it is.
"""

import time
from typing import NamedTuple

import torch

from training.engine import devices, process_group
from training.engine.process_group import World

MEASURE_SECONDS = 0.2


class PeakFlops(NamedTuple):
    """The most FLOP/s of one rank's device: its vendor's word, or where there is none, and always
    beside it, a measurement.
    """

    device: str
    flops_per_second: float
    matmul_flops_per_second: float


class Stopwatch:
    """Seconds between start and stop, added up to `seconds`; both wait for the device, which runs
    behind the program.
    """

    def __init__(self, device: torch.device, seconds: float) -> None:
        self._cuda, self.seconds, self._started = device.type == "cuda", seconds, 0.0

    def start(self) -> None:
        self._wait()
        self._started = time.perf_counter()

    def stop(self) -> float:
        """The seconds so far."""
        self._wait()
        self.seconds += time.perf_counter() - self._started
        return self.seconds

    def lap(self) -> float:
        """The seconds so far, and on."""
        seconds = self.stop()
        self._started = time.perf_counter()
        return seconds

    def _wait(self) -> None:
        if self._cuda:
            torch.cuda.synchronize()


def measure_peak(world: World, dtype: torch.dtype) -> PeakFlops:
    """The peak of this rank's device, and the best that a product of matrices gets there, the mean
    over ranks that all compute.
    """
    if world.device.type == "cuda":
        name = torch.cuda.get_device_name(world.device)
        card = devices.known(name)
    else:
        name, card = (
            f"CPU, {torch.get_num_threads()} threads a rank, {torch.backends.cpu.get_cpu_capability()}",
            None,
        )
    measured = process_group.sum_over_ranks(world, _measure(world.device, dtype))[0] / world.size
    if card and dtype is torch.bfloat16:
        return PeakFlops(f"{name} (vendor's peak)", card.peak_flops_per_second, measured)
    return PeakFlops(f"{name} (measured peak)", measured, measured)


def _measure(device: torch.device, dtype: torch.dtype) -> float:
    n = 1024 if device.type == "cpu" else 8192
    a, b = (
        torch.randn(n, n, device=device).to(dtype) for _ in range(2)
    )  # of ones a GPU would draw less power, and be faster
    torch.mm(a, b)
    watch, past, best = Stopwatch(device, 0.0), 0.0, 0.0
    watch.start()
    while past < MEASURE_SECONDS:
        torch.mm(a, b)
        now = watch.lap()
        past, best = now, max(best, 2 * n**3 / (now - past))
    return best
