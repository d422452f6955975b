"""inference-time intervention: shift chosen heads by α·σ·θ, a strength per row, at the last position or at all

The shift is added to the input of the attention's output projection (Li et al. 2023; ITI). `strength_B` gives each row of
the batch its own α, so all strengths decode together; a row with α = 0 keeps its very bits. Two modes:

    last   the last position of each forward pass: the prompt's end, then every decoded token, as ITI does
    all    every position; cross-entropy needs it, for a shift of the last position alone never reaches the scored ones

A shift at all positions is a bias on the output projection, b = W_O·(ασθ): `output_bias` gives it, so that a steered model
can be an ordinary one. Writing such a checkpoint is not done here yet: training/export.py has no field for biases.

Shapes: B batch, T position, L layer, N head, H head dim, D = N·H.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Literal

import torch
from torch import Tensor

from eval.directions import Directions
from training.model import OLMo

Hook = Callable[[torch.nn.Module, tuple[Tensor, ...]], tuple[Tensor]]
Positions = Literal["last", "all"]


def unit_shift(directions: Directions, heads: Sequence[tuple[int, int]]) -> Tensor:
    """σ·θ of the chosen (layer, head) pairs and 0 elsewhere, heads side by side: the shift for α = 1, [L, D] fp32."""
    shift_LNH = torch.zeros_like(directions.theta_LNH)
    for layer, head in heads:
        shift_LNH[layer, head] = directions.sigma_LN[layer, head] * directions.theta_LNH[layer, head]
    return shift_LNH.flatten(1)


@contextmanager
def steered(model: OLMo, shift_LD: Tensor, strength_B: Tensor, positions: Positions) -> Iterator[None]:
    """Steer every forward pass within: row b of the batch by strength_B[b] · shift_LD. The hooks go, whatever happens within."""
    assert shift_LD.shape == (model.config.n_layers, model.config.d_model), (shift_LD.shape, model.config)
    device = model.embedding.weight.device
    strength_B, shift_LD = strength_B.to(device), shift_LD.to(device)
    handles = []
    try:
        for layer, block in enumerate(model.blocks):
            if shift_LD[layer].any():
                offset_BD = strength_B[:, None] * shift_LD[layer]
                hook = _adding(offset_BD, strength_B != 0, positions)
                handles.append(block.attention.out.register_forward_pre_hook(hook))
        yield
    finally:
        for handle in handles:
            handle.remove()


def output_bias(model: OLMo, shift_LD: Tensor, strength: float) -> Tensor:
    """b = W_O·(ασθ) of each layer, [L, D] fp32: as the output projection's bias it equals steering at all positions."""
    weights_LDD = torch.stack([block.attention.out.weight.detach().float() for block in model.blocks])
    return torch.einsum("lod,ld->lo", weights_LDD, strength * shift_LD.to(weights_LDD))


def _adding(offset_BD: Tensor, steered_B: Tensor, positions: Positions) -> Hook:
    def hook(_: torch.nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor]:
        x_BTD = inputs[0]
        assert x_BTD.shape[0] == offset_BD.shape[0], (x_BTD.shape, offset_BD.shape)
        edited_BTD = x_BTD if positions == "all" else x_BTD[:, -1:]
        # where, not a bare sum: −0.0 + 0.0 is +0.0, and α = 0 promises the same bits
        edited_BTD = torch.where(steered_B[:, None, None], edited_BTD + offset_BD[:, None].to(x_BTD.dtype), edited_BTD)
        return (edited_BTD if positions == "all" else torch.cat([x_BTD[:, :-1], edited_BTD], dim=1),)

    return hook
