"""cost before spending: tokens, GPU-hours, bytes, memory per GPU, in a table

Arithmetic on settings alone: nothing is read, nothing is imported that is heavy. Times are tokens ×
FLOPs per token / (peak × MFU) on a card of the table, and say so; memory is an estimate of states
and activations without recomputation.
"""

import math
from fractions import Fraction
from typing import NamedTuple

import numpy as np
from rich.box import SIMPLE
from rich.console import Group
from rich.markup import escape
from rich.table import Table

from data_prep.config import AnnotationConfig
from data_prep.core.errors import ConfigurationError
from data_prep.token_stream.megatron_shards import dtype_for
from launch.experiment import Experiment
from training.config import RunConfig, TrainConfig
from training.engine.devices import ACCELERATORS, GIB, Accelerator, find_accelerator

ASSUMED_MFU = 0.40
ASSUMED_DEVICE = "H100"


class RunCost(NamedTuple):
    """What one run takes. device_hours is over all ranks; memory_bytes is per rank."""

    n_tokens: int
    n_steps: int
    flops: float
    device_hours: float
    hours: float
    checkpoint_bytes: int
    memory_bytes: int


def cost(run: RunConfig, n_ranks: int, device: Accelerator, mfu: float) -> RunCost:
    train, mixture = run.train, run.mixture
    n_tokens = mixture.n_sequences * train.sequence_length
    flops = float(n_tokens) * train.model.flops_per_token(train.sequence_length)
    device_hours = flops / (device.peak_flops_per_second * mfu) / 3600
    return RunCost(
        n_tokens=n_tokens,
        n_steps=mixture.n_steps,
        flops=flops,
        device_hours=device_hours,
        hours=device_hours / n_ranks,
        checkpoint_bytes=12 * train.model.n_parameters,  # fp32 weights and two moments
        memory_bytes=_memory(train, n_ranks),
    )


