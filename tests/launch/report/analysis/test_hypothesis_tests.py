"""Tests and their p-values, against textbook numbers and against simulations whose truth is known."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from launch.report.analysis import hypothesis_tests

FAST = {"n_permutations": 499, "seed": 0}


def test_fishers_maize_has_fishers_p():
    """Darwin's fifteen pairs: 863 of 2^15 sign patterns have a sum at least as large as 314 on each
    side, so p = 0.05267 (Fisher 1935, The Design of Experiments, §21).
    """
    differences = [49, -67, 8, 16, 6, 23, 28, 41, 14, 29, 56, 24, 75, 60, -48]
    found = hypothesis_tests.sign_flip(differences, n_permutations=2**15, seed=0)
    assert (found.p, found.floor) == (pytest.approx(2 * 863 / 2**15, abs=1e-4), 2**-14)
    drawn = hypothesis_tests.sign_flip(differences, n_permutations=9999, seed=0)
    assert drawn.p == pytest.approx(0.0527, abs=0.008) and drawn.floor == 1e-4


def test_a_sure_difference_is_reported_at_the_floor_never_as_zero():
    found = hypothesis_tests.sign_flip(np.full(40, 3.0), **FAST)
    assert (found.difference, found.p, found.floor) == (3.0, 1 / 500, 1 / 500)
    assert hypothesis_tests.two_sample(np.zeros(30), np.ones(40), **FAST).p == 1 / 500


def test_nothing_but_ties_is_no_difference():
    assert hypothesis_tests.sign_flip(np.zeros(40), **FAST).p == 1.0
    assert hypothesis_tests.two_sample([0.1] * 30, [0.1] * 20, **FAST).p == 1.0


def test_two_samples_agree_with_counting_every_relabelling():
    a, b = [1.0, 4.0, 2.5, 0.3, 7.0], [5.0, 6.5, 3.2, 8.8]
    pooled = np.array(a + b)
    all_means = [
        pooled[list(c)].mean() - np.delete(pooled, c).mean()
        for c in itertools.combinations(range(9), 4)
    ]
    observed = np.mean(b) - np.mean(a)
    exact = np.mean(np.abs(all_means) >= abs(observed) - 1e-12)
    found = hypothesis_tests.two_sample(a, b, n_permutations=9999, seed=1)
    assert found.difference == pytest.approx(observed) and found.p == pytest.approx(
        exact, abs=0.015
    )


@pytest.mark.parametrize("which", ["paired", "two samples"])
def test_the_tests_reject_a_true_null_in_five_percent_of_samples_and_find_what_is_there(which):
    generator = np.random.default_rng(3)

    def p(shift: float, seed: int) -> float:
        x, y = generator.beta(0.3, 2, 40), generator.beta(0.3, 2, 40) + shift
        if which == "paired":
            return hypothesis_tests.sign_flip(y - x, n_permutations=199, seed=seed).p
        return hypothesis_tests.two_sample(x, y, n_permutations=199, seed=seed).p

    under_null = np.array([p(0.0, i) for i in range(1000)])
    assert 0.035 <= (under_null <= 0.05).mean() <= 0.065  # 5 % ± 2 standard errors
    assert abs(under_null.mean() - 0.5) < 0.04
    assert np.mean([p(0.25, i) <= 0.05 for i in range(100)]) > 0.9


def test_holm_gives_the_adjusted_values_of_a_worked_example():
    """By hand: 4 × 0.005, 3 × 0.01, then 2 × 0.03 = 0.06, and 0.04 may not fall below it."""
    assert hypothesis_tests.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx(
        [0.03, 0.06, 0.06, 0.02]
    )
    assert hypothesis_tests.holm([0.9, 0.6]) == [1.0, 1.0] and hypothesis_tests.holm([]) == []


@given(st.lists(st.floats(0, 1), max_size=12))
def test_holm_keeps_the_order_and_lies_between_the_raw_and_bonferroni(ps):
    adjusted = hypothesis_tests.holm(ps)
    assert all(p <= a <= min(1.0, len(ps) * p) + 1e-12 for p, a in zip(ps, adjusted, strict=True))
    assert all(
        adjusted[i] <= adjusted[j] for i in range(len(ps)) for j in range(len(ps)) if ps[i] < ps[j]
    )


def test_mcnemars_p_is_the_binomials():
    for b, c in [(0, 0), (3, 9), (9, 3), (0, 6), (40, 25)]:
        _, p = hypothesis_tests.mcnemar(b, c, 200, "ratio", confidence=0.95)
        assert p == pytest.approx(stats.binomtest(b, b + c, 0.5).pvalue if b + c else 1.0)


def test_the_interval_of_a_paired_difference_of_rates_covers_it():
    generator = np.random.default_rng(0)
    cells = generator.multinomial(80, [0.15, 0.05, 0.8], size=2000)
    found = [
        hypothesis_tests.mcnemar(int(b), int(c), 80, "ratio", confidence=0.95)[0]
        for b, c, _ in cells
    ]
    assert 0.93 <= np.mean([one.low <= -0.10 <= one.high for one in found]) <= 0.97


@pytest.mark.parametrize(("difference", "deviation"), [(1.0, 2.0), (0.5, 2.0), (3.0, 8.0)])
def test_the_items_needed_are_those_of_the_t_test(difference, deviation):
    n = hypothesis_tests.items_needed(difference, deviation, power=0.8)

    def power(n: int) -> float:
        edge = stats.t.ppf(0.975, n - 1)
        return stats.nct.sf(edge, n - 1, difference / deviation * n**0.5)

    assert power(n + 1) >= 0.8 and power(n - 2) < 0.8


def test_a_power_table_asks_for_more_items_the_smaller_the_difference():
    ((_, large), (_, small)) = hypothesis_tests.power_table(10.0, [4.0, 2.0])
    assert large == {0.5: 26, 0.8: 51, 0.9: 68, 0.95: 84}
    assert all(small[power] > 3.5 * large[power] for power in large)
