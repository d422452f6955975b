"""What is bit-identical on which device, as far as a machine without a GPU can tell."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch._inductor import config as inductor_config
from torch.nn.attention import SDPBackend, sdpa_kernel

from training.config import RunConfig
from training.model import attention, determinism
from training.trainer import loop

Plan = Callable[..., RunConfig]
CPU, FP32, BF16 = torch.device("cpu"), torch.float32, torch.bfloat16


@pytest.fixture(autouse=True)
def restored(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    yield
    determinism.configure("cuda", deterministic=False)
    determinism.configure("cpu", deterministic=False)


@pytest.mark.parametrize("deterministic", [False, True])
def test_a_cpu_is_deterministic_whatever_is_set(deterministic: bool):
    determinism.configure("cpu", deterministic=deterministic)
    assert torch.are_deterministic_algorithms_enabled()
    assert torch.is_deterministic_algorithms_warn_only_enabled()


def test_a_gpu_takes_the_fastest_kernels_by_default():
    determinism.configure("cuda", deterministic=True)
    determinism.configure("cuda", deterministic=False)
    assert not torch.are_deterministic_algorithms_enabled()
    assert not inductor_config.deterministic


def test_a_deterministic_gpu_refuses_what_it_cannot_repeat():
    """With warn_only torch would keep cuDNN's attention, and flash's backward as it is."""
    determinism.configure("cuda", deterministic=True)
    assert torch.are_deterministic_algorithms_enabled()
    assert not torch.is_deterministic_algorithms_warn_only_enabled()
    assert inductor_config.deterministic
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"


def test_sdpas_kernel_is_named():
    assert attention.describe_kernel(CPU, BF16, 128) == "SDPA (flash)"
    with sdpa_kernel([SDPBackend.MATH]):
        assert attention.describe_kernel(CPU, FP32, 128) == "SDPA (math)"


def test_a_run_records_its_attention_kernel_and_determinism(plan: Plan, tmp_path: Path):
    record = loop.train(str(tmp_path), plan("run", {"compute.deterministic": True}))
    assert record.computed_with["attention"] == "SDPA (flash)"
    assert record.computed_with["deterministic"] == "yes"
