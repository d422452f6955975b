import numpy as np
import pytest
import torch

from eval.probing import logistic_probes, permutation_null


def features(n, problems, size, labels, *, signal, generator):
    """Noise, and in problem 0 the label along the first feature."""
    x = torch.randn(n, problems, size, generator=generator)
    x[:, 0, 0] += signal * (2 * labels - 1)
    return x


def test_permuted_labels_keep_pairs_whole_and_counts_as_they_are():
    groups = [f"pair {i // 2}" for i in range(40)] + [f"single {i}" for i in range(21)]
    labels = [i % 2 for i in range(40)] + [int(i < 5) for i in range(21)]
    found = permutation_null.permuted_labels(labels, groups, 300, 0)
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
                permutation_null.permuted_labels(
                    labels[rows].tolist(), names[rows], n_permutations, seed
                ),
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
