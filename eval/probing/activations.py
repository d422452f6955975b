"""activations of probe rows at one hook point, keyed by row id, in memory or fp16 on disk

A head's activation is its slice of the input of the attention's output projection, before the
projection mixes it with the others (Li et al. 2023; ITI reads and edits the same place);
hook_points.py names this place and the others. Rows are batched only with rows of the same length,
so no padding can influence a reading: padded at the left, rows of similar length differ by 1e-6
from rows read alone, and are no faster to read (200 rows of 70 to 128 tokens, the laptop's model).
Values are joined to labels by id, never by order.

Values are read back one layer at a time: OLMo-1B's 256 heads on 8,960 rows are 1.2 GB in fp32, one
layer's 73 MB. Above MEMORY_BYTES they are kept as fp16 in an unnamed file, which disappears with
the process.

Shapes: R rows, B batch, T positions, L layers, N heads, H head dim, D = N·H.
"""

import math
import os
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from tempfile import NamedTemporaryFile
from typing import NamedTuple

import torch
from torch import Tensor

from data_prep.core.errors import ArtefactCorrupt, ConfigurationError, StorageError
from eval.config import ProbingConfig
from eval.model import batch_size, hook_points, numerics
from eval.model.batch_size import BatchSize
from eval.model.subject.subject_model import SubjectModel

MEMORY_BYTES = 4 << 30  # in fp32, at most; fp16 on disk keeps 11 significant bits


class Activations(NamedTuple):
    """row_of[id] is a row of values_LRNH: fp32 on the model's device, or fp16 in a mapped file."""

    row_of: dict[str, int]
    values_LRNH: Tensor
    device: torch.device

    @property
    def n_layers(self) -> int:
        """Number of layers that were read."""
        return len(self.values_LRNH)

    def layer(self, layer: int, ids: Sequence[str]) -> Tensor:
        """One layer's values of these ids, in the given order: [R, N, H] fp32 on the model's
        device.
        """
        rows = [self.row_of[row_id] for row_id in ids]
        return self.values_LRNH[layer][rows].to(self.device, torch.float32)


@torch.inference_mode()
def collect(
    model: SubjectModel,
    rows: Mapping[str, Sequence[int]],
    probing: ProbingConfig,
    *,
    batch: BatchSize,
    advance: Callable[[int], object],
    memory_bytes: float = MEMORY_BYTES,
) -> Activations:
    """The activations of every head (or other unit of `probing.site`) at `probing.token` of each
    row.

    rows: the token ids of each row, by row id. advance(n) is called after every n finished rows.
    Raises ArtefactCorrupt if a value is not finite.
    """
    device = model.device
    units_NH = hook_points.unit_shape(probing.site, model.shape)
    token_rows = list(rows.values())
    n_layers = model.shape.n_layers
    shape = (n_layers, len(rows), *units_NH)
    if 4 * math.prod(shape) <= memory_bytes:
        values_LRNH = torch.empty(shape, device=device)
    else:
        values_LRNH = _empty_on_disk(shape)
    is_bad_R = torch.zeros(len(rows), dtype=torch.bool, device=values_LRNH.device)

    def read_batch(members: Sequence[int]) -> None:
        layers_BD: list[Tensor] = []
        position = _position(probing.token, len(token_rows[members[0]]))
        visit = partial(_append_reading, layers_BD, position)
        with (
            hook_points.hooked(model, probing.site, dict.fromkeys(range(n_layers), visit)),
            numerics.short_pass_attention(device),
        ):
            model.hidden(torch.tensor([token_rows[r] for r in members], device=device))
        values_LBNH = torch.stack(layers_BD).unflatten(-1, units_NH).to(values_LRNH)
        is_bad_R[members] = (~torch.isfinite(values_LBNH)).any(0).flatten(1).any(1)
        values_LRNH[:, members] = values_LBNH
        advance(len(members))

    of_readings = 2 * 4 * math.prod((n_layers, *units_NH))
    for members in group_by_length(token_rows):
        of_pass = batch_size.pass_bytes(model.shape, len(token_rows[members[0]]), model.dtype)
        batch.for_each_batch(members, read_batch, bytes_per_item=of_pass + of_readings)
    _check_finite(int(is_bad_R.sum()), len(rows), values_LRNH.dtype)
    return Activations({row_id: r for r, row_id in enumerate(rows)}, values_LRNH, device)


def group_by_length(rows: Sequence[Sequence[int]]) -> list[list[int]]:
    """Positions of `rows` grouped by the rows' length, shortest first."""
    by_length: dict[int, list[int]] = {}
    for r, row in enumerate(rows):
        by_length.setdefault(len(row), []).append(r)
    return [members for _, members in sorted(by_length.items())]


def _position(token: str, length: int) -> int | None:
    """The position to read in rows of this length; None is the mean of all positions."""
    if token == "mean":
        return None
    if token == "last":
        return -1
    if not -length <= int(token) < length:
        raise ConfigurationError(
            f"eval.probing.token is {token}, and a probe row has {length} tokens; expected last, "
            "mean or a position that every row has; choose another or leave out short rows"
        )
    return int(token)


def _append_reading(readings: list[Tensor], position: int | None, x_BTD: Tensor) -> None:
    if position is None:
        readings.append(x_BTD.float().mean(1))
    else:
        readings.append(x_BTD[:, position].float().clone())


def _check_finite(n_bad: int, n_rows: int, dtype: torch.dtype) -> None:
    if not n_bad:
        return
    too_large = ", or they are too large for fp16: lower eval.probing.n_rows"
    raise ArtefactCorrupt(
        f"{n_bad} of {n_rows} rows have activations that are not finite; the model's weights are "
        f"damaged, or training diverged{too_large if dtype == torch.float16 else ''}"
    )


def _empty_on_disk(shape: tuple[int, ...]) -> Tensor:
    """An fp16 tensor over a file in the temporary folder, whose name is deleted at once."""
    n = math.prod(shape)
    with NamedTemporaryFile(prefix="hormesis-activations-") as file:
        try:
            # reserve the space: on a full disk, writing to a sparse mapped file is a bus error
            os.posix_fallocate(file.fileno(), 0, 2 * n)
        except OSError as error:
            raise StorageError(
                f"{file.name}: no room for {2 * n:,} bytes of activations: {error.strerror}; set "
                "TMPDIR to a folder on a larger disk, or lower eval.probing.n_rows"
            ) from error
        return torch.from_file(file.name, shared=True, size=n, dtype=torch.float16).view(shape)
