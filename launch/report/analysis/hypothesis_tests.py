"""is it a difference? permutation tests, McNemar, Holm, and how many prompts would be needed

Every p is two-sided and comes with its floor, the least p that its resamples could have shown: with
9,999 of them no difference, however large, gets below 0.0001. An interval for the difference itself
is intervals.bootstrap_mean of the paired differences.

Shapes: N items, B resamples.
"""

import math
from collections.abc import Sequence
from statistics import NormalDist
from typing import NamedTuple

import numpy as np

from eval.stats import resampling
from eval.stats.estimate import Estimate

TIE = 1e-9  # relative: sums of the same numbers in another order are the same sum


class Tested(NamedTuple):
    """difference: in the items' own unit. p: two-sided. floor: the least p possible here."""

    difference: float
    p: float
    floor: float


def sign_flip(
    differences: Sequence[float] | np.ndarray, *, n_permutations: int, seed: int
) -> Tested:
    """Whether paired differences are centred at 0: under no effect each is as likely with the other
    sign (Fisher 1935, §21).

    All 2^N patterns are counted where they are no more than `n_permutations`; otherwise that many
    are drawn, and the observed one is added to them (Phipson and Smyth 2010), so that p is never 0.
    """
    d_N = np.asarray(differences, dtype=np.float64)
    assert d_N.ndim == 1 and d_N.size, d_N.shape
    n, observed = d_N.size, abs(d_N.sum())
    if n < 63 and 2**n <= n_permutations:
        signs_BN = 2.0 * (np.arange(2**n)[:, None] >> np.arange(n) & 1) - 1.0
        return Tested(
            float(d_N.mean()),
            float(np.mean(_at_least(signs_BN @ d_N, observed, d_N))),
            min(1.0, 2.0 ** (1 - n)),
        )
    sums_B = resampling.sign_sums(d_N[:, None], n_permutations, seed)[:, 0]
    return Tested(float(d_N.mean()), *_p(_at_least(sums_B, observed, d_N)))


def two_sample(
    first: Sequence[float] | np.ndarray,
    second: Sequence[float] | np.ndarray,
    *,
    n_permutations: int,
    seed: int,
) -> Tested:
    """Whether the means of two independent samples differ (second − first): under no effect an
    item's sample is a label.
    """
    a, b = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    assert a.size and b.size, (a.size, b.size)
    pooled = np.concatenate([a, b])
    pooled = (
        pooled - pooled.mean()
    )  # then the sum of one sample is the difference of the means, up to a factor
    sums_B = resampling.relabelled_sums(pooled, a.size, n_permutations, seed)
    return Tested(
        float(b.mean() - a.mean()), *_p(_at_least(sums_B, abs(pooled[: a.size].sum()), pooled))
    )


def mcnemar(
    only_first: int, only_second: int, n: int, unit: str, *, confidence: float
) -> tuple[Estimate, float]:
    """Two rates on the same n items: the difference second − first with its interval, and the exact
    two-sided p.

    only_first, only_second: items positive under that condition alone; those alike under both say
    nothing of a difference. p is binomial (McNemar 1947, exact form); the interval is Wald's with
    half an item added to each of the four cells (Agresti and Min 2005, §3.2), which keeps its
    coverage at small counts.
    """
    assert only_first >= 0 and only_second >= 0 and only_first + only_second <= n, (
        only_first,
        only_second,
        n,
    )
    if n == 0:
        return Estimate(value=None, low=None, high=None, n=0, unit=unit), 1.0
    discordant, least = only_first + only_second, min(only_first, only_second)
    tail = sum(math.comb(discordant, k) for k in range(least + 1))
    p = min(1.0, (2 * tail) / 2**discordant) if discordant else 1.0
    b, c, total = only_first + 0.5, only_second + 0.5, n + 2
    centre = (c - b) / total
    half = (
        NormalDist().inv_cdf((1 + confidence) / 2)
        * math.sqrt((b + c) / total - centre**2)
        / math.sqrt(total)
    )
    value = (only_second - only_first) / n
    low, high = max(-1.0, min(centre - half, value)), min(1.0, max(centre + half, value))
    return Estimate(value=value, low=low, high=high, n=n, unit=unit), p


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values adjusted for being several, in the order given (Holm 1979): reject where adjusted ≤
    level, and the chance of any false rejection stays below it, however the tests depend on each
    other.
    """
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    adjusted, running = [0.0] * len(p_values), 0.0
    for rank, i in enumerate(order):
        running = max(running, min(1.0, (len(order) - rank) * p_values[i]))
        adjusted[i] = running
    return adjusted


def items_needed(
    difference: float, deviation: float, *, power: float = 0.8, level: float = 0.05
) -> int:
    """How many paired items show a mean difference with this power in a two-sided test at `level`.

    deviation: standard deviation of the paired differences, in the unit of `difference`. The normal
    formula plus z²/2 for not knowing the deviation (Guenther 1981); within one item of the t-test's
    exact answer.
    """
    assert difference and deviation >= 0 and 0 < level < power < 1, (
        difference,
        deviation,
        power,
        level,
    )
    z_level, z_power = NormalDist().inv_cdf(1 - level / 2), NormalDist().inv_cdf(power)
    return max(2, math.ceil(((z_level + z_power) * deviation / difference) ** 2 + z_level**2 / 2))


def power_table(
    deviation: float,
    differences: Sequence[float],
    powers: Sequence[float] = (0.5, 0.8, 0.9, 0.95),
    *,
    level: float = 0.05,
) -> list[tuple[float, dict[float, int]]]:
    """For each difference, the items needed at each power."""
    return [
        (d, {power: items_needed(d, deviation, power=power, level=level) for power in powers})
        for d in differences
    ]


def _at_least(sums_B: np.ndarray, observed: float, items: np.ndarray) -> np.ndarray:
    return np.abs(sums_B) >= observed - TIE * np.abs(items).sum()


def _p(as_extreme_B: np.ndarray) -> tuple[float, float]:
    floor = 1 / (1 + len(as_extreme_B))
    return float((1 + as_extreme_B.sum()) * floor), floor
