"""Muon steps matrices as torch's does, the rest as AdamW, and a step that the guard refuses changes nothing."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tiny_run import TRAIN
from torch import Tensor, nn

from data_prep.core.errors import ConfigurationError
from data_prep.core.settings import evolve
from training.config import ADAM_EPS, RunConfig
from training.model.loss import OLMoForTraining
from training.optim.muon import Muon, parameter_groups
from training.trainer import loop

Plan = Callable[..., RunConfig]
SETTINGS = evolve(
    TRAIN,
    {
        "optimizer.kind": "muon",
        "parallel.zero_stage": 0,
        "optimizer.learning_rate": 1e-2,
        "optimizer.weight_decay": 0.1,
    },
)


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def stepped(optimizer: torch.optim.Optimizer, weights: list[nn.Parameter], n: int = 4) -> None:
    for step in range(n):
        for i, weight in enumerate(weights):
            weight.grad = drawn(*weight.shape, seed=100 * step + i)
        optimizer.step()


def test_each_matrix_steps_as_by_torchs_muon_and_the_rest_as_by_adamw():
    whole, plain = nn.Parameter(drawn(36, 8)), nn.Parameter(drawn(20, 8, seed=1))
    parts, theirs = (
        [nn.Parameter(part.clone()) for part in whole.detach().chunk(3)],
        nn.Parameter(plain.detach().clone()),
    )
    ours = Muon([{"params": [whole], "n_matrices": 3}, {"params": [plain]}], SETTINGS.optimizer)
    muon = torch.optim.Muon(
        parts, lr=1e-2, weight_decay=0.1, momentum=0.95, adjust_lr_fn="match_rms_adamw"
    )
    adamw = torch.optim.AdamW(
        [theirs], lr=1e-2, weight_decay=0.1, betas=TRAIN.optimizer.betas, eps=ADAM_EPS
    )
    for step in range(4):
        whole.grad, plain.grad = drawn(36, 8, seed=step), drawn(20, 8, seed=9 + step)
        for part, gradient in zip(parts, whole.grad.chunk(3), strict=True):
            part.grad = gradient.clone()
        theirs.grad = plain.grad.clone()
        ours.step()
        muon.step()
        adamw.step()
    torch.testing.assert_close(
        whole, torch.cat(list(parts)), atol=2e-3, rtol=0
    )  # products in bf16, in another order
    torch.testing.assert_close(plain, theirs)
    assert (whole - drawn(36, 8)).abs().max() > 0.02


def test_muon_reads_the_verdict_and_the_clipping_of_the_guard():
    def made() -> tuple[Muon, list[nn.Parameter]]:
        weights = [nn.Parameter(drawn(8, 4)), nn.Parameter(drawn(6, 4, seed=1))]
        return Muon(
            [{"params": weights[:1], "n_matrices": 1}, {"params": weights[1:]}], SETTINGS.optimizer
        ), weights

    plain, weights = made()
    stepped(plain, weights)
    scaled, others = made()
    for step in range(4):
        scaled.grad_scale = torch.tensor(1.0 + step)  # type: ignore[attr-defined]  # another each time: Muon forgets a common one
        for i, weight in enumerate(others):
            weight.grad = (1 + step) * drawn(*weight.shape, seed=100 * step + i)
        scaled.step()
    torch.testing.assert_close(weights, others)

    held = [*others, *(value for state in scaled.state.values() for value in state.values())]
    before = [value.detach().clone() for value in held]
    scaled.found_inf = torch.tensor(1.0)  # type: ignore[attr-defined]
    for weight in others:
        weight.grad = torch.full_like(weight, torch.nan)
    scaled.step()
    assert all(torch.equal(old, new) for old, new in zip(before, held, strict=True))


def test_every_parameter_has_one_group_and_only_the_embedding_adamw():
    model = OLMoForTraining(TRAIN.model)
    made = parameter_groups(model)
    assert sorted(id(weight) for group in made for weight in group["params"]) == sorted(
        map(id, model.parameters())
    )
    assert [(group.get("n_matrices"), len(group["params"])) for group in made] == [
        (3, 2),
        (2, 2),
        (1, 4),
        (None, 1),
    ]


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
    made = loop.train(str(tmp_path), run)
    assert steps_done == [0, 1, 2, 3, 4, 5, 3, 4, 5] and '"step": 6' in lines
    again = load_file(folder / "export" / "model.safetensors")
    assert all(torch.equal(value, again[name]) for name, value in straight.items())
    assert made.held_out[0].loss < 5.5  # that of a uniform guess among 264 is 5.58


@pytest.mark.parametrize(
    "wrong", [{"parallel.offload_optimizer": True}, {"parallel.tensor_parallel": 2}]
)
def test_muon_without_whole_matrices_on_the_device_is_refused(wrong: dict[str, Any]):
    with pytest.raises(ConfigurationError, match="muon needs whole matrices on the device"):
        evolve(TRAIN, {"optimizer.kind": "muon", **wrong})
