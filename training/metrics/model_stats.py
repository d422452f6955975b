"""model statistics of a logged step: gradient norm per block, activations, memory

Steps that are not logged pay nothing: no module has a hook then, and what a logged step computes
stays on the device until the one exchange and host sync of that step. The gradient is read just
before the optimizer steps, reduced over all ranks and not yet clipped; each rank sums the squares
of what it alone saves (deepspeed_state.py), so no parameter is gathered.

The largest attention logit of each layer shows attention that becomes too sharp, which precedes
many divergences. No fast kernel returns it, so it is computed again, exactly, for a sample: the
first row of the step, on the ranks that have it. Queries and keys of one row cost a thousandth of a
step of the 1B.
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
SQUARES_CHUNK = 1 << 22  # elements per dot product


class ModelStats:
    """The statistics of one run, collected in the steps that are logged.

    sums: this rank's sums, to be summed over all ranks: squared gradients of the embedding and of
    each layer [1 + L]; mean squares of the residual stream [L]; largest attention logits [P, L],
    where each of the P tensor-parallel ranks fills its own row, and ranks without the first row of
    the batch leave zeros.
    """

    def __init__(self, engine: Any, world: World) -> None:
        self._world, self._model = world, engine.module
        self._n_layers = engine.module.config.n_layers
        n_layers, n_parallel = self._n_layers, world.size // world.n_data_ranks
        self._blocks = [EMBEDDING, *map(str, range(n_layers))]
        self._is_collecting = False
        self._n_passes = 0
        self._unseen_layers = set[int]()
        self._hooks: list[Any] = []
        sizes = [1 + n_layers, n_layers, n_parallel * n_layers]
        self.sums = torch.zeros(sum(sizes), dtype=torch.float64, device=world.device)
        self._gradient_L, self._residual_L, logits = self.sums.split(sizes)
        self._logit_L = logits.view(n_parallel, n_layers)[world.rank % n_parallel]
        block_index = {name: i for i, name in enumerate(self._blocks)}
        self._fragments = [
            (block_index[_block_of(fragment.name)], fragment)
            for fragment in deepspeed_state.local_fragments(engine)
        ]
        deepspeed_engine.register_pre_step_hook(engine, self._add_gradient)

    def collect(self, enabled: bool) -> None:
        """Collect statistics in the step that follows, or stop collecting."""
        self._is_collecting = enabled
        self._model.observe = self._add_residual if enabled else None
        for hook in self._hooks:
            hook.remove()
        self._hooks = []
        if not enabled:
            return
        self._n_passes = 0
        self.sums.zero_()
        if self._world.data_rank == 0:
            self._unseen_layers = set(range(self._n_layers))
            self._hooks = [
                block.register_forward_pre_hook(self._add_attention_logit)
                for block in self._model.blocks
            ]

    def line(self, sums: list[float]) -> dict[str, Any]:
        """Fields of the metrics line, from `sums` over all ranks.

        The gradient's norms are absent if the step was skipped.
        """
        layers, n = self._blocks[1:], self._n_layers
        gradient, residual, logits = sums[: 1 + n], sums[1 + n : 1 + 2 * n], sums[1 + 2 * n :]
        n_means = self._world.size * max(1, self._n_passes)
        rms = [(square / n_means) ** 0.5 for square in residual]
        largest_logits = [max(logits[layer::n]) for layer in range(n)]
        fields: dict[str, Any] = {
            "residual_rms": dict(zip(layers, rms, strict=True)),
            "attention_logit_max": dict(zip(layers, largest_logits, strict=True)),
            "memory_bytes": memory_bytes(self._world.device),
        }
        if 0 < sum(gradient) < float("inf"):
            norms = [square**0.5 for square in gradient]
            fields["block_grad_norm"] = dict(zip(self._blocks, norms, strict=True))
        return fields

    @torch.no_grad()
    def _add_residual(self, layer: int, x_BTD: Tensor) -> None:
        self._n_passes += layer == 0
        self._residual_L[layer] += x_BTD.float().square().mean()

    @torch.no_grad()
    def _add_attention_logit(self, block: Block, arguments: tuple[Any, ...]) -> None:
        """Runs before a block, when ZeRO-3 has gathered its weights in any case."""
        if block.layer not in self._unseen_layers:  # a later micro-batch of the step
            return
        self._unseen_layers.discard(block.layer)
        x_BTD, (cos, sin), mask, _ = arguments
        x_first = block.attention_norm(x_BTD[:1])
        q_BTNH, k_BTNH, _ = block.attention.heads(x_first, (cos[:1], sin[:1]))
        mask_BTS = mask.mask() if isinstance(mask, PackedDocuments) else mask
        mask_first = None if mask_BTS is None else mask_BTS[:1]
        self._logit_L[block.layer] = max_attention_logit(q_BTNH, k_BTNH, mask_BTS=mask_first)

    def _add_gradient(self, optimizer: torch.optim.Optimizer) -> None:
        """Runs before each step of the optimizer; ZeRO steps some of the fragments at a time."""
        if not self._is_collecting:
            return
        stepping = {
            id(parameter) for group in optimizer.param_groups for parameter in group["params"]
        }
        for block, fragment in self._fragments:
            if id(fragment.flat) in stepping and fragment.flat.grad is not None:
                start, end = fragment.saved
                self._gradient_L[block] += _sum_of_squares(
                    fragment.view(fragment.flat.grad)[start:end]
                )


def memory_bytes(device: torch.device) -> dict[str, int]:
    """Memory that this rank uses now and used at most: of the GPU, or of the host without one."""
    if device.type == "cuda":
        return {
            "allocated": torch.cuda.memory_allocated(device),
            "peak": torch.cuda.max_memory_allocated(device),
        }
    with open("/proc/self/statm") as file:  # noqa: PTH123  # a fixed system path
        resident = int(file.read().split()[1]) * resource.getpagesize()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {"resident": resident, "peak": max(resident, peak)}


def _sum_of_squares(x: Tensor) -> Tensor:
    """Σx² in chunks.

    Chunks avoid a second copy of the gradient, and a longer dot product in fp32 would be off by
    1e-3.
    """
    chunks = (chunk.float() for chunk in x.split(SQUARES_CHUNK))
    return torch.stack([chunk.dot(chunk) for chunk in chunks]).sum()


def _block_of(parameter: str) -> str:
    """`blocks.3.mlp.down.weight` → `3`."""
    return parameter.split(".")[1] if parameter.startswith("blocks.") else EMBEDDING
