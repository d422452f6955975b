"""Gradient parity: a step's gradient is plain PyTorch's on any stage, precision and ranks."""

from collections.abc import Callable
from typing import Any

import gradient_parity
import multi_rank
import pytest
import tolerances
from gradient_parity import DATA_PARALLEL_CASES, TENSOR_PARALLEL_CASES, ParityCase
from safetensors.torch import load_file
from tolerances import largest_relative_error

from training.engine import process_group

pytestmark = pytest.mark.slow

TO_PLAIN = {"fp32": tolerances.FP32_GRADIENT, "bf16": tolerances.BF16_GRADIENT}
BETWEEN_RANKS = {"fp32": tolerances.FP32_GRADIENT_SUM, "bf16": tolerances.BF16_GRADIENT_SUM}
# each stage, and DeepSpeed's other optimizer for stage 1
FAULTY_CASES = [*DATA_PARALLEL_CASES[:8:2], ParityCase(1, "bf16")]


def case_ids(cases: list[ParityCase]) -> list[str]:
    return [case.name for case in cases]


@pytest.fixture(scope="module")
def one_rank() -> Any:
    return process_group.join()


@pytest.fixture(scope="module")
def many_ranks(
    tmp_path_factory: pytest.TempPathFactory, free_port: Callable[[], int]
) -> Callable[[ParityCase], dict[str, Any]]:
    """The gradients of a case on its ranks; all cases of one world size are computed at a time."""
    folder = tmp_path_factory.mktemp("parity")

    def gradients(case: ParityCase) -> dict[str, Any]:
        file = folder / f"{case.name}.safetensors"
        if not file.exists():
            n, port = str(case.n_ranks), str(free_port())
            arguments = [(str(folder), str(rank), n, port) for rank in range(case.n_ranks)]
            ranks = multi_rank.run_ranks(gradient_parity.main, *arguments)
            errors = "".join(rank.err[-3000:] for rank in ranks)
            assert {rank.status for rank in ranks} == {0}, errors
        return load_file(file)

    return gradients


@pytest.mark.numeric
@pytest.mark.parametrize("case", DATA_PARALLEL_CASES, ids=case_ids(DATA_PARALLEL_CASES))
def test_one_and_two_ranks_have_plain_pytorchs_gradient(
    case: ParityCase, one_rank: Any, many_ranks: Any
):
    """One rank with four passes, and two ranks with two passes each."""
    plain = gradient_parity.plain_gradients(case)
    one = gradient_parity.deepspeed_gradients(case, one_rank)
    two = many_ranks(case)
    assert largest_relative_error(one, plain) < TO_PLAIN[case.precision]
    assert largest_relative_error(two, plain) < TO_PLAIN[case.precision]
    assert largest_relative_error(two, one) < BETWEEN_RANKS[case.precision]


@pytest.mark.parametrize("case", TENSOR_PARALLEL_CASES, ids=case_ids(TENSOR_PARALLEL_CASES))
def test_tensor_parallel_ranks_have_plain_pytorchs_gradient(case: ParityCase, many_ranks: Any):
    plain = gradient_parity.plain_gradients(case)
    assert largest_relative_error(many_ranks(case), plain) < TO_PLAIN[case.precision]


@pytest.mark.parametrize(
    "fault",
    [{"scale": 3 / 4}, {"tied": False}],
    ids=["passes counted wrongly", "half of the tied gradient"],
)
@pytest.mark.parametrize("case", FAULTY_CASES, ids=case_ids(FAULTY_CASES))
def test_a_wrong_scale_or_an_untied_gradient_fails_the_comparison(
    case: ParityCase, fault: dict[str, Any], one_rank: Any
):
    plain = gradient_parity.plain_gradients(case)
    faulty = gradient_parity.deepspeed_gradients(case, one_rank, **fault)
    assert largest_relative_error(faulty, plain) > 5 * TO_PLAIN[case.precision]
