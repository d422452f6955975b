"""prepare a model to run: compiled blocks, activation checkpointing, precision, GC pauses

Each block is compiled by itself, and since all blocks share their code, only once: DeepSpeed's
hooks stay between the blocks, so that gathering weights and reducing gradients overlap with
computation, and a 1B compiles as fast as one layer. Only a block's `forward` is replaced, not its
class or its position, so parameters keep their names and code that reads the model finds it
unchanged.

    activation_checkpointing   kept of a block's forward     recomputed in the backward pass
    none                       everything                    nothing
    selective                  matmuls and attention         norms, rotations, silu: cheap, and half
                                                             of what an uncompiled block keeps
    block                      its input                     everything, a third more work
"""

import gc
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any, TypeVar

import torch
from torch import nn
from torch.utils.checkpoint import (
    CheckpointPolicy,
    checkpoint,
    create_selective_checkpoint_contexts,
)

from training.config import TrainComputeConfig
from training.model import determinism, fp8
from training.model.attention import describe_kernel, kernel_name
from training.model.loss import OLMoForTraining
from training.model.olmo import cpu_has_bf16_matmul

T = TypeVar("T")

WARM_UP_STEPS = 2  # objects alive after them stay alive: optimizer state, compiled code
COLLECT_EVERY_STEPS = 1000
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


def compute_dtype(compute: TrainComputeConfig) -> torch.dtype:
    """The dtype of weights and activations in the forward and backward pass."""
    return torch.bfloat16 if compute.precision == "bf16" else torch.float32


def prepare(model: OLMoForTraining, compute: TrainComputeConfig, device: torch.device) -> None:
    """Make `model` run as `compute` says on this device; before DeepSpeed wraps it."""
    if compute.fp8:
        fp8.convert(model, device)
    is_compiled = _is_compiled(compute, device, hasattr(model, "mpu"))
    model.compiled_loss = is_compiled
    if is_compiled:
        # Here and not where they are defined, for it imports the compiler: 2 s of every process.
        for constant in (kernel_name, cpu_has_bf16_matmul):
            torch.compiler.assume_constant_result(constant)
    for block in model.blocks:
        forward = _checkpointed(block.forward, compute.activation_checkpointing)
        _replace_forward(block, torch.compile(forward, dynamic=False) if is_compiled else forward)
    if device.type == "cuda" and compute.precision == "bf16":
        # None of our products is fp32; those inside a library need not be exact.
        torch.set_float32_matmul_precision("high")


def describe(
    compute: TrainComputeConfig,
    device: torch.device,
    *,
    tensor_parallel: int = 1,
    d_head: int = 128,
    document_mask: bool = False,
) -> dict[str, str]:
    """How `prepare` makes a model run, for the run record."""
    is_compiled = _is_compiled(compute, device, tensor_parallel > 1)
    return {
        "attention": describe_kernel(
            device, compute_dtype(compute), d_head, document_mask=document_mask
        ),
        "compiled": "each block, the loss" if is_compiled else "nothing",
        "activation checkpointing": compute.activation_checkpointing,
        "matmul": "FP8 in the blocks" if compute.fp8 else compute.precision,
        "deterministic": determinism.describe(device.type, deterministic=compute.deterministic),
    }


def gc_between_steps(items: Iterable[T]) -> Iterator[T]:
    """Yield `items`, one per step, and run Python's garbage collector between steps only.

    A collection walks the objects of all libraries, which takes 0.1 s and more. By default it runs
    whenever allocation triggers it, on each rank at another time, and all ranks wait for each. Here
    it runs once after the warm-up, then freezes what is alive, and runs again every
    COLLECT_EVERY_STEPS steps, at the same step on all ranks.
    """
    was_enabled = gc.isenabled()
    try:
        for n_steps, item in enumerate(items):
            if n_steps == WARM_UP_STEPS:
                gc.collect()
                gc.freeze()
                gc.disable()
            elif n_steps > WARM_UP_STEPS and n_steps % COLLECT_EVERY_STEPS == 0:
                gc.collect()
            yield item
    finally:
        gc.unfreeze()
        if was_enabled:
            gc.enable()


def _is_compiled(
    compute: TrainComputeConfig, device: torch.device, is_tensor_parallel: bool
) -> bool:
    if compute.compile == "auto":
        # megatron-core's layers communicate inside a block; they are compiled on request only
        return device.type == "cuda" and not is_tensor_parallel
    return compute.compile == "on"


def _checkpointed(forward: Callable[..., Any], activation_checkpointing: str) -> Callable[..., Any]:
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


def _replace_forward(module: nn.Module, forward: Callable[..., Any]) -> None:
    module.forward = forward
