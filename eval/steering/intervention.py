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

Shapes: B batch, T position, L layer, N head, H head dim, D = N·H, or the model's width at other
sites.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from data_prep.core import keyed_random
from data_prep.core.errors import ConfigurationError
from eval.config import Positions, Site, Steering
from eval.model import hook_points
from eval.model.subject.subject_model import ModelShape, SubjectModel
from eval.probing.directions import Directions, unit_shift
from eval.stats import resampling

Head = tuple[int, int]  # (layer, head)


class Shift(NamedTuple):
    """What is added to the activations of `site` at α = 1: values_LD, fp32, σθ of the steered
    heads.
    """

    values_LD: Tensor
    site: Site = "heads"


def no_shift(shape: ModelShape) -> Shift:
    """The shift that changes nothing: the unsteered model."""
    return Shift(torch.zeros(shape.n_layers, shape.n_heads * shape.d_head))


def control_shift(
    control: Steering, directions: Directions, heads: Sequence[Head], seed: int
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
            "the condition random_heads needs as many other heads as are steered: "
            f"{len(heads)} of {n_layers * n_heads} are; lower eval.steering.top_heads or leave "
            "the condition out of eval.conditions"
        )
    order = keyed_random.shuffled_positions(
        [f"{layer}.{head}" for layer, head in other_heads], "random heads", seed
    )
    return unit_shift(directions, [other_heads[i] for i in order[: len(heads)]])


class SteeredBatch:
    """The rows of a batch and how each is steered; generation chooses which of them go through the
    model (generation.RowSteering).
    """

    def __init__(
        self,
        values: dict[int, Tensor],
        rows: "SteeredRows",
        positions: Positions,
        weights: tuple[torch.dtype, torch.device],
    ) -> None:
        """values: [S, D] of each layer that is steered, of all shifts, in fp32. weights: their
        dtype and device.
        """
        self._values = values
        self._rows = rows
        self._positions: Positions = positions
        self._dtype, device = weights
        self._on_device = SteeredRows(*(of_rows_B.to(device) for of_rows_B in rows))
        self._offsets: dict[int, Tensor] = {}  # [K, 1, D] of the rows that go through the model
        self._offset(self._on_device)

    @property
    def prefix_readings(self) -> list[tuple[int, float]]:
        """The shift and strength that a row's prompt is read with, all but its last token: a shift
        of the last position alone reaches none before it.
        """
        if self._positions == "last":
            return [(0, 0.0)] * len(self._rows.strength_B)
        return [
            (shift if strength else 0, strength)
            for shift, strength in zip(
                self._rows.shift_B.tolist(), self._rows.strength_B.tolist(), strict=True
            )
        ]

    def select(self, rows_K: Tensor) -> None:
        """From now on, only these rows of the batch go through the model."""
        self._offset(SteeredRows(*(of_rows_B[rows_K] for of_rows_B in self._on_device)))

    def select_prefixes(self, rows_K: Tensor) -> None:
        """As `select`, for passes over prompts without their last token."""
        if self._positions == "all":
            self.select(rows_K)
        else:
            self._offsets = {}

    def hooks(self) -> dict[int, hook_points.Hook]:
        """What shifts each layer's activations."""
        return {layer: partial(self._shifted, layer) for layer in self._values}

    def _offset(self, rows: "SteeredRows") -> None:
        self._offsets = {
            layer: _keeping_zeros(
                (rows.strength_B[:, None] * values_SD[rows.shift_B]).to(self._dtype)
            )[:, None]
            for layer, values_SD in self._values.items()
        }

    def _shifted(self, layer: int, x_BTD: Tensor) -> Tensor | None:
        offset_B1D = self._offsets.get(layer)
        return None if offset_B1D is None else _shifted(x_BTD, offset_B1D, self._positions)


class SteeredRows(NamedTuple):
    """For each row of a batch, the number of its shift and the strength of it."""

    shift_B: Tensor
    strength_B: Tensor


@contextmanager
def steered(
    model: SubjectModel, shift: Shift, strength_B: Tensor, positions: Positions
) -> Iterator[SteeredBatch]:
    """Steer every forward pass within: row b of the batch by strength_B[b] · shift. The hooks are
    removed in any case.
    """
    rows = SteeredRows(torch.zeros(len(strength_B), dtype=torch.long), strength_B)
    with steered_apart(model, [shift], rows, positions) as batch:
        yield batch


@contextmanager
def steered_apart(
    model: SubjectModel, shifts: Sequence[Shift], rows: SteeredRows, positions: Positions
) -> Iterator[SteeredBatch]:
    """As `steered`, each row by a shift of its own; those that change something have one site."""
    # asked of shifts that are not on a GPU yet: there each answer would wait for it
    is_steered_SL = [shift.values_LD.any(dim=1).tolist() for shift in shifts]
    that_steer = [
        shift for shift, of_layers in zip(shifts, is_steered_SL, strict=True) if any(of_layers)
    ]
    values_LD, site = (that_steer or shifts)[0]
    n_units, size = hook_points.unit_shape(site, model.shape)
    expected = (model.shape.n_layers, n_units * size)
    assert values_LD.shape == expected, (values_LD.shape, expected)
    assert all(shift.site == site for shift in that_steer), that_steer
    nothing_LD = torch.zeros_like(values_LD)
    values_SLD = torch.stack(
        [
            shift.values_LD if any(of_layers) else nothing_LD
            for shift, of_layers in zip(shifts, is_steered_SL, strict=True)
        ]
    ).to(model.device)
    values = {
        layer: values_SLD[:, layer]
        for layer, of_layer in enumerate(zip(*is_steered_SL, strict=True))
        if any(of_layer)
    }
    batch = SteeredBatch(values, rows, positions, (model.dtype, model.device))
    with hook_points.hooked(model, site, batch.hooks()):
        yield batch


def output_bias(model: SubjectModel, shift_LD: Tensor, strength: float) -> Tensor:
    """b = W_O·(ασθ) of each layer, [L, D model] fp32: added to the output projection's bias it
    equals steering at all positions.
    """
    weights_LDD = torch.stack([model.output_weight(layer) for layer in range(len(shift_LD))])
    return torch.einsum("lod,ld->lo", weights_LDD, strength * shift_LD.to(weights_LDD))


def _random_directions(directions: Directions, seed: int) -> Directions:
    """Random unit vectors in place of θ; σ as it is."""
    shape = tuple(directions.theta_LNH.shape)
    theta = torch.from_numpy(resampling.normals(shape, "random directions", seed))
    theta = torch.nn.functional.normalize(theta, dim=-1).to(directions.theta_LNH)
    return Directions(theta, directions.sigma_LN)


def _keeping_zeros(offset_BD: Tensor) -> Tensor:
    # −0.0 and not +0.0: x − 0.0 is x to the bit, whatever x is, but −0.0 + 0.0 is +0.0, and α = 0
    # promises the same bits
    return torch.where(offset_BD == 0, -0.0, offset_BD)


def _shifted(x_BTD: Tensor, offset_B1D: Tensor, positions: Positions) -> Tensor:
    assert x_BTD.shape[0] == offset_B1D.shape[0], (x_BTD.shape, offset_B1D.shape)
    if positions == "all" or x_BTD.shape[1] == 1:
        return x_BTD + offset_B1D
    return torch.cat([x_BTD[:, :-1], x_BTD[:, -1:] + offset_B1D], dim=1)