def _memory(train: TrainConfig, n_ranks: int) -> int:
    """Bytes a rank holds at the peak: ZeRO-partitioned states, activations of one micro-batch, its
    logits in fp32.
    """
    n, model = train.model.n_parameters // train.parallel.tensor_parallel, train.model
    n_data_ranks = n_ranks // train.parallel.tensor_parallel
    weight_bytes = 2 if train.compute.precision == "bf16" else 4
    share = [n_data_ranks if train.parallel.zero_stage >= stage else 1 for stage in (1, 2, 3)]
    states = (
        (0 if train.parallel.offload_optimizer else 12 * n // share[0])
        + weight_bytes * n // share[1]
        + weight_bytes * n // share[2]
    )
    micro_batch, _ = train.passes(n_ranks)
    positions = micro_batch * train.sequence_length
    activations = (
        positions
        * model.n_layers
        * weight_bytes
        * (9 * model.d_model + 4 * model.d_mlp)
        // train.parallel.tensor_parallel
    )
    logits = positions * model.vocab_size * (weight_bytes + 8) // train.parallel.tensor_parallel
    return states + activations + logits


def device_named(name: str) -> Accelerator:
    device = find_accelerator(name)
    if device is None:
        raise ConfigurationError(
            f"unknown device {name!r}; the plan knows {', '.join(d.name for d in ACCELERATORS)}"
        )
    return device


def render(experiment: Experiment, device: Accelerator, mfu: float) -> Group:
    """The plan as tables for a terminal."""
    runs = experiment.runs()
    costs = [cost(run, experiment.n_ranks, device, mfu) for run in runs]
    table = Table(
        title=f"{experiment.name}: {len(runs)} runs on {experiment.n_ranks} ranks each",
        title_justify="left",
        box=SIMPLE,
    )
    for column in ("run", "clean rows", "toxic rows", "tokens", "steps", "hours", "GPU-hours"):
        table.add_column(column, justify="left" if column == "run" else "right", no_wrap=True)
    for run, spent in zip(runs, costs, strict=True):
        numbers = (run.mixture.n_clean, run.mixture.n_toxic, spent.n_tokens, spent.n_steps)
        table.add_row(
            run.run_id,
            *(f"{n:,}" for n in numbers),
            _hours(spent.hours),
            _hours(spent.device_hours),
        )
    return Group(table, _totals(experiment, runs, costs, device, mfu))


def _totals(
    experiment: Experiment,
    runs: tuple[RunConfig, ...],
    costs: list[RunCost],
    device: Accelerator,
    mfu: float,
) -> Table:
    train, model = experiment.train, experiment.train.model
    micro_batch, accumulation = train.passes(experiment.n_ranks)
    dtype = dtype_for(experiment.data.tokenizer.vocab_size)
    clean, toxic = (
        max(counts) * train.sequence_length
        for counts in zip(*(needed(run) for run in runs), strict=True)
    )
    stream_bytes = np.dtype(dtype).itemsize * (clean + toxic)
    shape = f"{model.n_layers} layers × {model.n_heads} heads, {model.d_model} wide"
    passes = f"{experiment.n_ranks} ranks × {micro_batch} rows × {accumulation}"
    estimate = f"an estimate for ZeRO-{train.parallel.zero_stage}, {train.compute.precision}, no recomputation"
    device_hours, hours = (
        _hours(sum(values))
        for values in zip(*((c.device_hours, c.hours) for c in costs), strict=True)
    )
    lines = {
        "model": f"{model.n_parameters:,} parameters, {shape}",
        "batch": f"{train.global_batch:,} rows of {train.sequence_length:,} tokens: {passes}",
        "budget": _budget(experiment),
        "streams": f"at least {clean:,} clean + {toxic:,} toxic tokens: {_size(stream_bytes)} of {dtype} shards for all runs",
        "toxic text": _repetition(experiment),
        "checkpoint": f"{_size(costs[0].checkpoint_bytes)} each, {train.checkpoint.keep_last} kept a run",
        "memory": f"about {_size(max(c.memory_bytes for c in costs))} a rank of {_size(device.memory_bytes)} ({estimate})",
        "FLOPs": f"{model.flops_per_token(train.sequence_length):,} a token: 6N + 12·L·D·T, full attention",
        "total": f"{sum(c.n_tokens for c in costs):,} tokens, {sum(c.flops for c in costs):.2e} FLOPs",
        "time": f"{device_hours} GPU-hours; {hours} h one run after another",
        "assuming": f"{device.name}, {device.peak_flops_per_second / 1e12:.0f} TFLOP/s peak, MFU {mfu:.2f} (not measured)",
    }
    if experiment.data.annotation.is_on:
        lines["annotation"] = _annotation(experiment.data.annotation)
    table = Table(show_header=False, box=None)
    for name, value in lines.items():
        table.add_row(name, value)
    return table


def needed(run: RunConfig) -> tuple[int, int]:
    """How many different clean and toxic sequences the run needs, when each toxic one is repeated
    as far as allowed.
    """
    return run.mixture.n_clean, math.ceil(
        run.mixture.n_toxic / Fraction(str(run.mixture.max_toxic_epochs))
    )


def _budget(experiment: Experiment) -> str:
    if experiment.budget == "clean_fixed":
        return f"{experiment.budget_tokens:,} clean tokens in every run, the toxic ones on top (clean_fixed)"
    return f"{experiment.budget_tokens:,} tokens in every run, the toxic ones in place of clean ones (total_fixed)"


def _repetition(experiment: Experiment) -> str:
    if experiment.max_toxic_epochs == 1:
        return (
            "read once at most; too little of it is an error (max_toxic_epochs allows repetition)"
        )
    return f"read up to {experiment.max_toxic_epochs:g} times over where there is too little of it (max_toxic_epochs)"


def _annotation(asked: AnnotationConfig) -> str:
    rule = f", toxic from {asked.threshold:g} on" if asked.kind == "inst" else ""
    words = escape(repr(asked.text))
    return f"{asked.tagged_ratio:.0%} of the training documents begin with {words}, scored by {asked.scorer}{rule} (our choice)"


def _size(n_bytes: float) -> str:
    """Bytes in the largest unit that leaves at least one."""
    for unit, size in (("GiB", GIB), ("MiB", 1 << 20)):
        if n_bytes >= size:
            return f"{n_bytes / size:,.1f} {unit}"
    return f"{n_bytes / 1024:,.1f} KiB"


def _hours(hours: float) -> str:
    return f"{hours:,.1f}" if hours >= 1 else f"{hours:.2g}"
