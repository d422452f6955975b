"""what a logged step shows of the model: gradient norm of each block, size of the residual stream after each, memory

Other steps pay nothing: no hook of a module is set, and what is computed stays on the device until the one exchange and host sync
of a logged step. The gradient is read where AdamW is about to be run, reduced over all ranks and not yet clipped, each rank adding
up what it alone saves (zero_state.py); so no parameter is gathered. Attention logits are not watched: no fast kernel shows them.
"""

import resource
from typing import Any

import torch
from torch import Tensor

from training import zero, zero_state
from training.job import Job

EMBEDDING = "embedding"


class Observer:
    """Of one run. Sums are of this rank, to be added up over ranks: [1 + L] squared gradients, [L] mean squares of activations."""

    def __init__(self, job: Job, engine: Any) -> None:
        self._place, self._model = job.place, engine.module
        n_layers = job.run.train.model.n_layers
        self._blocks = [EMBEDDING, *map(str, range(n_layers))]
        self._looks, self._passes, self._layer = False, 0, 0
        self.sums = torch.zeros(1 + 2 * n_layers, dtype=torch.float64, device=job.place.device)
        self._gradient_L, self._residual_L = self.sums[: 1 + n_layers], self.sums[1 + n_layers :]
        index = {name: i for i, name in enumerate(self._blocks)}
        self._fragments = [(index[_block(fragment.name)], fragment) for fragment in zero_state.fragments(engine)]
        zero.before_optimizer(engine, self._see_gradient)

    def look(self, closely: bool) -> None:
        """Whether what comes now is a step that will be logged."""
        self._looks = closely
        self._model.observe = self._see_residual if closely else None
        if closely:
            self._passes = 0
            self.sums.zero_()

    def line(self, sums: list[float]) -> dict[str, Any]:
        """Fields of the journal's line, from `sums` over all ranks; the gradient's are absent if the step was refused."""
        n = len(self._blocks)
        rms = [(square / self._place.world_size / max(1, self._passes)) ** 0.5 for square in sums[n:]]
        gradient = {"block_grad_norm": {name: square**0.5 for name, square in zip(self._blocks, sums[:n], strict=True)}}
        return {"residual_rms": dict(zip(self._blocks[1:], rms, strict=True)), "memory_bytes": memory_bytes(self._place.device)} | (
            gradient if 0 < sum(sums[:n]) < float("inf") else {}
        )

    @torch.no_grad()
    def _see_residual(self, layer: int, x_BTD: Tensor) -> None:
        self._passes += layer == 0
        self._residual_L[layer] += x_BTD.float().square().mean()

    def _see_gradient(self, optimizer: torch.optim.Optimizer) -> None:
        if not self._looks:
            return
        stepping = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
        for block, fragment in self._fragments:  # of which ZeRO steps some at a time
            if id(fragment.flat) in stepping and fragment.flat.grad is not None:
                first, end = fragment.writes
                self._gradient_L[block] += fragment.of(fragment.flat.grad)[first:end].float().square().sum()


def memory_bytes(device: torch.device) -> dict[str, int]:
    """What this rank has taken, now and at most: of the card's memory, or of the host's where there is none."""
    if device.type == "cuda":
        return {"allocated": torch.cuda.memory_allocated(device), "peak": torch.cuda.max_memory_allocated(device)}
    with open("/proc/self/statm") as file:  # noqa: PTH123  # no path of ours
        resident = int(file.read().split()[1]) * resource.getpagesize()
    return {"resident": resident, "peak": max(resident, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)}


def _block(parameter: str) -> str:
    """`blocks.3.mlp.down.weight` → `3`."""
    return parameter.split(".")[1] if parameter.startswith("blocks.") else EMBEDDING
