"""what every head says of every row, keyed by row id, in memory or in half precision on disk; MLPs
and residual streams likewise

A head's output is its slice of the input of the attention's output projection: what a head says
before the projection mixes it with the others (Li et al. 2023; ITI reads and edits the same place;
hook_points.py knows it and the others). Rows are batched with rows of the same length only, so
there is no padding that could leak into a reading: padded at the left, rows of like length read
1e-6 otherwise than alone, and no faster (200 rows of 70 to 128 tokens, the laptop's model). Values
are joined to labels by id, never by order.

Values are read back a layer at a time: OLMo-1B's 256 heads on 8,960 rows are 1.2 GB in fp32, one
layer's 73 MB. Where they would take more than MEMORY_BYTES they are kept as fp16 in a file without a
name, which is gone when the process ends.

Shapes: R rows, B batch, T position, L layer, N head, H head dim, D = N·H.
"""

import math
import os
from collections.abc import Callable, Sequence
from functools import partial
from tempfile import NamedTemporaryFile
from typing import NamedTuple

import torch
from torch import Tensor

from data_prep.core.errors import ArtefactCorrupt, ConfigurationError, StorageError
from eval.config import Site
from eval.model import hook_points
from eval.model.batching import BatchSize
from training.model.olmo import OLMo

MEMORY_BYTES = 4 << 30  # in fp32, at most; fp16 on disk keeps 11 significant bits


class Activations(NamedTuple):
    """rows[id] is a row of values_LRNH: fp32 on the model's device, or fp16 in a mapped file."""

    rows: dict[str, int]
    values_LRNH: Tensor
    device: torch.device

    def of(self, layer: int, ids: Sequence[str]) -> Tensor:
        """One layer's values of these ids, in the order asked: [R, N, H] fp32 on the model's
        device.
        """
        return self.values_LRNH[layer][[self.rows[name] for name in ids]].to(
            self.device, torch.float32
        )


@torch.inference_mode()
def collect(
    model: OLMo,
    ids: Sequence[str],
    rows: Sequence[Sequence[int]],
    *,
    batch: BatchSize,
    advance: Callable[[int], object],
    site: Site = "heads",
    token: str = "last",
    memory_bytes: int = MEMORY_BYTES,
) -> Activations:
    """What every unit of `site` says at the `token` of each row (eval/config.py); `advance(n)` is
    told of n finished rows.
    """
    assert len(ids) == len(rows) == len(set(ids)), (len(ids), len(rows), len(set(ids)))
    config, device = model.config, model.embedding.weight.device
    shape = (config.n_layers, len(rows), *hook_points.units(site, config))
    values_LRNH = (
        torch.empty(shape, device=device)
        if 4 * math.prod(shape) <= memory_bytes
        else _on_disk(shape)
    )
    bad = torch.zeros(len(rows), dtype=torch.bool)

    def work(members: Sequence[int]) -> None:
        read: list[Tensor] = []
        visit = partial(_keep, _position(token, len(rows[members[0]])), read)
        with hook_points.visited(model, site, dict.fromkeys(range(config.n_layers), visit)):
            model.hidden(torch.tensor([rows[r] for r in members], device=device))
        values_LBNH = (
            torch.stack(read).unflatten(-1, hook_points.units(site, config)).to(values_LRNH)
        )
        bad[members] = (~torch.isfinite(values_LBNH)).any(0).flatten(1).any(1).cpu()
        values_LRNH[:, members] = values_LBNH
        advance(len(members))

    for members in of_one_length(rows):
        batch.each(members, work)
    n_bad = int(bad.sum())
    if n_bad:
        raise ArtefactCorrupt(
            f"{n_bad} of {len(rows)} rows have activations that are not finite; the model's weights or training broke"
            + (
                ", or they are too large for fp16: lower eval.probing.n_rows"
                if values_LRNH.dtype == torch.float16
                else ""
            )
        )
    return Activations({name: r for r, name in enumerate(ids)}, values_LRNH, device)


def of_one_length(rows: Sequence[Sequence[int]]) -> list[list[int]]:
    """Positions of `rows` by their length, shortest first."""
    by_length: dict[int, list[int]] = {}
    for r, row in enumerate(rows):
        by_length.setdefault(len(row), []).append(r)
    return [members for _, members in sorted(by_length.items())]


def _position(token: str, length: int) -> int | None:
    """The position to read in rows of this length; None is the mean of all."""
    if token in ("last", "mean"):
        return -1 if token == "last" else None
    if not -length <= int(token) < length:
        raise ConfigurationError(
            f"eval.probing.token is {token}, and a probe row has {length} tokens; expected last, mean or a position that all have"
        )
    return int(token)


def _keep(at: int | None, read: list[Tensor], x_BTD: Tensor) -> None:
    read.append(x_BTD.float().mean(1) if at is None else x_BTD[:, at].float().clone())


def _on_disk(shape: tuple[int, ...]) -> Tensor:
    """An fp16 tensor over a file in the temporary folder, whose name is gone at once."""
    n = math.prod(shape)
    with NamedTemporaryFile(prefix="hormesis-activations-") as file:
        try:
            os.posix_fallocate(
                file.fileno(), 0, 2 * n
            )  # else a full disk is a bus error in the middle of the work
        except OSError as error:
            raise StorageError(
                f"{file.name}: no room for {2 * n:,} bytes of activations: {error.strerror}; set TMPDIR to a larger disk, or lower "
                "eval.probing.n_rows"
            ) from error
        return torch.from_file(file.name, shared=True, size=n, dtype=torch.float16).view(shape)
