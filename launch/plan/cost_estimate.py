"""estimate of a sweep before it runs (`--plan`): GPU-hours, bytes, memory per GPU

Computed from the settings alone. Times are tokens × FLOPs per token / (peak × MFU) on a device that
is assumed, and the table says so; memory is an estimate of states and activations without
recomputation.
"""

import math
from collections.abc import Sequence
from fractions import Fraction
from typing import NamedTuple

import numpy as np
from rich.box import SIMPLE
from rich.console import Group
from rich.table import Table

from data_prep.config import AnnotationConfig
from data_prep.core.errors import ConfigurationError
from data_prep.token_stream.megatron_shards import dtype_for
from launch.experiment import Experiment
from launch.plan import evaluation_cost
from training.config import RunConfig
from training.engine import memory
from training.engine.devices import ACCELERATORS, GIB, Accelerator, find_accelerator

ASSUMED_MFU = 0.40
ASSUMED_DEVICE = "H100"


class RunCost(NamedTuple):
    """Cost of one run. device_hours is over all ranks; memory_bytes is per rank."""

    n_tokens: int
    n_steps: int
    flops: float
    device_hours: float
    hours: float
    checkpoint_bytes: int
    memory_bytes: int


def cost(run: RunConfig, n_ranks: int, device: Accelerator, mfu: float) -> RunCost:
    """Cost of one run on `n_ranks` devices at this model FLOPs utilization."""
    train = run.train
    n_tokens = run.mixture.n_sequences * train.sequence_length
    flops = float(n_tokens) * train.model.flops_per_token(train.sequence_length)
    device_hours = flops / (device.peak_flops_per_second * mfu) / 3600
    return RunCost(
        n_tokens=n_tokens,
        n_steps=run.mixture.n_steps,
        flops=flops,
        device_hours=device_hours,
        hours=device_hours / n_ranks,
        checkpoint_bytes=12 * train.model.n_parameters,  # fp32 weights and two moments
        memory_bytes=memory.peak_bytes(train, n_ranks),
    )


def device_named(name: str) -> Accelerator:
    """The accelerator of this name, or ConfigurationError with the known ones."""
    device = find_accelerator(name)
    if device is None:
        known = ", ".join(accelerator.name for accelerator in ACCELERATORS)
        raise ConfigurationError(f"--device {name}: unknown device; expected one of {known}")
    return device


def checked_mfu(mfu: float) -> float:
    """`mfu` if a device can reach it, or ConfigurationError."""
    if not 0 < mfu <= 1:
        raise ConfigurationError(
            f"--mfu {mfu:g}: not a share of the device's peak; expected a number above 0 and at "
            f"most 1, e.g. {ASSUMED_MFU}"
        )
    return mfu


def render(experiment: Experiment, device: Accelerator, mfu: float) -> Group:
    """The plan as tables for a terminal."""
    runs = experiment.runs()
    costs = [cost(run, experiment.n_ranks, device, mfu) for run in runs]
    table = Table(
        title=f"{experiment.name}: {len(runs)} runs on {experiment.n_ranks} ranks each",
        title_justify="left",
        box=SIMPLE,
    )
    columns = ("run", "clean sequences", "toxic sequences", "tokens", "steps", "hours", "GPU-hours")
    for column in columns:
        table.add_column(column, justify="left" if column == "run" else "right", no_wrap=True)
    for run, of_run in zip(runs, costs, strict=True):
        counts = (run.mixture.n_clean, run.mixture.n_toxic, of_run.n_tokens, of_run.n_steps)
        times = (of_run.hours, of_run.device_hours)
        table.add_row(run.run_id, *(f"{n:,}" for n in counts), *map(_hours, times))
    totals = Table(show_header=False, box=None)
    lines = (
        _setup_lines(experiment)
        | _stream_lines(experiment)
        | _resource_lines(experiment, costs, device)
        | _time_lines(costs, device, mfu)
    )
    for name, value in lines.items():
        totals.add_row(name, value)
    return Group(table, totals, _evaluation_table(experiment, runs, device, mfu))


def _evaluation_table(
    experiment: Experiment, runs: Sequence[RunConfig], device: Accelerator, mfu: float
) -> Table:
    """The work of the evaluations, of one plain run and of all runs. A service's time is not known,
    and is not in the sum.
    """
    processor = evaluation_cost.processor(experiment, device, mfu)
    of_arm = {
        has_control_text: evaluation_cost.evaluation_parts(
            experiment.train.model,
            experiment.train.sequence_length,
            experiment.eval,
            processor,
            has_control_text=has_control_text,
        )
        for has_control_text in (False, True)
    }
    evaluations = [of_arm[run.arm in experiment.annotated_arms] for run in runs]
    table = Table(
        title=f"evaluation on {processor.name} (computed, not measured)",
        title_justify="left",
        box=SIMPLE,
    )
    for column in ("work", "tokens per run", "time per run", "time in all"):
        table.add_column(column, justify="left" if column == "work" else "right", no_wrap=True)
    for row, part in enumerate(of_arm[False]):
        times = [parts[row].seconds for parts in evaluations]
        table.add_row(part.name, f"{part.n_tokens:,}", _duration(times[:1]), _duration(times))
    together = [sum(part.seconds or 0.0 for part in parts) for parts in evaluations]
    table.add_row("together", "", _duration(together[:1]), _duration(together))
    return table


