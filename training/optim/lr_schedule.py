"""learning-rate schedule as a pure function of the step

Warm up, then:

    cosine   ╱⎺╲_    half a cosine down to the floor, which the last step reaches
    linear   ╱╲      a straight line down to the floor
    wsd      ╱⎺⎺⎺╲   at the peak until the last decay_ratio of the steps, then down by 1 − √progress

The decay of wsd is the one that Hägele et al. (arXiv:2405.18392, §3) found best, with a fifth of
the steps. Until the decay begins, no rate depends on the number of steps, so the steps so far can
be shared by runs of several lengths (training/run/branching.py).

There is no state, so nothing to save: step k of a resumed run has the same rate. Step k is the
optimizer step k, counted from 0; the first one already has a rate above zero, since a step at rate
0 would only change AdamW's moments.
"""

import math

from training.config import ScheduleConfig

MAX_WARMUP_STEPS = 2000  # OLMo's warm-up (PAPER §3)


def warmup_steps(schedule: ScheduleConfig, n_steps: int) -> int:
    """Steps before the peak: warmup_ratio of the run, at most MAX_WARMUP_STEPS, never all steps."""
    return min(round(schedule.warmup_ratio * n_steps), MAX_WARMUP_STEPS, n_steps - 1)


def decay_start(schedule: ScheduleConfig, n_steps: int) -> int:
    """The last step at the peak; the run's last step is at the floor."""
    warmup = warmup_steps(schedule, n_steps)
    if schedule.kind != "wsd":
        return warmup
    return max(warmup, n_steps - 1 - max(1, round(schedule.decay_ratio * n_steps)))


def learning_rate(peak: float, schedule: ScheduleConfig, step: int, n_steps: int) -> float:
    """Learning rate of step `step` of `n_steps`."""
    assert 0 <= step < n_steps, (step, n_steps)
    warmup = warmup_steps(schedule, n_steps)
    if step < warmup:
        return peak * (step + 1) / (warmup + 1)
    start = decay_start(schedule, n_steps)
    progress = max(0, step - start) / max(1, n_steps - 1 - start)
    floor = schedule.min_learning_rate_ratio
    return peak * (floor + (1 - floor) * _remaining(schedule, progress))


def _remaining(schedule: ScheduleConfig, progress: float) -> float:
    """The share of the decay that is still to come: 1 at its beginning, 0 at its end."""
    if schedule.kind == "cosine":
        return (1 + math.cos(math.pi * progress)) / 2
    return 1 - progress if schedule.kind == "linear" else 1 - math.sqrt(progress)
