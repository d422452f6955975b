"""sign-flip permutation test, Holm's correction, and sample size for a paired difference

Every p is two-sided and comes with its floor, the smallest p that its resamples can show: with
9,999 of them no difference, however large, gets below 0.0001. The interval of a difference is
intervals.bootstrap_mean of the paired differences.

Shapes: N items, B resamples.
"""

import math
from collections.abc import Sequence
from statistics import NormalDist
from typing import NamedTuple

import numpy as np

from eval.stats import resampling

TIE = 1e-9  # relative: sums of the same numbers in another order count as equal


class SignFlipTest(NamedTuple):
    """difference: mean, in the items' own unit. p: two-sided. p_floor: the smallest possible p."""

    difference: float
    p: float
    p_floor: float


def sign_flip(
    differences: Sequence[float] | np.ndarray, *, n_permutations: int, seed: int
) -> SignFlipTest:
    """Test whether paired differences are centred at 0: without an effect each is as likely to have
    the other sign (Fisher 1935, §21).

    All 2^N sign patterns are counted if there are at most `n_permutations`; otherwise that many are
    drawn, and the observed one is added to them (Phipson and Smyth 2010), so that p is never 0.
    """
    d_N = np.asarray(differences, dtype=np.float64)
    assert d_N.ndim == 1 and d_N.size, d_N.shape
    n = d_N.size
    mean = float(d_N.mean())
    least_extreme = abs(d_N.sum()) - TIE * np.abs(d_N).sum()
    if n < 63 and 2**n <= n_permutations:
        signs_BN = 2.0 * (np.arange(2**n)[:, None] >> np.arange(n) & 1) - 1.0
        is_extreme_B = np.abs(signs_BN @ d_N) >= least_extreme
        return SignFlipTest(mean, float(np.mean(is_extreme_B)), min(1.0, 2.0 ** (1 - n)))
    sums_B = resampling.sign_sums(d_N[:, None], n_permutations, seed)[:, 0]
    is_extreme_B = np.abs(sums_B) >= least_extreme
    p_floor = 1 / (1 + n_permutations)
    return SignFlipTest(mean, float((1 + is_extreme_B.sum()) * p_floor), p_floor)


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values adjusted for multiple tests, in the given order (Holm 1979). Rejecting adjusted
    values ≤ level keeps the chance of any false rejection below that level, however the tests
    depend on each other.
    """
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    adjusted = [0.0] * len(p_values)
    largest = 0.0
    for rank, i in enumerate(order):
        largest = max(largest, min(1.0, (len(order) - rank) * p_values[i]))
        adjusted[i] = largest
    return adjusted


def items_needed(
    difference: float, deviation: float, *, power: float = 0.8, level: float = 0.05
) -> int:
    """Paired items that show a mean difference with this power in a two-sided test at `level`.

    deviation: standard deviation of the paired differences, in the unit of `difference`. The normal
    formula plus z²/2 for an unknown deviation (Guenther 1981); within one item of the exact answer
    for the t-test.
    """
    assert difference and deviation >= 0, (difference, deviation)
    assert 0 < level < power < 1, (level, power)
    z_level = NormalDist().inv_cdf(1 - level / 2)
    z_power = NormalDist().inv_cdf(power)
    return max(2, math.ceil(((z_level + z_power) * deviation / difference) ** 2 + z_level**2 / 2))
