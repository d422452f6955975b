"""the machine: versions, memory bandwidth, FLOP/s of the products that we need, kernels

The rates are the ceilings that all other numbers are to be compared with. Products are of random
numbers: with zeros a GPU draws less power and runs faster.
"""

import platform
import shutil
import subprocess
from importlib.metadata import PackageNotFoundError, version
from typing import NamedTuple

import psutil
import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from gpu_check_parts import kernels
from gpu_check_parts.recorder import Recorder
from gpu_check_parts.timing import median_seconds
from training.config import SIZES, ModelConfig
from training.engine import devices
from training.model.loss import CHUNK_LOGITS, chunk_rows

PACKAGES = (
    "torch", "triton", "deepspeed", "transformers", "tokenizers", "numpy", "pydantic", "torchao",
    "flash-attn", "flash-attn-3",
)  # fmt: skip
GIB = 1 << 30
SDPA_BACKENDS = ("CUDNN_ATTENTION", "FLASH_ATTENTION", "EFFICIENT_ATTENTION")


class Gemm(NamedTuple):
    """The product [m, k] · [k, n]."""

    name: str
    m: int
    n: int
    k: int


def run(recorder: Recorder) -> None:
    recorder.text("shapes", "tiny: no number below is a result" if recorder.is_tiny else "full")
    _record_versions(recorder)
    _record_device(recorder)
    with recorder.item("copy"):
        _record_copy(recorder)
    with recorder.item("GEMM"):
        _record_gemms(recorder)
    with recorder.item("attention"):
        _record_attention(recorder)
    with recorder.item(kernels.NAME):
        kernels.record(recorder)


def _record_versions(recorder: Recorder) -> None:
    found = [f"python {platform.python_version()}"]
    for package in PACKAGES:
        try:
            found.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            found.append(f"{package} –")
    recorder.text("versions", ", ".join(found))
    cudnn = torch.backends.cudnn.version() if torch.cuda.is_available() else None
    recorder.text("CUDA of torch, cuDNN", f"{torch.version.cuda}, {cudnn}")
    memory = psutil.virtual_memory().total / GIB
    disk = shutil.disk_usage(recorder.work).free / GIB
    recorder.text(
        "host",
        f"{platform.system()} {platform.release()}, {psutil.cpu_count()} CPUs, {memory:.0f} GiB, "
        f"{disk:.0f} GiB of disk free",
    )


def _record_device(recorder: Recorder) -> None:
    if recorder.device.type != "cuda":
        capability = torch.backends.cpu.get_cpu_capability()
        recorder.text("device", f"CPU, {torch.get_num_threads()} threads, {capability}")
        return
    properties = torch.cuda.get_device_properties(0)
    known = devices.find_accelerator(properties.name)
    peak = f"{known.peak_flops_per_second / 1e12:.0f} TFLOP/s" if known else "unknown"
    recorder.text(
        "device",
        f"{torch.cuda.device_count()} × {properties.name}, {properties.total_memory / GIB:.0f} "
        f"GiB, {properties.multi_processor_count} multiprocessors, capability "
        f"{properties.major}.{properties.minor}; vendor's dense bf16 peak {peak}",
    )
    fields = "driver_version,power.limit,clocks.max.sm,clocks.max.mem,temperature.gpu"
    command = ["nvidia-smi", f"--query-gpu={fields}", "--format=csv,noheader"]
    if not shutil.which("nvidia-smi"):
        recorder.text("driver", "unknown: there is no nvidia-smi")
        return
    with recorder.item("nvidia-smi"):
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=20)
        recorder.text(fields, done.stdout.strip().splitlines()[0])


def _record_copy(recorder: Recorder) -> None:
    n_bytes = (1 << 22) if recorder.is_tiny else (4 << 30)
    source = torch.randint(255, (n_bytes,), dtype=torch.uint8, device=recorder.device)
    target = torch.empty_like(source)
    seconds = median_seconds(lambda: target.copy_(source))
    recorder.number(
        "copy within the device", 2 * n_bytes / seconds / 1e12, "TB/s", "bytes read and written"
    )


