import torch

from eval.probing.head_selection import select_heads


def test_the_most_accurate_heads_come_first_and_ties_go_to_the_earlier():
    accuracy = torch.tensor([[0.5, 0.9], [0.9, 0.7]])
    assert select_heads(accuracy, 3) == [(0, 1), (1, 0), (1, 1)]
    assert select_heads(accuracy, 30) == [(0, 1), (1, 0), (1, 1), (0, 0)]
