"""OLMo-1B as the parts on speed train it, and how a step's cost is recorded

On tiny shapes it is a model of some thousand parameters, which only shows that a part works.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
import train_contenders
import train_peers
from train_peers import Shape, Step, StepCost

from data_prep.core.settings import evolve
from gpu_check_parts.recorder import Recorder
from training.config import ModelConfig, TrainConfig
from training.engine import process_group, throughput
from training.model import compilation

TINY = ModelConfig(
    d_model=32, n_layers=2, n_heads=2, d_mlp=64, vocab_size=264, max_sequence_length=32
)
N_STEPS = 6


class Bench(NamedTuple):
    """Settings of the training that is measured, its shape, and the device's peak."""

    train: TrainConfig
    shape: Shape
    peak: throughput.PeakFlops


def prepare(recorder: Recorder, *, n_passes: int = 4, n_steps: int = N_STEPS) -> Bench:
    """Join the process group; n_passes micro-batches per step."""
    train = train_contenders.settings_of("small" if recorder.is_tiny else "olmo-1b")
    if recorder.is_tiny:
        changes = {"model": TINY, "sequence_length": 32, "micro_batch": 2}
        train, n_steps = evolve(train, changes), 2
    train = evolve(train, {"global_batch": n_passes * train.passes(1).micro_batch})
    world = process_group.join()
    peak = throughput.measure_peak(world, compilation.compute_dtype(train.compute))
    return Bench(train, train_contenders.shape_of(train, n_steps), peak)


def measure(
    recorder: Recorder, bench: Bench, name: str, build: Callable[[Shape], Step]
) -> StepCost | None:
    """Measure one contender's step and record it; None, and an error, if it failed."""
    ((_, cost),) = train_peers.measure({name: build}, bench.shape)
    if isinstance(cost, Exception):
        recorder.error(name, cost)
        return None
    rate = tokens_per_second(bench, cost)
    flops = rate * bench.train.model.flops_per_token(bench.shape.length)
    recorder.number(
        f"{name}: tokens per second",
        rate,
        "tokens/s",
        f"{cost.micro} × {bench.shape.length} tokens per pass, {bench.shape.rows} sequences per "
        f"step of {1e3 * cost.seconds:.1f} ms, {cost.gib:.1f} GiB, built and first step "
        f"{cost.first_seconds:.1f} s",
    )
    recorder.number(
        f"{name}: MFU",
        flops / bench.peak.flops_per_second,
        "",
        f"of {bench.peak.device}; {flops / bench.peak.matmul_flops_per_second:.3f} of a plain "
        "matmul in this process",
    )
    return cost


def tokens_per_second(bench: Bench, cost: StepCost) -> float:
    return bench.shape.rows * bench.shape.length / cost.seconds


def release() -> None:
    """Free what the last contender left, and forget its compiled code."""
    train_peers.release()
    torch._dynamo.reset()
