"""intervals for every number: percentile bootstrap of means, Wilson for rates

Resampling is keyed by (seed, n), so all means over the same items (one per steering strength, say) are resampled alike:
their differences are paired without storing anything.
"""

import math
from collections.abc import Sequence
from statistics import NormalDist

import numpy as np

from data_prep import randomness
from data_prep.records import ConfigurationError
from eval.record import Estimate

CHUNK_ITEMS = 1 << 21  # resampled items in memory at once


def nothing(unit: str) -> Estimate:
    """The estimate of what could not be measured."""
    return Estimate(value=None, low=None, high=None, n=0, unit=unit)


def bootstrap_mean(
    values: Sequence[float] | np.ndarray,
    unit: str,
    *,
    confidence: float,
    n_resamples: int,
    seed: int,
    bounds: tuple[float, float] | None = None,
) -> Estimate:
    """The mean of independent `values` with its percentile bootstrap interval; one value has no interval.

    bounds: between which a value must lie, where that is known. A sample without variation bootstraps to a point, which says
    too much: then the interval is what a share 1 − ((1 − confidence)/2)^(1/n) of unseen values at a bound would make of the
    mean (Clopper and Pearson's interval at 0 of n successes, the "rule of three").
    """
    items = np.asarray(values, dtype=np.float64)
    _check_finite(items, unit)
    if not items.size:
        return nothing(unit)
    mean = float(items.mean())
    if items.size < 2:
        return Estimate(value=mean, low=None, high=None, n=1, unit=unit)
    if bounds and np.ptp(items) == 0:
        unseen = 1 - ((1 - confidence) / 2) ** (1 / items.size)
        low, high = (mean + unseen * (bound - mean) for bound in bounds)
    else:
        low, high = np.quantile(_resampled_means(items, n_resamples, seed), [(1 - confidence) / 2, (1 + confidence) / 2])
    return Estimate(value=mean, low=float(low), high=float(high), n=int(items.size), unit=unit)


def wilson(successes: int, n: int, unit: str, *, confidence: float) -> Estimate:
    """A rate with its Wilson score interval (Wilson 1927), which stays inside [0, 1] at 0 and n successes."""
    assert 0 <= successes <= n, (successes, n)
    if n == 0:
        return nothing(unit)
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    rate, shrink = successes / n, 1 + z * z / n
    centre = (rate + z * z / (2 * n)) / shrink
    half = z * math.sqrt(rate * (1 - rate) / n + z * z / (4 * n * n)) / shrink
    return Estimate(value=rate, low=max(0.0, min(centre - half, rate)), high=min(1.0, max(centre + half, rate)), n=n, unit=unit)


def _resampled_means(items: np.ndarray, n_resamples: int, seed: int) -> np.ndarray:
    """[n_resamples] means of items.size draws with replacement."""
    n = items.size
    stream = np.array(randomness.key("bootstrap", seed, n), dtype=np.uint64)
    rows = max(1, CHUNK_ITEMS // n)
    means = []
    for start in range(0, n_resamples, rows):
        counter = np.arange(start * n, min(start + rows, n_resamples) * n, dtype=np.uint64)
        drawn = ((randomness.hashes(stream, counter) >> np.uint64(32)) * np.uint64(n)) >> np.uint64(32)
        means.append(items[drawn.astype(np.int64)].reshape(-1, n).mean(axis=1))
    return np.concatenate(means)


def _check_finite(items: np.ndarray, unit: str) -> None:
    bad = int((~np.isfinite(items)).sum())
    if bad:
        raise ConfigurationError(
            f"{bad} of {items.size} values [{unit}] are not finite numbers, so their mean means nothing; check the run's losses"
        )
