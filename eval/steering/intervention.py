"""inference-time intervention: shift chosen heads by α·σ·θ, a strength per row, at the last
position or at all

The shift is added to the input of the attention's output projection (Li et al. 2023; ITI).
`strength_B` gives each row of the batch its own α, so all strengths decode together; a row with α =
0 keeps its very bits. Two modes:

    last   the last position of each forward pass: the prompt's end, then every decoded token, as ITI does
    all    every position; cross-entropy needs it, for a shift of the last position alone never reaches the scored ones

A shift of heads at all positions is a bias on the output projection, b = W_O·(ασθ): `output_bias`
gives it, and bake_steering.py writes it into an ordinary checkpoint. MLP outputs and the residual stream
are steered the same way for comparison; Hugging Face's OLMo has no bias where theirs would go, so
those are not baked.

What a sceptic asks first is whether any shift of that size would do. `controls` answers with the
same σ and as many heads:

    random_heads        other heads, each along its own θ
    random_directions   the same heads, along random unit vectors
    flipped             the same shift with its sign changed: toxicity should rise

Shapes: B batch, T position, L layer, N head, H head dim, D = N·H.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from data_prep.core import keyed_random
from data_prep.core.errors import ConfigurationError
from eval.config import Control, Positions, Site
from eval.model import hook_points
from eval.probing.directions import Directions, unit_shift
from eval.stats import resampling
from training.model.olmo import OLMo


def control_shift(
    control: Control, directions: Directions, heads: Sequence[tuple[int, int]], seed: int
) -> Tensor:
    """The shift for α = 1 of one of the controls, [L, D] fp32; `seed` names the random draws."""
    if control == "flipped":
        return -unit_shift(directions, heads)
    n_layers, n_heads, d_head = directions.theta_LNH.shape
    if control == "random_directions":
        theta = torch.from_numpy(
            resampling.normals((n_layers, n_heads, d_head), "random directions", seed)
        )
        theta = torch.nn.functional.normalize(theta, dim=-1).to(directions.theta_LNH)
        return unit_shift(Directions(theta, directions.sigma_LN), heads)
    others = [
        divmod(i, n_heads)
        for i in range(n_layers * n_heads)
        if divmod(i, n_heads) not in set(heads)
    ]
    if len(others) < len(heads):
        raise ConfigurationError(
            f"the control random_heads needs as many other heads as are steered: {len(heads)} of {n_layers * n_heads} are; lower "
            "eval.steering.top_heads or leave the control out"
        )
    order = keyed_random.shuffled(
        [f"{layer}.{head}" for layer, head in others], "random heads", seed
    )
    return unit_shift(directions, [others[i] for i in order[: len(heads)]])


@contextmanager
def steered(
    model: OLMo, shift_LD: Tensor, strength_B: Tensor, positions: Positions, site: Site = "heads"
) -> Iterator[None]:
    """Steer every forward pass within: row b of the batch by strength_B[b] · shift_LD. The hooks
    go, whatever happens within.
    """
    assert shift_LD.shape == (model.config.n_layers, model.config.d_model), (
        shift_LD.shape,
        model.config,
    )
    weight = model.embedding.weight
    offset_LBD = strength_B.to(weight.device)[None, :, None] * shift_LD.to(weight.device)[:, None]
    visits = {
        layer: _adding(offset_LBD[layer].to(weight.dtype), positions)
        for layer in range(len(shift_LD))
        if shift_LD[layer].any()
    }
    with hook_points.visited(model, site, visits):
        yield


def output_bias(model: OLMo, shift_LD: Tensor, strength: float) -> Tensor:
    """b = W_O·(ασθ) of each layer, [L, D] fp32: as the output projection's bias it equals steering
    at all positions.
    """
    weights_LDD = torch.stack(
        [block.attention.out.weight.detach().float() for block in model.blocks]
    )
    return torch.einsum("lod,ld->lo", weights_LDD, strength * shift_LD.to(weights_LDD))


def _adding(offset_BD: Tensor, positions: Positions) -> hook_points.Visit:
    # −0.0 and not +0.0: x − 0.0 is x to the bit, whatever x is, but −0.0 + 0.0 is +0.0, and α = 0
    # promises the same bits
    offset_B1D = torch.where(offset_BD == 0, -0.0, offset_BD)[:, None]

    def visit(x_BTD: Tensor) -> Tensor:
        assert x_BTD.shape[0] == offset_B1D.shape[0], (x_BTD.shape, offset_B1D.shape)
        if positions == "all" or x_BTD.shape[1] == 1:
            return x_BTD + offset_B1D
        return torch.cat([x_BTD[:, :-1], x_BTD[:, -1:] + offset_B1D], dim=1)

    return visit
