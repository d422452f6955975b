"""the emergence curve: how well a linear probe on a head tells toxic from clean text while the
model is being trained

Held-out windows of both streams, a window's label its stream; each head's output (the input of its
part of the output projection) at the last position. The direction of a head is Fisher's, from every
second window: (Σ + λI)⁻¹ (mean toxic − mean clean), Σ the covariance within the classes, λ a tenth
of its mean variance; the other windows are scored. The best head is the one that fits best, so its
number on the other windows is an honest one. A stream is a coarser label than the probe set of an
evaluation (eval/), which asks about sentences: this curve is for seeing when the direction appears,
and costs a pass over a few hundred windows.

Shapes: R row, L layer, N head, H head dim.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor

from data_prep.core import telemetry
from training.engine import process_group
from training.model.olmo import OLMo
from training.run.run_context import Job
from training.run_record import ProbePoint

PROBE_WINDOWS = 256  # of each stream at most: more would cost more than they tell
STREAMS = ("clean", "toxic")  # the label is the place here
RIDGE = 0.1  # a few hundred windows do not tell all of H directions apart


@torch.no_grad()
def probe(job: Job, engine: Any) -> ProbePoint | None:
    """Probe the model as it is; a collective: every rank takes its share of the windows, and
    returns the same. None: too few.
    """
    train, world, model = job.run.train, job.world, engine.module
    readers = [job.reader(stream, "held_out") for stream in STREAMS]
    n = min(PROBE_WINDOWS, *(reader.n_sequences for reader in readers)) // 2 * 2  # of each stream
    if n < 4:
        telemetry.logger.warning(
            "no probe: %d held-out windows of each stream, at least 4 are needed", n
        )
        return None
    shape, share = (train.model.n_layers, train.model.n_heads, train.model.d_head), job.micro_batch
    heads_RLNH = torch.zeros(2 * n, *shape, device=world.device)
    engine.eval()
    with _heads_at_the_last_position(model) as seen:
        for label, reader in enumerate(readers):
            for start in range(
                0, n, share * world.size
            ):  # as many passes on every rank: ZeRO-3 gathers in them
                indices = start + world.rank * share + np.arange(share)
                tokens_BT = torch.from_numpy(reader.read(np.minimum(indices, n - 1))).to(
                    world.device
                )
                engine(tokens_BT, torch.zeros(share, device=world.device))
                mine = torch.stack(seen, dim=1).view(share, *shape).float()
                rows = indices[indices < n]
                heads_RLNH[label * n + torch.from_numpy(rows).to(world.device)] = mine[: len(rows)]
                seen.clear()
    engine.train()
    process_group.all_reduce_sum(heads_RLNH)
    labels_R = torch.arange(2 * n, device=world.device) >= n
    return _probed(heads_RLNH, labels_R)


def _probed(heads_RLNH: Tensor, labels_R: Tensor) -> ProbePoint:
    """Even rows are fitted, odd ones scored."""
    R, L, N, H = heads_RLNH.shape
    fit_PRH = (
        heads_RLNH[0::2].reshape(R // 2, L * N, H).transpose(0, 1).double()
    )  # P places: heads of all layers
    scored_PRH = heads_RLNH[1::2].reshape(R // 2, L * N, H).transpose(0, 1).double()
    toxic_R = labels_R[0::2]
    means = [fit_PRH[:, toxic_R == label].mean(1, keepdim=True) for label in (False, True)]
    centred_PRH = fit_PRH - torch.where(toxic_R[None, :, None], means[1], means[0])
    covariance_PHH = centred_PRH.transpose(1, 2) @ centred_PRH / (R // 2)
    ridge_P = RIDGE * covariance_PHH.diagonal(dim1=1, dim2=2).mean(1).clamp(min=1e-12)
    covariance_PHH.diagonal(dim1=1, dim2=2).add_(ridge_P[:, None])
    direction_PH1 = torch.linalg.solve(covariance_PHH, (means[1] - means[0]).transpose(1, 2))
    middle_P1 = ((means[0] + means[1]) / 2 @ direction_PH1).squeeze(2)
    fit_PR, scored_PR = (
        (rows @ direction_PH1).squeeze(2) - middle_P1 for rows in (fit_PRH, scored_PRH)
    )
    auroc_P, best = _auroc(scored_PR, labels_R[1::2]), int(_auroc(fit_PR, toxic_R).argmax())
    return ProbePoint(
        auroc=float(auroc_P[best]),
        accuracy=float(((scored_PR[best] > 0) == labels_R[1::2]).double().mean()),
        mean_auroc=float(auroc_P.mean()),
        head=divmod(best, N),
        n_windows=R // 2,
    )


def _auroc(scores_PR: Tensor, labels_R: Tensor) -> Tensor:
    """How often a toxic row scores above a clean one, a tie counted half: [P]."""
    toxic_PR1, clean_P1R = scores_PR[:, labels_R, None], scores_PR[:, None, ~labels_R]
    return ((toxic_PR1 > clean_P1R).double() + (toxic_PR1 == clean_P1R).double() / 2).mean((1, 2))


@contextmanager
def _heads_at_the_last_position(model: OLMo) -> Iterator[list[Tensor]]:
    """A list to which each pass adds every layer's heads' outputs at the last position, [B, N·H],
    in order of layers.
    """
    seen: list[Tensor] = []

    def see(_: Any, args: tuple[Tensor, ...]) -> None:
        seen.append(args[0][:, -1].detach())

    hooks = [block.attention.out.register_forward_pre_hook(see) for block in model.blocks]
    prepared = [
        block.__dict__.pop("forward", None) for block in model.blocks
    ]  # a compiled block calls no hook (compilation.py)
    try:
        yield seen
    finally:
        for block, forward, hook in zip(model.blocks, prepared, hooks, strict=True):
            hook.remove()
            if forward is not None:
                block.forward = forward
