"""how fast a run is: seconds in which it trained, and the peak that MFU divides by"""

import time
from typing import NamedTuple

import torch

from training import hardware, zero
from training.zero import Place

MEASURE_SECONDS = 0.2


class Peak(NamedTuple):
    """The most FLOP/s of one rank's device, and whether its vendor says so or we measured."""

    device: str
    flops_per_second: float


class Stopwatch:
    """Seconds between start and stop, added up; both wait for the device, which runs behind the program."""

    def __init__(self, device: torch.device, seconds: float) -> None:
        self._cuda, self._past, self._started = device.type == "cuda", seconds, 0.0

    def start(self) -> None:
        self._wait()
        self._started = time.perf_counter()

    def stop(self) -> float:
        """The seconds so far."""
        self._wait()
        self._past += time.perf_counter() - self._started
        return self._past

    def lap(self) -> float:
        """The seconds so far, and on."""
        seconds = self.stop()
        self._started = time.perf_counter()
        return seconds

    def _wait(self) -> None:
        if self._cuda:
            torch.cuda.synchronize()


def peak(place: Place, dtype: torch.dtype) -> Peak:
    """The peak of this rank's device: the vendor's dense bf16 rate, or the mean over ranks of a short product of matrices.

    A measured peak is what one rank gets while all ranks compute, as they do in training.
    """
    if place.device.type == "cuda":
        name = torch.cuda.get_device_name(place.device)
        card = hardware.known(name)
    else:
        name, card = f"CPU, {torch.get_num_threads()} threads a rank, {torch.backends.cpu.get_cpu_capability()}", None
    if card:
        return Peak(f"{name} (vendor's peak)", card.peak_flops_per_second)
    measured = zero.total(place, _measure(place.device, dtype))[0] / place.world_size
    return Peak(f"{name} (measured peak)", measured)


def _measure(device: torch.device, dtype: torch.dtype) -> float:
    n = 1024 if device.type == "cpu" else 8192
    a, b = (torch.ones(n, n, dtype=dtype, device=device) for _ in range(2))
    torch.mm(a, b)
    watch, n_products = Stopwatch(device, 0.0), 0
    watch.start()
    while watch.lap() < MEASURE_SECONDS:
        torch.mm(a, b)
        n_products += 1
    return 2 * n**3 * n_products / watch.stop()