def _duration(times: Sequence[float | None]) -> str:
    """The sum of times in seconds, in the largest unit that leaves at least one; "?" if one of them
    is unknown.
    """
    known = [seconds for seconds in times if seconds is not None]
    if len(known) < len(times):
        return "?"
    for unit, size in (("h", 3600), ("min", 60)):
        if sum(known) >= size:
            return f"{sum(known) / size:,.1f} {unit}"
    return f"{sum(known):.1f} s"


def _setup_lines(experiment: Experiment) -> dict[str, str]:
    train, model = experiment.train, experiment.train.model
    micro_batch, n_passes = train.passes(experiment.n_ranks)
    return {
        "model": f"{model.n_parameters:,} parameters, {model.n_layers} layers × {model.n_heads} "
        f"heads, {model.d_model} wide",
        "batch": f"{train.global_batch:,} sequences of {train.sequence_length:,} tokens: "
        f"{experiment.n_ranks} ranks × {micro_batch} sequences × {n_passes} passes",
        "budget": _budget(experiment),
    }


def _stream_lines(experiment: Experiment) -> dict[str, str]:
    length = experiment.train.sequence_length
    dtype = dtype_for(experiment.data.tokenizer.vocab_size)
    needed: dict[str, list[tuple[int, int]]] = {}  # by arm; matched reads the plain streams
    for run in experiment.runs():
        arm = run.arm if run.arm in experiment.annotated_arms else "plain"
        needed.setdefault(arm, []).append(needed_sequences(run))
    lines = {}
    for arm, sequences in needed.items():
        n_clean = max(clean for clean, _ in sequences) * length
        n_toxic = max(toxic for _, toxic in sequences) * length
        size = _size(np.dtype(dtype).itemsize * (n_clean + n_toxic))
        name = "streams" if arm == "plain" else f"streams of {arm}"
        lines[name] = (
            f"at least {n_clean:,} clean + {n_toxic:,} toxic tokens: {size} of {dtype} shards for "
            "all runs"
        )
    for arm in experiment.annotated_arms:
        lines[f"arm {arm}"] = _annotation(experiment.data_of(arm).annotation)
    return lines | {"toxic text": _repetition(experiment)}


def _resource_lines(
    experiment: Experiment, costs: list[RunCost], device: Accelerator
) -> dict[str, str]:
    train = experiment.train
    peak = _size(max(of_run.memory_bytes for of_run in costs))
    states = f"ZeRO-{train.parallel.zero_stage}, {train.compute.precision}"
    return {
        "checkpoint": f"{_size(costs[0].checkpoint_bytes)} each, {train.checkpoint.keep_last} kept "
        "per run",
        "memory": f"about {peak} per rank of {_size(device.memory_bytes)} (estimate for "
        f"{states}, no recomputation)",
        "FLOPs": f"{train.model.flops_per_token(train.sequence_length):,} per token: "
        "6N + 12·L·D·T, full attention",
    }


def _time_lines(costs: list[RunCost], device: Accelerator, mfu: float) -> dict[str, str]:
    device_hours = _hours(sum(of_run.device_hours for of_run in costs))
    hours = _hours(sum(of_run.hours for of_run in costs))
    n_tokens = sum(of_run.n_tokens for of_run in costs)
    return {
        "total": f"{n_tokens:,} tokens, {sum(of_run.flops for of_run in costs):.2e} FLOPs",
        "time": f"{device_hours} GPU-hours; {hours} hours if runs follow one another",
        "assuming": f"{device.name}, {device.peak_flops_per_second / 1e12:.0f} TFLOP/s peak, MFU "
        f"{mfu:.2f} (not measured)",
    }


def needed_sequences(run: RunConfig) -> tuple[int, int]:
    """How many different clean and toxic sequences the run needs, if toxic ones are repeated as far
    as allowed.
    """
    max_epochs = Fraction(str(run.mixture.max_toxic_epochs))
    return run.mixture.n_clean, math.ceil(run.mixture.n_toxic / max_epochs)


def _budget(experiment: Experiment) -> str:
    if experiment.budget == "clean_fixed":
        kind = "clean tokens per run, toxic tokens on top (clean_fixed)"
    else:
        kind = "tokens per run, toxic tokens in place of clean ones (total_fixed)"
    return f"{experiment.budget_tokens:,} {kind}"


def _repetition(experiment: Experiment) -> str:
    if experiment.max_toxic_epochs == 1:
        return "read at most once; too little is an error (max_toxic_epochs allows repetition)"
    return (
        f"read up to {experiment.max_toxic_epochs:g} times if there is too little "
        "(max_toxic_epochs)"
    )


def _annotation(annotation: AnnotationConfig) -> str:
    rule = f", toxic from {annotation.threshold:g}" if annotation.kind == "inst" else ""
    return (
        f"{annotation.tagged_ratio:.0%} of the training documents begin with "
        f"{annotation.text!r}, scored by {annotation.scorer}{rule} (our choice)"
    )


def _size(n_bytes: float) -> str:
    """Bytes in the largest unit that leaves at least one."""
    for unit, size in (("GiB", GIB), ("MiB", 1 << 20)):
        if n_bytes >= size:
            return f"{n_bytes / size:,.1f} {unit}"
    return f"{n_bytes / 1024:,.1f} KiB"


def _hours(hours: float) -> str:
    return f"{hours:,.1f}" if hours >= 1 else f"{hours:.2g}"
