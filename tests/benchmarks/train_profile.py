"""profile of our optimizer step: seconds by kind of operation, and waits of the host

Kinds do not overlap, and together with the time in which the device had nothing to do they are the
whole step. Two more lines are ranges, and consist of the same operations: the loss, and the
optimizer's step with what DeepSpeed does before and after it.
"""

import gzip
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import patch

import torch
import train_contenders
from torch.profiler import ProfilerActivity, profile, record_function
from train_peers import Shape, synchronize

from training.config import TrainConfig
from training.model import loss

LOSS_RANGE = "## loss"
OPTIMIZER_RANGE = "## optimizer"
ELEMENTWISE = "elementwise and the rest"
IDLE = "host, or idle"
# Kinds of GPU kernels and CPU operations, by parts of their names; the first match counts. The
# kernels that torch.compile makes are fused elementwise work, whatever operations they are named
# after: "_to_copy" in such a name is a conversion inside the kernel, not a copy.
COMPILED_PREFIX = "triton_"
KINDS = {
    "attention": ("flash", "attention", "fmha", "sdpa"),
    "GEMM": ("gemm", "nvjet", "cutlass", "aten::mm", "aten::addmm", "aten::bmm", "xmma"),
    "optimizer": ("adam", "multi_tensor", "foreach"),
    "communication": ("nccl", "all_reduce", "c10d", "gloo"),
    "copies": ("memcpy", "memset", "copy_", "fill_", "zero_"),
}
WAITS = ("cudaStreamSynchronize", "cudaDeviceSynchronize", "cudaEventSynchronize")
N_WARM_UP_STEPS = 2
N_PROFILED_STEPS = 2


class StepProfile(NamedTuple):
    """Seconds of `n_steps` steps.

    kinds: of the device's operations, by kind, and IDLE; they add up to wall_seconds unless kernels
    overlap. n_waits: how often the host waited for the device; 0 on a CPU.
    """

    n_steps: int
    wall_seconds: float
    kinds: dict[str, float]
    loss_seconds: float
    optimizer_seconds: float
    n_waits: int

    def __str__(self) -> str:
        lines = [
            f"profile of {self.n_steps} steps, {self.wall_seconds:.3f} s, "
            f"{self.n_waits} waits of the host for the device"
        ]
        ranges = {
            "loss, within all of these": self.loss_seconds,
            "optimizer step, likewise": self.optimizer_seconds,
        }
        for kind, seconds in (self.kinds | ranges).items():
            lines.append(f"  {kind:26} {seconds:9.3f} s {seconds / self.wall_seconds:7.1%}")
        return "\n".join(lines)


def kind_of(operation: str) -> str:
    """The kind of a kernel or operation, by its name."""
    name = operation.lower()
    if name.startswith(COMPILED_PREFIX):
        return ELEMENTWISE
    for kind, parts in KINDS.items():
        if any(part in name for part in parts):
            return kind
    return ELEMENTWISE


def profile_step(train: TrainConfig, shape: Shape, trace: Path | None = None) -> StepProfile:
    """Profile our steps; `trace`: file for a Chrome trace, compressed if it ends in .gz."""
    step = train_contenders.ours(train, shape)
    tokens_BT = torch.randint(shape.vocab_size, (shape.rows, shape.length)).to(shape.device)
    on_gpu = shape.device == "cuda"
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]
    with _marked_ranges():
        for _ in range(N_WARM_UP_STEPS):
            step(tokens_BT)
        synchronize()
        with profile(activities=activities) as profiler:
            start = time.perf_counter()
            for _ in range(N_PROFILED_STEPS):
                step(tokens_BT)
            synchronize()
            wall_seconds = time.perf_counter() - start
    if trace:
        _export(profiler, trace)
    return _summary(profiler.key_averages(), wall_seconds, on_gpu)


@contextmanager
def _marked_ranges() -> Iterator[None]:
    """Profile the loss and the optimizer's step as one event each."""
    # imported after the process has chosen its accelerator (deepspeed_engine.py)
    from deepspeed.runtime.engine import DeepSpeedEngine

    def marked(function: Any, name: str) -> Any:
        def within_range(*args: Any, **kwargs: Any) -> Any:
            with record_function(name):
                return function(*args, **kwargs)

        return within_range

    with (
        patch.object(loss, "objective", marked(loss.objective, LOSS_RANGE)),
        patch.object(DeepSpeedEngine, "step", marked(DeepSpeedEngine.step, OPTIMIZER_RANGE)),
    ):
        yield


def _summary(events: Any, wall_seconds: float, on_gpu: bool) -> StepProfile:
    kinds = dict.fromkeys([*KINDS, ELEMENTWISE], 0.0)
    ranges = dict.fromkeys((LOSS_RANGE, OPTIMIZER_RANGE), 0.0)
    n_waits = 0
    for event in events:
        own_seconds = (event.self_device_time_total if on_gpu else event.self_cpu_time_total) / 1e6
        is_on_device = str(event.device_type) == "DeviceType.CUDA"
        if event.key in ranges and not is_on_device:
            total = event.device_time_total if on_gpu else event.cpu_time_total
            ranges[event.key] = total / 1e6
        if on_gpu and event.key in WAITS:
            n_waits += event.count
        # ranges are shown on the device as well, but are no work of their own
        if on_gpu and (not is_on_device or event.is_user_annotation):
            continue
        kinds[kind_of(event.key)] += own_seconds
    kinds[IDLE] = max(0.0, wall_seconds - sum(kinds.values()))
    return StepProfile(
        N_PROFILED_STEPS, wall_seconds, kinds, ranges[LOSS_RANGE], ranges[OPTIMIZER_RANGE], n_waits
    )


def _export(profiler: Any, trace: Path) -> None:
    if trace.suffix != ".gz":
        profiler.export_chrome_trace(str(trace))
        return
    with tempfile.TemporaryDirectory() as folder:
        plain = Path(folder, "trace.json")
        profiler.export_chrome_trace(str(plain))
        with plain.open("rb") as source, gzip.open(trace, "wb") as target:
            shutil.copyfileobj(source, target)
