from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch._dynamo.utils import counters
from torch.autograd.graph import saved_tensors_hooks

from data_prep.core.settings import evolve
from training.config import ModelConfig, OptimizerConfig, RunConfig, TrainConfig
from training.engine import auto_micro_batch, process_group
from training.engine.auto_micro_batch import largest_fitting_divisor
from training.engine.process_group import World
from training.model import compilation
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
ALONE = World(0, 1, torch.device("cpu"), 0, 1)
ONE_OF_TWO = World(0, 2, torch.device("cpu"), 0, 2)


@given(per_rank=st.integers(1, 400), limit=st.integers(0, 500))
def test_the_largest_divisor_that_fits_is_found_in_few_trials(per_rank: int, limit: int):
    tried: list[int] = []

    def fits(n_sequences: int) -> bool:
        tried.append(n_sequences)
        return n_sequences <= limit

    fitting = [n for n in range(1, per_rank + 1) if per_rank % n == 0 and n <= limit]
    assert largest_fitting_divisor(per_rank, fits) == max(fitting, default=1)
    assert len(tried) <= 5  # no number below 401 has more than 24 divisors
    assert len(set(tried)) == len(tried)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_estimate_counts_exactly_what_autograd_keeps(precision: Any):
    train = evolve(TRAIN, {"compute.precision": precision})
    model = OLMoForTraining(train.model).to(compilation.compute_dtype(train.compute))
    kept: dict[int, torch.UntypedStorage] = {}

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage()._cdata] = tensor.untyped_storage()
        return tensor

    with saved_tensors_hooks(keep, lambda tensor: tensor):
        model.hidden(torch.zeros(1, 8, dtype=torch.int64))
    weights = {parameter.untyped_storage()._cdata for parameter in model.parameters()}
    n_bytes = sum(storage.nbytes() for key, storage in kept.items() if key not in weights)
    assert auto_micro_batch.activation_bytes_per_sequence(train) == n_bytes > 0


def test_an_automatic_micro_batch_trains_the_same_run(
    plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    two = loop.train(str(tmp_path), plan("two", {"micro_batch": 2}))
    monkeypatch.setattr(auto_micro_batch, "_fits_by_estimate", lambda train: lambda n: n <= 3)
    auto = loop.train(str(tmp_path), plan("auto", {"micro_batch": "auto"}))
    assert auto.computed_with["micro-batch"] == two.computed_with["micro-batch"] == "2"
    assert (auto.final_train_loss, auto.held_out) == (two.final_train_loss, two.held_out)


def test_on_a_gpu_a_pass_that_runs_out_of_memory_does_not_fit(monkeypatch: pytest.MonkeyPatch):
    forward, tried = OLMoForTraining.forward, []

    def forward_of_at_most_four(self: OLMoForTraining, tokens_BT: Tensor, *others: Any) -> Any:
        tried.append(len(tokens_BT))
        if len(tokens_BT) > 4:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return forward(self, tokens_BT, *others)

    monkeypatch.setattr(OLMoForTraining, "forward", forward_of_at_most_four)
    fits = auto_micro_batch._fits_by_trial(TRAIN, ALONE)
    assert largest_fitting_divisor(12, fits) == 4
    assert tried == [4, 6]


@pytest.mark.parametrize(("n_fitting_ranks", "expected"), [(1, 1), (2, 6)])
def test_a_micro_batch_must_fit_on_all_ranks(
    monkeypatch: pytest.MonkeyPatch, n_fitting_ranks: int, expected: int
):
    monkeypatch.setattr(auto_micro_batch, "_fits_by_estimate", lambda train: lambda n: True)
    monkeypatch.setattr(
        process_group, "sum_over_ranks", lambda world, fits: [n_fitting_ranks * fits]
    )
    assert auto_micro_batch.choose_micro_batch(TRAIN, ONE_OF_TWO) == expected


@pytest.mark.parametrize("document_mask", [False, True])
def test_a_trial_compiles_the_program_that_is_trained(
    plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, document_mask: bool
):
    """Two graphs, of a block and of the loss, for all layers, and no break between graphs."""
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))
    torch.compiler.reset()
    counters.clear()
    changes = {"compute.compile": "on", "micro_batch": 2, "document_mask": document_mask}
    run = plan("run", changes | {"model.n_layers": 3})
    auto_micro_batch._run_trial_pass(run.train, ALONE, 2)
    n_graphs = [counters["stats"]["unique_graphs"]]
    train_step = loop.train_step

    def counted_step(*arguments: Any) -> Any:
        result = train_step(*arguments)
        n_graphs.append(counters["stats"]["unique_graphs"])
        return result

    monkeypatch.setattr(loop, "train_step", counted_step)
    loop.train(str(tmp_path), run)
    assert n_graphs == [2] * 7
    assert counters["graph_break"] == {}


def test_a_pass_is_tried_beside_the_rest_of_this_ranks_state(monkeypatch: pytest.MonkeyPatch):
    """Without the weights, which the trial has itself: of two ranks each has half of the optimizer
    state, and BF16_Optimizer's fp32 sums whole.
    """
    empty, n_bytes = torch.empty, []

    def record_bytes(*shape: Any, **options: Any) -> Tensor:
        if options.get("dtype") is torch.uint8:
            n_bytes.append(*shape)
        return empty(*shape, **options)

    monkeypatch.setattr(torch, "empty", record_bytes)
    auto_micro_batch._run_trial_pass(TRAIN, ONE_OF_TWO, 1)
    assert n_bytes == [(12 // 2 + 4) * TRAIN.model.n_parameters]


def test_on_a_cpu_one_sequence_is_tried_however_large_it_is(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(auto_micro_batch, "MAX_CPU_MEMORY_SHARE", 0.0)
    fits = auto_micro_batch._fits_by_estimate(TRAIN)
    assert largest_fitting_divisor(12, fits) == 1
