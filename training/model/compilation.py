"""prepare a model to run: compiled blocks and loss, FP8, precision

Each block is compiled by itself, and since all blocks share their code, only once: DeepSpeed's
hooks stay between the blocks, so that gathering weights and reducing gradients overlap with
computation, and a 1B compiles as fast as one layer. Only a block's `forward` is replaced, not its
class or its position, so parameters keep their names and code that reads the model finds it
unchanged.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from training.config import TrainComputeConfig
from training.model import determinism, fp8
from training.model.activation_checkpointing import checkpointed
from training.model.attention import describe_kernel, kernel_name
from training.model.loss import OLMoForTraining
from training.model.olmo import cpu_has_bf16_matmul


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
        forward = checkpointed(block.forward, compute.activation_checkpointing)
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


def _is_compiled(
    compute: TrainComputeConfig, device: torch.device, is_tensor_parallel: bool
) -> bool:
    if compute.compile == "auto":
        # megatron-core's layers communicate inside a block; they are compiled on request only
        return device.type == "cuda" and not is_tensor_parallel
    return compute.compile == "on"


def _replace_forward(module: nn.Module, forward: Callable[..., Any]) -> None:
    module.forward = forward
