import numpy as np
import pytest
import torch

from eval.probing import logistic_probes, permutation_null


def features(n_rows, n_problems, size, labels, *, signal, generator):
    """Noise, and in problem 0 the label on the first feature."""
    x = torch.randn(n_rows, n_problems, size, generator=generator)
    x[:, 0, 0] += signal * (2 * labels - 1)
    return x


def test_permuted_labels_keep_pairs_together_and_the_number_of_each_label():
    groups = [f"pair {i // 2}" for i in range(40)] + [f"single {i}" for i in range(21)]
    labels = [i % 2 for i in range(40)] + [int(i < 5) for i in range(21)]
    permuted = permutation_null.permuted_labels(labels, groups, 300, 0)
    assert permuted.shape == (300, 61) and (permuted.sum(axis=1) == 25).all()
    assert (permuted[:, 0:40:2] + permuted[:, 1:40:2] == 1).all()
    mean = permuted.mean(axis=0)
    assert abs(mean[:40] - 0.5).max() < 0.12 and abs(mean[40:] - 5 / 21).max() < 0.12
    assert len({row.tobytes() for row in permuted}) == 300


def null_of_model(seed, signal, n_permutations=99):
    """The null of six heads on 90 train and 60 test rows, and their accuracies under the observed
    labels; head 0 carries the signal.
    """
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(150) % 2
    x = features(150, 6, 5, labels, signal=signal, generator=generator)
    groups = [str(i) for i in range(150)]
    train, test = slice(0, 90), slice(90, 150)
    train_BR, test_BR = (
        np.vstack(
            [
                labels[rows].numpy(),
                permutation_null.permuted_labels(
                    labels[rows].tolist(), groups[rows], n_permutations, seed
                ),
            ]
        )
        for rows in (train, test)
    )
    accuracy_PB = permutation_null.null_accuracy(x[train], train_BR, x[test], test_BR, 1.0)
    return permutation_null.max_t(accuracy_PB), accuracy_PB[:, 0]


def test_the_best_of_useless_heads_is_significant_in_5_percent_of_models():
    nulls = [null_of_model(seed, 0.0)[0] for seed in range(300)]
    assert 0.02 <= np.mean([null.p_P.min() <= 0.05 for null in nulls]) <= 0.08
    assert 0.02 <= np.mean([null.mean_p <= 0.05 for null in nulls]) <= 0.08


def test_only_the_head_with_the_signal_is_significant():
    null, accuracy_P = null_of_model(0, 1.5, n_permutations=199)
    assert null.p_P[0] == 1 / 200 and (null.p_P[1:] > 0.05).all()
    assert null.best_B.shape == (199,) and accuracy_P[0] > 0.85


def test_the_one_step_probe_is_as_accurate_as_the_logistic_one():
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(600) % 2
    x = features(600, 4, 8, labels, signal=0.7, generator=generator) * torch.logspace(-2, 2, 8) + 3
    probes = logistic_probes.fit(x[:400], labels[:400], 1.0)
    logistic = probes.correct(x[400:], labels[400:]).double().mean(0)
    labellings_BR = np.vstack([labels.numpy(), labels.numpy()[::-1]])
    accuracy_PB = permutation_null.null_accuracy(
        x[:400], labellings_BR[:, :400], x[400:], labellings_BR[:, 400:], 1.0
    )
    assert accuracy_PB[:, 0] == pytest.approx(logistic.numpy(), abs=0.015)


def share_of_significant_models(groups_of_null):
    """How often useless heads are significant at 5 %, where users differ in how often they are
    toxic and in what they write, both in train and in test rows.
    """
    n_significant = 0
    for seed in range(200):
        rng = np.random.default_rng(seed)
        users = [user for user, n in enumerate(rng.integers(4, 30, 12)) for _ in range(n)]
        labels = (rng.random(len(users)) < rng.choice([0.1, 0.9], 12)[users]).astype(int)
        of_user = rng.normal(size=(12, 4, 5)) * 2
        x = torch.from_numpy(of_user[users] + rng.normal(size=(len(users), 4, 5))).float()
        is_test = np.array(users) >= 8
        labellings = []
        for own in (~is_test, is_test):
            groups = groups_of_null(np.array(users)[own])
            permuted = permutation_null.permuted_labels(labels[own].tolist(), groups, 59, seed)
            labellings.append(np.vstack([labels[own], permuted]))
        accuracy_PB = permutation_null.null_accuracy(
            x[torch.from_numpy(~is_test)],
            labellings[0],
            x[torch.from_numpy(is_test)],
            labellings[1],
            1.0,
        )
        n_significant += permutation_null.max_t(accuracy_PB).p_P.min() <= 0.05
    return n_significant / 200


def test_natural_groups_of_any_size_keep_the_level_of_the_null():
    assert share_of_significant_models(lambda users: list(map(str, users))) <= 0.08
    assert share_of_significant_models(lambda users: list(map(str, range(len(users))))) > 0.15
