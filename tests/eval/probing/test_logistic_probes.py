import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from eval.probing import logistic_probes
from eval.probing.solver.logistic_loss import SAMPLED_ROWS_PER_PARAMETER


def scaled_rows(n=200, problems=5, features=6, *, signal=1.0, seed=0):
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
def test_every_probe_reaches_scikit_learns_optimum(l2, signal):
    x, labels = scaled_rows(signal=signal)
    probes = logistic_probes.fit(x, labels, l2)
    for p in range(x.shape[1]):
        classifier = LogisticRegression(C=1 / l2, tol=1e-10, max_iter=10_000)
        oracle = make_pipeline(StandardScaler(), classifier)
        oracle.fit(x[:, p].double().numpy(), labels.numpy())
        assert np.allclose(probes.weight_PH[p], classifier.coef_[0], atol=1e-5, rtol=1e-5)
        assert np.allclose(probes.bias_P[p], classifier.intercept_, atol=1e-5, rtol=0)
        is_correct = oracle.predict(x[:, p].numpy()) == labels.numpy()
        assert probes.correct(x, labels)[:, p].tolist() == is_correct.tolist()


def test_solving_problems_in_chunks_gives_the_same_probes(monkeypatch):
    x, labels = scaled_rows()
    whole = logistic_probes.fit(x, labels, 1.0)
    monkeypatch.setattr(logistic_probes, "CHUNK_BYTES", 1)
    chunked = logistic_probes.fit(x, labels, 1.0)
    assert all(torch.allclose(a, b, atol=1e-12) for a, b in zip(whole, chunked, strict=True))


@pytest.mark.parametrize("order", ["alternating", "by label"])
@pytest.mark.parametrize("signal", [0.3, 2.0, 5.0])
def test_many_rows_reach_the_optimum_by_a_sample_of_them(signal, order):
    x, labels = scaled_rows(n=1200, signal=signal)
    if order == "by label":
        rows = labels.argsort(stable=True)
        x, labels = x[rows], labels[rows]
    assert len(x) > SAMPLED_ROWS_PER_PARAMETER * (x.shape[2] + 1)
    probes = logistic_probes.fit(x, labels, 1.0)
    classifier = LogisticRegression(tol=1e-10, max_iter=10_000)
    for p in range(x.shape[1]):
        classifier.fit(StandardScaler().fit_transform(x[:, p].double().numpy()), labels.numpy())
        assert np.allclose(probes.weight_PH[p], classifier.coef_[0], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("l2", [1e-6, 1e-3, 1e3])
def test_separable_and_repeated_features_have_an_optimum(l2):
    x, labels = scaled_rows(n=300, signal=8.0)
    x = torch.cat([x, x, 2 * x], dim=2)
    probes = logistic_probes.fit(x, labels, l2)
    z = (x.double() - probes.mean_PH) / probes.scale_PH
    residual = torch.sigmoid(probes.scores(x)) - labels[:, None]
    gradient = torch.einsum("rp,rph->ph", residual, z) + l2 * probes.weight_PH
    # the features' centred values are rounded to float32
    assert gradient.abs().max() <= 1e-6 * len(labels) and residual.sum(0).abs().max() <= 1e-6 * 300


def test_a_planted_direction_is_found_and_generalises():
    x, labels = scaled_rows(n=400, signal=1.5)
    probes = logistic_probes.fit(x[:200], labels[:200], 1.0)
    assert probes.weight_PH.abs().argmax(-1).tolist() == [0, 1, 2, 3, 4]
    assert (probes.correct(x[200:], labels[200:]).double().mean(0) > 0.85).all()


def test_shuffled_labels_score_at_chance():
    x, labels = scaled_rows(n=1000, signal=1.5)
    shuffled = labels[torch.randperm(1000, generator=torch.Generator().manual_seed(1))]
    probes = logistic_probes.fit(x[:500], shuffled[:500], 1.0)
    accuracy = probes.correct(x[500:], shuffled[500:]).double().mean(0)
    assert ((accuracy - 0.5).abs() < 0.08).all()


def test_a_constant_feature_gets_no_weight():
    x, labels = scaled_rows()
    x[:, 2] = 7.0
    probes = logistic_probes.fit(x, labels, 1.0)
    assert probes.weight_PH[2].tolist() == [0.0] * 6 and torch.isfinite(probes.bias_P).all()
