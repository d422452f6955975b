"""permutation test of the probes: the accuracy that the best head reaches by chance

The best of 256 heads beats chance by luck alone. The max-T null (Westfall and Young 1993) measures
by how much: labels are permuted 1,000 times, every head is probed again under each permutation, and
the best accuracy of each permutation is what the best head must exceed. All permutations of a head
share its features, so its matrix is factored once, and all its probes are one matrix product. For
that the null's probe is the first Newton step of the logistic one from zero, a ridge regression,
for the observed labels as well. The work runs on the device of the features, whose matrices are
factored in float64; an accuracy on a GPU differs from a CPU's by the rows whose score is within
float32 rounding of 0.

Shapes: R rows, P probes, H features, B labellings, G groups, S rows per group.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from data_prep.core import keyed_random
from eval.stats import resampling
from training.model.olmo import linear

CHUNK_BYTES = 64 << 20
TIE = 1e-6  # accuracies this close are equal: they are means of float32 numbers


class MaxTNull(NamedTuple):
    """best_B: test accuracy of the best head under each permutation. p_P: per head, corrected for
    multiple heads: the share of permutations whose best head is at least as accurate. mean_p: p of
    the mean accuracy of all heads.
    """

    best_B: np.ndarray
    p_P: np.ndarray
    mean_p: float


def permuted_labels(
    labels: Sequence[int], groups: Sequence[str], n_permutations: int, seed: int
) -> np.ndarray:
    """Labels exchanged at random within each group, and between groups of one size: [B, R].

    Rows that form a group of their own permute freely. The two halves of a pair swap, as for a
    probe that knows a pair's topic but not its labels. Natural groups keep their share of toxic
    rows: what is tested is whether a head tells a user's toxic rows from the user's others. A group
    of one label only, alone in its size, keeps its labels, which makes the test conservative.
    """
    members: dict[str, list[int]] = {}
    for i, group in enumerate(groups):
        members.setdefault(group, []).append(i)
    groups_by_size: dict[int, list[list[int]]] = {}
    for rows in members.values():
        groups_by_size.setdefault(len(rows), []).append(rows)
    result = np.tile(np.asarray(labels, dtype=np.int8), (n_permutations, 1))
    for size, same_size in groups_by_size.items():
        rows_GS = np.array(same_size)
        n_groups = len(rows_GS)
        between_BG = resampling.label_orders(
            n_groups, n_permutations, keyed_random.key(seed, "between", size)
        )
        labels_BGS = result[:, rows_GS][np.arange(n_permutations)[:, None], between_BG]
        if size > 1:
            within = resampling.label_orders(
                size, n_permutations * n_groups, keyed_random.key(seed, "within", size)
            )
            within_BGS = within.reshape(n_permutations, n_groups, size)
            labels_BGS = np.take_along_axis(labels_BGS, within_BGS, axis=2)
        result[:, rows_GS] = labels_BGS
    return result


@torch.inference_mode()
def null_accuracy(
    train_RPH: Tensor, train_BR: np.ndarray, test_RPH: Tensor, test_BR: np.ndarray, l2: float
) -> np.ndarray:
    """Test accuracy of every head's one-step probe under every labelling: [P, B]. Row 0 of train_BR
    and test_BR holds the observed labels, the others permuted ones.
    """
    n_rows, n_problems, n_features = train_RPH.shape
    device = train_RPH.device
    sign_BR = 2.0 * torch.from_numpy(train_BR).to(device, torch.float32) - 1.0
    truth_BR = torch.from_numpy(test_BR).to(device).bool()
    # features are centred, so the intercept is the labels' mean
    intercept_B1 = sign_BR.mean(1, keepdim=True)
    accuracy_PB = torch.empty(n_problems, len(sign_BR), device=device)
    step = max(1, CHUNK_BYTES // (8 * n_rows * n_features))
    for start in range(0, n_problems, step):
        chunk = slice(start, start + step)
        solve_PHR, test_PRH = _one_step_solver(train_RPH[:, chunk], test_RPH[:, chunk], l2)
        for i in range(len(solve_PHR)):
            weight_BH = linear(sign_BR, solve_PHR[i].contiguous())
            score_BR = linear(weight_BH, test_PRH[i].contiguous()) + intercept_B1
            accuracy_PB[start + i] = ((score_BR > 0) == truth_BR).float().mean(1)
    return accuracy_PB.cpu().numpy()


def max_t(accuracy_PB: np.ndarray) -> MaxTNull:
    """The null of all heads together, from the null_accuracy of all of them."""
    best_B = accuracy_PB[:, 1:].max(axis=0)
    mean_B = accuracy_PB.mean(axis=0)
    n_at_least_P = (best_B[None] >= accuracy_PB[:, :1] - TIE).sum(axis=1)
    n = len(best_B)
    mean_p = float((1 + (mean_B[1:] >= mean_B[0] - TIE).sum()) / (1 + n))
    return MaxTNull(best_B, (1 + n_at_least_P) / (1 + n), mean_p)


def _one_step_solver(train_RPH: Tensor, test_RPH: Tensor, l2: float) -> tuple[Tensor, Tensor]:
    """Per head the matrix [H, R] that maps labels ±1 to the one-step probe's weights, and the
    standardised test rows; float32.
    """
    x_PRH = train_RPH.double().transpose(0, 1)
    mean_P1H = x_PRH.mean(1, keepdim=True)
    scale_P1H = x_PRH.std(1, correction=0, keepdim=True)
    scale_P1H = torch.where(scale_P1H > 0, scale_P1H, 1.0)
    x_PRH = (x_PRH - mean_P1H) / scale_P1H
    # the logistic Hessian at 0 is XᵀX/4 + λ, its gradient Xᵀ(½ − y): a ridge on ±1 with penalty
    # 4λ, up to a factor
    identity_HH = torch.eye(x_PRH.shape[-1], dtype=x_PRH.dtype, device=x_PRH.device)
    gram_PHH = x_PRH.transpose(1, 2) @ x_PRH + 4 * l2 * identity_HH
    solve_PHR = torch.cholesky_solve(x_PRH.transpose(1, 2), torch.linalg.cholesky(gram_PHH))
    test_PRH = (test_RPH.double().transpose(0, 1) - mean_P1H) / scale_P1H
    return solve_PHR.float(), test_PRH.float()
