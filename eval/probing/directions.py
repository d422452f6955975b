"""steering directions of all heads, by class means, probe weights or LDA; σ of projections

Inference-time intervention (Li et al. 2023; ITI) shifts a head's output by α·σ·θ. θ is a unit
vector from toxic to benign, so a positive α reduces toxicity; σ is the standard deviation of the
rows' projections on θ, so α counts standard deviations whatever the head's scale. Both are computed
from training rows alone. Three estimates of θ:

    class_means   mean benign − mean toxic: ITI's own, and the default
    probe         the logistic probe's weights, in the head's own units
    lda           S⁻¹·(mean benign − mean toxic), S the shrunk covariance within classes in
                  the form of Ledoit and Wolf (2004)

Which heads are steered: head_selection.py. Whether a direction steers can be predicted from how
clean it is (arXiv 2505.22637): its d′, and the cosines between the differences of pairs.

Shapes: R rows, L layers, N heads, H head dim, P = L·N, D = N·H.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from data_prep.core.errors import ConfigurationError
from eval.config import Direction
from eval.probing.logistic_probes import Probes

SHRINKAGE = 0.1  # of LDA's covariance towards a multiple of the identity
CHUNK_BYTES = 64 << 20


class Directions(NamedTuple):
    """Per head the unit direction away from toxicity, and σ of the rows along it; both 0 where the
    classes coincide.
    """

    theta_LNH: Tensor
    sigma_LN: Tensor


def estimate(
    method: Direction, values_RLNH: Tensor, labels_R: Tensor, probes: Probes
) -> Directions:
    """The directions by one of the three estimates; `probes` were fitted on the same rows and
    heads.
    """
    if method == "probe":
        return probe_weights(values_RLNH, probes)
    if method == "lda":
        return lda(values_RLNH, labels_R)
    return class_means(values_RLNH, labels_R)


def class_means(values_RLNH: Tensor, labels_R: Tensor) -> Directions:
    """θ = unit(mean benign − mean toxic) and σ (population), computed in float64, returned in
    float32.
    """
    return _with_sigma(_mean_difference(values_RLNH, labels_R), values_RLNH)


def probe_weights(values_RLNH: Tensor, probes: Probes) -> Directions:
    """θ = −unit(weight / scale); negative because a probe's score grows with toxicity."""
    slope_PH = probes.weight_PH / probes.scale_PH
    return _with_sigma(-slope_PH.view(values_RLNH.shape[1:]).double(), values_RLNH)


