"""Tests and p-values against textbook numbers and against simulations with a known truth."""

import numpy as np
import pytest
from scipy import stats

from launch.report.analysis import hypothesis_tests


def mean_of_first(groups):
    return groups[0].mean(axis=1)


def permute(groups, n_permutations=9999, n_symmetries=1):
    return hypothesis_tests.permute_groups(
        [np.array(group, dtype=float) for group in groups],
        mean_of_first,
        n_symmetries=n_symmetries,
        n_permutations=n_permutations,
        seed=0,
    )


def test_few_assignments_are_all_counted():
    """Two of five: ten assignments, of which one has the highest two first and two have 5 and 3 or
    more.
    """
    assert permute([[5, 4], [1, 2, 3]]) == (0.1, 0.1)
    assert permute([[5, 3], [1, 2, 4]]).p == pytest.approx(0.2)
    assert permute([[1, 2], [3, 4, 5]]).p == 1.0
    assert permute([[2, 2], [2, 2]], n_symmetries=2) == (1.0, pytest.approx(2 / 6))


def test_many_assignments_are_drawn_and_the_observed_one_counts():
    groups = [range(100, 106), range(6), range(6, 12)]
    drawn = permute(groups, n_permutations=199)
    assert drawn == (1 / 200, 1 / 200)
    assert permute(groups, n_permutations=20_000).p_floor == 1 / 20_001


def test_a_true_null_is_rejected_in_at_most_5_percent():
    generator = np.random.default_rng(3)
    groups = [[generator.normal(size=3) for _ in range(3)] for _ in range(600)]
    rejected = np.mean([permute(group, n_permutations=199).p <= 0.05 for group in groups])
    assert 0.025 <= rejected <= 0.075  # 5 % ± 2.8 standard errors of 0.9 %


@pytest.mark.parametrize(("difference", "deviation"), [(1.0, 2.0), (0.5, 2.0), (3.0, 8.0)])
def test_the_items_needed_are_those_of_the_t_test(difference, deviation):
    n = hypothesis_tests.items_needed(difference, deviation, power=0.8)

    def power(n: int) -> float:
        critical = stats.t.ppf(0.975, n - 1)
        return float(stats.nct.sf(critical, n - 1, difference / deviation * n**0.5))

    assert power(n + 1) >= 0.8 and power(n - 2) < 0.8


def test_more_items_are_needed_for_more_power_and_smaller_differences():
    powers = (0.5, 0.8, 0.9, 0.95)
    large, small = (
        [hypothesis_tests.items_needed(difference, 10.0, power=power) for power in powers]
        for difference in (4.0, 2.0)
    )
    assert large == [26, 51, 68, 84]
    assert all(few * 3.5 < many for few, many in zip(large, small, strict=True))
