"""hook points that are read and steered: heads, MLP outputs, the residual stream

    heads      the input of the attention's output projection: the heads' outputs side by side, as
               in inference-time intervention (Li et al. 2023; ITI)
    mlp        what a block's MLP adds to the residual stream
    residual   the residual stream as it leaves a block

Each is [B, T, D] per layer. Heads divide D into N·H, which need not be the model's width; the other
two are one unit of the model's width, so code for heads works on them with N = 1.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from eval.config import Site
from eval.model.subject.subject_model import HookPoint, ModelShape, SubjectModel

Hook = Callable[[Tensor], Tensor | None]  # sees x_BTD, and may return a tensor in its place


def unit_shape(site: Site, shape: ModelShape) -> tuple[int, int]:
    """(N, H): the number of units in a layer, and the size of each."""
    return (shape.n_heads, shape.d_head) if site == "heads" else (1, shape.d_model)


@contextmanager
def hooked(model: SubjectModel, site: Site, hooks: Mapping[int, Hook]) -> Iterator[None]:
    """Let each layer's hook see, or change, the activations of every forward pass within. The hooks
    are removed in any case.
    """
    handles = []
    try:
        for layer, hook in hooks.items():
            handles.append(_register(model.hook_point(site, layer), hook))
        yield
    finally:
        for handle in handles:
            handle.remove()


def _register(point: HookPoint, hook: Hook) -> RemovableHandle:
    if point.is_input:

        def before(_: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor] | None:
            changed = hook(inputs[0])
            return None if changed is None else (changed,)

        return point.module.register_forward_pre_hook(before)

    def after(_: nn.Module, inputs: Any, output: Any) -> Tensor | None:
        return hook(output)

    return point.module.register_forward_hook(after)
