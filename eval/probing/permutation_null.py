"""how readable an attribute is: AUROC and calibration of each probe, the best head's chance level

The best of 256 heads beats chance by luck alone. The max-T null (Westfall and Young 1993) says by
how much: labels are permuted 1,000 times, every head is probed anew with each, and the best
accuracy of each permutation is what the best head must beat. All permutations of a head share its
features, so its matrix is factored once, and all its probes are one matrix product. For that the
null's probe is the first Newton step of the logistic one from zero, a ridge regression, for the
observed labels as well.

Shapes: R rows, P probes, H features, B permutations.
"""

import math
from collections.abc import Sequence
from statistics import NormalDist
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from data_prep.core import keyed_random
from eval.stats import resampling
from eval.stats.estimate import Estimate
from eval.stats.intervals import CONFIDENCE

N_BINS = 10
CHUNK_BYTES = 64 << 20


class Null(NamedTuple):
    """accuracy_P: of the one-step probes on test rows. best_B: the best head's under each
    permutation. p_P: per head, for being several: the share of permutations whose best head is at
    least as accurate. mean_p: the same for the mean of all heads.
    """

    accuracy_P: np.ndarray
    best_B: np.ndarray
    p_P: np.ndarray
    mean_p: float


def auroc(scores_RP: Tensor, labels_R: Tensor) -> Tensor:
    """Of each probe: the chance that a toxic row scores above a benign one, ties half (Mann and
    Whitney 1947): [P].
    """
    toxic_R = labels_R.bool()
    sorted_PR = scores_RP.double().T.contiguous().sort(dim=1).values
    values_PR = scores_RP.double().T.contiguous()
    below, through = (
        torch.searchsorted(sorted_PR, values_PR, right=right) for right in (False, True)
    )
    rank_PR = (below + through + 1).double() / 2
    n_toxic, n_benign = int(toxic_R.sum()), int((~toxic_R).sum())
    return (rank_PR[:, toxic_R].sum(1) - n_toxic * (n_toxic + 1) / 2) / (n_toxic * n_benign)


def calibration_error(scores_RP: Tensor, labels_R: Tensor, n_bins: int = N_BINS) -> Tensor:
    """Of each probe: mean |share of toxic rows − mean predicted probability| over bins of equal
    width, by rows: [P].
    """
    p_RP = torch.sigmoid(scores_RP.double())
    bin_RP = (p_RP * n_bins).long().clamp(max=n_bins - 1)
    gap_RP = labels_R.to(p_RP)[:, None] - p_RP
    sums = torch.zeros(n_bins, p_RP.shape[1], dtype=p_RP.dtype, device=p_RP.device).scatter_add_(
        0, bin_RP, gap_RP
    )
    return sums.abs().sum(0) / len(p_RP)


def permuted(labels: Sequence[int], groups: Sequence[str], n: int, seed: int) -> np.ndarray:
    """Labels exchanged at random, [n, R]: within each group, and between groups of one size. Rows
    that are alone permute freely; the halves of a pair swap, as a pair that knows its topic but not
    its label would have it.
    """
    members: dict[str, list[int]] = {}
    for i, group in enumerate(groups):
        members.setdefault(group, []).append(i)
    by_size: dict[int, list[list[int]]] = {}
    for rows in members.values():
        by_size.setdefault(len(rows), []).append(rows)
    result = np.tile(np.asarray(labels, dtype=np.int8), (n, 1))
    for size, of_size in by_size.items():
        rows_GS = np.array(of_size)
        between_BG = resampling.label_orders(
            len(rows_GS), n, keyed_random.key(seed, "between", size)
        )
        moved_BGS = result[:, rows_GS][np.arange(n)[:, None], between_BG]
        if size > 1:
            within = resampling.label_orders(
                size, n * len(rows_GS), keyed_random.key(seed, "within", size)
            )
            moved_BGS = np.take_along_axis(moved_BGS, within.reshape(n, len(rows_GS), size), axis=2)
        result[:, rows_GS] = moved_BGS
    return result


