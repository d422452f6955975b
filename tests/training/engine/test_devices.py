import pytest

from training.engine.devices import find_accelerator


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("NVIDIA A100-SXM4-80GB", "NVIDIA A100"),
        ("NVIDIA A100-SXM4-40GB", "NVIDIA A100 SXM4 40GB"),
        ("h100 pcie", "NVIDIA H100 PCIe"),
        ("RTX 4090", "NVIDIA GeForce RTX 4090"),
        ("Abacus 9", None),
    ],
)
def test_an_accelerator_is_found_by_the_words_of_its_name(name: str, expected: str | None):
    accelerator = find_accelerator(name)
    assert (accelerator and accelerator.name) == expected
