"""learning rate as a pure function of progress: warm up, then cosine, linear, or stable until a
last decay

    cosine   ╱⎺╲_    half a cosine down to the floor at the last step
    linear   ╱╲      a line down to it
    wsd      ╱⎺⎺⎺╲   at the peak until the last decay_ratio of the steps, then down by 1 − √progress

The decay of wsd is the one that Hägele et al. (arXiv:2405.18392, §3) found best, and a fifth of the
steps enough for it. Until it begins, no rate depends on how long the run is: what was trained so
far may be the trunk of runs of several lengths.

No state, so nothing to save: step k of a resumed run has the rate it would have had. Step k is the
k-th optimizer step, counted from 0; the first already has a rate above zero (a step at rate 0 would
only move Adam's averages).
"""

import math

from training.config import ScheduleConfig

MAX_WARMUP_STEPS = 2000  # OLMo's warm-up (PAPER §3)


def warmup_steps(schedule: ScheduleConfig, n_steps: int) -> int:
    """Steps before the peak: warmup_ratio of the run, at most MAX_WARMUP_STEPS, and never the whole
    run.
    """
    return min(round(schedule.warmup_ratio * n_steps), MAX_WARMUP_STEPS, n_steps - 1)


def decay_start(schedule: ScheduleConfig, n_steps: int) -> int:
    """The last step at the peak; the floor is reached at the last of the run."""
    warmup = warmup_steps(schedule, n_steps)
    if schedule.kind != "wsd":
        return warmup
    return max(warmup, n_steps - 1 - max(1, round(schedule.decay_ratio * n_steps)))


def learning_rate(peak: float, schedule: ScheduleConfig, step: int, n_steps: int) -> float:
    """Learning rate of step `step` of `n_steps`."""
    assert 0 <= step < n_steps, (step, n_steps)
    warmup, start = warmup_steps(schedule, n_steps), decay_start(schedule, n_steps)
    if step < warmup:
        return peak * (step + 1) / (warmup + 1)
    progress = max(0, step - start) / max(1, n_steps - 1 - start)
    floor = schedule.min_learning_rate_ratio
    return peak * (floor + (1 - floor) * _remaining(schedule, progress))


def _remaining(schedule: ScheduleConfig, progress: float) -> float:
    """From 1 at the beginning of the decay to 0 at its end."""
    if schedule.kind == "cosine":
        return (1 + math.cos(math.pi * progress)) / 2
    return 1 - progress if schedule.kind == "linear" else 1 - math.sqrt(progress)
