import numpy as np
import pytest
import torch
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

from data_prep.core.errors import ConfigurationError
from eval.probing import directions, logistic_probes


def test_theta_points_from_the_toxic_mean_to_the_benign_and_sigma_is_the_spread_along_it():
    values = torch.zeros(4, 1, 2, 3)
    values[:2, 0, 0] = torch.tensor([0.0, 3.0, 4.0])  # toxic rows of head 0; its benign rows are 0
    values[:, 0, 1, 0] = torch.tensor([-1.0, 1.0, 3.0, 5.0])  # head 1: toxic −1, 1; benign 3, 5
    found = directions.class_means(values, torch.tensor([1, 1, 0, 0]))
    assert torch.allclose(found.theta_LNH[0], torch.tensor([[0.0, -0.6, -0.8], [1.0, 0.0, 0.0]]))
    assert torch.allclose(found.sigma_LN[0], torch.tensor([2.5, 5.0**0.5]))


def test_a_head_that_says_nothing_has_no_direction():
    found = directions.class_means(torch.ones(4, 1, 1, 3), torch.tensor([1, 0, 1, 0]))
    assert found.theta_LNH.abs().sum() == 0 and found.sigma_LN.sum() == 0


def test_a_planted_direction_is_recovered():
    generator = torch.Generator().manual_seed(0)
    planted = torch.nn.functional.normalize(torch.randn(2, 3, 8, generator=generator), dim=-1)
    labels = torch.arange(2000) % 2
    values = (
        torch.randn(2000, 2, 3, 8, generator=generator) - 2 * labels[:, None, None, None] * planted
    )
    cosine = (directions.class_means(values, labels).theta_LNH * planted).sum(-1)
    assert (cosine > 0.99).all()


def correlated(n=600):
    """Values whose noise has a strong axis across the label's, so that the best direction is not
    the difference of means.
    """
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(n) % 2
    mix = torch.randn(2, 3, 6, 6, generator=generator)
    values = torch.einsum("rlnh,lnhk->rlnk", torch.randn(n, 2, 3, 6, generator=generator), mix)
    return values - 0.8 * labels[:, None, None, None] * torch.randn(
        2, 3, 6, generator=generator
    ), labels


def test_lda_is_scikit_learns(monkeypatch):
    values, labels = correlated()
    monkeypatch.setattr(directions, "CHUNK_BYTES", 1)
    found = directions.lda(values, labels, 0.2)
    for layer, head in ((0, 0), (1, 2)):
        oracle = LinearDiscriminantAnalysis(solver="lsqr", shrinkage=0.2).fit(
            values[:, layer, head].double().numpy(), labels
        )
        expected = -oracle.coef_[0] / np.linalg.norm(oracle.coef_[0])
        assert np.allclose(found.theta_LNH[layer, head], expected, atol=1e-5)


@pytest.mark.parametrize("how", ["class_means", "probe", "lda"])
def test_every_estimate_points_to_benign_and_has_the_spread_along_itself(how):
    values, labels = correlated()
    fitted = logistic_probes.fit(values.flatten(1, 2), labels, 1.0)
    found = directions.estimate(how, values, labels, fitted)
    assert torch.allclose(found.theta_LNH.norm(dim=-1), torch.ones(2, 3), atol=1e-6)
    projected = (values * found.theta_LNH).sum(-1)
    assert (projected[labels == 0].mean(0) > projected[labels == 1].mean(0)).all()
    assert torch.allclose(found.sigma_LN, projected.std(0, correction=0), rtol=1e-5)


def test_lda_and_probe_weights_agree_where_the_noise_is_not_round_and_class_means_do_not():
    values, labels = correlated(6000)
    fitted = logistic_probes.fit(values.flatten(1, 2), labels, 1.0)
    means, probe, lda = (
        directions.estimate(how, values, labels, fitted).theta_LNH
        for how in ("class_means", "probe", "lda")
    )
    best = directions.lda(values, labels, 0.0).theta_LNH
    assert ((probe * best).sum(-1) > 0.9).all() and (
        (lda * best).sum(-1) > (means * best).sum(-1)
    ).all()


def test_one_class_has_no_direction():
    with pytest.raises(ConfigurationError, match="all 3 rows have the label 1"):
        directions.class_means(torch.randn(3, 1, 1, 2), torch.tensor([1, 1, 1]))
