"""per-head outputs at the last token, keyed by row id; MLP outputs and the residual stream likewise

A head's output is its slice of the input of the attention's output projection: what a head says before the projection mixes
it with the others (Li et al. 2023; ITI reads and edits the same place; sites.py knows it and the others). Rows are batched
with rows of the same length only, so there is no padding that could leak into a reading, and values are joined to labels by
id, never by order.

Shapes: R rows, B batch, T position, L layer, N head, H head dim, D = N·H.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from data_prep.records import ArtefactCorrupt
from eval import sites
from eval.config import Site
from training.model import OLMo


class Activations(NamedTuple):
    """ids[r] names values_RLNH[r], fp32 on the model's device."""

    ids: tuple[str, ...]
    values_RLNH: Tensor

    def of(self, ids: Sequence[str]) -> Tensor:
        """The values of these ids, in the order asked."""
        row = {name: r for r, name in enumerate(self.ids)}
        return self.values_RLNH[[row[name] for name in ids]]


@torch.inference_mode()
def collect(
    model: OLMo,
    ids: Sequence[str],
    rows: Sequence[Sequence[int]],
    *,
    batch_size: int,
    advance: Callable[[int], object],
    site: Site = "heads",
) -> Activations:
    """What every unit of `site` says at the last token of each row; `advance(n)` is told of n finished rows."""
    assert len(ids) == len(rows) == len(set(ids)), (len(ids), len(rows), len(set(ids)))
    config, device = model.config, model.embedding.weight.device
    values_RLNH = torch.empty(len(rows), config.n_layers, *sites.units(site, config), device=device)
    for batch in same_length_batches(rows, batch_size):
        read: list[Tensor] = []
        with sites.visited(model, site, dict.fromkeys(range(config.n_layers), lambda x_BTD, read=read: _keep(x_BTD, read))):
            model.hidden(torch.tensor([rows[r] for r in batch], device=device))
        values_RLNH[batch] = torch.stack(read, dim=1).unflatten(-1, sites.units(site, config))
        advance(len(batch))
    if not bool(torch.isfinite(values_RLNH).all()):
        bad = int((~torch.isfinite(values_RLNH)).flatten(1).any(1).sum())
        raise ArtefactCorrupt(
            f"{bad} of {len(rows)} rows have activations that are not finite; the model's weights or training broke"
        )
    return Activations(tuple(ids), values_RLNH)


def same_length_batches(rows: Sequence[Sequence[int]], batch_size: int) -> Iterator[list[int]]:
    """Positions of `rows`, at most `batch_size` together, all of one length, shortest first."""
    by_length: dict[int, list[int]] = {}
    for r, row in enumerate(rows):
        by_length.setdefault(len(row), []).append(r)
    for _, members in sorted(by_length.items()):
        for at in range(0, len(members), batch_size):
            yield members[at : at + batch_size]


def _keep(x_BTD: Tensor, read: list[Tensor]) -> None:
    read.append(x_BTD[:, -1].float().clone())
