"""What torch's compiler makes of the 1B's blocks and loss for an H200, without one.

Skipped where torch is built for CPUs. With a CUDA build of torch it needs no GPU:
`pip install torch` (from PyPI), then `pytest tests/training/model/test_sm90_kernels.py`.
"""

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch

COMPILER = Path(__file__).with_name("sm90_compiler.py")
ROOT = Path(__file__).parents[3]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        find_spec("triton") is None or torch.version.cuda is None,
        reason="compiling for sm_90 needs triton and a CUDA build of torch (a GPU is not needed)",
    ),
]


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    environment = os.environ | {
        "CUDA_VISIBLE_DEVICES": "",
        "PYTHONPATH": str(ROOT),
        "TORCHINDUCTOR_CACHE_DIR": str(tmp_path_factory.mktemp("sm90")),
    }
    result = subprocess.run(
        [sys.executable, str(COMPILER)], env=environment, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


def triton_kernels(compiled: dict[str, Any], graph: str) -> list[str]:
    return [call for call in compiled["graphs"][graph]["calls"] if call.startswith("triton_")]


@pytest.mark.parametrize("kind", ["block", "documents"])
def test_all_layers_share_one_graph_without_breaks(compiled: dict[str, Any], kind: str):
    assert compiled["counts"][kind] == {"n_graphs": 1, "n_graph_breaks": 0}


@pytest.mark.parametrize("graph", ["loss forward", "deterministic loss forward"])
def test_a_chunk_of_the_loss_is_one_kernel(compiled: dict[str, Any], graph: str):
    assert len(compiled["graphs"][graph]["calls"]) == 1
    assert len(triton_kernels(compiled, graph)) == 1


def test_a_block_keeps_the_activations_that_the_memory_estimate_counts(compiled: dict[str, Any]):
    """10 tensors as wide as the model and 3 as wide as its MLP; and statistics, of few bytes."""
    n_bytes = 16 * 2048 * 2 * (10 * 2048 + 3 * 8192)
    assert compiled["graphs"]["block forward"]["kept_bytes"] == pytest.approx(n_bytes, rel=0.002)


@pytest.mark.parametrize(
    ("graph", "n_triton", "n_matmuls"),
    [
        ("block forward", 5, 4),
        ("block backward", 4, 8),
        ("documents forward", 5, 4),
        ("documents backward", 4, 8),
    ],
)
def test_a_block_is_matmuls_attention_and_few_other_kernels(
    compiled: dict[str, Any], graph: str, n_triton: int, n_matmuls: int
):
    calls = compiled["graphs"][graph]["calls"]
    assert len(triton_kernels(compiled, graph)) <= n_triton
    assert calls.count("extern_kernels.mm") == n_matmuls
    assert sum("attention" in call or "attn" in call for call in calls) == 1
    assert len(calls) == len(triton_kernels(compiled, graph)) + n_matmuls + 1  # no copies


def test_no_kernel_spills_registers(compiled: dict[str, Any]):
    for graph in compiled["graphs"].values():
        for name, configurations in graph["kernels"].items():
            assert configurations, name
            for each in configurations:
                assert each["spilled_bytes"] == 0, (name, each)
                assert each["registers"] <= 128, (name, each)
