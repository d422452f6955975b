"""Muon for the blocks' matrices, AdamW for the embedding, as one optimizer that honours the guard's verdict on the device

Muon (Jordan et al. 2024) makes the momentum of a matrix's gradient nearly orthogonal by five Newton–Schulz steps, and takes a step
of that size. Scaled to the root mean square of AdamW's steps, 0.2·√max(rows, columns) (Liu et al. 2025, arXiv:2502.16982), it goes
with AdamW's learning rate and decay. Query, key and value, and gate and up, are matrices of their own, though one tensor here.

DeepSpeed's and torch's Muon know neither `found_inf` nor `grad_scale` (guards.py): a spike would step. Here both are read as by
torch's fused AdamW. A whole matrix has to lie in one place, so this is for ZeRO stage 0: 12 bytes of fp32 weights, momentum and
gradient a parameter on every rank, which a card has room for up to some 3B parameters.
"""

from typing import Any

import torch
from torch import Tensor, nn

from training.config import TrainConfig
from training.model import Block

MOMENTUM = 0.95  # Nesterov's, as published
COEFFICIENTS = (3.4445, -4.7750, 2.0315)
N_STEPS = 5
EPS = 1e-7


class Muon(torch.optim.Optimizer):
    """Groups with `parts` hold matrices, each of so many of the same size one below the other; the others are AdamW's.

    found_inf: where 1, a step changes nothing; grad_scale: what gradients are divided by. Both may be absent.
    """

    def __init__(self, groups: list[dict[str, Any]], train: TrainConfig) -> None:
        super().__init__(groups, {"lr": train.learning_rate, "weight_decay": train.weight_decay})
        plain = [group for group in self.param_groups if "parts" not in group]
        adam = {"betas": train.betas, "eps": train.adam_eps, "fused": True}
        self._adamw = torch.optim.AdamW([{"params": group["params"]} for group in plain], lr=train.learning_rate, **adam)

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        found_inf, grad_scale = getattr(self, "found_inf", None), getattr(self, "grad_scale", None)
        plain = [group for group in self.param_groups if "parts" not in group]
        for ours, theirs in zip(plain, self._adamw.param_groups, strict=True):  # DeepSpeed puts fp32 copies in place of weights
            theirs |= {"params": ours["params"], "lr": ours["lr"], "weight_decay": ours["weight_decay"]}
        self._adamw.state = self.state
        self._adamw.found_inf, self._adamw.grad_scale = found_inf, grad_scale  # type: ignore[attr-defined]
        self._adamw.step()
        for group in self.param_groups:
            for parameter in group["params"] if "parts" in group else ():
                self._step(parameter, group, found_inf, grad_scale)

    def _step(self, parameter: Tensor, group: dict[str, Any], found_inf: Tensor | None, grad_scale: Tensor | None) -> None:
        assert parameter.grad is not None
        gradient = parameter.grad if grad_scale is None else parameter.grad / grad_scale
        state = self.state[parameter]
        before = state.setdefault("momentum_buffer", torch.zeros_like(parameter))
        momentum = before.lerp(gradient, 1 - MOMENTUM)
        update = _orthogonal(gradient.lerp(momentum, MOMENTUM).unflatten(0, (group["parts"], -1)))
        size = group["lr"] * 0.2 * max(update.shape[-2:]) ** 0.5
        after = parameter * (1 - group["lr"] * group["weight_decay"]) - size * update.flatten(0, 1)
        ok = True if found_inf is None else found_inf == 0
        for tensor, new in ((before, momentum), (parameter, after)):
            tensor.copy_(new if ok is True else torch.where(ok, new, tensor))


def chosen(model: nn.Module, train: TrainConfig) -> torch.optim.Optimizer | None:
    """Muon where `train` asks for it, else None: DeepSpeed makes the AdamW of its own settings."""
    return Muon(groups(model), train) if train.optimizer == "muon" else None


def groups(model: nn.Module) -> list[dict[str, Any]]:
    """The parameters for Muon: blocks' matrices by how many one tensor holds, then all others."""
    blocks = [module for module in model.modules() if isinstance(module, Block)]
    by_parts = {
        3: [block.attention.qkv.weight for block in blocks],
        2: [block.mlp.gate_up.weight for block in blocks],
        1: [weight for block in blocks for weight in (block.attention.out.weight, block.mlp.down.weight)],
    }
    matrices = {id(weight) for weights in by_parts.values() for weight in weights}
    others = [parameter for parameter in model.parameters() if id(parameter) not in matrices]
    return [{"params": weights, "parts": parts} for parts, weights in by_parts.items()] + [{"params": others}]


def _orthogonal(update: Tensor) -> Tensor:
    """The nearest matrices with equal singular values, about 1, of [parts, rows, columns]; in bf16, which suffices."""
    a, b, c = COEFFICIENTS
    is_tall = update.shape[-2] > update.shape[-1]
    x = (update.mT if is_tall else update).bfloat16()
    x = x / x.norm(dim=(-2, -1), keepdim=True).clamp(min=EPS)
    for _ in range(N_STEPS):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return (x.mT if is_tall else x).to(update.dtype)
