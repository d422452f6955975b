"""inference-time intervention: shift heads by α·σ·θ in the forward pass; control shifts

The shift is added to the input of the attention's output projection (Li et al. 2023; ITI).
`strength_B` gives each row of the batch its own α, so all strengths decode together. A row with
α = 0 is bit-identical to the unsteered model. Two modes:

    last   the last position of each forward pass: the prompt's end, then every decoded token, as in
           ITI
    all    every position; cross-entropy needs it, since a shift of the last position alone never
           reaches the scored ones

A shift of heads at all positions is a bias on the output projection, b = W_O·(ασθ): `output_bias`
returns it, and bake_steering.py writes it into an ordinary checkpoint. MLP outputs and the residual
stream are steered the same way for comparison; Hugging Face's OLMo has no bias in their place, so
they cannot be baked.

Controls answer a sceptic's first question: would any shift of this size do? They have the same σ
and as many heads:

    random_heads        other heads, each along its own θ
    random_directions   the same heads, along random unit vectors
    flipped             the same shift with its sign changed: toxicity should rise

Shapes: B batch, T position, L layer, N head, H head dim, D = N·H.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor

from data_prep.core import keyed_random
from data_prep.core.errors import ConfigurationError
from eval.config import Control, Positions, Site
from eval.model import hook_points
from eval.probing.directions import Directions, unit_shift
from eval.stats import resampling
from training.config import ModelConfig
from training.model.olmo import OLMo

Head = tuple[int, int]  # (layer, head)


class Shift(NamedTuple):
    """What is added to the activations of `site` at α = 1: values_LD, fp32, σθ of the steered
    heads.
    """

    values_LD: Tensor
    site: Site = "heads"


class Condition(NamedTuple):
    """A shift, the strengths it is measured at, and the positions it changes while generating.
    name: "steered", or that of a control.
    """

    name: str
    shift: Shift
    strengths: tuple[float, ...]
    positions: Positions


def no_shift(config: ModelConfig) -> Shift:
    """The shift that changes nothing: the unsteered model."""
    return Shift(torch.zeros(config.n_layers, config.d_model))


def control_shift(
    control: Control, directions: Directions, heads: Sequence[Head], seed: int
) -> Tensor:
    """The shift for α = 1 of one of the controls, [L, D] fp32; `seed` keys the random draws."""
    if control == "flipped":
        return -unit_shift(directions, heads)
    if control == "random_directions":
        return unit_shift(_random_directions(directions, seed), heads)
    n_layers, n_heads, _ = directions.theta_LNH.shape
    steered_heads = set(heads)
    other_heads = [
        divmod(i, n_heads)
        for i in range(n_layers * n_heads)
        if divmod(i, n_heads) not in steered_heads
    ]
    if len(other_heads) < len(heads):
        raise ConfigurationError(
            "the control random_heads needs as many other heads as are steered: "
            f"{len(heads)} of {n_layers * n_heads} are; lower eval.steering.top_heads or remove "
            "the control from eval.steering.controls"
        )
    order = keyed_random.shuffled_positions(
        [f"{layer}.{head}" for layer, head in other_heads], "random heads", seed
    )
    return unit_shift(directions, [other_heads[i] for i in order[: len(heads)]])


@contextmanager
def steered(model: OLMo, shift: Shift, strength_B: Tensor, positions: Positions) -> Iterator[None]:
    """Steer every forward pass within: row b of the batch by strength_B[b] · shift. The hooks are
    removed in any case.
    """
    assert shift.values_LD.shape == (model.config.n_layers, model.config.d_model), (
        shift.values_LD.shape,
        model.config,
    )
    weight = model.embedding.weight
    # one question for all layers, before the shift is on a GPU: there each answer would wait for it
    is_steered_L = shift.values_LD.any(dim=1).tolist()
    values_LD = shift.values_LD.to(weight.device)
    offset_LBD = strength_B.to(weight.device)[None, :, None] * values_LD[:, None]
    hooks = {
        layer: _adding(offset_LBD[layer].to(weight.dtype), positions)
        for layer, is_steered in enumerate(is_steered_L)
        if is_steered
    }
    with hook_points.hooked(model, shift.site, hooks):
        yield


def output_bias(model: OLMo, shift_LD: Tensor, strength: float) -> Tensor:
    """b = W_O·(ασθ) of each layer, [L, D] fp32: as the output projection's bias it equals steering
    at all positions.
    """
    weights_LDD = torch.stack(
        [block.attention.out.weight.detach().float() for block in model.blocks]
    )
    return torch.einsum("lod,ld->lo", weights_LDD, strength * shift_LD.to(weights_LDD))


def _random_directions(directions: Directions, seed: int) -> Directions:
    """Random unit vectors in place of θ; σ as it is."""
    shape = tuple(directions.theta_LNH.shape)
    theta = torch.from_numpy(resampling.normals(shape, "random directions", seed))
    theta = torch.nn.functional.normalize(theta, dim=-1).to(directions.theta_LNH)
    return Directions(theta, directions.sigma_LN)


def _adding(offset_BD: Tensor, positions: Positions) -> hook_points.Hook:
    # −0.0 and not +0.0: x − 0.0 is x to the bit, whatever x is, but −0.0 + 0.0 is +0.0, and α = 0
    # promises the same bits
    offset_B1D = torch.where(offset_BD == 0, -0.0, offset_BD)[:, None]

    def add(x_BTD: Tensor) -> Tensor:
        assert x_BTD.shape[0] == offset_B1D.shape[0], (x_BTD.shape, offset_B1D.shape)
        if positions == "all" or x_BTD.shape[1] == 1:
            return x_BTD + offset_B1D
        return torch.cat([x_BTD[:, :-1], x_BTD[:, -1:] + offset_B1D], dim=1)

    return add
