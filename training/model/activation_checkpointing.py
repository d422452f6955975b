"""activation checkpointing: which activations of a block the backward pass recomputes

activation_checkpointing   kept of a block's forward     recomputed in the backward pass
none                       everything                    nothing
selective                  matmuls and attention         norms, rotations, silu: cheap, and half
                                                         of what an uncompiled block keeps
block                      its input                     everything, a third more work
"""

from collections.abc import Callable
from functools import partial
from typing import Any

from torch.utils.checkpoint import (
    CheckpointPolicy,
    checkpoint,
    create_selective_checkpoint_contexts,
)

KEPT_OPERATIONS = (  # by name: an operation of a missing package or another device is never called
    "aten.mm",
    "aten.addmm",
    "aten.bmm",
    "aten._scaled_dot_product_flash_attention",
    "aten._scaled_dot_product_flash_attention_for_cpu",
    "aten._scaled_dot_product_efficient_attention",
    "aten._scaled_dot_product_cudnn_attention",
    "flash_attn._flash_attn_forward",
    "flash_attn._flash_attn_varlen_forward",
    "flash_attn_3.fwd",
    "torch_attn._varlen_attn",
)


def checkpointed(forward: Callable[..., Any], activation_checkpointing: str) -> Callable[..., Any]:
    """A block's `forward`, with the activations kept that the setting names."""
    if activation_checkpointing == "none":
        return forward
    options: dict[str, Any] = {}
    if activation_checkpointing == "selective":
        options["context_fn"] = partial(create_selective_checkpoint_contexts, _checkpoint_policy)
    # There is no dropout, so there is no random state to restore.
    return partial(checkpoint, forward, use_reentrant=False, preserve_rng_state=False, **options)


def _checkpoint_policy(_: Any, operation: Any, *__: Any, **___: Any) -> CheckpointPolicy:
    is_kept = str(operation).startswith(tuple(name + "." for name in KEPT_OPERATIONS))
    return CheckpointPolicy.MUST_SAVE if is_kept else CheckpointPolicy.PREFER_RECOMPUTE
