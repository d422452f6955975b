"""The estimate of a rank's memory against the buffers of a running DeepSpeed."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor

from data_prep.core.settings import evolve
from launch.recipes import registry
from training.config import RunConfig, TrainConfig
from training.engine import memory
from training.model import loss
from training.trainer import loop

Plan = Callable[..., RunConfig]


def paper_train(changes: dict[str, Any]) -> TrainConfig:
    return evolve(registry.named("paper").train, changes)


def n_bytes(tensors: list[Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


@pytest.mark.parametrize("micro_batch", [0, 1])
@pytest.mark.parametrize("precision", ["bf16", "fp32"])
@pytest.mark.parametrize("stage", [0, 1, 2])
def test_the_estimated_state_is_what_deepspeed_holds(
    plan: Plan,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    stage: Any,
    precision: Any,
    micro_batch: int,
):
    held: list[memory.StateBytes] = []
    train_step = loop.train_step

    def measured_step(context: Any, engine: Any, guard: Any, batch: Any) -> Any:
        result = train_step(context, engine, guard, batch)
        weights = list(engine.module.parameters())
        states = list(engine.basic_optimizer.state.items())
        fp32_copies = [flat for flat, _ in states if not any(flat is weight for weight in weights)]
        moments = [value for _, state in states for value in state.values() if value.dim()]
        sums = getattr(engine.optimizer, "fp32_groups_gradients_flat", [])
        optimizer = n_bytes(fp32_copies + moments)
        held.append(memory.StateBytes(n_bytes(weights), optimizer, n_bytes(sums)))
        return result

    monkeypatch.setattr(loop, "train_step", measured_step)
    changes = {"parallel.zero_stage": stage, "compute.precision": precision}
    run = plan("run", changes | {"micro_batch": micro_batch})
    loop.train(str(tmp_path), run)
    estimated = memory.state_bytes(run.train, 1)
    assert held[-1].weights == estimated.weights
    assert held[-1].optimizer == pytest.approx(estimated.optimizer, rel=1e-3)  # padded
    if held[-1].gradients:  # BF16_Optimizer's fp32 sums; others come and go within a step
        assert held[-1].gradients == pytest.approx(estimated.gradients, rel=1e-3)
        assert held[-1].gradients >= 4 * run.train.model.n_parameters


def test_fp32_sums_are_whole_at_stage_1_and_partitioned_above():
    n = paper_train({}).model.n_parameters
    gradients = [
        memory.state_bytes(paper_train({"parallel.zero_stage": stage}), 16).gradients
        for stage in (0, 1, 2, 3)
    ]
    assert gradients == [2 * n, 4 * n, 4 * n // 16, 4 * n // 16]
    one_pass = paper_train({"micro_batch": 0})
    assert memory.state_bytes(one_pass, 16).gradients == 2 * n


def test_the_loss_is_counted_in_chunks():
    assert loss.CHUNK_LOGITS["cuda"] == memory.CHUNK_LOGITS
    sixteen, one = (memory.peak_bytes(paper_train({"micro_batch": rows}), 16) for rows in (16, 1))
    activations_per_row = 2048 * 16 * 2 * (10 * 2048 + 3 * 8192)
    assert sixteen - one < 15 * activations_per_row + 2 * 2 * memory.CHUNK_LOGITS
