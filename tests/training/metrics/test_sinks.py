"""Runs followed in TensorBoard and Weights & Biases."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from data_prep.core.errors import ConfigurationError
from training.config import RunConfig
from training.metrics import sinks
from training.trainer import loop

Plan = Callable[..., RunConfig]


def logged_steps(root: Path) -> list[dict[str, Any]]:
    lines = map(json.loads, (root / "runs" / "run" / "metrics.jsonl").read_text().splitlines())
    return [line for line in lines if "train_seconds" in line]


def test_tensorboard_has_each_step_of_a_resumed_run_once(plan: Plan, tmp_path: Path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run = plan("run", {"checkpoint.every_steps": 3})
    loop.train(str(tmp_path), run)
    (tmp_path / "runs" / "run" / "record.json").unlink()
    loop.train(str(tmp_path), run)
    (file,) = (tmp_path / "runs" / "run" / "tensorboard").iterdir()
    assert file.name == "events.out.tfevents.hormesis"
    board = EventAccumulator(str(file))
    board.Reload()
    lines = logged_steps(tmp_path)
    losses = board.Scalars("train/loss")
    # TensorBoard stores values in fp32
    assert [(event.step, event.value) for event in losses] == [
        (line["step"], pytest.approx(line["loss"])) for line in lines
    ]
    assert [event.wall_time for event in losses] == pytest.approx(
        [line["train_seconds"] for line in lines]
    )
    assert [event.value for event in board.Scalars("train/block_grad_norm/1")] == pytest.approx(
        [line["block_grad_norm"]["1"] for line in lines]
    )
    assert [event.step for event in board.Scalars("held_out/toxic")] == [6]


def test_the_finite_numbers_of_a_line_are_named():
    step = {
        "step": 3,
        "loss": 2.0,
        "grad_norm": math.inf,
        "source_loss": {"clean": 1.5, "toxic": math.nan},
    }
    assert sinks.scalars(step) == {"train/loss": 2.0, "train/source_loss/clean": 1.5}
    held_out = {"step": 3, "held_out": "toxic", "loss": 4.0, "n_tokens": 9}
    assert sinks.scalars(held_out) == {"held_out/toxic": 4.0}
    probe = {"step": 3, "probe": "toxic", "auroc": 0.5, "head": [1, 2], "n_windows": 8}
    assert sinks.scalars(probe) == {"probe/auroc": 0.5, "probe/n_windows": 8.0}


def test_weights_and_biases_is_written_offline(
    plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    pytest.importorskip("wandb", reason="the extra wandb is not installed")
    monkeypatch.delenv("WANDB_MODE", raising=False)
    loop.train(str(tmp_path), plan("run", {"metrics.sinks": ("wandb",)}))
    (file,) = (tmp_path / "runs" / "run" / "wandb").rglob("*.wandb")
    content = file.read_bytes()  # numbers as JSON text, between the bytes of protobuf
    assert all(json.dumps(line["loss"]).encode() in content for line in logged_steps(tmp_path))
    assert b"train/block_grad_norm/embedding" in content and b"held_out/toxic" in content
    assert not (tmp_path / "runs" / "run" / "tensorboard").exists()


def test_an_unknown_sink_is_refused_before_training(plan: Plan, tmp_path: Path):
    with pytest.raises(ConfigurationError, match="no sink 'paper'; expected tensorboard, wandb"):
        loop.train(str(tmp_path), plan("run", {"metrics.sinks": ("paper",)}))


def test_a_sink_that_is_not_installed_is_refused_before_training(
    plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(sinks, "find_spec", lambda name: None)
    expected = r"wandb is not installed; pip install 'hormesis\[wandb\]'"
    with pytest.raises(ConfigurationError, match=expected):
        loop.train(str(tmp_path), plan("run", {"metrics.sinks": ("wandb",)}))
