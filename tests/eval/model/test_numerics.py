import pytest
import torch

from eval.config import EvalConfig
from eval.model import numerics
from eval.model.batch_size import BatchSize

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


@pytest.fixture
def has_bf16(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: True)


def test_the_default_is_bf16_on_a_gpu_and_fp32_on_a_cpu(has_bf16):
    precision = EvalConfig().compute.precision
    assert numerics.format_on(CUDA, precision) == "bf16"
    assert numerics.format_on(CPU, precision) == "fp32"


def test_a_gpu_without_bf16_computes_in_fp32(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: False)
    assert numerics.format_on(CUDA, "auto") == "fp32"


@pytest.mark.parametrize("precision", ["fp32", "tf32", "bf16"])
def test_a_format_that_is_named_is_used_where_it_exists(has_bf16, precision):
    assert numerics.format_on(CUDA, precision) == precision
    assert numerics.format_on(CPU, precision) == ("bf16" if precision == "bf16" else "fp32")


@pytest.mark.parametrize(
    ("number_format", "expected"), [("fp32", "highest"), ("tf32", "high"), ("bf16", "highest")]
)
def test_fp32_products_are_rounded_on_a_gpu_only_if_said(monkeypatch, number_format, expected):
    used = ["high"]
    monkeypatch.setattr(torch, "get_float32_matmul_precision", lambda: used[-1])
    monkeypatch.setattr(torch, "set_float32_matmul_precision", used.append)
    with pytest.raises(RuntimeError), numerics.fp32_products(CUDA, number_format):
        raise RuntimeError
    with numerics.fp32_products(CPU, number_format):
        pass
    assert used == ["high", expected, "high"]


def test_statistics_on_a_gpu_are_exact_after_a_training(monkeypatch):
    used = ["high"]
    monkeypatch.setattr(torch, "set_float32_matmul_precision", used.append)
    numerics.set_exact_statistics(CPU)
    assert used == ["high"]
    numerics.set_exact_statistics(CUDA)
    assert used == ["high", "highest"]


def test_every_batch_runs_with_the_products_of_its_format(monkeypatch):
    used = ["high"]
    monkeypatch.setattr(torch, "get_float32_matmul_precision", lambda: used[-1])
    monkeypatch.setattr(torch, "set_float32_matmul_precision", used.append)
    seen = []
    batch_size = BatchSize.on(CUDA, 2, "fp32")
    batch_size.for_each_batch(range(4), lambda rows: seen.append(used[-1]))
    assert seen == ["highest", "highest"]
    assert used[-1] == "high"


def test_short_passes_on_a_gpu_take_no_kernel_that_is_planned_per_shape():
    assert torch.backends.cuda.cudnn_sdp_enabled()
    with numerics.short_pass_attention(CUDA):
        assert not torch.backends.cuda.cudnn_sdp_enabled()
        assert torch.backends.cuda.flash_sdp_enabled()
        assert torch.backends.cuda.mem_efficient_sdp_enabled()
        assert torch.backends.cuda.math_sdp_enabled()
    with numerics.short_pass_attention(CPU):
        assert torch.backends.cuda.cudnn_sdp_enabled()


def test_what_was_used_is_described(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA H200")
    assert numerics.describe(CUDA, "bf16", "SDPA") == {
        "device": "NVIDIA H200",
        "precision": "bf16",
        "attention": "SDPA",
        "attention of short passes": "SDPA without cuDNN",
    }
    assert numerics.describe(CPU, "fp32", "SDPA")["attention of short passes"] == "SDPA"
