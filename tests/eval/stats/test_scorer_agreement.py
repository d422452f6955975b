import numpy as np
import pytest
from estimate_checks import covers
from scipy.stats import spearmanr
from sklearn.metrics import cohen_kappa_score

from eval.stats.scorer_agreement import cohen_kappa, scorer_agreement


def scores(n, seed=0):
    """Two scorers that share a part of what they see, with ties."""
    rng = np.random.default_rng(seed)
    common = rng.normal(size=n)
    both = [1 / (1 + np.exp(-(common + rng.normal(size=n)))) for _ in range(2)]
    return [score.round(2).tolist() for score in both]


def test_rho_and_kappa_equal_those_of_scipy_and_scikit_learn():
    first, second = scores(400)
    result = scorer_agreement(first, second)
    assert result.rho.value == pytest.approx(spearmanr(first, second).statistic)  # pyright: ignore[reportAttributeAccessIssue]
    toxic = [[score >= 0.5 for score in one] for one in (first, second)]
    assert result.kappa.value == pytest.approx(cohen_kappa_score(*toxic))
    assert result.agreement.value == np.mean(np.equal(toxic[0], toxic[1]))
    assert (result.n, result.n_missing) == (400, 0)


def test_a_text_without_a_score_is_in_no_number():
    first, second = scores(50)
    expected = scorer_agreement(first[:40], second[:40])
    with_gaps = scorer_agreement([*first[:40], None, None, 0.9], [*second[:40], 0.1, None, None])
    assert (with_gaps.n, with_gaps.n_missing) == (40, 3)
    assert with_gaps.rho == expected.rho and with_gaps.kappa == expected.kappa


def test_scorers_that_are_one_agree_and_opposite_ones_do_not():
    first, _ = scores(100)
    same = scorer_agreement(first, first)
    assert (same.agreement.value, same.kappa.value) == (1, 1)
    assert same.rho.value == pytest.approx(1)
    opposite = scorer_agreement([0.9, 0.9, 0.1, 0.1], [0.2, 0.1, 0.8, 0.9])
    assert (opposite.agreement.value, opposite.kappa.value) == (0, pytest.approx(-1))
    assert opposite.rho.value < 0


def test_kappa_of_scorers_that_call_nothing_toxic_is_not_measured():
    result = scorer_agreement([0.1, 0.2, 0.3, 0.1], [0.3, 0.1, 0.2, 0.4])
    assert (result.agreement.value, result.kappa.value) == (1, None)
    empty = scorer_agreement([None], [0.5])
    assert (empty.n, empty.rho.value, empty.agreement.value, empty.kappa.value) == (
        0,
        None,
        None,
        None,
    )


def test_a_scorer_that_never_changes_gives_kappa_no_interval():
    kappa = scorer_agreement([0.9, 0.2, 0.8, 0.1], [0.3, 0.1, 0.2, 0.4]).kappa
    assert (kappa.value, kappa.low, kappa.high) == (0, None, None)
    first, _ = scores(100)
    assert scorer_agreement(first, first).kappa.low is None


def test_series_of_different_lengths_are_refused():
    with pytest.raises(ValueError, match="shorter"):
        scorer_agreement([0.1, 0.2], [0.1])


def test_the_interval_of_kappa_covers_it_as_often_as_it_says():
    rng = np.random.default_rng(1)
    shares = np.array([[0.70, 0.05], [0.10, 0.15]])  # rows: the first scorer
    row, column = shares.sum(1), shares.sum(0)
    by_chance = float(row @ column)
    truth = (0.85 - by_chance) / (1 - by_chance)
    covered = 0.0
    for _ in range(1000):
        cell = rng.choice(4, size=200, p=shares.ravel())
        kappa = cohen_kappa(cell >= 2, cell % 2 == 1)
        covered += covers(kappa, truth)
    assert 0.93 <= covered / 1000 <= 0.97
