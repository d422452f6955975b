"""The parity gate: the gradient of a step is plain PyTorch's, whatever the stage, the precision and the number of ranks."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import parity
import pytest
from parity import CASES, Case
from safetensors.torch import load_file

# Largest relative error of a parameter's gradient. fp32: the order of sums (3.4e-7 seen). bf16: the reference is fp32, so weights
# and activations are rounded to 8 bits (1.6e-2 seen); between one rank and two only gradients are rounded otherwise (3.2e-3 seen).
TO_PLAIN = {"fp32": 2e-6, "bf16": 3e-2}
BETWEEN_RANKS = {"fp32": 1e-6, "bf16": 1e-2}


@pytest.fixture(scope="module", autouse=True)
def connected() -> None:
    from training import zero

    zero.connect()


@pytest.fixture(scope="module")
def two_ranks(tmp_path_factory: pytest.TempPathFactory, free_port: Callable[[], int]) -> Callable[[Case], dict[str, Any]]:
    """The gradients of two ranks with two passes each."""
    folder, port = tmp_path_factory.mktemp("parity"), str(free_port())
    environment = os.environ | {"DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1"}
    commands = [[sys.executable, str(Path(parity.__file__)), str(folder), str(rank), "2", port] for rank in range(2)]
    pipes: Any = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True}
    ranks = [subprocess.Popen(part, env=environment, **pipes) for part in commands]
    said = [rank.communicate(timeout=300)[1] for rank in ranks]
    assert [rank.returncode for rank in ranks] == [0, 0], said[0][-3000:] + said[1][-3000:]
    return lambda case: load_file(folder / f"{case.name}.safetensors")


@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_one_rank_with_four_passes_and_two_with_two_have_plain_pytorchs_gradient(case: Case, two_ranks: Callable[[Case], Any]):
    expected, one, two = parity.reference(case), parity.gradients(case, 0, 1), two_ranks(case)
    assert parity.error(one, expected) < TO_PLAIN[case.precision]
    assert parity.error(two, expected) < TO_PLAIN[case.precision]
    assert parity.error(two, one) < BETWEEN_RANKS[case.precision]


@pytest.mark.parametrize("wrong", [{"scale": 3 / 4}, {"tied": False}], ids=["passes counted wrongly", "half of the tied gradient"])
@pytest.mark.parametrize("case", CASES[:8], ids=[case.name for case in CASES[:8]])
def test_the_gate_would_see_a_wrong_scale_and_a_missing_part_of_the_tied_gradient(case: Case, wrong: dict[str, Any]):
    assert parity.error(parity.gradients(case, 0, 1, **wrong), parity.reference(case)) > 5 * TO_PLAIN[case.precision]
