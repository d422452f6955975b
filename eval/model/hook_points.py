"""the places of a model that are read and steered: heads, MLP outputs, the residual stream

    heads      the input of the attention's output projection: the heads' outputs side by side (Li et al. 2023; ITI)
    mlp        what a block's MLP adds to the residual stream
    residual   the residual stream as it leaves a block

Each is [B, T, D] a layer. Heads divide D into N·H; the other two are one unit of D, so whatever
works on heads works on them with N = 1.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from eval.config import Site
from training.config import ModelConfig
from training.model.olmo import Block, OLMo

Visit = Callable[[Tensor], Tensor | None]  # sees x_BTD, and may return another in its place


def units(site: Site, config: ModelConfig) -> tuple[int, int]:
    """(N, H): how many units a layer has there, and the size of each."""
    return (config.n_heads, config.d_head) if site == "heads" else (1, config.d_model)


@contextmanager
def visited(model: OLMo, site: Site, visits: Mapping[int, Visit]) -> Iterator[None]:
    """Let each layer's visit see, or change, the activations of every forward pass within. The
    hooks go, whatever happens.
    """
    handles = []
    try:
        for layer, visit in visits.items():
            handles.append(_hooked(model.blocks[layer], site, visit))
        yield
    finally:
        for handle in handles:
            handle.remove()


def _hooked(block: Block, site: Site, visit: Visit) -> Any:
    if site == "heads":

        def before(_: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor] | None:
            changed = visit(inputs[0])
            return None if changed is None else (changed,)

        return block.attention.out.register_forward_pre_hook(before)

    def after(_: nn.Module, inputs: Any, output: Any) -> Tensor | None:
        return visit(output)

    return (block.mlp if site == "mlp" else block).register_forward_hook(after)
