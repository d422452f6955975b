"""validation during training: held-out loss per stream, probes of the attention heads

The probes give the emergence curve: how well a linear probe on a head tells toxic text from clean
text while the model is being trained. Its examples are held-out windows of both streams, labelled
by their stream; its features a head's output (the head's part of the input of the output
projection) at the last position. The direction of a head is Fisher's, fitted on every second
window: (Σ + λI)⁻¹ (mean toxic − mean clean), Σ the covariance within the classes, λ a tenth of its
mean variance. The other windows are scored. The best head is chosen on the windows it was fitted
on, so its score on the others is unbiased. A stream is a coarser label than that of an evaluation's
probe set (eval/), which consists of sentences: the curve shows when a direction appears, at the
cost of a pass over a few hundred windows.

Shapes: B batch, T position, R row, L layer, N head, H head dim, P layer and head (L·N).
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor

from data_prep.config import StreamName
from data_prep.core import telemetry
from data_prep.token_stream.reader import SequenceReader
from training.engine import process_group
from training.model.olmo import OLMo
from training.run.run_context import RunContext
from training.run_record import HeldOutLoss, ProbePoint

PROBE_WINDOWS = 256  # per stream at most: enough for an AUROC within some hundredths
STREAMS: tuple[StreamName, StreamName] = ("clean", "toxic")  # a stream's index is its label
RIDGE = 0.1  # a few hundred windows do not determine a covariance of all H dimensions


@torch.no_grad()
def held_out_losses(context: RunContext, engine: Any) -> tuple[HeldOutLoss, ...]:
    """Mean loss over the first held-out sequences of each stream; a collective.

    The ranks partition the sequences, and all return the same.
    """
    losses = []
    engine.eval()
    for stream in context.inputs.uris:
        reader = context.reader(stream, "held_out")
        n = min(context.run.train.validation.sequences, reader.n_sequences)
        if n == 0:
            telemetry.logger.warning(
                "no held-out loss on the %s stream: its held-out split is shorter than one "
                "sequence",
                stream,
            )
            continue
        loss_sum = _loss_sum(context, engine, reader, n)
        n_predictions = n * (context.run.train.sequence_length - 1)
        losses.append(
            HeldOutLoss(stream=stream, loss=loss_sum / n_predictions, n_tokens=n_predictions)
        )
    engine.train()
    return tuple(losses)


def _loss_sum(context: RunContext, engine: Any, reader: SequenceReader, n: int) -> float:
    """Summed loss of the first n sequences, over all ranks."""
    world = context.world
    micro_batch = context.micro_batch
    loss_sum = torch.zeros((), dtype=torch.float64, device=world.device)
    # Every rank makes as many passes, since ZeRO-3 gathers weights in each.
    for start in range(0, n, micro_batch * world.n_data_ranks):
        indices = start + world.data_rank * micro_batch + np.arange(micro_batch)
        hosted_BT = torch.from_numpy(reader.read(np.minimum(indices, n - 1)))
        valid_B = torch.from_numpy(indices < n).to(world.device)
        tokens_BT = hosted_BT.to(world.device)
        starts = context.document_starts(hosted_BT)
        loss_sum += (engine(tokens_BT, valid_B, starts).loss_B * valid_B).sum()
    process_group.all_reduce_sum(loss_sum, world.data_group)
    return loss_sum.item()


@torch.no_grad()
def probe_heads(context: RunContext, engine: Any) -> ProbePoint | None:
    """A point of the emergence curve for the model as it is; None if there are too few windows.

    A collective: the ranks partition the windows, and all return the same.
    """
    readers = [context.reader(stream, "held_out") for stream in STREAMS]
    n = min(PROBE_WINDOWS, *(reader.n_sequences for reader in readers)) // 2 * 2  # per stream
    if n < 4:
        telemetry.logger.warning(
            "no probe: %d held-out windows per stream, at least 4 are needed; hold out more "
            "(data.held_out_ratio)",
            n,
        )
        return None
    heads_RLNH = _head_outputs(context, engine, readers, n)
    labels_R = torch.arange(2 * n, device=context.world.device) >= n
    return _fit_and_score(heads_RLNH, labels_R)


def _head_outputs(
    context: RunContext, engine: Any, readers: list[SequenceReader], n: int
) -> Tensor:
    """Each head's output at the last position of the first n windows of each stream, on all ranks.

    [2n, L, N, H]: the clean windows, then the toxic ones.
    """
    model = context.run.train.model
    world = context.world
    micro_batch = context.micro_batch
    shape = (model.n_layers, model.n_heads, model.d_head)
    heads_RLNH = torch.zeros(2 * n, *shape, device=world.device)
    engine.eval()
    with _last_position_outputs(engine.module) as outputs:
        for label, reader in enumerate(readers):
            # Every rank makes as many passes, since ZeRO-3 gathers weights in each.
            for start in range(0, n, micro_batch * world.size):
                indices = start + world.rank * micro_batch + np.arange(micro_batch)
                hosted_BT = torch.from_numpy(reader.read(np.minimum(indices, n - 1)))
                engine(hosted_BT.to(world.device), torch.zeros(micro_batch, device=world.device))
                own_RLNH = torch.stack(outputs, dim=1).view(micro_batch, *shape).float()
                rows = torch.from_numpy(indices[indices < n]).to(world.device)
                heads_RLNH[label * n + rows] = own_RLNH[: len(rows)]
                outputs.clear()
    engine.train()
    process_group.all_reduce_sum(heads_RLNH)
    return heads_RLNH


def _fit_and_score(heads_RLNH: Tensor, labels_R: Tensor) -> ProbePoint:
    """Fit a direction per head on the even rows, and score the odd ones."""
    R, L, N, H = heads_RLNH.shape
    fit_PRH = heads_RLNH[0::2].reshape(R // 2, L * N, H).transpose(0, 1).double()
    test_PRH = heads_RLNH[1::2].reshape(R // 2, L * N, H).transpose(0, 1).double()
    toxic_R = labels_R[0::2]
    means = [fit_PRH[:, toxic_R == label].mean(1, keepdim=True) for label in (False, True)]
    centred_PRH = fit_PRH - torch.where(toxic_R[None, :, None], means[1], means[0])
    covariance_PHH = centred_PRH.transpose(1, 2) @ centred_PRH / (R // 2)
    ridge_P = RIDGE * covariance_PHH.diagonal(dim1=1, dim2=2).mean(1).clamp(min=1e-12)
    covariance_PHH.diagonal(dim1=1, dim2=2).add_(ridge_P[:, None])
    direction_PH1 = torch.linalg.solve(covariance_PHH, (means[1] - means[0]).transpose(1, 2))
    threshold_P1 = ((means[0] + means[1]) / 2 @ direction_PH1).squeeze(2)
    fit_PR = (fit_PRH @ direction_PH1).squeeze(2) - threshold_P1
    test_PR = (test_PRH @ direction_PH1).squeeze(2) - threshold_P1
    auroc_P = _auroc(test_PR, labels_R[1::2])
    best = int(_auroc(fit_PR, toxic_R).argmax())
    return ProbePoint(
        auroc=float(auroc_P[best]),
        accuracy=float(((test_PR[best] > 0) == labels_R[1::2]).double().mean()),
        mean_auroc=float(auroc_P.mean()),
        head=divmod(best, N),
        n_windows=R // 2,
    )


def _auroc(scores_PR: Tensor, labels_R: Tensor) -> Tensor:
    """The share of (toxic, clean) pairs whose toxic row scores higher, a tie counted half: [P]."""
    toxic_PR1, clean_P1R = scores_PR[:, labels_R, None], scores_PR[:, None, ~labels_R]
    return ((toxic_PR1 > clean_P1R).double() + (toxic_PR1 == clean_P1R).double() / 2).mean((1, 2))


@contextmanager
def _last_position_outputs(model: OLMo) -> Iterator[list[Tensor]]:
    """A list that each pass fills with the heads' outputs at the last position, [B, N·H] per layer,
    in order of layers.
    """
    outputs: list[Tensor] = []

    def record_output(_: Any, args: tuple[Tensor, ...]) -> None:
        outputs.append(args[0][:, -1].detach())

    hooks = [block.attention.out.register_forward_pre_hook(record_output) for block in model.blocks]
    # A compiled block calls no hook (compilation.py), so the plain forward takes its place.
    prepared = [block.__dict__.pop("forward", None) for block in model.blocks]
    try:
        yield outputs
    finally:
        for block, forward, hook in zip(model.blocks, prepared, hooks, strict=True):
            hook.remove()
            if forward is not None:
                block.forward = forward
