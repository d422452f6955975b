"""AUROC and its intervals against scikit-learn and against simulations with a known truth."""

import math
from statistics import NormalDist

import numpy as np
import pytest
from estimate_checks import covers, interval
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from eval.stats import roc


def normal_auroc(distance: float) -> float:
    """AUROC of two normal distributions of unit variance at this distance: Φ(distance/√2)."""
    return NormalDist().cdf(distance / 2**0.5)


def test_auroc_equals_scikit_learns_including_ties():
    rng = np.random.default_rng(0)
    positive = rng.random(80) < 0.3
    scores = (3 * rng.normal(size=(80, 3))).round()
    scores[:, 2] = 0.0
    aurocs = roc.auroc(scores, positive)
    assert aurocs.tolist() == pytest.approx(
        [roc_auc_score(positive, scores[:, p]) for p in range(3)]
    )
    assert aurocs[2] == 0.5
    assert roc.mean_auroc(scores, positive).value == pytest.approx(aurocs.mean())


@pytest.mark.slow
def test_delongs_interval_covers_the_truth_for_one_and_several_probes():
    rng = np.random.default_rng(0)
    distances = np.array([1.0, 1.5])
    truth = [normal_auroc(distance) for distance in distances]
    positive = np.arange(60) % 3 == 0
    covered = []
    for _ in range(500):
        shared, own = rng.normal(size=(60, 1)), rng.normal(size=(60, 2))
        scores = (shared + own) / 2**0.5 + positive[:, None] * distances
        one = roc.mean_auroc(scores[:, :1], positive)
        both = roc.mean_auroc(scores, positive)
        covered.append((covers(one, truth[0]), covers(both, float(np.mean(truth)))))
    coverage = np.mean(covered, axis=0)
    assert (coverage >= 0.93).all() and (coverage <= 0.97).all(), coverage


def test_the_mean_auroc_is_the_mean_of_the_probes_aurocs():
    rng = np.random.default_rng(1)
    positive = np.arange(60) % 3 == 0
    scores = rng.normal(size=(60, 2)) + positive[:, None]
    mean = roc.mean_auroc(scores, positive)
    assert mean.value == pytest.approx(roc.auroc(scores, positive).mean()) and mean.n == 60


def test_the_interval_of_a_scorers_auroc_covers_the_truth():
    rng = np.random.default_rng(7)
    covered = []
    for _ in range(500):
        positive = rng.uniform(size=80) < 0.4
        estimate = roc.auroc_of_scores(rng.normal(positive * 1.0), positive)
        covered.append(covers(estimate, normal_auroc(1.0)))
    assert 0.93 <= np.mean(covered) <= 0.97  # 0.958 in 4,000 such samples


def test_an_auroc_of_one_has_an_interval_that_allows_for_unseen_rows():
    estimate = roc.mean_auroc(np.arange(20.0)[:, None], np.arange(20) >= 15)
    assert (estimate.value, estimate.high) == (1.0, 1.0)
    assert estimate.low == pytest.approx(0.025**0.2)


def test_a_constant_scorer_is_at_chance_and_has_no_interval():
    estimate = roc.auroc_of_scores(np.full(6, 0.3), np.arange(6) >= 3)
    assert (estimate.value, estimate.low, estimate.high) == (0.5, None, None)


@given(st.floats(0, 1), st.integers(2, 500))
def test_hanley_mcneil_contains_its_value_and_stays_within_the_scale(auroc, n_class):
    estimate = roc.hanley_mcneil(auroc, 2 * n_class)
    low, high = interval(estimate)
    assert 0 <= low <= auroc <= high <= 1 and low < high
    more_low, more_high = interval(roc.hanley_mcneil(auroc, 20 * n_class))
    assert more_high - more_low < high - low


@pytest.mark.slow
def test_hanley_mcneils_interval_covers_the_truth():
    rng = np.random.default_rng(0)
    covered = []
    for distance in (0.5, 1.0, 1.8):
        truth = 0.5 * (1 + math.erf(distance / 2))
        for _ in range(700):
            toxic, clean = rng.normal(distance, 1, 32), rng.normal(0, 1, 32)
            estimate = roc.hanley_mcneil(float((toxic[:, None] > clean).mean()), 64)
            covered.append(covers(estimate, truth))
    assert 0.93 <= np.mean(covered) <= 0.975


def test_calibration_error_is_small_for_true_and_large_for_wrong_odds():
    rng = np.random.default_rng(0)
    odds = rng.normal(size=20_000)
    probability = 1 / (1 + np.exp(-np.stack([odds, 4 * odds, np.zeros_like(odds)], axis=1)))
    positive = rng.random(20_000) < probability[:, 0]
    errors = roc.calibration_error(probability, positive)
    assert errors[0] < 0.015 and errors[1] > 0.12
    assert errors[2] == pytest.approx(abs(positive.mean() - 0.5))


def tied_scores(n, share=0.3):
    rng = np.random.default_rng(n)
    positive = rng.uniform(size=n) < share
    return np.clip(rng.normal(0.4 + 0.2 * positive, 0.2), 0, 1).round(2), positive


@pytest.mark.parametrize("n", [100, 1000])
def test_average_precision_equals_that_of_scikit_learn(n):
    from sklearn.metrics import average_precision_score

    score, positive = tied_scores(n)
    expected = average_precision_score(positive, score)
    assert roc.average_precision(score, positive) == pytest.approx(expected)


@pytest.mark.parametrize("rate", [0.01, 0.05, 0.2])
def test_recall_at_a_rate_is_the_highest_of_the_roc_curve(rate):
    from sklearn.metrics import roc_curve

    score, positive = tied_scores(1000)
    false_positive_rate, recall, _ = roc_curve(positive, score, drop_intermediate=False)
    expected = recall[false_positive_rate <= rate].max()
    assert roc.recall_at_false_positive_rate(score, positive, rate) == pytest.approx(expected)


def test_recall_at_a_rate_needs_enough_rows_of_the_other_class():
    score, positive = np.linspace(0, 1, 120), np.arange(120) >= 99
    assert roc.recall_at_false_positive_rate(score, positive, 0.01) is None
    assert roc.recall_at_false_positive_rate(score, np.arange(120) >= 100, 0.01) == 1.0
    assert roc.recall_at_false_positive_rate(score, np.arange(120) < 10, 0.01) == 0.0
    one_above = (np.arange(120) >= 99) & (np.arange(120) < 119)  # of the 100 others
    assert roc.recall_at_false_positive_rate(score, one_above, 0.01) == 1.0