def gemms(model: ModelConfig, n_tokens: int) -> list[tuple[Gemm, int]]:
    """The matrix products of one micro-batch of training, and how often each is taken."""
    D, F, V = model.d_model, model.d_mlp, model.vocab_size
    found = []
    layers = [("qkv", D, 3 * D), ("out", D, D), ("gate_up", D, 2 * F), ("down", F, D)]
    chunk_logits = CHUNK_LOGITS["cuda" if torch.cuda.is_available() else "cpu"]
    C = chunk_rows(n_tokens, V, chunk_logits)
    matrices = [(name, n_tokens, a, b, model.n_layers) for name, a, b in layers]
    matrices.append(("loss", C, D, V, -(-n_tokens // C)))
    for name, rows, fan_in, fan_out, count in matrices:
        found += [
            (Gemm(f"{name} forward", rows, fan_out, fan_in), count),
            (Gemm(f"{name} by input", rows, fan_in, fan_out), count),
            (Gemm(f"{name} by weight", fan_out, fan_in, rows), count),
        ]
    return found


def _record_gemms(recorder: Recorder) -> None:
    n = 256 if recorder.is_tiny else 8192
    recorder.number(f"GEMM {n}³", _gemm_rate(Gemm("", n, n, n), recorder.device), "TFLOP/s")
    model, n_tokens = _model(recorder)
    total_flops, total_seconds = 0.0, 0.0
    for gemm, count in gemms(model, n_tokens):
        rate = _gemm_rate(gemm, recorder.device)
        shape = f"{gemm.m} × {gemm.k} × {gemm.n}, {count} per micro-batch"
        recorder.number(f"GEMM {gemm.name}", rate, "TFLOP/s", shape)
        flops = 2 * gemm.m * gemm.n * gemm.k * count
        total_flops += flops
        total_seconds += flops / (rate * 1e12)
    recorder.number(
        "all GEMMs of a micro-batch",
        1e3 * total_seconds,
        "ms",
        f"{total_flops / 1e12:.1f} TFLOP at {total_flops / total_seconds / 1e12:.0f} TFLOP/s",
    )


def _gemm_rate(gemm: Gemm, device: torch.device) -> float:
    """TFLOP/s of a product in bf16, of operands that lie as they do in training.

    Forward and gradient by input read the rows of both or one; the gradient by weight reads the
    columns of both.
    """
    if "weight" in gemm.name:
        a, b = _random(gemm.k, gemm.m, device).T, _random(gemm.k, gemm.n, device)
    elif "forward" in gemm.name:
        a, b = _random(gemm.m, gemm.k, device), _random(gemm.n, gemm.k, device).T
    else:
        a, b = _random(gemm.m, gemm.k, device), _random(gemm.k, gemm.n, device)
    return 2 * gemm.m * gemm.n * gemm.k / median_seconds(lambda: a @ b) / 1e12


def _random(rows: int, columns: int, device: torch.device) -> Tensor:
    return torch.randn(rows, columns, device=device, dtype=torch.bfloat16)


def _record_attention(recorder: Recorder) -> None:
    """Rates of torch's attention kernels at our shape, forward and backward; which is taken first.

    FLOPs are those of the causal half: 2·B·N·T²·H forward, 2.5 times as many backward.
    """
    model, n_tokens = _model(recorder)
    T = model.max_sequence_length
    B, N, H = n_tokens // T, model.n_heads, model.d_head
    q, k, v = (
        torch.randn(B, T, N, H, device=recorder.device, dtype=torch.bfloat16)
        .transpose(1, 2)
        .requires_grad_()
        for _ in range(3)
    )
    attention = torch.nn.functional.scaled_dot_product_attention
    choice = torch._fused_sdp_choice(q, k, v, is_causal=True)
    names = {int(backend.value): name for name, backend in SDPBackend.__members__.items()}
    recorder.text("SDPA takes first", names.get(choice, str(choice)))
    flops = 2 * B * N * T * T * H
    for name in SDPA_BACKENDS:
        with recorder.item(f"attention {name}"), sdpa_kernel(getattr(SDPBackend, name)):
            try:
                out = attention(q, k, v, is_causal=True)
            except RuntimeError as error:
                recorder.text(f"attention {name}", f"not available: {str(error)[:120]}")
                continue
            gradient = torch.randn_like(out)
            forward = median_seconds(lambda: attention(q, k, v, is_causal=True))

            def backward(out: Tensor = out, gradient: Tensor = gradient) -> None:
                torch.autograd.grad(out, (q, k, v), gradient, retain_graph=True)

            seconds = median_seconds(backward)
            recorder.number(f"attention {name} forward", flops / forward / 1e12, "TFLOP/s")
            recorder.number(f"attention {name} backward", 2.5 * flops / seconds / 1e12, "TFLOP/s")


def _model(recorder: Recorder) -> tuple[ModelConfig, int]:
    """The model whose shapes are measured, and the tokens of a micro-batch."""
    if recorder.is_tiny:
        tiny = ModelConfig(
            d_model=64, n_layers=2, n_heads=2, d_mlp=128, vocab_size=512, max_sequence_length=64
        )
        return tiny, 2 * 64
    return ModelConfig(**SIZES["olmo-1b"]._asdict(), vocab_size=50_304), 16 * 2048
