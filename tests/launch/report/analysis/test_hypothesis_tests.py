"""Tests and p-values against textbook numbers and against simulations with a known truth."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from launch.report.analysis import hypothesis_tests


def test_sign_flips_give_fishers_p_for_darwins_maize():
    """Darwin's fifteen pairs: 863 of 2^15 sign patterns have a sum at least as large as 314 on each
    side, so p = 0.05267 (Fisher 1935, The Design of Experiments, §21).
    """
    differences = [49, -67, 8, 16, 6, 23, 28, 41, 14, 29, 56, 24, 75, 60, -48]
    exact = hypothesis_tests.sign_flip(differences, n_permutations=2**15, seed=0)
    assert (exact.p, exact.p_floor) == (pytest.approx(2 * 863 / 2**15, abs=1e-4), 2**-14)
    drawn = hypothesis_tests.sign_flip(differences, n_permutations=9999, seed=0)
    assert drawn.p == pytest.approx(0.0527, abs=0.008) and drawn.p_floor == 1e-4


def test_a_certain_difference_has_p_at_the_floor_and_never_zero():
    result = hypothesis_tests.sign_flip(np.full(40, 3.0), n_permutations=499, seed=0)
    assert (result.difference, result.p, result.p_floor) == (3.0, 1 / 500, 1 / 500)


def test_differences_of_zero_have_p_one():
    assert hypothesis_tests.sign_flip(np.zeros(40), n_permutations=499, seed=0).p == 1.0


def test_sign_flips_reject_a_true_null_in_5_percent_and_find_an_effect():
    generator = np.random.default_rng(3)

    def p_value(shift: float, seed: int) -> float:
        x, y = generator.beta(0.3, 2, 40), generator.beta(0.3, 2, 40) + shift
        return hypothesis_tests.sign_flip(y - x, n_permutations=199, seed=seed).p

    under_null = np.array([p_value(0.0, i) for i in range(1000)])
    assert 0.035 <= (under_null <= 0.05).mean() <= 0.065  # 5 % ± 2 standard errors
    assert abs(under_null.mean() - 0.5) < 0.04
    assert np.mean([p_value(0.25, i) <= 0.05 for i in range(100)]) > 0.9


def test_holm_gives_the_adjusted_values_of_a_worked_example():
    """By hand: 4 × 0.005, 3 × 0.01, then 2 × 0.03 = 0.06, and 0.04 may not fall below it."""
    adjusted = hypothesis_tests.holm([0.01, 0.04, 0.03, 0.005])
    assert adjusted == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert hypothesis_tests.holm([0.9, 0.6]) == [1.0, 1.0] and hypothesis_tests.holm([]) == []


@given(st.lists(st.floats(0, 1), max_size=12))
def test_holm_keeps_the_order_and_is_at_most_bonferronis(ps):
    adjusted = hypothesis_tests.holm(ps)
    assert all(p <= a <= min(1.0, len(ps) * p) + 1e-12 for p, a in zip(ps, adjusted, strict=True))
    assert all(
        adjusted[i] <= adjusted[j] for i in range(len(ps)) for j in range(len(ps)) if ps[i] < ps[j]
    )


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
