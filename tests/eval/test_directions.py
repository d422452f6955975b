import pytest
import torch

from data_prep.records import ConfigurationError
from eval import directions


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
    values = torch.randn(2000, 2, 3, 8, generator=generator) - 2 * labels[:, None, None, None] * planted
    cosine = (directions.class_means(values, labels).theta_LNH * planted).sum(-1)
    assert (cosine > 0.99).all()


def test_one_class_has_no_direction():
    with pytest.raises(ConfigurationError, match="all 3 rows have the label 1"):
        directions.class_means(torch.randn(3, 1, 1, 2), torch.tensor([1, 1, 1]))


def test_the_best_heads_come_first_and_ties_go_to_the_earlier():
    accuracy = torch.tensor([[0.5, 0.9], [0.9, 0.7]])
    assert directions.choose(accuracy, 3) == [(0, 1), (1, 0), (1, 1)]
    assert directions.choose(accuracy, 30) == [(0, 1), (1, 0), (1, 1), (0, 0)]
