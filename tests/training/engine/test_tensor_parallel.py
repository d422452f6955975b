"""A whole run in gangs of tensor-parallel ranks; gradients part by part are in test_parity.py."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from test_pretrain import Gang, assert_close, run_gang

from data_prep.core.errors import ConfigurationError
from training.config import ModelConfig, OptimizerConfig, ParallelConfig, RunConfig, TrainConfig
from training.trainer import loop

pytestmark = pytest.mark.slow

Plan = Callable[..., RunConfig]
MODEL = ModelConfig(d_model=32, n_layers=1, n_heads=4, d_mlp=48, vocab_size=66)


@pytest.fixture(scope="module")
def gang(planner: Callable[[Path], Plan], tmp_path_factory: pytest.TempPathFactory) -> Gang:
    """Two ranks: run "shared" as one gang, "moved" first as one gang, then each rank on its own,
    then as one gang again.
    """
    root = tmp_path_factory.mktemp("tensor_parallel")
    plan = planner(root)
    settings: dict[str, Any] = {
        "micro_batch": 2,
        "checkpoint.every_steps": 2,
        "checkpoint.keep_last": 9,
        "z_loss": 1e-3,
    }
    runs = [plan(run_id, settings) for run_id in ("alone", "shared", "moved")]
    plan("compiled", {**settings, "compute.compile": "on"})
    said = run_gang(root, "shared%2", "moved@3%2", "moved@5%1", "moved%2", "compiled%2")
    loop.train(str(root), runs[0])
    return Gang(root, runs[0], said)


def test_two_tensor_parallel_ranks_train_like_one(gang: Gang):
    assert_close(gang.result("shared"), gang.result("alone"))
    norms = [
        [line["grad_norm"] for line in gang.result(name)[1] if "grad_norm" in line]
        for name in ("shared", "alone")
    ]
    assert norms[0] == pytest.approx(norms[1], rel=1e-5)


def test_a_checkpoint_moves_between_tensor_parallel_sizes(gang: Gang):
    for said in gang.said:
        assert said[1:4] == [
            "moved@3%2: [0, 1, 2] died",
            "moved@5%1: [2, 3, 4] died",
            "moved%2: [4, 5] ",
        ]
    assert_close(gang.result("moved"), gang.result("alone"))


def test_compiled_blocks_train_the_same_model_in_a_gang(gang: Gang):
    """By inductor two ranks were compared by hand in fp32, and in bf16 only run to the end: it
    takes each a minute.
    """
    for said in gang.said:
        assert said[4] == "compiled%2: [0, 1, 2, 3, 4, 5] "
    assert_close(gang.result("compiled"), gang.result("shared"))


@pytest.mark.parametrize(
    ("size", "said"),
    [
        (4, "4 does not divide the model's vocab_size 66;"),
        (3, "3 does not divide the model's n_heads 4;"),
        (0, "is 0; expected whole number >= 1"),
    ],
)
def test_a_number_of_ranks_that_does_not_divide_the_model_is_refused_by_name(size: int, said: str):
    with pytest.raises(ConfigurationError, match=f"tensor_parallel {said}"):
        TrainConfig(
            model=MODEL,
            sequence_length=8,
            global_batch=4,
            optimizer=OptimizerConfig(learning_rate=1.0),
            parallel=ParallelConfig(tensor_parallel=size),
        )


def test_ranks_that_make_no_whole_gangs_are_refused():
    train = TrainConfig(
        model=MODEL,
        sequence_length=8,
        global_batch=4,
        optimizer=OptimizerConfig(learning_rate=1.0),
        parallel=ParallelConfig(tensor_parallel=2),
    )
    assert train.passes(4) == (2, 1)
    with pytest.raises(
        ConfigurationError,
        match=r"world size 3 is not divisible by train\.parallel\.tensor_parallel 2",
    ):
        train.passes(3)
