from typing import get_args

import numpy as np
import pytest
import torch
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from tolerances import U_FP32

from data_prep.core.errors import ConfigurationError
from eval.config import Direction
from eval.probing import directions, logistic_probes


def test_theta_points_to_benign_and_sigma_is_the_deviation_along_it():
    values = torch.zeros(4, 1, 2, 3)
    values[:2, 0, 0] = torch.tensor([0.0, 3.0, 4.0])  # toxic rows of head 0; its benign rows are 0
    values[:, 0, 1, 0] = torch.tensor([-1.0, 1.0, 3.0, 5.0])  # head 1: toxic −1, 1; benign 3, 5
    theta_LNH, sigma_LN = directions.class_means(values, torch.tensor([1, 1, 0, 0]))
    assert torch.allclose(theta_LNH[0], torch.tensor([[0.0, -0.6, -0.8], [1.0, 0.0, 0.0]]))
    assert torch.allclose(sigma_LN[0], torch.tensor([2.5, 5.0**0.5]))


def test_a_constant_head_has_no_direction():
    theta, sigma = directions.class_means(torch.ones(4, 1, 1, 3), torch.tensor([1, 0, 1, 0]))
    assert theta.abs().sum() == 0 and sigma.sum() == 0


def test_a_planted_direction_is_recovered():
    generator = torch.Generator().manual_seed(0)
    planted = torch.nn.functional.normalize(torch.randn(2, 3, 8, generator=generator), dim=-1)
    labels = torch.arange(2000) % 2
    noise = torch.randn(2000, 2, 3, 8, generator=generator)
    values = noise - 2 * labels[:, None, None, None] * planted
    cosine = (directions.class_means(values, labels).theta_LNH * planted).sum(-1)
    assert (cosine > 0.99).all()


def correlated_values(n=600):
    """Values with strong noise across the direction of the label, so that the best direction is not
    the difference of means.
    """
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(n) % 2
    mixing = torch.randn(2, 3, 6, 6, generator=generator)
    noise = torch.randn(n, 2, 3, 6, generator=generator)
    difference = torch.randn(2, 3, 6, generator=generator)
    values = torch.einsum("rlnh,lnhk->rlnk", noise, mixing)
    return values - 0.8 * labels[:, None, None, None] * difference, labels


def test_lda_equals_scikit_learns(monkeypatch):
    values, labels = correlated_values()
    monkeypatch.setattr(directions, "CHUNK_BYTES", 1)
    theta = directions.lda(values, labels, 0.2).theta_LNH
    for layer, head in ((0, 0), (1, 2)):
        oracle = LinearDiscriminantAnalysis(solver="lsqr", shrinkage=0.2).fit(
            values[:, layer, head].double().numpy(), labels
        )
        expected = -oracle.coef_[0] / np.linalg.norm(oracle.coef_[0])
        assert np.allclose(theta[layer, head], expected, atol=1e-5)


@pytest.mark.parametrize("method", get_args(Direction))
def test_every_estimate_points_to_benign_and_has_its_own_sigma(method):
    values, labels = correlated_values()
    probes = logistic_probes.fit(values.flatten(1, 2), labels, 1.0)
    theta, sigma = directions.estimate(method, values, labels, probes)
    assert torch.allclose(theta.norm(dim=-1), torch.ones(2, 3), atol=1e-6)
    projection = (values * theta).sum(-1)
    assert (projection[labels == 0].mean(0) > projection[labels == 1].mean(0)).all()
    # sums over 600 rows in fp32, in another order
    assert torch.allclose(sigma, projection.std(0, correction=0), rtol=7 * 600**0.5 * U_FP32)


def test_lda_and_probes_find_the_best_direction_in_correlated_noise():
    values, labels = correlated_values(6000)
    probes = logistic_probes.fit(values.flatten(1, 2), labels, 1.0)
    best = directions.lda(values, labels, 0.0).theta_LNH
    cosine = {
        method: (directions.estimate(method, values, labels, probes).theta_LNH * best).sum(-1)
        for method in get_args(Direction)
    }
    assert (cosine["probe"] > 0.9).all()
    assert (cosine["lda"] > cosine["class_means"]).all()


def test_rows_of_one_class_have_no_direction():
    with pytest.raises(ConfigurationError, match="all 3 rows have the label 1"):
        directions.class_means(torch.randn(3, 1, 1, 2), torch.tensor([1, 1, 1]))


def pairs_of(n):
    return torch.tensor([[2 * i, 2 * i + 1] for i in range(n)])


def test_d_prime_and_length_are_those_of_two_normal_classes():
    n, distance = 20_000, 1.5
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(2 * n, 1, 1, 4, generator=generator)
    labels = torch.tensor([0, 1] * n)
    values[labels == 0, ..., 0] += distance
    found = directions.quality(values, labels, pairs_of(n), directions.class_means(values, labels))
    assert found.d_prime_LN.item() == pytest.approx(distance, abs=0.05)
    assert found.relative_length_LN.item() == pytest.approx(distance / 2, abs=0.03)  # √4 of spread


def test_the_cosine_of_pairs_is_the_mean_over_all_pairs_of_differences():
    generator = torch.Generator().manual_seed(1)
    values = torch.randn(14, 2, 3, 5, generator=generator)
    labels = torch.tensor([0, 1] * 7)
    theta = directions.class_means(values, labels)
    found = directions.quality(values, labels, pairs_of(7), theta).pairwise_cosine_LN
    units = torch.nn.functional.normalize((values[::2] - values[1::2]).double(), dim=-1)
    for layer in range(2):
        for head in range(3):
            u = units[:, layer, head]
            cosines = [float(u[i] @ u[j]) for i in range(7) for j in range(7) if i != j]
            assert found[layer, head].item() == pytest.approx(sum(cosines) / len(cosines))


def test_a_head_without_spread_has_quality_0():
    values, labels = torch.ones(4, 1, 1, 2), torch.tensor([0, 1] * 2)
    found = directions.quality(values, labels, pairs_of(2), directions.class_means(values, labels))
    assert [value.item() for value in found] == [0, 0, 0]
