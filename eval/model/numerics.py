"""number formats and attention kernels of an evaluation's forward passes, by device

Only the model computes in the format that eval.compute.precision names. Log-probabilities are fp32,
the statistics of probes fp32 and fp64, on every device.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Literal

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from eval.config import Precision

Format = Literal["fp32", "tf32", "bf16"]

# cuDNN, which SDPA prefers on a Hopper GPU, plans each new (batch, length) for about 30 ms; texts
# and decoding have a new one in almost every pass
SHORT_PASS_KERNELS = (
    SDPBackend.FLASH_ATTENTION,
    SDPBackend.EFFICIENT_ATTENTION,
    SDPBackend.MATH,
)


def best_device() -> torch.device:
    """The GPU if there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def format_on(device: torch.device, precision: Precision) -> Format:
    """The number format that a precision means on this device."""
    if precision == "auto":
        has_bf16 = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
        return "bf16" if has_bf16 else "fp32"
    if precision == "tf32" and device.type != "cuda":
        return "fp32"
    return precision


def weight_dtype(number_format: Format) -> torch.dtype:
    """The dtype of the weights and of the activations between modules."""
    return torch.bfloat16 if number_format == "bf16" else torch.float32


def set_exact_statistics(device: torch.device) -> None:
    """Let a GPU multiply fp32 matrices exactly, in probes and statistics, from now on: a training
    in the same process, or the environment of an image, may have allowed TF32.
    """
    if device.type == "cuda":
        torch.set_float32_matmul_precision("highest")


@contextmanager
def fp32_products(device: torch.device, number_format: Format) -> Iterator[None]:
    """Within, a GPU multiplies fp32 matrices in TF32 if the format is tf32, else exactly."""
    if device.type != "cuda":
        yield
        return
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high" if number_format == "tf32" else "highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def short_pass_attention(device: torch.device) -> AbstractContextManager[object]:
    """Within, SDPA on a GPU takes no kernel that is planned for each new shape."""
    if device.type != "cuda":
        return nullcontext()
    return sdpa_kernel(list(SHORT_PASS_KERNELS))


def describe(device: torch.device, number_format: Format, attention: str) -> dict[str, str]:
    """How the model computes, for the report. attention: its kernel (SubjectModel)."""
    is_cuda = device.type == "cuda"
    decoding = " without cuDNN" if is_cuda and attention == "SDPA" else ""
    return {
        "device": torch.cuda.get_device_name(device) if is_cuda else "cpu",
        "precision": number_format,
        "attention": attention,
        "attention of short passes": attention + decoding,
    }
