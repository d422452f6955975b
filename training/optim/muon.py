"""Muon for the matrices of the blocks, AdamW for the embedding, as one optimizer

Muon (Jordan et al. 2024) makes the momentum of a matrix's gradient nearly orthogonal by five
Newton–Schulz iterations and steps by the result. Scaled to the root mean square of AdamW's updates,
0.2·√max(rows, columns) (Liu et al. 2025, arXiv:2502.16982), it works with AdamW's learning rate and
decay. Query, key and value, and gate and up, are separate matrices, though one tensor here.

The Muon of DeepSpeed and that of torch ignore `found_inf` and `grad_scale` (step_guard.py), so a
spike would change the weights. This one reads both as torch's fused AdamW does. (DeepSpeed's also
replaces the gradient by the update before norms are computed, so that norm, clipping and guard
would see the update; and it treats query, key and value as one matrix.)

Under ZeRO a rank holds a slice of the momentum, which is updated element by element; only the
orthogonalization needs whole matrices. So the ranks gather the momentum, in bf16, in which it is
multiplied anyway, each orthogonalizes the matrices that it holds a part of, and keeps that part.
Stages 1 and 2 so partition the work as well, except for a matrix that lies across two ranks.

    rank 0  ▐ A A A A B B ▌ ─┐                    A, B → orthogonal → ▐ A A A A B B ▌
    rank 1  ▐ B B C C C C ▌ ─┴─ AAAABBBBCCCC ──▶  B, C → orthogonal → ▐ B B C C C C ▌

Stage 3 partitions every matrix evenly, so every rank orthogonalizes all of them, as at stage 0.

Shapes: W rank, P elements of this rank's flat tensor.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from training.config import ADAM_EPS, OptimizerConfig
from training.engine import deepspeed_state
from training.model.olmo import Block

MOMENTUM = 0.95  # Nesterov momentum, as published
COEFFICIENTS = (3.4445, -4.7750, 2.0315)
N_ITERATIONS = 5
MATMUL_DTYPE = torch.bfloat16  # precise enough: singular values need only be about 1
EPS = 1e-7


class Muon(torch.optim.Optimizer):
    """Muon for parameter groups with `n_matrices`, AdamW for the others.

    n_matrices: how many matrices of one size each tensor of the group holds, one below the other.
    found_inf: where it is 1, a step changes nothing. grad_scale: what gradients are divided by.
    Both attributes may be absent. slices: under ZeRO, which parts of matrices each flat tensor
    holds.
    """

    def __init__(self, groups: list[dict[str, Any]], config: OptimizerConfig) -> None:
        super().__init__(groups, {"lr": config.learning_rate, "weight_decay": config.weight_decay})
        others = [
            {"params": group["params"]} for group in self.param_groups if "n_matrices" not in group
        ]
        self._adamw = torch.optim.AdamW(
            others, lr=config.learning_rate, betas=config.betas, eps=ADAM_EPS, fused=True
        )
        self._adamw_options = self._adamw.param_groups[0] if others else {}
        self.slices: dict[Tensor, list[MatrixSlice]] = {}
        self.ranks: Any = None

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Update the present parameter groups.

        DeepSpeed presents them one at a time, with its fp32 tensors in place of the weights.
        """
        found_inf, grad_scale = getattr(self, "found_inf", None), getattr(self, "grad_scale", None)
        self._adamw.param_groups = [
            self._adamw_options | {name: group[name] for name in ("params", "lr", "weight_decay")}
            for group in self.param_groups
            if "n_matrices" not in group and group["params"]
        ]
        self._adamw.state = self.state
        self._adamw.found_inf = found_inf  # type: ignore[attr-defined]
        self._adamw.grad_scale = grad_scale  # type: ignore[attr-defined]
        self._adamw.step()
        for group in self.param_groups:
            for parameter in group["params"] if "n_matrices" in group else ():
                self._update(parameter, group, found_inf, grad_scale)

    def _update(
        self,
        parameter: Tensor,
        group: dict[str, Any],
        found_inf: Tensor | None,
        grad_scale: Tensor | None,
    ) -> None:
        assert parameter.grad is not None
        gradient = parameter.grad if grad_scale is None else parameter.grad / grad_scale
        buffer = self.state[parameter].setdefault("momentum_buffer", torch.zeros_like(parameter))
        momentum = buffer.lerp(gradient, 1 - MOMENTUM)
        update = gradient.lerp(momentum, MOMENTUM).to(MATMUL_DTYPE)
        if update.dim() == 2:
            update = _orthogonalized(update, group["n_matrices"])
        else:
            update = self._orthogonalized_slice(parameter, update, group["n_matrices"])
        decayed = parameter * (1 - group["lr"] * group["weight_decay"])
        stepped = decayed - group["lr"] * update
        for tensor, new in ((buffer, momentum), (parameter, stepped)):
            tensor.copy_(new if found_inf is None else torch.where(found_inf == 0, new, tensor))

    def _orthogonalized_slice(self, flat: Tensor, update_P: Tensor, n_matrices: int) -> Tensor:
        """This rank's slice of the orthogonal matrices; a collective of the ranks that partition
        them.
        """
        n_ranks = torch.distributed.get_world_size(self.ranks)
        update_WP = update_P.new_empty(n_ranks * len(update_P))
        torch.distributed.all_gather_into_tensor(update_WP, update_P, group=self.ranks)
        own_P = torch.zeros_like(flat)
        for part in self.slices[flat]:
            matrix = part.gathered(update_WP.view(n_ranks, -1))
            whole = _orthogonalized(matrix, n_matrices).flatten()
            own_P[part.start : part.start + part.n] = whole[part.first : part.first + part.n]
        return own_P


