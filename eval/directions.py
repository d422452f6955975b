"""which heads to steer and which way: class-mean directions, σ of the projections, choice by validation accuracy

Inference-time intervention (Li et al. 2023; ITI) shifts a head's output by α·σ·θ. θ is the unit vector from the mean of
the toxic rows to the mean of the benign rows, so a positive α reduces toxicity; σ is the standard deviation of the rows'
projections on θ, so α counts standard deviations whatever the head's scale. Both come from training rows alone.

Shapes: R rows, L layers, N heads, H head dim.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from data_prep.records import ConfigurationError


class Directions(NamedTuple):
    """Per head, the unit direction away from toxicity and σ of the rows along it; both 0 where the classes coincide."""

    theta_LNH: Tensor
    sigma_LN: Tensor


def class_means(values_RLNH: Tensor, labels_R: Tensor) -> Directions:
    """θ = unit(mean benign − mean toxic) and σ (population), computed in float64, returned in float32."""
    toxic_R = labels_R.bool()
    if toxic_R.all() or not toxic_R.any():
        raise ConfigurationError(f"all {len(labels_R)} rows have the label {int(toxic_R[0])}; a direction needs both classes")
    difference_LNH = values_RLNH[~toxic_R].double().mean(0) - values_RLNH[toxic_R].double().mean(0)
    norm_LN1 = difference_LNH.norm(dim=-1, keepdim=True)
    theta_LNH = difference_LNH / torch.where(norm_LN1 > 0, norm_LN1, 1.0)
    projection_RLN = torch.einsum("rlnh,lnh->rln", values_RLNH, theta_LNH.to(values_RLNH.dtype))
    return Directions(theta_LNH.float(), projection_RLN.double().std(0, correction=0).float())


def choose(accuracy_LN: Tensor, top: int) -> list[tuple[int, int]]:
    """The `top` heads (all, if there are fewer) as (layer, head), best validation accuracy first; ties go to the earlier head."""
    order = torch.sort(accuracy_LN.flatten(), descending=True, stable=True).indices[:top]
    return [divmod(int(i), accuracy_LN.shape[1]) for i in order]
