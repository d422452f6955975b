"""FP8 parity gate: the same training steps with and without FP8 must reach the same loss

bf16 is the reference. Both trainings start from the same weights and see the same batches, in plain
PyTorch, so that the rounding of the blocks' matrix products is the only difference between them.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from data_prep.core.settings import evolve
from training.config import TrainConfig
from training.model import compilation
from training.model.loss import OLMoForTraining

MAX_RELATIVE_GAP = 0.01  # of the mean loss over the last half of the steps: our choice


N_STEPS = 50
LEARNING_RATE = 4e-4


class Fp8Parity(NamedTuple):
    """Losses of the same steps without and with FP8, in nats per token."""

    reference: list[float]
    fp8: list[float]

    @property
    def gap(self) -> float:
        """Relative difference of the mean losses over the last half; NaN if one diverged."""
        reference, fp8 = (sum(losses[len(losses) // 2 :]) for losses in self)
        return abs(fp8 - reference) / reference

    @property
    def holds(self) -> bool:
        return self.gap <= MAX_RELATIVE_GAP


def fp8_parity(train: TrainConfig, batches: list[Tensor], device: torch.device) -> Fp8Parity:
    """Train on the same batches of tokens, each [B, T], without and with FP8."""
    reference = _train_plain(evolve(train, {"compute.fp8": False}), batches, device)
    return Fp8Parity(reference, _train_plain(evolve(train, {"compute.fp8": True}), batches, device))


def _train_plain(train: TrainConfig, batches: list[Tensor], device: torch.device) -> list[float]:
    """The loss of each step, in nats per token."""
    model = OLMoForTraining(train.model)
    model.initialise(0)
    model.to(device)
    compilation.prepare(model, train.compute, device)
    optimizer = torch.optim.AdamW(
        model.parameters(),
        lr=train.optimizer.learning_rate,
        betas=train.optimizer.betas,
        weight_decay=train.optimizer.weight_decay,
        fused=True,
    )
    losses = []
    for tokens_BT in batches:
        n = tokens_BT.numel() - len(tokens_BT)
        with torch.autocast(device.type, torch.bfloat16, enabled=train.compute.precision == "bf16"):
            total, loss_B = model(
                tokens_BT.to(device), torch.full((len(tokens_BT),), 1 / n, device=device)
            )
        total.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), train.optimizer.gradient_clip)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss_B.sum() / n)
    return torch.stack(losses).tolist()


def cyclic_batches(n_batches: int, rows: int, length: int, n_ids: int) -> list[Tensor]:
    """Batches of cyclic text, which can be learned in few steps, each [B, T]."""
    generator = torch.Generator().manual_seed(0)
    start = torch.randint(n_ids, (n_batches, rows, 1), generator=generator)
    return list((start + torch.arange(length)) % n_ids)
