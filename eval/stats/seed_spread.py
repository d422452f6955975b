"""spread between seeds, pooled over groups, and intervals that include it

Models that differ in their seed alone are the units of a claim about a training setting. Two or
three seeds per setting are too few to resample, so their standard deviation is assumed equal in all
groups and pooled. An interval over items (prompts, rows) and one over seeds are combined by adding
the squares of their half-widths on each side (MOVER, Zou and Donner 2008), which keeps a skewed
interval skewed. A model's effect on single items is counted in both parts, so an interval is a
little too wide where seeds differ little. Where the spread is not equal, the most variable group's
interval is too narrow: from 0.5 to 3 over six groups of two, it covers 87 %. Coverage:
tests/benchmarks/bench_coverage.py.
"""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from eval.stats.estimate_with_interval import Estimate
from eval.stats.intervals import CONFIDENCE


class SeedSpread(NamedTuple):
    """Standard deviation between models of one group; df: its degrees of freedom, 0 where no group
    has two models, and then the deviation is unknown.
    """

    deviation: float
    df: int


def pooled(values: Sequence[Sequence[float] | np.ndarray]) -> SeedSpread:
    """The spread of the models' values within groups; groups may differ in size."""
    groups = [np.asarray(group, dtype=np.float64) for group in values if len(group)]
    df = sum(map(len, groups)) - len(groups)
    if not df:
        return SeedSpread(0.0, 0)
    squares = sum(float(((group - group.mean()) ** 2).sum()) for group in groups)
    return SeedSpread(math.sqrt(squares / df), df)


def widened(
    over_items: Estimate,
    spread: SeedSpread,
    n_seeds: int,
    *,
    bounds: tuple[float, float] = (-math.inf, math.inf),
    confidence: float = CONFIDENCE,
) -> Estimate:
    """The mean over `n_seeds` models with an interval over items and seeds, inside `bounds`.

    over_items: that mean with its interval over items alone, which is kept where the spread is
    unknown.
    """
    from scipy.stats import t

    value, low, high = over_items.value, over_items.low, over_items.high
    if value is None or low is None or high is None or not spread.df:
        return over_items
    half = float(t.ppf((1 + confidence) / 2, spread.df)) * spread.deviation / math.sqrt(n_seeds)
    return replace(
        over_items,
        low=max(bounds[0], value - math.hypot(value - low, half)),
        high=min(bounds[1], value + math.hypot(high - value, half)),
    )
