"""which heads to steer and which way: class means, probe weights or LDA; σ of the projections; the
choice of heads

Inference-time intervention (Li et al. 2023; ITI) shifts a head's output by α·σ·θ. θ is a unit
vector from toxic to benign, so a positive α reduces toxicity; σ is the standard deviation of the
rows' projections on θ, so α counts standard deviations whatever the head's scale. Both come from
training rows alone. Three estimates of θ:

    class_means   mean benign − mean toxic: ITI's own, and ours
    probe         the logistic probe's weights, in the head's own units
    lda           S⁻¹·(mean benign − mean toxic), S the shrunk covariance within classes (Ledoit and Wolf 2004's form)

Shapes: R rows, L layers, N heads, H head dim, P = L·N.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from data_prep.core.errors import ConfigurationError
from eval.config import Direction
from eval.probing.logistic_probes import Probes

SHRINKAGE = 0.1  # of LDA's covariance towards a multiple of the identity
CHUNK_BYTES = 64 << 20


class Directions(NamedTuple):
    """Per head, the unit direction away from toxicity and σ of the rows along it; both 0 where the
    classes coincide.
    """

    theta_LNH: Tensor
    sigma_LN: Tensor


def find(how: Direction, values_RLNH: Tensor, labels_R: Tensor, fitted: Probes) -> Directions:
    """The directions by one of the three estimates; `fitted` are the probes of the same rows and
    heads.
    """
    if how == "probe":
        return probe_weights(values_RLNH, fitted)
    return (
        class_means(values_RLNH, labels_R) if how == "class_means" else lda(values_RLNH, labels_R)
    )


def class_means(values_RLNH: Tensor, labels_R: Tensor) -> Directions:
    """θ = unit(mean benign − mean toxic) and σ (population), computed in float64, returned in
    float32.
    """
    return _along(_mean_difference(values_RLNH, labels_R), values_RLNH)


def probe_weights(values_RLNH: Tensor, fitted: Probes) -> Directions:
    """θ = −unit(weight / scale), for a probe's score grows with toxicity."""
    slope_PH = fitted.weight_PH / fitted.scale_PH
    return _along(-slope_PH.view(values_RLNH.shape[1:]).double(), values_RLNH)


def lda(values_RLNH: Tensor, labels_R: Tensor, shrinkage: float = SHRINKAGE) -> Directions:
    """θ = unit(S⁻¹ d), d the difference of class means, S = (1 − γ)·C + γ·(tr C / H)·I, C the
    covariance within classes.
    """
    toxic_R, size = labels_R.bool(), values_RLNH.shape[-1]
    difference_PH = _mean_difference(values_RLNH, labels_R).flatten(0, 1)
    values_RPH, solved = values_RLNH.flatten(1, 2), torch.empty_like(difference_PH)
    step = max(1, CHUNK_BYTES // (8 * len(values_RPH) * size))
    for at in range(0, len(difference_PH), step):
        x_PRH = values_RPH[:, at : at + step].double().transpose(0, 1).clone()
        for of_class in (toxic_R, ~toxic_R):
            x_PRH[:, of_class] -= x_PRH[:, of_class].mean(1, keepdim=True)
        c_PHH = x_PRH.transpose(1, 2) @ x_PRH / x_PRH.shape[1]
        spread_P = c_PHH.diagonal(dim1=1, dim2=2).mean(-1)
        spread_P = torch.where(
            spread_P > 0, spread_P, 1.0
        )  # a head that says nothing: d is 0 as well
        s_PHH = (1 - shrinkage) * c_PHH + shrinkage * spread_P[:, None, None] * torch.eye(size).to(
            c_PHH
        )
        solved[at : at + step] = torch.linalg.solve(s_PHH, difference_PH[at : at + step])
    return _along(solved.view(values_RLNH.shape[1:]), values_RLNH)


def choose(accuracy_LN: Tensor, top: int) -> list[tuple[int, int]]:
    """The `top` heads (all, if there are fewer) as (layer, head), best validation accuracy first;
    ties go to the earlier head.
    """
    order = torch.sort(accuracy_LN.flatten(), descending=True, stable=True).indices[:top]
    return [divmod(int(i), accuracy_LN.shape[1]) for i in order]


def _mean_difference(values_RLNH: Tensor, labels_R: Tensor) -> Tensor:
    toxic_R = labels_R.bool()
    if toxic_R.all() or not toxic_R.any():
        raise ConfigurationError(
            f"all {len(labels_R)} rows have the label {int(toxic_R[0])}; a direction needs both classes"
        )
    return values_RLNH[~toxic_R].double().mean(0) - values_RLNH[toxic_R].double().mean(0)


def _along(direction_LNH: Tensor, values_RLNH: Tensor) -> Directions:
    norm_LN1 = direction_LNH.norm(dim=-1, keepdim=True)
    theta_LNH = direction_LNH / torch.where(norm_LN1 > 0, norm_LN1, 1.0)
    projection_RLN = torch.einsum("rlnh,lnh->rln", values_RLNH, theta_LNH.to(values_RLNH.dtype))
    return Directions(theta_LNH.float(), projection_RLN.double().std(0, correction=0).float())