def null_accuracy(
    train_RPH: Tensor, train_BR: np.ndarray, test_RPH: Tensor, test_BR: np.ndarray, l2: float
) -> np.ndarray:
    """Test accuracy of every head's one-step probe under every labelling, [P, B]; row 0 of train_BR
    and test_BR are the observed labels, the others permuted.
    """
    n_problems, size = train_RPH.shape[1:]
    device = train_RPH.device
    sign_RB = (2.0 * torch.from_numpy(train_BR).to(device, torch.float32) - 1.0).T
    truth_RB = torch.from_numpy(test_BR).to(device).bool().T
    centre_1B = sign_RB.mean(0, keepdim=True)
    accuracy_PB = torch.empty(n_problems, sign_RB.shape[1], device=device)
    step = max(1, CHUNK_BYTES // (8 * len(train_RPH) * size))
    for at in range(0, n_problems, step):
        x_PRH = train_RPH[:, at : at + step].double().transpose(0, 1)
        mean_P1H, scale_P1H = x_PRH.mean(1, keepdim=True), x_PRH.std(1, correction=0, keepdim=True)
        scale_P1H = torch.where(scale_P1H > 0, scale_P1H, 1.0)
        x_PRH = (x_PRH - mean_P1H) / scale_P1H
        # the logistic Hessian at 0 is XᵀX/4 + λ, its gradient Xᵀ(½ − y): a ridge on ±1 with penalty
        # 4λ, up to a factor
        gram_PHH = x_PRH.transpose(1, 2) @ x_PRH + 4 * l2 * torch.eye(
            size, dtype=x_PRH.dtype, device=device
        )
        solve_PHR = torch.cholesky_solve(
            x_PRH.transpose(1, 2), torch.linalg.cholesky(gram_PHH)
        ).float()
        test_PRH = (
            (test_RPH[:, at : at + step].double().transpose(0, 1) - mean_P1H) / scale_P1H
        ).float()
        for i in range(len(x_PRH)):
            weight_HB = solve_PHR[i] @ sign_RB
            score_RB = (
                test_PRH[i] @ weight_HB + centre_1B
            )  # features are centred, so the intercept is the labels' mean
            accuracy_PB[at + i] = ((score_RB > 0) == truth_RB).float().mean(0)
    return accuracy_PB.cpu().numpy()


def max_t(accuracy_PB: np.ndarray) -> Null:
    """The null of every head at once, from null_accuracy of all of them."""
    best_B, mean_B = accuracy_PB[:, 1:].max(axis=0), accuracy_PB.mean(axis=0)
    at_least = (best_B[None] >= accuracy_PB[:, :1] - 1e-6).sum(axis=1)
    n = len(best_B)
    mean_p = float((1 + (mean_B[1:] >= mean_B[0] - 1e-6).sum()) / (1 + n))
    return Null(accuracy_PB[:, 0], best_B, (1 + at_least) / (1 + n), mean_p)


def mean_auroc(scores_RP: Tensor, labels_R: Tensor, *, confidence: float = CONFIDENCE) -> Estimate:
    """The probes' mean AUROC with the interval of new rows, of either label (DeLong et al. 1988, on
    the logit scale).
    """
    toxic_R, score_PR = labels_R.bool(), scores_RP.double().T.contiguous()
    placed = []
    for of, others in (
        (toxic_R, ~toxic_R),
        (~toxic_R, toxic_R),
    ):  # each row's share of the other kind that it outscores, ties half
        sorted_PK = score_PR[:, others].sort(dim=1).values
        below, through = (
            torch.searchsorted(sorted_PK, score_PR[:, of].contiguous(), right=right)
            for right in (False, True)
        )
        placed.append(((below + through).double() / (2 * sorted_PK.shape[1])).mean(0))
    value, n_least = float(placed[0].mean()), min(map(len, placed))
    low = high = value
    if 0 < value < 1 and n_least > 1:
        deviation = math.sqrt(sum(float(of.var()) / len(of) for of in placed))
        half = NormalDist().inv_cdf((1 + confidence) / 2) * deviation / (value * (1 - value))
        low, high = (1 / (1 + (1 - value) / value * math.exp(-side * half)) for side in (-1, 1))
    else:
        unseen = 1 - ((1 - confidence) / 2) ** (
            1 / n_least
        )  # as much of the rarer label may be otherwise, unseen
        low, high = max(0.0, value - unseen), min(1.0, value + unseen)
    return Estimate(value=value, low=low, high=high, n=len(labels_R), unit="ratio")
