"""what a logged step shows of the model: gradient norm of each block, residual stream, attention
logits, memory

Other steps pay nothing: no hook of a module is set, and what is computed stays on the device until
the one exchange and host sync of a logged step. The gradient is read where AdamW is about to be
run, reduced over all ranks and not yet clipped, each rank adding up what it alone saves
(deepspeed_state.py); so no parameter is gathered.

The largest attention logit of each layer tells of attention that hardens, which comes before many a
divergence. No fast kernel shows it, so it is made again, exactly, for a sample: the first row of
the step, on the ranks that have it. Queries and keys of a row cost a thousandth of a step of the
1B.
"""

import resource
from typing import Any

import torch
from torch import Tensor

from training.engine import deepspeed_engine, deepspeed_state
from training.engine.process_group import World
from training.model.attention import PackedDocuments, max_attention_logit
from training.model.olmo import Block

EMBEDDING = "embedding"
PIECE = 1 << 22


class ModelStats:
    """Of one run. Sums are of this rank, to be added up over ranks: [1 + L] squared gradients, [L]
    mean squares of activations, and [P, L] largest logits, of each of P tensor-parallel ranks in
    its own row, 0 from those that have another row of the batch.
    """

    def __init__(self, engine: Any, world: World) -> None:
        self._world, self._model = world, engine.module
        n_layers = engine.module.config.n_layers
        self._blocks = [EMBEDDING, *map(str, range(n_layers))]
        self._looks, self._passes, self._unseen = False, 0, set[int]()
        self._n_parts, self._n_layers = world.size // world.n_data_ranks, n_layers
        self.sums = torch.zeros(
            1 + (2 + self._n_parts) * n_layers, dtype=torch.float64, device=world.device
        )
        self._gradient_L, self._residual_L, logits = self.sums.split(
            [1 + n_layers, n_layers, self._n_parts * n_layers]
        )
        self._logit_L = logits.view(self._n_parts, n_layers)[world.rank % self._n_parts]
        self._hooks: list[Any] = []
        index = {name: i for i, name in enumerate(self._blocks)}
        self._fragments = [
            (index[_block(fragment.name)], fragment)
            for fragment in deepspeed_state.local_fragments(engine)
        ]
        deepspeed_engine.register_pre_step_hook(engine, self._see_gradient)

    def look(self, closely: bool) -> None:
        """Whether what comes now is a step that will be logged."""
        self._looks = closely
        self._model.observe = self._see_residual if closely else None
        for hook in self._hooks:
            hook.remove()
        self._hooks = []
        if closely:
            self._passes = 0
            self.sums.zero_()
        if closely and self._world.data_rank == 0:
            self._unseen = set(range(self._n_layers))
            self._hooks = [
                block.register_forward_pre_hook(self._see_logits) for block in self._model.blocks
            ]

    def line(self, sums: list[float]) -> dict[str, Any]:
        """Fields of the journal's line, from `sums` over all ranks; the gradient's are absent if
        the step was refused.
        """
        layers, n = self._blocks[1:], self._n_layers
        gradient, residual, logits = sums[: 1 + n], sums[1 + n : 1 + 2 * n], sums[1 + 2 * n :]
        rms = [(square / self._world.size / max(1, self._passes)) ** 0.5 for square in residual]
        largest = [max(logits[layer::n]) for layer in range(n)]
        norms = {name: square**0.5 for name, square in zip(self._blocks, gradient, strict=True)}
        return {
            "residual_rms": dict(zip(layers, rms, strict=True)),
            "attention_logit_max": dict(zip(layers, largest, strict=True)),
            "memory_bytes": memory_bytes(self._world.device),
        } | ({"block_grad_norm": norms} if 0 < sum(gradient) < float("inf") else {})

    @torch.no_grad()
    def _see_residual(self, layer: int, x_BTD: Tensor) -> None:
        self._passes += layer == 0
        self._residual_L[layer] += x_BTD.float().square().mean()

    @torch.no_grad()
    def _see_logits(self, block: Block, arguments: tuple[Any, ...]) -> None:
        """Before a block runs, when its weights are here in any case."""
        if block.layer not in self._unseen:  # the passes after the first
            return
        self._unseen.discard(block.layer)
        x_BTD, (cos, sin), mask, _ = arguments
        q_BTNH, k_BTNH, _ = block.attention.heads(
            block.attention_norm(x_BTD[:1]), (cos[:1], sin[:1])
        )
        mask_BTS = mask.mask() if isinstance(mask, PackedDocuments) else mask
        self._logit_L[block.layer] = max_attention_logit(
            q_BTNH, k_BTNH, mask_BTS=None if mask_BTS is None else mask_BTS[:1]
        )

    def _see_gradient(self, optimizer: torch.optim.Optimizer) -> None:
        if not self._looks:
            return
        stepping = {
            id(parameter) for group in optimizer.param_groups for parameter in group["params"]
        }
        for block, fragment in self._fragments:  # of which ZeRO steps some at a time
            if id(fragment.flat) in stepping and fragment.flat.grad is not None:
                first, end = fragment.writes
                self._gradient_L[block] += _squares(fragment.of(fragment.flat.grad)[first:end])


def memory_bytes(device: torch.device) -> dict[str, int]:
    """What this rank has taken, now and at most: of the card's memory, or of the host's where there
    is none.
    """
    if device.type == "cuda":
        return {
            "allocated": torch.cuda.memory_allocated(device),
            "peak": torch.cuda.max_memory_allocated(device),
        }
    with open("/proc/self/statm") as file:  # noqa: PTH123  # no path of ours
        resident = int(file.read().split()[1]) * resource.getpagesize()
    return {
        "resident": resident,
        "peak": max(resident, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024),
    }


def _squares(x: Tensor) -> Tensor:
    """Σx², in pieces: no second gradient is made, and in fp32 a dot product of more would be off by
    1e-3.
    """
    return torch.stack(
        [piece.dot(piece) for piece in (part.float() for part in x.split(PIECE))]
    ).sum()


def _block(parameter: str) -> str:
    """`blocks.3.mlp.down.weight` → `3`."""
    return parameter.split(".")[1] if parameter.startswith("blocks.") else EMBEDDING
