"""how a model is made ready to run: blocks compiled, activations recomputed, precision, garbage
collected between steps

Each block is compiled apart, and since they share their code, once for all: DeepSpeed's hooks stay
between the blocks, so that gathering weights and reducing gradients overlap with computing, and a
1B compiles as fast as one layer. The block's `forward` is replaced and not its class or its place,
so parameters keep their names and whoever reads the model finds it as it was.

    activation_checkpointing   kept of a block's forward                          computed again in the backward
    none                       everything                                         nothing
    selective                  products of matrices and attention                 norms, rotations, silu: cheap to compute,
                                                                                  and half of what
                                                                                  an uncompiled
                                                                                  block keeps
    block                      its input                                          everything, a third more work
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

from training.config import TrainConfig
from training.model import fp8
from training.model.attention import kernel_name
from training.model.loss import OLMoForTraining
from training.model.olmo import cpu_has_bf16_matmul

T = TypeVar("T")

WARM_UP_STEPS = 2  # after them what lives will live on: optimizer states, compiled code
COLLECT_EVERY_STEPS = 1000
KEPT = (  # by name: what is not installed, or of another device, is simply never called
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


def prepare(model: OLMoForTraining, train: TrainConfig, device: torch.device) -> None:
    """Make `model`, before DeepSpeed takes it, run as these settings say on this device."""
    if train.compute.fp8:
        fp8.convert(model, device)
    model.compiled_loss = compiled = _compiles(train, device)
    if compiled:  # said here and not where they are defined, for it imports the compiler: 2 s of every process
        for constant in (kernel_name, cpu_has_bf16_matmul):
            torch.compiler.assume_constant_result(constant)
    for block in model.blocks:
        forward = _checkpointed(block.forward, train.compute.activation_checkpointing)
        _replace_forward(block, torch.compile(forward, dynamic=False) if compiled else forward)
    if device.type == "cuda" and train.compute.precision == "bf16":
        torch.set_float32_matmul_precision(
            "high"
        )  # no product we name is fp32; those of a library need not be exact


def describe(train: TrainConfig, device: torch.device) -> dict[str, str]:
    """How `prepare` makes it run, for the record."""
    return {
        "attention": kernel_name(
            device, torch.bfloat16 if train.compute.precision == "bf16" else torch.float32
        ),
        "compiled": "each block, the loss" if _compiles(train, device) else "nothing",
        "activation checkpointing": train.compute.activation_checkpointing,
        "products": "FP8 in the blocks" if train.compute.fp8 else train.compute.precision,
    }


def gc_between_steps(items: Iterable[T]) -> Iterator[T]:
    """`items`, one a step, with Python's garbage collector kept out of the steps.

    A collection walks every object of every library, 0.1 s and more, whenever allocation asks for
    it, on each rank at another time, and all wait for all. Here it runs once after the warm-up,
    what it finds alive is never walked again, and then every 1,000 steps, at the same step
    everywhere.
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


def _compiles(train: TrainConfig, device: torch.device) -> bool:
    if (
        train.compute.compile == "auto"
    ):  # megatron-core's layers, which talk to other ranks, are compiled only where that is asked for
        return device.type == "cuda" and train.parallel.tensor_parallel == 1
    return train.compute.compile == "on"


def _checkpointed(forward: Callable[..., Any], how: str) -> Callable[..., Any]:
    if how == "none":
        return forward
    selective: dict[str, Any] = (
        {"context_fn": partial(create_selective_checkpoint_contexts, _keep)}
        if how == "selective"
        else {}
    )
    return partial(
        checkpoint, forward, use_reentrant=False, preserve_rng_state=False, **selective
    )  # there is no dropout


def _keep(_: Any, operation: Any, *__: Any, **___: Any) -> CheckpointPolicy:
    kept = str(operation).startswith(tuple(name + "." for name in KEPT))
    return CheckpointPolicy.MUST_SAVE if kept else CheckpointPolicy.PREFER_RECOMPUTE


def _replace_forward(module: nn.Module, forward: Callable[..., Any]) -> None:
    module.forward = forward
