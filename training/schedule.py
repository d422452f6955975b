"""learning rate as a pure function of progress: warm up, then follow a cosine

No state, so nothing to save: step k of a resumed run has the rate it would have had. Step k is the k-th optimizer step,
counted from 0; the first already has a rate above zero (a step at rate 0 would only move Adam's averages).
"""

import math

from training.config import TrainConfig


def warmup_steps(train: TrainConfig, n_steps: int) -> int:
    """Steps before the peak: warmup_ratio of the run, at most max_warmup_steps, and never the whole run."""
    return min(round(train.warmup_ratio * n_steps), train.max_warmup_steps, n_steps - 1)


def learning_rate(train: TrainConfig, step: int, n_steps: int) -> float:
    """The rate of step `step` of `n_steps`: a line up to the peak, then half a cosine down to its floor at the last step."""
    assert 0 <= step < n_steps, (step, n_steps)
    warmup = warmup_steps(train, n_steps)
    if step < warmup:
        return train.learning_rate * (step + 1) / (warmup + 1)
    progress = (step - warmup) / max(1, n_steps - 1 - warmup)
    floor = train.min_learning_rate_ratio
    return train.learning_rate * (floor + (1 - floor) * (1 + math.cos(math.pi * progress)) / 2)
