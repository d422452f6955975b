import pytest
import torch

from training.engine import process_group, throughput
from training.engine.process_group import World

GPU, CPU = World(0, 4, torch.device("cuda"), 0, 4), World(0, 1, torch.device("cpu"), 0, 1)


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> None:
    """Four ranks whose products of matrices get 6e14 FLOP/s on the average."""
    monkeypatch.setattr(throughput, "_measure", lambda device, dtype: 6e14)
    monkeypatch.setattr(process_group, "sum_over_ranks", lambda world, value: [value * world.size])


@pytest.mark.parametrize(
    ("name", "dtype", "said", "peak"),
    [
        ("NVIDIA H100 80GB HBM3", torch.bfloat16, "NVIDIA H100 80GB HBM3 (vendor's peak)", 989e12),
        ("NVIDIA H100 PCIe", torch.bfloat16, "NVIDIA H100 PCIe (vendor's peak)", 756e12),
        ("NVIDIA H100 80GB HBM3", torch.float32, "NVIDIA H100 80GB HBM3 (measured peak)", 6e14),
        ("Abacus 9", torch.bfloat16, "Abacus 9 (measured peak)", 6e14),
    ],
)
def test_a_card_has_its_vendors_peak_and_beside_it_what_was_measured(
    measured: None,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    dtype: torch.dtype,
    said: str,
    peak: float,
):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: name)
    assert throughput.measure_peak(GPU, dtype) == (said, peak, 6e14)


def test_a_cpu_is_measured_and_says_with_how_many_threads(measured: None):
    made = throughput.measure_peak(CPU, torch.float32)
    assert (
        made.device.startswith("CPU, ")
        and made.flops_per_second == made.matmul_flops_per_second == 6e14
    )


def test_a_measurement_is_some_flops_a_second():
    assert 1e8 < throughput._measure(torch.device("cpu"), torch.float32) < 1e14
