import math

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from data_prep.core.errors import ConfigurationError
from eval.stats import intervals, resampling
from eval.stats.estimate import Estimate, not_measured

BOOTSTRAP = {"confidence": 0.95, "n_resamples": 2000, "seed": 0}


def test_wilson_gives_the_published_interval():
    """Newcombe 1998, Statistics in Medicine 17, table I, method 3: 81/263 and 0/20."""
    found = intervals.wilson(81, 263, "ratio", confidence=0.95)
    assert (round(found.value, 4), round(found.low, 4), round(found.high, 4), found.n) == (
        0.308,
        0.2553,
        0.3662,
        263,
    )
    none = intervals.wilson(0, 20, "ratio", confidence=0.95)
    assert (none.low, round(none.high, 4)) == (0.0, 0.1611)


@given(n=st.integers(1, 5000), data=st.data(), confidence=st.floats(0.5, 0.999))
def test_wilson_holds_its_rate_and_stays_inside_the_unit_interval(n, data, confidence):
    found = intervals.wilson(data.draw(st.integers(0, n)), n, "ratio", confidence=confidence)
    assert 0 <= found.low <= found.value <= found.high <= 1


def test_the_bootstrap_interval_of_a_mean_is_close_to_the_normal_one():
    values = np.random.default_rng(0).normal(5, 2, size=400)
    found = intervals.bootstrap_mean(values, "u", **BOOTSTRAP)
    half = 1.96 * values.std() / 20
    assert found.value == pytest.approx(values.mean())
    assert (found.value - found.low, found.high - found.value) == (
        pytest.approx(half, rel=0.1),
        pytest.approx(half, rel=0.1),
    )


@pytest.mark.slow
@pytest.mark.parametrize(("shape", "n"), [("normal", 30), ("scores", 150)])
def test_a_95_percent_interval_covers_the_truth_in_93_to_97_percent_of_samples(shape, n):
    """Scores as toxicity has them: most near 0, a few near 1. tests/benchmarks/bench_coverage.py
    looks longer.
    """
    generator = np.random.default_rng(1)
    draw, truth = {
        "normal": (lambda: generator.normal(size=n), 0.0),
        "scores": (lambda: generator.beta(0.3, 2, n), 0.3 / 2.3),
    }[shape]
    found = [
        intervals.bootstrap_mean(draw(), "u", confidence=0.95, n_resamples=500, seed=i)
        for i in range(800)
    ]
    assert 0.93 <= np.mean([estimate.low <= truth <= estimate.high for estimate in found]) <= 0.97


@pytest.mark.filterwarnings("error::RuntimeWarning")
@given(st.lists(st.floats(-1e3, 1e3), min_size=2, max_size=5))
@example([1.0, 1.0000001])
@example([0.0, 0.0, 1e-200])
def test_the_interval_of_a_few_values_lies_between_the_smallest_and_the_largest(values):
    found = intervals.bootstrap_mean(values, "u", confidence=0.95, n_resamples=200, seed=0)
    edge = 1e-9 * max(map(abs, values))
    assert min(values) - edge <= found.low <= found.high <= max(values) + edge


def test_the_interval_of_skewed_values_reaches_further_up_than_down():
    found = intervals.bootstrap_mean(np.random.default_rng(0).beta(0.1, 1, 60), "u", **BOOTSTRAP)
    assert found.high - found.value > 1.2 * (found.value - found.low)


def test_items_of_two_conditions_are_resampled_alike():
    values = np.random.default_rng(2).random(50)
    one, two = (
        intervals.bootstrap_mean(values, "u", **BOOTSTRAP),
        intervals.bootstrap_mean(values + 10, "u", **BOOTSTRAP),
    )
    assert (two.low - one.low, two.high - one.high) == (pytest.approx(10), pytest.approx(10))


def test_chunks_do_not_change_the_interval(monkeypatch):
    values = np.random.default_rng(2).random(50)
    whole = intervals.bootstrap_mean(values, "u", **BOOTSTRAP)
    monkeypatch.setattr(resampling, "CHUNK_ITEMS", 64)
    parts = intervals.bootstrap_mean(values, "u", **BOOTSTRAP)
    assert (parts.low, parts.high) == (
        pytest.approx(whole.low, rel=1e-12),
        pytest.approx(whole.high, rel=1e-12),
    )


def test_nothing_measured_has_no_value_and_one_value_no_interval():
    assert intervals.bootstrap_mean([], "u", **BOOTSTRAP) == Estimate(
        value=None, low=None, high=None, n=0, unit="u"
    )
    assert intervals.wilson(0, 0, "u", confidence=0.95) == not_measured("u")
    assert intervals.bootstrap_mean([3.0], "u", **BOOTSTRAP) == Estimate(
        value=3.0, low=None, high=None, n=1, unit="u"
    )


def test_a_value_that_is_no_number_is_refused():
    with pytest.raises(ConfigurationError, match="1 of 2 values"):
        intervals.bootstrap_mean([1.0, float("nan")], "u", **BOOTSTRAP)


def test_values_without_variation_still_leave_room_for_what_was_not_seen():
    settings = {"confidence": 0.95, "n_resamples": 100, "seed": 0}
    bounded = intervals.bootstrap_mean([0.0] * 100, "score × 100", bounds=(0.0, 100.0), **settings)
    assert (bounded.value, bounded.low) == (0.0, 0.0)
    assert bounded.high == pytest.approx(
        3.62, abs=0.01
    )  # Clopper and Pearson (1934): 0 of 100 at 95 %
    assert intervals.bootstrap_mean([0.0] * 100, "nats", **settings).high == 0.0


def test_the_interval_of_rho_covers_the_truth():
    """Spearman's rho of a bivariate normal with correlation r is 6/π·asin(r/2)."""
    rng = np.random.default_rng(7)
    r = 0.6
    truth = 6 / math.pi * math.asin(r / 2)
    covered = []
    for _ in range(500):
        x = rng.normal(size=80)
        rho = intervals.spearman(x, r * x + math.sqrt(1 - r**2) * rng.normal(size=80))
        covered.append(rho.low <= truth <= rho.high)
    assert 0.93 <= np.mean(covered) <= 0.97  # 0.956 in 4,000 such samples
