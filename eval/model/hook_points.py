"""hook points that are read and steered: heads, MLP outputs, the residual stream

    heads      the input of the attention's output projection: the heads' outputs side by side, as
               in inference-time intervention (Li et al. 2023; ITI)
    mlp        what a block's MLP adds to the residual stream
    residual   the residual stream as it leaves a block

Each is [B, T, D] per layer. Heads divide D into N·H; the other two are one unit of size D, so code
for heads works on them with N = 1.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from eval.config import Site
from training.config import ModelConfig
from training.model.olmo import Block, OLMo

Hook = Callable[[Tensor], Tensor | None]  # sees x_BTD, and may return a tensor in its place


def unit_shape(site: Site, config: ModelConfig) -> tuple[int, int]:
    """(N, H): the number of units in a layer, and the size of each."""
    return (config.n_heads, config.d_head) if site == "heads" else (1, config.d_model)


@contextmanager
def hooked(model: OLMo, site: Site, hooks: Mapping[int, Hook]) -> Iterator[None]:
    """Let each layer's hook see, or change, the activations of every forward pass within. The hooks
    are removed in any case.
    """
    handles = []
    try:
        for layer, hook in hooks.items():
            handles.append(_register(model.blocks[layer], site, hook))
        yield
    finally:
        for handle in handles:
            handle.remove()


def _register(block: Block, site: Site, hook: Hook) -> RemovableHandle:
    if site == "heads":

        def before(_: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor] | None:
            changed = hook(inputs[0])
            return None if changed is None else (changed,)

        return block.attention.out.register_forward_pre_hook(before)

    def after(_: nn.Module, inputs: Any, output: Any) -> Tensor | None:
        return hook(output)

    return (block.mlp if site == "mlp" else block).register_forward_hook(after)
