"""permutation of models over ratios, sample size of paired differences

Every p comes with its floor, the smallest p that its permutations can show.

Shapes: N items, B permutations, S models of a group.
"""

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from statistics import NormalDist
from typing import NamedTuple

import numpy as np

from eval.stats import resampling

TIE = 1e-9  # statistics of the same numbers in another order count as equal


class PermutationTest(NamedTuple):
    """p of a statistic that is large under the alternative, and the smallest possible p."""

    p: float
    p_floor: float


def permute_groups(
    groups: Sequence[np.ndarray],
    statistic: Callable[[Sequence[np.ndarray]], np.ndarray],
    *,
    n_symmetries: int,
    n_permutations: int,
    seed: int,
) -> PermutationTest:
    """Test whether the groups' members, [S] each, could as well have been assigned at random.

    All assignments are counted if there are at most `n_permutations`; otherwise that many are
    drawn, and the observed one is added to them (Phipson and Smyth 2010), so that p is never 0.
    statistic: maps groups of [B, S] to [B]; n_symmetries: in how many assignments it is the same
    whatever the values.
    """
    values_N = np.concatenate(groups)
    sizes = [len(group) for group in groups]
    n = len(values_N)
    n_assignments = math.factorial(n) // math.prod(map(math.factorial, sizes))
    is_exact = n_assignments <= n_permutations
    if is_exact:
        orders_BN = np.array(list(_assignments(tuple(range(n)), sizes)))
    else:
        orders_BN = resampling.label_orders(n, n_permutations, seed)
    orders_BN = np.vstack([np.arange(n), orders_BN])  # row 0 is the observed assignment
    ends = np.cumsum(sizes)[:-1]
    statistic_B = statistic(np.split(values_N[orders_BN], ends, axis=1))
    is_extreme_B = statistic_B >= statistic_B[0] - TIE * max(1.0, abs(statistic_B[0]))
    counted_B = is_extreme_B[1:] if is_exact else is_extreme_B
    floor = max(n_symmetries / n_assignments, 0.0 if is_exact else 1 / (1 + n_permutations))
    return PermutationTest(float(counted_B.mean()), min(1.0, floor))


def _assignments(members: tuple[int, ...], sizes: Sequence[int]) -> Iterator[tuple[int, ...]]:
    """Every way to divide the members into groups of these sizes, as one order per way."""
    if not sizes:
        yield ()
        return
    for group in itertools.combinations(members, sizes[0]):
        rest = tuple(member for member in members if member not in group)
        for others in _assignments(rest, sizes[1:]):
            yield group + others


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
