import pytest
import torch

from training.engine import process_group, throughput
from training.engine.process_group import World

GPU = World(0, 4, torch.device("cuda"), 0, 4)
CPU = World(0, 1, torch.device("cpu"), 0, 1)


@pytest.fixture
def measured_600_teraflops(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ranks whose measured matrix products reach 6e14 FLOP/s on average."""
    monkeypatch.setattr(throughput, "_measure_matmul", lambda device, dtype: 6e14)
    monkeypatch.setattr(process_group, "sum_over_ranks", lambda world, value: [value * world.size])


@pytest.mark.parametrize(
    ("name", "dtype", "described", "peak"),
    [
        ("NVIDIA H100 80GB HBM3", torch.bfloat16, "NVIDIA H100 80GB HBM3 (vendor's peak)", 989e12),
        ("NVIDIA H100 PCIe", torch.bfloat16, "NVIDIA H100 PCIe (vendor's peak)", 756e12),
        ("NVIDIA H100 80GB HBM3", torch.float32, "NVIDIA H100 80GB HBM3 (measured peak)", 6e14),
        ("Abacus 9", torch.bfloat16, "Abacus 9 (measured peak)", 6e14),
    ],
)
def test_a_gpu_has_its_vendors_peak_and_the_measured_one(
    measured_600_teraflops: None,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    dtype: torch.dtype,
    described: str,
    peak: float,
):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: name)
    assert throughput.measure_peak(GPU, dtype) == (described, peak, 6e14)


def test_a_cpus_peak_is_measured(measured_600_teraflops: None):
    peak = throughput.measure_peak(CPU, torch.float32)
    assert peak.device.startswith("CPU, ")
    assert peak.flops_per_second == peak.matmul_flops_per_second == 6e14


def test_measured_flops_per_second_are_plausible():
    assert 1e8 < throughput._measure_matmul(torch.device("cpu"), torch.float32) < 1e14
