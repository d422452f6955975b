"""What torch's compiler makes of the 1B's blocks and loss for an H200, without one.

Skipped where torch is built for CPUs. With a CUDA build of torch it needs no GPU:
`pip install torch` (from PyPI), then `pytest tests/training/model/test_sm90_kernels.py`.
"""

from typing import Any

import pytest
import sm90_report
from sm90_report import BLOCKS, CHUNKS, MAX_REGISTERS, triton_kernels

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        bool(sm90_report.missing()),
        reason="compiling for sm_90 needs triton and a CUDA build of torch (a GPU is not needed)",
    ),
]


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return sm90_report.compile_model(tmp_path_factory.mktemp("sm90"))


@pytest.mark.parametrize("kind", ["block", "documents"])
def test_all_layers_share_one_graph_without_breaks(compiled: dict[str, Any], kind: str):
    assert compiled["counts"][kind] == {"n_graphs": 1, "n_graph_breaks": 0}


@pytest.mark.parametrize("graph", CHUNKS)
def test_a_chunk_of_the_loss_is_one_kernel(compiled: dict[str, Any], graph: str):
    assert len(compiled["graphs"][graph]["calls"]) == 1
    assert len(triton_kernels(compiled, graph)) == 1


def test_a_block_keeps_the_activations_that_the_memory_estimate_counts(compiled: dict[str, Any]):
    """10 tensors as wide as the model and 3 as wide as its MLP; and statistics, of few bytes."""
    n_bytes = 16 * 2048 * 2 * (10 * 2048 + 3 * 8192)
    assert compiled["graphs"]["block forward"]["kept_bytes"] == pytest.approx(n_bytes, rel=0.002)


@pytest.mark.parametrize("graph", BLOCKS)
def test_a_block_is_matmuls_attention_and_few_other_kernels(compiled: dict[str, Any], graph: str):
    calls = compiled["graphs"][graph]["calls"]
    limits = BLOCKS[graph]
    assert len(triton_kernels(compiled, graph)) <= limits.n_triton
    assert calls.count("extern_kernels.mm") == limits.n_matmuls
    assert sum("attention" in call or "attn" in call for call in calls) == 1
    # no copies
    assert len(calls) == len(triton_kernels(compiled, graph)) + limits.n_matmuls + 1


def test_no_kernel_spills_registers(compiled: dict[str, Any]):
    for graph in compiled["graphs"].values():
        for name, configurations in graph["kernels"].items():
            assert configurations, name
            for each in configurations:
                assert each["spilled_bytes"] == 0, (name, each)
                assert each["registers"] <= MAX_REGISTERS, (name, each)
