"""Muon for the blocks' matrices, AdamW for the embedding, as one optimizer that honours the guard's
verdict on the device

Muon (Jordan et al. 2024) makes the momentum of a matrix's gradient nearly orthogonal by five
Newton–Schulz steps, and takes a step of that size. Scaled to the root mean square of AdamW's steps,
0.2·√max(rows, columns) (Liu et al. 2025, arXiv:2502.16982), it goes with AdamW's learning rate and
decay. Query, key and value, and gate and up, are matrices of their own, though one tensor here.

DeepSpeed's and torch's Muon know neither `found_inf` nor `grad_scale` (step_guard.py): a spike
would step. Here both are read as by torch's fused AdamW. (DeepSpeed's also puts the update in the
gradient's place before norms are taken, so that norm, clipping and the guard would be of the
update; and it takes query, key and value for one matrix.)

Under ZeRO a rank has a stretch of the momentum, which is added up element by element; only to make
it orthogonal are whole matrices needed. So the ranks gather it, in bf16, as it is multiplied
anyway, each makes the matrices orthogonal that it has a part of, and keeps that part: stages 1 and
2 share out the work as well, but for a matrix that lies across two ranks.

    rank 0  ▐ A A A A B B ▌ ─┐                    A, B → orthogonal → ▐ A A A A B B ▌
    rank 1  ▐ B B C C C C ▌ ─┴─ AAAABBBBCCCC ──▶  B, C → orthogonal → ▐ B B C C C C ▌

Stage 3 shares out each matrix evenly, so every rank makes all of them, as at stage 0.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from training.config import ADAM_EPS, OptimizerConfig
from training.engine import deepspeed_state
from training.model.olmo import Block

MOMENTUM = 0.95  # Nesterov's, as published
COEFFICIENTS = (3.4445, -4.7750, 2.0315)
N_STEPS = 5
EPS = 1e-7


class Muon(torch.optim.Optimizer):
    """Groups with `parts` hold matrices, each of so many of the same size one below the other; the
    others are AdamW's.

    found_inf: where 1, a step changes nothing; grad_scale: what gradients are divided by. Both may
    be absent. stretches: which matrices lie in a flat tensor, and how, where what steps is not the
    matrices themselves.
    """

    def __init__(self, groups: list[dict[str, Any]], config: OptimizerConfig) -> None:
        super().__init__(groups, {"lr": config.learning_rate, "weight_decay": config.weight_decay})
        plain = [group["params"] for group in self.param_groups if "parts" not in group]
        adam = {
            "lr": config.learning_rate,
            "betas": config.betas,
            "eps": ADAM_EPS,
            "fused": True,
        }
        self._adamw = torch.optim.AdamW([{"params": params} for params in plain], **adam)
        self._its_options = self._adamw.param_groups[0] if plain else {}
        self.stretches: dict[Tensor, list[Stretch]] = {}
        self.ranks: Any = None

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """A step of the groups that are here now: DeepSpeed gives them one at a time, with its fp32
        tensors for the weights.
        """
        found_inf, grad_scale = getattr(self, "found_inf", None), getattr(self, "grad_scale", None)
        plain = [group for group in self.param_groups if "parts" not in group and group["params"]]
        self._adamw.param_groups = [
            self._its_options | {name: group[name] for name in ("params", "lr", "weight_decay")}
            for group in plain
        ]
        self._adamw.state = self.state
        self._adamw.found_inf, self._adamw.grad_scale = found_inf, grad_scale  # type: ignore[attr-defined]
        self._adamw.step()
        for group in self.param_groups:
            for parameter in group["params"] if "parts" in group else ():
                self._step(parameter, group, found_inf, grad_scale)

    def _step(
        self,
        parameter: Tensor,
        group: dict[str, Any],
        found_inf: Tensor | None,
        grad_scale: Tensor | None,
    ) -> None:
        assert parameter.grad is not None
        gradient = parameter.grad if grad_scale is None else parameter.grad / grad_scale
        state = self.state[parameter]
        before = state.setdefault("momentum_buffer", torch.zeros_like(parameter))
        momentum = before.lerp(gradient, 1 - MOMENTUM)
        update, parts = gradient.lerp(momentum, MOMENTUM).bfloat16(), group["parts"]
        update = (
            _orthogonal(update, parts)
            if update.dim() == 2
            else self._orthogonal_stretch(parameter, update, parts)
        )
        after = parameter * (1 - group["lr"] * group["weight_decay"]) - group["lr"] * update
        ok = True if found_inf is None else found_inf == 0
        for tensor, new in ((before, momentum), (parameter, after)):
            tensor.copy_(new if ok is True else torch.where(ok, new, tensor))

    def _orthogonal_stretch(self, flat: Tensor, update_P: Tensor, parts: int) -> Tensor:
        """This rank's stretch of the orthogonal matrices; a collective of the ranks that share them
        out.
        """
        n_ranks = torch.distributed.get_world_size(self.ranks)
        update_WP = update_P.new_empty(n_ranks * len(update_P))
        torch.distributed.all_gather_into_tensor(update_WP, update_P, group=self.ranks)
        mine_P = torch.zeros_like(flat)
        for stretch in self.stretches[flat]:
            whole = _orthogonal(stretch.gathered(update_WP.view(n_ranks, -1)), parts).flatten()
            mine_P[stretch.start : stretch.start + stretch.n] = whole[
                stretch.first : stretch.first + stretch.n
            ]
        return mine_P


class Stretch(NamedTuple):
    """`n` elements from `first` on of a matrix of `shape`, in this rank's flat tensor from `start`
    on. offset: where the matrix begins in all ranks' flat tensors laid end to end, None if each has
    an equal share of it, at the same place.
    """

    shape: torch.Size
    first: int
    n: int
    start: int
    offset: int | None

    def gathered(self, update_WP: Tensor) -> Tensor:
        """The matrix, from all ranks' flat tensors."""
        if self.offset is None:
            share = -(-self.shape.numel() // len(update_WP))
            return (
                update_WP[:, self.start : self.start + share]
                .flatten()[: self.shape.numel()]
                .view(self.shape)
            )
        return update_WP.view(-1)[self.offset : self.offset + self.shape.numel()].view(self.shape)


def share_out(engine: Any) -> None:
    """Tell the engine's optimizer, if it is a Muon, where its matrices lie under ZeRO."""
    optimizer, (rank, _) = engine.basic_optimizer, deepspeed_state.data_parallel_rank(engine)
    if not isinstance(optimizer, Muon):
        return
    optimizer.ranks = engine.seq_data_parallel_group
    parameters = dict(engine.module.named_parameters())
    for name, first, n, _, _, flat, start in deepspeed_state.local_fragments(engine):
        whole: Any = parameters[name]
        sliced = hasattr(whole, "ds_shape")
        offset = None if sliced else rank * flat.numel() + start - first
        stretch = Stretch(whole.ds_shape if sliced else whole.shape, first, n, start, offset)
        optimizer.stretches.setdefault(flat, []).append(stretch)


def chosen(model: nn.Module, config: OptimizerConfig) -> torch.optim.Optimizer | None:
    """Muon where the settings ask for it, else None: DeepSpeed makes the AdamW of its own settings."""
    return Muon(groups(model), config) if config.kind == "muon" else None


def groups(model: nn.Module) -> list[dict[str, Any]]:
    """The parameters for Muon: blocks' matrices by how many one tensor holds, then all others."""
    blocks = [module for module in model.modules() if isinstance(module, Block)]
    by_parts = {
        3: [block.attention.qkv.weight for block in blocks],
        2: [block.mlp.gate_up.weight for block in blocks],
        1: [
            weight
            for block in blocks
            for weight in (block.attention.out.weight, block.mlp.down.weight)
        ],
    }
    matrices = {id(weight) for weights in by_parts.values() for weight in weights}
    others = [parameter for parameter in model.parameters() if id(parameter) not in matrices]
    return [{"params": weights, "parts": parts} for parts, weights in by_parts.items()] + [
        {"params": others}
    ]


def _orthogonal(update: Tensor, parts: int) -> Tensor:
    """What to subtract per unit of learning rate: the nearest matrices with equal singular values,
    about 1, at AdamW's scale; of `parts` matrices one below the other, in bf16, which suffices.
    """
    x = update.unflatten(0, (parts, -1))
    a, b, c = COEFFICIENTS
    is_tall, scale = x.shape[-2] > x.shape[-1], 0.2 * max(x.shape[-2:]) ** 0.5
    x = (x.mT if is_tall else x).bfloat16()
    x = x / x.norm(dim=(-2, -1), keepdim=True).clamp(min=EPS)
    for _ in range(N_STEPS):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return scale * (x.mT if is_tall else x).float().flatten(0, 1)
