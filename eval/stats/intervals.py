"""intervals for every number: bootstrap of means (BCa), Wilson for rates

Resampling is keyed by (seed, n), so all means over the same items (one per steering strength, say)
are resampled alike: their differences are paired without storing anything.

Toxicity scores are skewed: most are near 0. Coverage of 95 % intervals in 2,000 simulated samples
of 20 / 60 / 200, scores Beta(0.3, 2): percentile 0.89 / 0.94 / 0.94, BCa 0.93 / 0.95 / 0.95. A
studentised bootstrap covers as well, but where few items differ from 0 its intervals leave the
scale.
"""

import math
from collections.abc import Sequence
from statistics import NormalDist

import numpy as np

from data_prep.core.errors import ConfigurationError
from eval.stats import resampling
from eval.stats.estimate import Estimate, not_measured

CONFIDENCE = 0.95  # of every interval that is reported
N_RESAMPLES = 2000  # bootstrap resamples behind each of them


def bootstrap_mean(
    values: Sequence[float] | np.ndarray,
    unit: str,
    *,
    seed: int,
    confidence: float = CONFIDENCE,
    n_resamples: int = N_RESAMPLES,
    bounds: tuple[float, float] | None = None,
) -> Estimate:
    """The mean of independent `values` with its bootstrap interval; one value has no interval. Give
    differences of paired values for a paired comparison.

    The interval is BCa (Efron 1987), its normal quantiles widened to Student's for small n
    (Hesterberg 2015, §5.4).

    bounds: between which a value must lie, where that is known. A sample without variation
    bootstraps to a point, which says too much: then the interval is what a share 1 − ((1 −
    confidence)/2)^(1/n) of unseen values at a bound would make of the mean (Clopper and Pearson's
    interval at 0 of n successes, the "rule of three").
    """
    items = np.asarray(values, dtype=np.float64)
    _check_finite(items, unit)
    if not items.size:
        return not_measured(unit)
    mean = float(items.mean())
    if items.size < 2:
        return Estimate(value=mean, low=None, high=None, n=1, unit=unit)
    if np.ptp(items) == 0:
        unseen = 1 - ((1 - confidence) / 2) ** (1 / items.size)
        low, high = (mean + unseen * (bound - mean) for bound in bounds or (mean, mean))
    else:
        draws = resampling.means(items[:, None], n_resamples, seed)[:, 0]
        low, high = np.quantile(draws, _bca_levels(items, draws, confidence))
    return Estimate(value=mean, low=float(low), high=float(high), n=int(items.size), unit=unit)


def wilson(successes: int, n: int, unit: str, *, confidence: float = CONFIDENCE) -> Estimate:
    """A rate with its Wilson score interval (Wilson 1927), which stays inside [0, 1] at 0 and n
    successes.
    """
    assert 0 <= successes <= n, (successes, n)
    if n == 0:
        return not_measured(unit)
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    rate, shrink = successes / n, 1 + z * z / n
    centre = (rate + z * z / (2 * n)) / shrink
    half = z * math.sqrt(rate * (1 - rate) / n + z * z / (4 * n * n)) / shrink
    return Estimate(
        value=rate,
        low=max(0.0, min(centre - half, rate)),
        high=min(1.0, max(centre + half, rate)),
        n=n,
        unit=unit,
    )


def spread_levels(n: int, confidence: float) -> tuple[float, float]:
    """At which quantiles of draws over n items a percentile interval ends: resampling makes the
    spread too small by √(n/(n − 1)) and knows no Student's t; this puts both right (Hesterberg
    2015, §5.4).
    """
    from scipy.stats import norm, t

    low = float(norm.cdf(-math.sqrt(n / (n - 1)) * t.ppf((1 + confidence) / 2, n - 1)))
    return low, 1 - low


def _bca_levels(items: np.ndarray, draws: np.ndarray, confidence: float) -> list[float]:
    """The same for a mean, also corrected for bias and for skewness."""
    from scipy.stats import norm

    d = (items - items.mean()) / np.ptp(
        items
    )  # by their range: the skewness is the same, and no power of tiny ones is 0
    ends = norm.ppf(
        np.clip(spread_levels(items.size, confidence), 1e-12, 1 - 1e-12)
    )  # 1 for 2 items
    below = (np.mean(draws < items.mean()) + np.mean(draws <= items.mean())) / 2
    bias = float(norm.ppf(np.clip(below, 0.5 / len(draws), 1 - 0.5 / len(draws))))
    skew = float((d**3).sum() / (6 * (d**2).sum() ** 1.5))
    return [
        float(norm.cdf(bias + (bias + end) / max(1e-3, 1 - skew * (bias + end)))) for end in ends
    ]


def _check_finite(items: np.ndarray, unit: str) -> None:
    bad = int((~np.isfinite(items)).sum())
    if bad:
        raise ConfigurationError(
            f"{bad} of {items.size} values [{unit}] are not finite numbers, so their mean means nothing; check the run's losses"
        )