def lda(values_RLNH: Tensor, labels_R: Tensor, shrinkage: float = SHRINKAGE) -> Directions:
    """θ = unit(S⁻¹ d), d the difference of class means, S = (1 − γ)·C + γ·(tr C / H)·I, C the
    covariance within classes.
    """
    is_toxic_R = labels_R.bool()
    size = values_RLNH.shape[-1]
    difference_PH = _mean_difference(values_RLNH, labels_R).flatten(0, 1)
    values_RPH = values_RLNH.flatten(1, 2)
    solution_PH = torch.empty_like(difference_PH)
    step = max(1, CHUNK_BYTES // (8 * len(values_RPH) * size))
    for start in range(0, len(difference_PH), step):
        x_PRH = values_RPH[:, start : start + step].double().transpose(0, 1).clone()
        for in_class_R in (is_toxic_R, ~is_toxic_R):
            x_PRH[:, in_class_R] -= x_PRH[:, in_class_R].mean(1, keepdim=True)
        c_PHH = x_PRH.transpose(1, 2) @ x_PRH / x_PRH.shape[1]
        variance_P = c_PHH.diagonal(dim1=1, dim2=2).mean(-1)
        # a head without variance: its d is 0 as well, and any S will do
        variance_P = torch.where(variance_P > 0, variance_P, 1.0)
        identity_HH = torch.eye(size).to(c_PHH)
        s_PHH = (1 - shrinkage) * c_PHH + shrinkage * variance_P[:, None, None] * identity_HH
        solution_PH[start : start + step] = torch.linalg.solve(
            s_PHH, difference_PH[start : start + step]
        )
    return _with_sigma(solution_PH.view(values_RLNH.shape[1:]), values_RLNH)


class Quality(NamedTuple):
    """Of each head: DirectionQuality of eval_report.py."""

    d_prime_LN: Tensor
    pairwise_cosine_LN: Tensor
    relative_length_LN: Tensor


def quality(
    values_RLNH: Tensor, labels_R: Tensor, pairs_P2: Tensor, directions: Directions
) -> Quality:
    """How clean the directions are on these rows; 0 where a head has no spread. pairs_P2: benign
    and toxic row of each pair.
    """
    is_toxic_R = labels_R.bool()
    values_RLNH = values_RLNH.double()
    theta_LNH = directions.theta_LNH.double().to(values_RLNH)
    classes = [values_RLNH[in_class_R] for in_class_R in (~is_toxic_R, is_toxic_R)]
    difference_LNH = classes[0].mean(0) - classes[1].mean(0)
    within_RLNH = torch.cat([of_class - of_class.mean(0) for of_class in classes])
    along_LN = torch.einsum("rlnh,lnh->rln", within_RLNH, theta_LNH).square().mean(0).sqrt()
    rms_LN = within_RLNH.square().sum(-1).mean(0).sqrt()
    pair_PLNH = values_RLNH[pairs_P2[:, 0]] - values_RLNH[pairs_P2[:, 1]]
    unit_PLNH = torch.nn.functional.normalize(pair_PLNH, dim=-1)
    n_pairs = len(pairs_P2)
    of_sum_LN = unit_PLNH.sum(0).square().sum(-1)
    cosine_LN = (of_sum_LN - unit_PLNH.square().sum((0, -1))) / max(1, n_pairs * (n_pairs - 1))
    return Quality(
        _ratio((difference_LNH * theta_LNH).sum(-1), along_LN),
        cosine_LN,
        _ratio(difference_LNH.norm(dim=-1), rms_LN),
    )


def _ratio(above: Tensor, below: Tensor) -> Tensor:
    return torch.where(below > 0, above / below.clamp(min=1e-300), 0.0)


def unit_shift(directions: Directions, heads: Sequence[tuple[int, int]]) -> Tensor:
    """The shift at α = 1: σ·θ of the given (layer, head) pairs and 0 elsewhere, heads side by side:
    [L, D] fp32.
    """
    shift_LNH = torch.zeros_like(directions.theta_LNH)
    for layer, head in heads:
        theta_H = directions.theta_LNH[layer, head]
        shift_LNH[layer, head] = directions.sigma_LN[layer, head] * theta_H
    return shift_LNH.flatten(1)


def _mean_difference(values_RLNH: Tensor, labels_R: Tensor) -> Tensor:
    is_toxic_R = labels_R.bool()
    if is_toxic_R.all() or not is_toxic_R.any():
        raise ConfigurationError(
            f"all {len(labels_R)} rows have the label {int(is_toxic_R[0])}; a direction needs rows "
            "of both classes; check the label field of the labelled set"
        )
    return values_RLNH[~is_toxic_R].double().mean(0) - values_RLNH[is_toxic_R].double().mean(0)


def _with_sigma(direction_LNH: Tensor, values_RLNH: Tensor) -> Directions:
    """The directions scaled to unit length, with σ of the rows' projections on them."""
    norm_LN1 = direction_LNH.norm(dim=-1, keepdim=True)
    theta_LNH = direction_LNH / torch.where(norm_LN1 > 0, norm_LN1, 1.0)
    projection_RLN = torch.einsum("rlnh,lnh->rln", values_RLNH, theta_LNH.to(values_RLNH.dtype))
    return Directions(theta_LNH.float(), projection_RLN.double().std(0, correction=0).float())