class MatrixSlice(NamedTuple):
    """`n` elements of a matrix of `shape`, from element `first` on, in this rank's flat tensor from
    element `start` on.

    offset: where the matrix begins in the flat tensors of all ranks, laid end to end; None if each
    rank has an equal part of it, at the same place.
    """

    shape: torch.Size
    first: int
    n: int
    start: int
    offset: int | None

    def gathered(self, update_WP: Tensor) -> Tensor:
        """The matrix, from the flat tensors of all ranks."""
        n_elements = self.shape.numel()
        if self.offset is None:
            per_rank = -(-n_elements // len(update_WP))
            parts = update_WP[:, self.start : self.start + per_rank]
            return parts.flatten()[:n_elements].view(self.shape)
        return update_WP.view(-1)[self.offset : self.offset + n_elements].view(self.shape)


def optimizer_for(model: nn.Module, config: OptimizerConfig) -> torch.optim.Optimizer | None:
    """Muon, or None for AdamW, which DeepSpeed builds from its settings."""
    return Muon(parameter_groups(model), config) if config.kind == "muon" else None


def assign_partitions(engine: Any) -> None:
    """Tell the engine's optimizer, if it is Muon, which parts of matrices this rank holds."""
    optimizer = engine.basic_optimizer
    if not isinstance(optimizer, Muon):
        return
    rank, _ = deepspeed_state.data_parallel_rank(engine)
    optimizer.ranks = engine.seq_data_parallel_group
    parameters = dict(engine.module.named_parameters())
    for fragment in deepspeed_state.local_fragments(engine):
        parameter: Any = parameters[fragment.name]
        is_zero3 = hasattr(parameter, "ds_shape")
        shape = parameter.ds_shape if is_zero3 else parameter.shape
        offset = (
            None if is_zero3 else rank * fragment.flat.numel() + fragment.start - fragment.first
        )
        part = MatrixSlice(shape, fragment.first, fragment.n, fragment.start, offset)
        optimizer.slices.setdefault(fragment.flat, []).append(part)


def parameter_groups(model: nn.Module) -> list[dict[str, Any]]:
    """The matrices of the blocks, by how many one tensor holds, then all other parameters."""
    blocks = [module for module in model.modules() if isinstance(module, Block)]
    by_n_matrices = {
        3: [block.attention.qkv.weight for block in blocks],
        2: [block.mlp.gate_up.weight for block in blocks],
        1: [
            weight
            for block in blocks
            for weight in (block.attention.out.weight, block.mlp.down.weight)
        ],
    }
    matrices = {id(weight) for weights in by_n_matrices.values() for weight in weights}
    others = [parameter for parameter in model.parameters() if id(parameter) not in matrices]
    groups = [{"params": weights, "n_matrices": n} for n, weights in by_n_matrices.items()]
    return [*groups, {"params": others}]


def _orthogonalized(update: Tensor, n_matrices: int) -> Tensor:
    """The update per unit of learning rate: the nearest matrix whose singular values are all about
    1, at AdamW's scale.

    `update` holds n_matrices matrices, one below the other.
    """
    x = update.unflatten(0, (n_matrices, -1))
    a, b, c = COEFFICIENTS
    is_tall = x.shape[-2] > x.shape[-1]
    scale = 0.2 * max(x.shape[-2:]) ** 0.5
    x = (x.mT if is_tall else x).to(MATMUL_DTYPE)
    x = x / x.norm(dim=(-2, -1), keepdim=True).clamp(min=EPS)
    for _ in range(N_ITERATIONS):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return scale * (x.mT if is_tall else x).float().flatten(0, 1)
