"""The comparisons of the fake sweep, computed once per set of ratios, seeds and effects."""

import functools

import fake_sweep
from fake_sweep import RATIOS

from launch.report.analysis import comparisons
from launch.report.analysis.comparisons import Comparisons


@functools.cache
def compared(
    ratios: tuple[float, ...] = RATIOS, seeds: tuple[int, ...] = (0,), **effects: float
) -> Comparisons:
    """effects: `dip`, the depth of the minimum at 10 %, and `of_seed`, the deviation of seeds."""
    runs = [(ratio, seed) for ratio in ratios for seed in seeds]
    reports = [fake_sweep.run(ratio, seed)[1] for ratio, seed in runs]
    items = [fake_sweep.items_of(ratio, seed, **effects) for ratio, seed in runs]
    result = comparisons.compare(reports, items)
    assert result is not None
    return result
