"""Contrasts and interior minima; intervals against simulations with a known truth."""

import numpy as np
import pytest
from estimate_checks import covers, value, width
from hypothesis import given
from hypothesis import strategies as st
from simulated_sweep import RATIOS
from simulated_sweep import scores as simulate

from launch.report.analysis import ratio_curves
from launch.report.analysis.ratio_curves import InteriorMinimum


def u_shape(ratios, minimum=0.1, depth=400.0):
    return [20 + depth * (ratio - minimum) ** 2 for ratio in ratios]


def curve_of(values, ratios=RATIOS, n_draws=1000, seed=0):
    return ratio_curves.bootstrap_curve(4.0, ratios, values, n_draws=n_draws, seed=seed)


def minimum_of(values, **how) -> InteriorMinimum:
    minimum = ratio_curves.interior_minimum(curve_of(values, **how), seed=0, n_permutations=499)
    assert minimum is not None
    return minimum


def pairs(generator, means, **how):
    """Two seeds per ratio that differ a little."""
    return simulate(generator, means, n_seeds=2, seed_deviation=1.0, **how)


def test_a_contrast_of_one_seed_is_the_paired_difference_over_prompts():
    values = simulate(np.random.default_rng(0), u_shape(RATIOS))
    contrast = ratio_curves.contrast(curve_of(values), 0.0, 0.10)
    assert contrast is not None
    paired = (values[2] - values[0])[0]
    half_width = 1.96 * paired.std() / len(paired) ** 0.5
    difference = contrast.difference
    assert difference.value == pytest.approx(paired.mean()) and difference.n == 150
    assert width(difference) == pytest.approx(2 * half_width, rel=0.1)
    unpaired = 1.96 * (values[2].std() ** 2 + values[0].std() ** 2) ** 0.5 / 150**0.5
    assert half_width < 0.7 * unpaired
    assert (contrast.strength, contrast.first, contrast.second) == (4.0, 0.0, 0.10)
    assert ratio_curves.contrast(curve_of(values), 0.0, 0.12) is None


@pytest.mark.parametrize(("n_seeds", "seed_deviation"), [(1, 0.0), (2, 3.0), (4, 3.0)])
def test_contrasts_cover_the_truth_and_reject_a_true_null_in_5_percent(n_seeds, seed_deviation):
    generator = np.random.default_rng(5)
    covered, rejected = [], []
    for i in range(1000):
        values = simulate(
            generator,
            (30.0, 25.0, 25.0),
            n_seeds=n_seeds,
            n_prompts=60,
            seed_deviation=seed_deviation,
            noise=4.0,
        )
        curve = curve_of(values, (0.0, 0.1, 0.25), n_draws=400, seed=i)
        effect = ratio_curves.contrast(curve, 0.0, 0.1)
        null = ratio_curves.contrast(curve, 0.1, 0.25)
        assert effect is not None and null is not None
        covered.append(covers(effect.difference, -5.0))
        rejected.append(null.p <= 0.05)
    assert 0.93 <= np.mean(covered) <= 0.97
    assert 0.03 <= np.mean(rejected) <= 0.07


def test_two_seeds_widen_the_interval_and_one_cannot():
    generator = np.random.default_rng(1)
    one, two = (
        curve_of(simulate(generator, u_shape(RATIOS), n_seeds=n, seed_deviation=5.0))
        for n in (1, 2)
    )
    assert (one.seeds_df, two.seeds_df) == (0, 6)
    widths = []
    for curve in (one, two):
        contrast = ratio_curves.contrast(curve, 0.0, 0.1)
        assert contrast is not None
        widths.append(width(contrast.difference))
    assert widths[1] > 2 * widths[0]


def test_a_planted_minimum_is_found_and_its_location_covered():
    generator = np.random.default_rng(2)
    means = u_shape(RATIOS, minimum=0.11, depth=900)
    minima = [
        minimum_of(pairs(generator, means, noise=6.0), n_draws=400, seed=i) for i in range(300)
    ]
    assert np.mean([minimum.p_interior > 0.9 for minimum in minima]) > 0.97
    assert np.mean([minimum.p <= 0.05 for minimum in minima]) > 0.9
    locations = [minimum.location for minimum in minima]
    assert np.mean([value(location) for location in locations]) == pytest.approx(0.11, abs=0.006)
    assert np.mean([covers(location, 0.11) for location in locations]) >= 0.915


def test_without_an_effect_p_of_an_interior_minimum_is_small_in_5_percent():
    """The share of draws is above 90 % in an eighth of sweeps without an effect: it is no test."""
    generator = np.random.default_rng(3)
    minima = [minimum_of(pairs(generator, [20.0] * 6), n_draws=200, seed=i) for i in range(300)]
    assert minima[0].by_chance == pytest.approx(4 / 6)
    assert np.mean([minimum.p_interior > 0.9 for minimum in minima]) > 0.08
    assert np.mean([minimum.p <= 0.05 for minimum in minima]) <= 0.085


def test_with_one_seed_per_ratio_no_interior_minimum_is_claimed():
    values = simulate(np.random.default_rng(4), u_shape(RATIOS, depth=900), noise=2.0)
    assert ratio_curves.interior_minimum(curve_of(values), seed=0) is None


def test_a_rising_curve_has_its_minimum_at_the_first_ratio():
    rising = [10 + 100 * ratio for ratio in RATIOS]
    values = pairs(np.random.default_rng(4), rising, noise=2.0)
    minimum = minimum_of(values)
    assert (minimum.p_interior < 0.05, minimum.location.value) == (True, 0) and minimum.p > 0.5
    curve = curve_of(values[:2], RATIOS[:2])
    assert ratio_curves.interior_minimum(curve, seed=0) is None


def test_the_floor_of_p_counts_assignments_that_cannot_be_told_apart():
    """Three ratios of two models: 90 assignments; the ends may change places."""
    values = pairs(np.random.default_rng(4), (30.0, 10.0, 30.0), noise=2.0)
    minimum = minimum_of(values, ratios=RATIOS[:3])
    assert minimum.p_floor == pytest.approx(2 / 90) and minimum.p <= 6 / 90


@given(
    st.floats(0.01, 0.24),
    st.floats(1, 1e4),
    st.lists(st.floats(0, 0.25), min_size=3, max_size=8, unique_by=lambda x: round(x, 3)),
)
def test_the_minimum_of_a_parabola_is_exact_on_any_grid_around_it(minimum, depth, grid):
    x = np.sort(np.array(grid))
    y = depth * (x - minimum) ** 2
    lowest = y.argmin()
    expected = minimum if 0 < lowest < len(x) - 1 else x[lowest]
    assert ratio_curves.minimum_location(x, y[None])[0] == pytest.approx(expected, abs=1e-6)
