import math

import numpy as np
import pytest
from estimate_checks import covers, interval, value, width
from hypothesis import example, given
from hypothesis import strategies as st

from data_prep.core.errors import ConfigurationError
from eval.stats import intervals, resampling
from eval.stats.estimate_with_interval import Estimate, not_measured


def bootstrap_mean(values, n_resamples=2000, seed=0, bounds=None):
    return intervals.bootstrap_mean(values, "u", seed=seed, n_resamples=n_resamples, bounds=bounds)


def test_wilson_gives_the_published_interval():
    """Newcombe 1998, Statistics in Medicine 17, table I, method 3: 81/263 and 0/20."""
    rate = intervals.wilson(81, 263, "ratio")
    assert rate.n == 263
    assert (value(rate), *interval(rate)) == pytest.approx((0.308, 0.2553, 0.3662), abs=5e-5)
    low, high = interval(intervals.wilson(0, 20, "ratio"))
    assert (low, round(high, 4)) == (0.0, 0.1611)


@given(n=st.integers(1, 5000), data=st.data(), confidence=st.floats(0.5, 0.999))
def test_wilson_contains_its_rate_and_stays_inside_the_unit_interval(n, data, confidence):
    rate = intervals.wilson(data.draw(st.integers(0, n)), n, "ratio", confidence=confidence)
    low, high = interval(rate)
    assert 0 <= low <= value(rate) <= high <= 1


def test_the_bootstrap_interval_of_a_mean_is_close_to_the_normal_one():
    values = np.random.default_rng(0).normal(5, 2, size=400)
    mean = bootstrap_mean(values)
    assert value(mean) == pytest.approx(values.mean())
    low, high = interval(mean)
    half_width = 1.96 * values.std() / 20
    assert value(mean) - low == pytest.approx(half_width, rel=0.1)
    assert high - value(mean) == pytest.approx(half_width, rel=0.1)


@pytest.mark.parametrize("shape", ["normal", "scores"])
def test_a_95_percent_interval_covers_the_truth_in_93_to_97_percent(shape):
    """Scores are distributed like toxicity: most near 0, a few near 1.
    tests/benchmarks/bench_coverage.py draws more samples.
    """
    rng = np.random.default_rng(1)
    covered = []
    for seed in range(800):
        if shape == "normal":
            values, truth = rng.normal(size=30), 0.0
        else:
            values, truth = rng.beta(0.3, 2, 150), 0.3 / 2.3
        covered.append(covers(bootstrap_mean(values, n_resamples=500, seed=seed), truth))
    assert 0.93 <= np.mean(covered) <= 0.97


@pytest.mark.filterwarnings("error::RuntimeWarning")
@given(st.lists(st.floats(-1e3, 1e3), min_size=2, max_size=5))
@example([1.0, 1.0000001])
@example([0.0, 0.0, 1e-200])
def test_the_interval_of_a_few_values_lies_within_their_range(values):
    low, high = interval(bootstrap_mean(values, n_resamples=200))
    tolerance = 1e-9 * max(map(abs, values))
    assert min(values) - tolerance <= low <= high <= max(values) + tolerance


def test_the_interval_of_skewed_values_is_longer_on_the_side_of_the_tail():
    mean = bootstrap_mean(np.random.default_rng(0).beta(0.1, 1, 60))
    low, high = interval(mean)
    assert high - value(mean) > 1.2 * (value(mean) - low)


def test_items_of_two_conditions_get_the_same_resamples():
    values = np.random.default_rng(2).random(50)
    first, second = bootstrap_mean(values), bootstrap_mean(values + 10)
    assert np.subtract(interval(second), interval(first)) == pytest.approx(10)


def test_chunks_do_not_change_the_interval(monkeypatch):
    values = np.random.default_rng(2).random(50)
    whole = interval(bootstrap_mean(values))
    monkeypatch.setattr(resampling, "CHUNK_ITEMS", 64)
    assert interval(bootstrap_mean(values)) == pytest.approx(whole, rel=1e-12)


def test_no_values_have_no_mean_and_one_value_has_no_interval():
    nothing = Estimate(value=None, low=None, high=None, n=0, unit="u")
    assert bootstrap_mean([]) == intervals.wilson(0, 0, "u") == not_measured("u") == nothing
    one = Estimate(value=3.0, low=None, high=None, n=1, unit="u")
    assert bootstrap_mean([3.0]) == one


def test_a_value_that_is_not_finite_is_refused():
    with pytest.raises(ConfigurationError, match="1 of 2 values"):
        bootstrap_mean([1.0, float("nan")])


def test_the_interval_of_equal_values_allows_for_unseen_ones():
    bounded = bootstrap_mean([0.0] * 100, bounds=(0.0, 100.0))
    low, high = interval(bounded)
    assert (bounded.value, low) == (0.0, 0.0)
    assert high == pytest.approx(3.62, abs=0.01)  # Clopper and Pearson (1934): 0 of 100 at 95 %
    assert width(bootstrap_mean([0.0] * 100)) == 0.0


def test_the_interval_of_rho_covers_the_truth():
    """Spearman's rho of a bivariate normal with correlation r is 6/π·asin(r/2)."""
    rng = np.random.default_rng(7)
    r = 0.6
    truth = 6 / math.pi * math.asin(r / 2)
    covered = []
    for _ in range(500):
        x = rng.normal(size=80)
        y = r * x + math.sqrt(1 - r**2) * rng.normal(size=80)
        covered.append(covers(intervals.spearman(x, y), truth))
    assert 0.93 <= np.mean(covered) <= 0.97  # 0.956 in 4,000 such samples


def test_a_mean_has_the_bca_interval_of_any_statistic():
    values = np.random.default_rng(0).beta(0.3, 2, 60)
    draws_B = resampling.means(values[:, None], 2000, 0)[:, 0]
    mean = intervals.bca(float(values.mean()), values - values.mean(), draws_B, "u")
    assert interval(mean) == pytest.approx(interval(bootstrap_mean(values)))


def test_kept_draws_give_the_same_means(monkeypatch):
    values = np.random.default_rng(0).normal(size=(50, 3))
    kept = resampling.means(values, 400, 7)
    monkeypatch.setattr(resampling, "KEPT_ITEMS", 0)
    monkeypatch.setattr(resampling, "CHUNK_ITEMS", 1000)
    assert np.allclose(kept, resampling.means(values, 400, 7), rtol=0, atol=1e-12)
