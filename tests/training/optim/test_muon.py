"""Muon: matrices step as by torch's Muon, the rest as by AdamW; a refused step changes nothing."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tiny_run import TRAIN
from tolerances import U_FP32, newton_schulz_bf16, relative_error
from torch import Tensor, nn

from data_prep.core.errors import ConfigurationError
from data_prep.core.settings import evolve
from training.config import ADAM_EPS, OptimizerConfig, RunConfig
from training.model.loss import OLMoForTraining
from training.optim.muon import MOMENTUM, Muon, parameter_groups
from training.trainer import loop

Plan = Callable[..., RunConfig]
CONFIG = OptimizerConfig(kind="muon", learning_rate=1e-2, weight_decay=0.1)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def muon_of_a_matrix_and_a_vector() -> tuple[Muon, list[nn.Parameter]]:
    """The optimizer, and its weights: a matrix for Muon and another tensor for AdamW."""
    weights = [nn.Parameter(normal(8, 4)), nn.Parameter(normal(6, 4, seed=1))]
    groups = [{"params": weights[:1], "n_matrices": 1}, {"params": weights[1:]}]
    return Muon(groups, CONFIG), weights


def nesterov_updates(gradients: list[Tensor]) -> list[Tensor]:
    """What Muon orthogonalizes at each step."""
    momentum, updates = torch.zeros_like(gradients[0]), []
    for gradient in gradients:
        momentum = momentum.lerp(gradient, 1 - MOMENTUM)
        updates.append(gradient.lerp(momentum, MOMENTUM))
    return updates


@pytest.mark.numeric
def test_each_matrix_steps_as_by_torchs_muon_and_the_rest_as_by_adamw():
    stacked, other = nn.Parameter(normal(36, 8)), nn.Parameter(normal(20, 8, seed=1))
    matrices = [nn.Parameter(matrix.clone()) for matrix in stacked.detach().chunk(3)]
    other_copy = nn.Parameter(other.detach().clone())
    optimizer = Muon([{"params": [stacked], "n_matrices": 3}, {"params": [other]}], CONFIG)
    torch_muon = torch.optim.Muon(
        matrices, lr=1e-2, weight_decay=0.1, momentum=0.95, adjust_lr_fn="match_rms_adamw"
    )
    adamw = torch.optim.AdamW(
        [other_copy], lr=1e-2, weight_decay=0.1, betas=CONFIG.betas, eps=ADAM_EPS
    )
    gradients = [normal(36, 8, seed=step) for step in range(4)]
    updates_of_matrix = [
        nesterov_updates(list(parts))
        for parts in zip(*(gradient.chunk(3) for gradient in gradients), strict=True)
    ]
    for step, gradient in enumerate(gradients):
        before = stacked.detach().clone()
        for matrix, start in zip(matrices, before.chunk(3), strict=True):
            matrix.data.copy_(start)
        stacked.grad, other.grad = gradient, normal(20, 8, seed=9 + step)
        for matrix, part in zip(matrices, gradient.chunk(3), strict=True):
            matrix.grad = part.clone()
        other_copy.grad = other.grad.clone()
        for each in (optimizer, torch_muon, adamw):
            each.step()
        for i, (found, matrix, start) in enumerate(
            zip(stacked.detach().chunk(3), matrices, before.chunk(3), strict=True)
        ):
            # Both iterate in bf16, with products in another order.
            tolerance = 2 * newton_schulz_bf16(updates_of_matrix[i][step])
            assert tolerance < 0.5
            assert relative_error(found - start, matrix.detach() - start) < tolerance
    # AdamW's arithmetic is by element, about ten roundings per step.
    torch.testing.assert_close(other, other_copy, rtol=4 * 10 * U_FP32, atol=1e-2 * 40 * U_FP32)
    assert (stacked - normal(36, 8)).abs().max() > 0.02


def test_muon_reads_the_verdict_and_the_clipping_of_the_guard():
    plain, plain_weights = muon_of_a_matrix_and_a_vector()
    scaled, scaled_weights = muon_of_a_matrix_and_a_vector()
    for step in range(4):
        # another one at each step, since Muon ignores a common factor; division by it is exact
        scale = 2.0**step
        scaled.grad_scale = torch.tensor(scale)  # type: ignore[attr-defined]
        for i, (weight, scaled_weight) in enumerate(
            zip(plain_weights, scaled_weights, strict=True)
        ):
            weight.grad = normal(*weight.shape, seed=100 * step + i)
            scaled_weight.grad = scale * weight.grad
        plain.step()
        scaled.step()
    torch.testing.assert_close(plain_weights, scaled_weights, rtol=0, atol=0)

    state = [value for tensors in scaled.state.values() for value in tensors.values()]
    before = [value.detach().clone() for value in (*scaled_weights, *state)]
    scaled.found_inf = torch.tensor(1.0)  # type: ignore[attr-defined]
    for weight in scaled_weights:
        weight.grad = torch.full_like(weight, torch.nan)
    scaled.step()
    after = [*scaled_weights, *state]
    assert all(torch.equal(old, new) for old, new in zip(before, after, strict=True))


def test_every_parameter_has_one_group_and_only_the_embedding_adamw():
    model = OLMoForTraining(TRAIN.model)
    groups = parameter_groups(model)
    in_groups = sorted(id(weight) for group in groups for weight in group["params"])
    assert in_groups == sorted(map(id, model.parameters()))
    sizes = [(group.get("n_matrices"), len(group["params"])) for group in groups]
    assert sizes == [(3, 2), (2, 2), (1, 4), (None, 1)]


@pytest.mark.parametrize(
    ("stage", "precision"), [(0, "fp32"), (0, "bf16"), (1, "bf16"), (2, "fp32"), (3, "bf16")]
)
def test_a_run_with_muon_learns_and_resumes_bit_for_bit(
    plan: Plan, tmp_path: Path, steps_done: list[int], stage: Any, precision: Any
):
    run = plan(
        "run",
        {
            "optimizer.kind": "muon",
            "parallel.zero_stage": stage,
            "compute.precision": precision,
            "checkpoint.every_steps": 3,
            "validation.every_steps": 1,
        },
    )
    loop.train(str(tmp_path), run)
    folder = tmp_path / "runs" / run.run_id
    lines = (folder / "metrics.jsonl").read_text()
    straight = load_file(folder / "export" / "model.safetensors")
    (folder / "record.json").unlink()
    shutil.rmtree(folder / "export")
    record = loop.train(str(tmp_path), run)
    assert steps_done == [0, 1, 2, 3, 4, 5, 3, 4, 5] and '"step": 6' in lines
    resumed = load_file(folder / "export" / "model.safetensors")
    assert all(torch.equal(value, resumed[name]) for name, value in straight.items())
    assert record.held_out[0].loss < 5.5  # a uniform guess among 264 ids has 5.58


@pytest.mark.parametrize(
    "change", [{"parallel.offload_optimizer": True}, {"parallel.tensor_parallel": 2}]
)
def test_muon_without_whole_matrices_on_the_device_is_refused(change: dict[str, Any]):
    with pytest.raises(ConfigurationError, match="muon needs whole matrices on the device"):
        evolve(TRAIN, {"optimizer.kind": "muon", **change})
