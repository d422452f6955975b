from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from data_prep.core.settings import evolve
from training.config import ModelConfig, OptimizerConfig, RunConfig, TrainConfig
from training.engine import auto_micro_batch, process_group
from training.engine.process_group import World
from training.model.loss import OLMoForTraining
from training.trainer import loop

Plan = Callable[..., RunConfig]
TRAIN = TrainConfig(
    model=ModelConfig(d_model=16, n_layers=2, n_heads=2, d_mlp=24, vocab_size=32),
    sequence_length=8,
    global_batch=12,
    micro_batch="auto",
    optimizer=OptimizerConfig(learning_rate=1e-3),
)


@given(share=st.integers(1, 400), room=st.integers(0, 500))
def test_the_largest_divisor_that_fits_is_found_and_the_global_batch_kept(share: int, room: int):
    tried: list[int] = []

    def fits(rows: int) -> bool:
        tried.append(rows)
        return rows <= room

    expected = max([n for n in range(1, share + 1) if share % n == 0 and n <= room], default=1)
    assert auto_micro_batch.largest_fitting_divisor(share, fits) == expected
    assert len(tried) <= 5 and len(set(tried)) == len(
        tried
    )  # no number below 401 has more than 24 divisors


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_what_autograd_keeps_is_counted_exactly_without_computing_it(precision: Any):
    train = evolve(TRAIN, {"compute.precision": precision})
    model = OLMoForTraining(train.model).to(
        torch.bfloat16 if precision == "bf16" else torch.float32
    )
    kept: dict[int, torch.UntypedStorage] = {}

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage()._cdata] = tensor.untyped_storage()
        return tensor

    with saved_tensors_hooks(keep, lambda tensor: tensor):
        model.hidden(torch.zeros(1, 8, dtype=torch.int64))
    weights = {parameter.untyped_storage()._cdata for parameter in model.parameters()}
    assert (
        auto_micro_batch.activation_bytes_per_sequence(train)
        == sum(storage.nbytes() for key, storage in kept.items() if key not in weights)
        > 0
    )


def test_an_automatic_micro_batch_trains_the_same_run_as_that_micro_batch(
    plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    asked = loop.train(str(tmp_path), plan("asked", {"micro_batch": 2}))
    monkeypatch.setattr(auto_micro_batch, "_estimated", lambda train: lambda rows: rows <= 3)
    found = loop.train(str(tmp_path), plan("found", {"micro_batch": "auto"}))
    assert found.computed_with["micro-batch"] == asked.computed_with["micro-batch"] == "2"
    assert (found.final_train_loss, found.held_out) == (asked.final_train_loss, asked.held_out)


def test_on_a_gpu_passes_are_tried_and_what_runs_out_of_memory_does_not_fit(
    monkeypatch: pytest.MonkeyPatch,
):
    forward, tried = OLMoForTraining.forward, []

    def bounded(self: OLMoForTraining, tokens_BT: Tensor, weight_B: Tensor) -> Any:
        tried.append(len(tokens_BT))
        if len(tokens_BT) > 4:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return forward(self, tokens_BT, weight_B)

    monkeypatch.setattr(OLMoForTraining, "forward", bounded)
    fits = auto_micro_batch._tried(TRAIN, World(0, 1, torch.device("cpu"), 0, 1))
    assert auto_micro_batch.largest_fitting_divisor(12, fits) == 4 and tried == [4, 6]


def test_what_fits_on_one_rank_and_not_on_another_does_not_fit(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(auto_micro_batch, "_estimated", lambda train: lambda rows: True)
    monkeypatch.setattr(
        process_group, "sum_over_ranks", lambda world, fits: [fits]
    )  # the other rank has 0
    assert auto_micro_batch.choose_micro_batch(TRAIN, World(0, 2, torch.device("cpu"), 0, 2)) == 1
    monkeypatch.setattr(process_group, "sum_over_ranks", lambda world, fits: [2 * fits])
    assert auto_micro_batch.choose_micro_batch(TRAIN, World(0, 2, torch.device("cpu"), 0, 2)) == 6


def test_a_pass_is_tried_beside_this_ranks_part_of_weights_averages_and_gradients(
    monkeypatch: pytest.MonkeyPatch,
):
    empty, n_bytes = torch.empty, []

    def noted(*shape: Any, **how: Any) -> Tensor:
        if how.get("dtype") is torch.uint8:
            n_bytes.append(*shape)
        return empty(*shape, **how)

    monkeypatch.setattr(torch, "empty", noted)
    auto_micro_batch._try(TRAIN, World(0, 2, torch.device("cpu"), 0, 2), 1)
    assert n_bytes == [16 * TRAIN.model.n_parameters // 2]


def test_on_a_cpu_a_sequence_larger_than_the_memory_that_is_free_is_still_tried_alone(
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setattr(auto_micro_batch, "CPU_SHARE", 0.0)
    assert auto_micro_batch.largest_fitting_divisor(12, auto_micro_batch._estimated(TRAIN)) == 1
