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

from training.config import TrainConfig


def warmup_steps(train: TrainConfig, n_steps: int) -> int:
    """Steps before the peak: warmup_ratio of the run, at most max_warmup_steps, and never the whole
    run.
    """
    return min(round(train.warmup_ratio * n_steps), train.max_warmup_steps, n_steps - 1)


def decay_start(train: TrainConfig, n_steps: int) -> int:
    """The last step at the peak; the floor is reached at the last of the run."""
    warmup = warmup_steps(train, n_steps)
    if train.schedule != "wsd":
        return warmup
    return max(warmup, n_steps - 1 - max(1, round(train.decay_ratio * n_steps)))


def learning_rate(train: TrainConfig, step: int, n_steps: int) -> float:
    """The rate of step `step` of `n_steps`."""
    assert 0 <= step < n_steps, (step, n_steps)
    warmup, start = warmup_steps(train, n_steps), decay_start(train, n_steps)
    if step < warmup:
        return train.learning_rate * (step + 1) / (warmup + 1)
    progress = max(0, step - start) / max(1, n_steps - 1 - start)
    floor = train.min_learning_rate_ratio
    return train.learning_rate * (floor + (1 - floor) * _remaining(train, progress))


def _remaining(train: TrainConfig, progress: float) -> float:
    """From 1 at the beginning of the decay to 0 at its end."""
    if train.schedule == "cosine":
        return (1 + math.cos(math.pi * progress)) / 2
    return 1 - progress if train.schedule == "linear" else 1 - math.sqrt(progress)
