"""short trainings by the real loop, and the same steps in plain PyTorch to compare them with"""

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import patch

import random_run
import torch
from safetensors.torch import load_file
from torch import Tensor

from training.config import (
    ADAM_EPS,
    GuardConfig,
    MetricsConfig,
    ModelConfig,
    OptimizerConfig,
    RunConfig,
    TrainComputeConfig,
    TrainConfig,
    ValidationConfig,
)
from training.engine import throughput
from training.model.hf_export import from_hugging_face
from training.model.loss import OLMoForTraining
from training.optim import muon
from training.optim.lr_schedule import learning_rate
from training.run_record import run_uri
from training.trainer import gc_pauses, loop


class TrainedRun(NamedTuple):
    """Tokens and loss per token of each step, and the final weights in fp32 on the CPU."""

    batches: list[Tensor]
    losses: list[float]
    weights: dict[str, Tensor]

    def loss_error(self, reference: "TrainedRun") -> float:
        """The largest relative difference of a step's loss."""
        pairs = zip(self.losses, reference.losses, strict=True)
        return max(abs(a - b) / abs(b) for a, b in pairs)

    def update_error(self, reference: "TrainedRun", initial: dict[str, Tensor]) -> float:
        """‖w − w_ref‖ / ‖w_ref − w_0‖: how much of what was learned differs."""
        error = _distance(self.weights, reference.weights)
        return error / _distance(reference.weights, initial)


def train_settings(*, is_tiny: bool) -> TrainConfig:
    """Settings of a training that takes seconds, in fp32 and not compiled."""
    if is_tiny:
        model = ModelConfig(d_model=32, n_layers=2, n_heads=2, d_mlp=64, vocab_size=264)
        length, rows = 16, 4
    else:
        model = ModelConfig(d_model=256, n_layers=4, n_heads=4, d_mlp=1024, vocab_size=512)
        length, rows = 256, 16
    return TrainConfig(
        model=model,
        sequence_length=length,
        global_batch=rows,
        micro_batch=rows // 2,
        optimizer=OptimizerConfig(learning_rate=3e-3),
        compute=TrainComputeConfig(precision="fp32", compile="off"),
        metrics=MetricsConfig(every_steps=1, sinks=()),
        validation=ValidationConfig(sequences=0),
        guard=GuardConfig(watchdog_seconds=0.0),
    )


def initial_weights(train: TrainConfig) -> dict[str, Tensor]:
    model = OLMoForTraining(train.model)
    model.initialise(0)
    return model.state_dict()


def train_run(work: Path, train: TrainConfig, n_steps: int) -> TrainedRun:
    """Train by `loop.train` in a new folder."""
    with tempfile.TemporaryDirectory(dir=work) as root:
        run = random_run.plan_run(root, train, n_steps * train.global_batch)
        return continue_run(root, run)


def continue_run(
    root: str, run: RunConfig, before_step: Callable[[int], Any] = lambda step: None
) -> TrainedRun:
    """Train a planned run from its newest checkpoint; before_step may raise to interrupt it."""
    batches: list[Tensor] = []
    losses: list[Tensor] = []
    take_step = loop.train_step

    def observed(context: Any, engine: Any, guard: Any, batch: Any) -> Any:
        before_step(batch.step)
        batches.append(batch.tokens.clone())
        result = take_step(context, engine, guard, batch)
        losses.append(result[0].sum() / (batch.n_valid * (run.train.sequence_length - 1)))
        return result

    # neither collect garbage nor measure the peak: each takes longer than such a run
    with (
        patch.object(loop, "train_step", observed),
        patch.object(throughput, "_measure_matmul", lambda device, dtype: 1.0),
        patch.object(gc_pauses, "WARM_UP_STEPS", 1 << 30),
    ):
        loop.train(root, run)
    return TrainedRun(batches, [float(loss) for loss in losses], exported_weights(root, run))


def exported_weights(root: str, run: RunConfig) -> dict[str, Tensor]:
    state = load_file(Path(run_uri(root, run.run_id), "export", "model.safetensors"))
    return {name: value.float() for name, value in from_hugging_face(state).items()}


def train_plainly(train: TrainConfig, batches: list[Tensor]) -> TrainedRun:
    """The same steps in plain PyTorch: whole batches, in fp32, on the CPU."""
    model = OLMoForTraining(train.model)
    model.initialise(0)
    config = train.optimizer
    if config.kind == "muon":
        optimizer: torch.optim.Optimizer = muon.Muon(muon.parameter_groups(model), config)
    else:
        optimizer = torch.optim.AdamW(
            model.parameters(),
            lr=config.learning_rate,
            betas=config.betas,
            eps=ADAM_EPS,
            weight_decay=config.weight_decay,
        )
    losses = []
    for step, tokens_BT in enumerate(batches):
        n = tokens_BT.numel() - len(tokens_BT)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(config.learning_rate, train.schedule, step, len(batches))
        total, loss_B = model(tokens_BT, torch.full((len(tokens_BT),), 1 / n))
        total.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), config.gradient_clip)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss_B.sum()) / n)
    return TrainedRun(batches, losses, {k: v.detach() for k, v in model.state_dict().items()})


def _distance(a: dict[str, Tensor], b: dict[str, Tensor]) -> float:
    squares = [(a[name].double() - b[name].double()).square().sum() for name in b]
    return float(torch.stack(squares).sum().sqrt())
