"""The parity gate: the gradient of a step is plain PyTorch's, whatever the stage, the precision and the number of ranks."""

from collections.abc import Callable
from typing import Any

import gradient_parity
import multi_rank
import pytest
from gradient_parity import CASES, GANGS, Case
from safetensors.torch import load_file

pytestmark = pytest.mark.slow

# Largest relative error of a parameter's gradient. fp32: the order of sums (3.4e-7 seen). bf16: the
# reference is fp32, so weights and activations are rounded to 8 bits (1.6e-2 seen); between one
# rank and two only gradients are rounded otherwise (3.2e-3 seen).
TO_PLAIN = {"fp32": 2e-6, "bf16": 3e-2}
BETWEEN_RANKS = {"fp32": 1e-6, "bf16": 1e-2}

BROKEN = [*CASES[:8:2], Case(1, "bf16")]  # each stage, and DeepSpeed's other optimizer for stage 1


@pytest.fixture(scope="module")
def alone() -> Any:
    from training.engine import process_group

    return process_group.join()


@pytest.fixture(scope="module")
def ranks(
    tmp_path_factory: pytest.TempPathFactory, free_port: Callable[[], int]
) -> Callable[[Case], dict[str, Any]]:
    """The gradients that as many ranks as a case needs take, all cases of one number of ranks at a
    time.
    """
    folder = tmp_path_factory.mktemp("parity")

    def of(case: Case) -> dict[str, Any]:
        if not (file := folder / f"{case.name}.safetensors").exists():
            n, port = case.tensor_parallel * case.data_parallel, str(free_port())
            ended = multi_rank.at_once(
                gradient_parity.main, *((str(folder), str(rank), str(n), port) for rank in range(n))
            )
            assert [rank.status for rank in ended] == [0] * n, "".join(
                rank.err[-3000:] for rank in ended
            )
        return load_file(file)

    return of


@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_one_rank_with_four_passes_and_two_with_two_have_plain_pytorchs_gradient(
    case: Case, alone: Any, ranks: Any
):
    expected, one, two = (
        gradient_parity.reference(case),
        gradient_parity.gradients(case, alone),
        ranks(case),
    )
    assert gradient_parity.error(one, expected) < TO_PLAIN[case.precision]
    assert gradient_parity.error(two, expected) < TO_PLAIN[case.precision]
    assert gradient_parity.error(two, one) < BETWEEN_RANKS[case.precision]


@pytest.mark.parametrize("case", GANGS, ids=[case.name for case in GANGS])
def test_gangs_of_two_tensor_parallel_ranks_have_plain_pytorchs_gradient(case: Case, ranks: Any):
    assert (
        gradient_parity.error(ranks(case), gradient_parity.reference(case))
        < TO_PLAIN[case.precision]
    )


@pytest.mark.parametrize(
    "wrong",
    [{"scale": 3 / 4}, {"tied": False}],
    ids=["passes counted wrongly", "half of the tied gradient"],
)
@pytest.mark.parametrize("case", BROKEN, ids=[case.name for case in BROKEN])
def test_the_gate_would_see_a_wrong_scale_and_a_missing_part_of_the_tied_gradient(
    case: Case, wrong: dict[str, Any], alone: Any
):
    assert (
        gradient_parity.error(
            gradient_parity.gradients(case, alone, **wrong), gradient_parity.reference(case)
        )
        > 5 * TO_PLAIN[case.precision]
    )
