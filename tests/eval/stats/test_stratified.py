import numpy as np
import pytest

from eval.stats import stratified
from eval.stats.estimate_with_interval import not_measured


def test_the_mean_of_means_weighs_every_stratum_alike():
    estimate = stratified.mean_of_means([1, 1, 1, 0, 0], list("aaaab"), "ratio", seed=0)
    assert estimate.value == pytest.approx(0.375)
    assert estimate.n == 5
    assert estimate.low is not None and estimate.high is not None
    assert 0 <= estimate.low < 0.375 < estimate.high < 0.6
    assert stratified.mean_of_means([], [], "ratio", seed=0) == not_measured("ratio")


def test_the_order_of_the_values_changes_nothing():
    random = np.random.default_rng(0)
    values, strata = random.integers(0, 2, 60), random.integers(0, 5, 60)
    order = np.lexsort((values, strata))
    estimates = [
        stratified.mean_of_means(values[some], strata[some], "ratio", seed=3)
        for some in (order, order)
    ]
    assert estimates[0] == estimates[1]
    shuffled = stratified.mean_of_means(values, strata, "ratio", seed=3)
    assert shuffled.value == pytest.approx(estimates[0].value)


def test_the_interval_of_strata_without_variation_has_a_width():
    estimate = stratified.mean_of_means([1, 1, 0, 0], list("aabb"), "ratio", seed=0)
    assert (estimate.value, estimate.low, estimate.high) == (0.5, 0.0, 1.0)


@pytest.mark.parametrize("n_of_stratum", [5, 20])
def test_the_interval_covers_the_macro_average(n_of_stratum):
    """95 % of samples, within the noise of 300; strata with the same n are drawn apart."""
    random = np.random.default_rng(0)
    truth = random.uniform(0.1, 0.7, 12)
    strata = np.repeat(np.arange(12), n_of_stratum)
    covered = []
    for seed in range(300):
        values = random.random(len(strata)) < truth[strata]
        estimate = stratified.mean_of_means(values, strata, "ratio", seed=seed)
        assert estimate.low is not None and estimate.high is not None
        covered.append(estimate.low <= truth.mean() <= estimate.high)
    assert 0.92 <= np.mean(covered) <= 0.98
