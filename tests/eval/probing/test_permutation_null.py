from statistics import NormalDist

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

from eval.probing import logistic_probes, permutation_null


def features(n, problems, size, labels, *, signal, generator):
    """Noise, and in problem 0 the label along the first feature."""
    x = torch.randn(n, problems, size, generator=generator)
    x[:, 0, 0] += signal * (2 * labels - 1)
    return x


def test_auroc_is_scikit_learns_with_ties_too():
    generator = torch.Generator().manual_seed(0)
    labels = (torch.rand(80, generator=generator) < 0.3).long()
    scores = torch.randn(80, 3, generator=generator).mul(3).round()
    scores[:, 2] = 0.0
    found = permutation_null.auroc(scores, labels)
    assert found.tolist() == pytest.approx([roc_auc_score(labels, scores[:, p]) for p in range(3)])
    assert found[2] == 0.5
    assert permutation_null.mean_auroc(scores, labels, confidence=0.95).value == pytest.approx(
        float(found.mean())
    )


def test_the_interval_of_an_auroc_covers_the_truth_for_one_probe_and_for_the_mean_of_several():
    generator, covered = torch.Generator().manual_seed(0), []
    shifts = torch.tensor([1.0, 1.5])
    truth = [NormalDist().cdf(float(shift) / 2**0.5) for shift in shifts]
    labels = torch.arange(60) % 3 == 0
    for _ in range(500):
        scores = (
            torch.randn(60, 1, generator=generator) / 2**0.5
            + torch.randn(60, 2, generator=generator) / 2**0.5
        )
        scores += labels[:, None] * shifts
        one = permutation_null.mean_auroc(scores[:, :1], labels, confidence=0.95)
        both = permutation_null.mean_auroc(scores, labels, confidence=0.95)
        covered.append((one.low <= truth[0] <= one.high, both.low <= sum(truth) / 2 <= both.high))
    assert all(0.93 <= share <= 0.97 for share in np.mean(covered, axis=0)), np.mean(
        covered, axis=0
    )
    assert (
        both.value == pytest.approx(permutation_null.auroc(scores, labels).mean().item())
        and both.n == 60
    )


def test_an_auroc_of_one_has_an_interval_that_a_few_unseen_rows_could_make():
    found = permutation_null.mean_auroc(
        torch.arange(20.0)[:, None], torch.arange(20) >= 15, confidence=0.95
    )
    assert (found.value, found.high) == (1.0, 1.0) and found.low == pytest.approx(0.025**0.2)


def test_a_probe_that_says_its_odds_is_calibrated_and_one_that_exaggerates_is_not():
    generator = torch.Generator().manual_seed(0)
    odds = torch.randn(20_000, generator=generator)
    labels = (torch.rand(20_000, generator=generator) < torch.sigmoid(odds)).long()
    found = permutation_null.calibration_error(
        torch.stack([odds, 4 * odds, torch.zeros_like(odds)], dim=1), labels
    )
    assert found[0] < 0.015 and found[1] > 0.12
    assert found[2] == pytest.approx(abs(float(labels.double().mean()) - 0.5))


def test_permuted_labels_keep_pairs_whole_and_counts_as_they_are():
    groups = [f"pair {i // 2}" for i in range(40)] + [f"single {i}" for i in range(21)]
    labels = [i % 2 for i in range(40)] + [int(i < 5) for i in range(21)]
    found = permutation_null.permuted(labels, groups, 300, 0)
    assert found.shape == (300, 61) and (found.sum(axis=1) == 25).all()
    assert (found[:, 0:40:2] + found[:, 1:40:2] == 1).all()
    assert (
        abs(found.mean(axis=0)[:40] - 0.5).max() < 0.12
        and abs(found.mean(axis=0)[40:] - 5 / 21).max() < 0.12
    )
    assert len({row.tobytes() for row in found}) == 300


def null_of(seed, signal, n_permutations=99, problems=6):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(150) % 2
    x = features(150, problems, 5, labels, signal=signal, generator=generator)
    names = [str(i) for i in range(150)]
    parts = [
        np.vstack(
            [
                labels[rows].numpy(),
                permutation_null.permuted(labels[rows].tolist(), names[rows], n_permutations, seed),
            ]
        )
        for rows in (slice(0, 90), slice(90, 150))
    ]
    return permutation_null.max_t(
        permutation_null.null_accuracy(x[:90], parts[0], x[90:], parts[1], 1.0)
    )


def test_the_best_of_many_useless_heads_is_called_significant_in_five_percent_of_models():
    found = [null_of(seed, 0.0) for seed in range(300)]
    assert 0.02 <= np.mean([null.p_P.min() <= 0.05 for null in found]) <= 0.08
    assert 0.02 <= np.mean([null.mean_p <= 0.05 for null in found]) <= 0.08


def test_the_head_that_knows_is_found_and_its_neighbours_are_not_blamed():
    null = null_of(0, 1.5, n_permutations=199)
    assert null.p_P[0] == 1 / 200 and (null.p_P[1:] > 0.05).all()
    assert null.best_B.shape == (199,) and null.accuracy_P[0] > 0.85


def test_the_nulls_probe_reads_as_well_as_the_logistic_one():
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(600) % 2
    x = features(600, 4, 8, labels, signal=0.7, generator=generator) * torch.logspace(-2, 2, 8) + 3
    logistic = (
        logistic_probes.fit(x[:400], labels[:400], 1.0)
        .correct(x[400:], labels[400:])
        .double()
        .mean(0)
    )
    both = np.vstack([labels.numpy(), labels.numpy()[::-1]])
    null = permutation_null.max_t(
        permutation_null.null_accuracy(x[:400], both[:, :400], x[400:], both[:, 400:], 1.0)
    )
    assert null.accuracy_P == pytest.approx(logistic.numpy(), abs=0.015)
