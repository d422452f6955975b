import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from data_prep.core.errors import ConfigurationError
from eval.probing import logistic_probes


def rows(n=200, problems=5, features=6, *, signal=1.0, seed=0):
    """Features [R, P, H] in which problem p's feature p carries the label with strength `signal`,
    at very unequal scales.
    """
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(n) % 2
    x = torch.randn(n, problems, features, generator=generator)
    for p in range(problems):
        x[:, p, p % features] += signal * (2 * labels - 1)
    return x * torch.logspace(-3, 3, features) + 5, labels


@pytest.mark.parametrize("l2", [0.01, 1.0, 100.0])
@pytest.mark.parametrize("signal", [0.3, 5.0])
def test_every_probe_is_scikit_learns_optimum(l2, signal):
    x, labels = rows(signal=signal)
    found = logistic_probes.fit(x, labels, l2)
    for p in range(x.shape[1]):
        oracle = make_pipeline(
            StandardScaler(), LogisticRegression(C=1 / l2, tol=1e-10, max_iter=10_000)
        )
        oracle.fit(x[:, p].double().numpy(), labels.numpy())
        assert np.allclose(found.weight_PH[p], oracle[-1].coef_[0], atol=1e-5, rtol=1e-5)
        assert found.bias_P[p] == pytest.approx(oracle[-1].intercept_[0], abs=1e-5)
        assert (
            found.correct(x, labels)[:, p].tolist()
            == (oracle.predict(x[:, p].numpy()) == labels.numpy()).tolist()
        )


def test_solving_few_problems_at_a_time_changes_nothing(monkeypatch):
    x, labels = rows()
    whole = logistic_probes.fit(x, labels, 1.0)
    monkeypatch.setattr(logistic_probes, "CHUNK_BYTES", 1)
    assert all(
        torch.allclose(a, b, atol=1e-12)
        for a, b in zip(whole, logistic_probes.fit(x, labels, 1.0), strict=True)
    )


def test_a_planted_direction_is_found_and_generalises():
    x, labels = rows(n=400, signal=1.5)
    found = logistic_probes.fit(x[:200], labels[:200], 1.0)
    assert found.weight_PH.abs().argmax(-1).tolist() == [0, 1, 2, 3, 4]
    assert (found.correct(x[200:], labels[200:]).double().mean(0) > 0.85).all()


def test_shuffled_labels_score_at_chance():
    x, labels = rows(n=1000, signal=1.5)
    shuffled = labels[torch.randperm(1000, generator=torch.Generator().manual_seed(1))]
    accuracy = (
        logistic_probes.fit(x[:500], shuffled[:500], 1.0)
        .correct(x[500:], shuffled[500:])
        .double()
        .mean(0)
    )
    assert ((accuracy - 0.5).abs() < 0.08).all()


def test_a_constant_feature_gets_no_weight():
    x, labels = rows()
    x[:, 2] = 7.0
    found = logistic_probes.fit(x, labels, 1.0)
    assert found.weight_PH[2].tolist() == [0.0] * 6 and torch.isfinite(found.bias_P).all()


def test_a_split_is_disjoint_whole_and_four_to_one_within_each_label():
    ids = [f"row {i}" for i in range(100)]
    labels = [int(i < 30) for i in range(100)]
    split = logistic_probes.split_rows(ids, labels, seed=0)
    assert sorted(split.train + split.validation + split.test) == list(range(100))
    assert [len(part) for part in split] == [65, 15, 20]
    assert [sum(labels[i] for i in part) for part in split] == [20, 4, 6]


def test_a_row_keeps_its_part_whatever_the_order_of_the_rows():
    ids = [f"row {i}" for i in range(60)]
    labels = [i % 2 for i in range(60)]
    split, reverse = (
        logistic_probes.split_rows(ids, labels, 0),
        logistic_probes.split_rows(ids[::-1], labels[::-1], 0),
    )
    assert {ids[i] for i in split.test} == {ids[::-1][i] for i in reverse.test}
    assert logistic_probes.split_rows(ids, labels, 1) != split


def test_the_halves_of_a_pair_stay_together():
    groups = [f"pair {i // 2}" for i in range(100)] + [f"single {i}" for i in range(50)]
    labels = [i % 2 for i in range(150)]
    split = logistic_probes.split_rows(groups, labels, 0)
    assert [len(part) for part in split] == [64 + 32, 16 + 8, 20 + 10]
    assert not {groups[i] for i in split.test} & {groups[i] for i in split.train + split.validation}
    assert not {groups[i] for i in split.train} & {groups[i] for i in split.validation}
    assert all(abs(sum(labels[i] for i in part) / len(part) - 0.5) < 0.03 for part in split)


def test_rows_of_one_class_are_refused_by_name():
    with pytest.raises(ConfigurationError, match=r"label 1: got 0 of 40"):
        logistic_probes.split_rows([str(i) for i in range(40)], [0] * 40, 0)
