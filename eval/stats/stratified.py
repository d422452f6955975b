"""mean of the means of strata, with a bootstrap that resamples within each stratum"""

from collections.abc import Sequence

import numpy as np

from data_prep.core import keyed_random
from eval.stats import resampling
from eval.stats.estimate_with_interval import Estimate, not_measured
from eval.stats.intervals import CONFIDENCE, N_RESAMPLES


def mean_of_means(
    values: Sequence[float] | np.ndarray,
    strata: Sequence[object] | np.ndarray,
    unit: str,
    *,
    seed: int,
) -> Estimate:
    """The mean over strata of the mean value of each: a macro average of values from 0 to 1. n
    counts the values.

    The strata are fixed, as the subjects of a benchmark are, and their values are resampled. The
    deviation of a resampled mean from the mean of n values is widened by √(n / (n − 1)), because
    that of a bootstrap is too small by this factor (Rao and Wu 1988); a stratum of one value has no
    deviation. Where no stratum varies, the interval is as wide as unseen values of the smallest
    stratum could move it (intervals.bootstrap_mean).
    """
    items = np.asarray(values, dtype=np.float64)
    if not items.size:
        return not_measured(unit)
    names = np.array([str(stratum) for stratum in strata])
    draws_B = np.zeros(N_RESAMPLES)
    means, sizes = [], []
    for name in sorted(set(names)):
        of_stratum = items[names == name]
        n = len(of_stratum)
        means.append(of_stratum.mean())
        sizes.append(n)
        own_seed = keyed_random.key("stratum", name, seed)  # strata of one size are drawn apart
        draws = resampling.means(of_stratum[:, None], N_RESAMPLES, own_seed)[:, 0]
        draws_B += means[-1] + (draws - means[-1]) * np.sqrt(n / max(1, n - 1))
    draws_B /= len(means)
    value = float(np.mean(means))
    if np.ptp(draws_B) < 1e-12:
        unseen = 1 - ((1 - CONFIDENCE) / 2) ** (1 / min(sizes))
        low, high = max(0.0, value - unseen), min(1.0, value + unseen)
        return Estimate(value=value, low=low, high=high, n=len(items), unit=unit)
    low, high = np.quantile(draws_B, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return Estimate(
        value=value, low=max(0.0, float(low)), high=min(1.0, float(high)), n=len(items), unit=unit
    )
