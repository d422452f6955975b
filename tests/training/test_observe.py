"""What a logged step shows of the model, and where it is shown."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from data_prep import manifest
from data_prep.reader import SequenceReader
from data_prep.records import ConfigurationError
from training import loop, sinks
from training.config import RunConfig
from training.loss import next_token_loss
from training.model import OLMo

Plan = Callable[..., RunConfig]


def logged(root: Path, run: RunConfig) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (root / "runs" / run.run_id / "metrics.jsonl").read_text().splitlines()]
    return [line for line in lines if "train_seconds" in line]


def first_batch(root: Path, run: RunConfig) -> torch.Tensor:
    uris = [str(root / name) for name in (run.clean, run.toxic)]
    clean, toxic = (SequenceReader(uri, manifest.load(uri), "train", run.train.sequence_length) for uri in uris)
    rows = zip(*run.mixture.rows(0), strict=True)
    return torch.from_numpy(np.concatenate([(toxic if is_toxic else clean).read(np.array([i])) for is_toxic, i in rows]))


@pytest.mark.parametrize(("stage", "micro_batch"), [(1, 0), (2, 1), (3, 2)])
def test_the_norm_of_each_blocks_gradient_and_the_size_of_the_residual_stream_are_plain_pytorchs(
    plan: Plan, tmp_path: Path, stage: Any, micro_batch: int
):
    run = plan(zero_stage=stage, micro_batch=micro_batch, gradient_clip=0.5)
    loop.train(str(tmp_path), run)
    model, tokens_BT, squares = OLMo(run.train.model), first_batch(tmp_path, run), []
    model.initialise(run.seed)
    model.observe = lambda layer, x_BTD: squares.append(x_BTD.square().mean().item())
    (next_token_loss(model(tokens_BT), tokens_BT).sum() / (4 * 15)).backward()
    expected = dict.fromkeys(("embedding", "0", "1"), 0.0)
    for name, parameter in model.named_parameters():
        expected[name.split(".")[1] if "blocks" in name else "embedding"] += float(parameter.grad.square().sum())  # type: ignore[union-attr]
    first, *_, last = logged(tmp_path, run)
    assert first["block_grad_norm"] == pytest.approx({name: math.sqrt(square) for name, square in expected.items()}, rel=1e-4)
    assert first["residual_rms"] == pytest.approx({"0": math.sqrt(squares[0]), "1": math.sqrt(squares[1])}, rel=1e-5)
    assert math.hypot(*last["block_grad_norm"].values()) == pytest.approx(last["grad_norm"], rel=1e-5)
    assert 1e6 < first["memory_bytes"]["resident"] <= first["memory_bytes"]["peak"]


def test_a_step_that_is_not_logged_is_not_looked_at(plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    seen, plain = [], loop.take_step

    def watched(job: Any, engine: Any, guard: Any, batch: Any) -> Any:
        seen.append(engine.module.observe is not None)
        return plain(job, engine, guard, batch)

    monkeypatch.setattr(loop, "take_step", watched)
    loop.train(str(tmp_path), plan(log_every_steps=3))
    assert seen == [False, False, True, False, False, True]


def test_a_step_that_was_refused_shows_no_gradient(plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    plain = loop.take_step

    def poisoned(job: Any, engine: Any, guard: Any, batch: Any) -> Any:
        backward = engine.backward
        engine.backward = lambda loss, **how: backward(loss * (math.nan if batch.step == 2 else 1.0), **how)
        taken = plain(job, engine, guard, batch)
        engine.backward = backward
        return taken

    monkeypatch.setattr(loop, "take_step", poisoned)
    run = plan(precision="bf16")
    loop.train(str(tmp_path), run)
    assert ["block_grad_norm" in line for line in logged(tmp_path, run)] == [True, True, False, True, True, True]


def test_tensorboard_shows_each_step_once_also_of_a_resumed_run(plan: Plan, tmp_path: Path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run = plan(checkpoint_every_steps=3)
    loop.train(str(tmp_path), run)
    (tmp_path / "runs" / "run" / "record.json").unlink()
    loop.train(str(tmp_path), run)
    (file,) = (tmp_path / "runs" / "run" / "tensorboard").iterdir()
    assert file.name == "events.out.tfevents.hormesis"
    board = EventAccumulator(str(file))
    board.Reload()
    lines = logged(tmp_path, run)
    loss = [(event.step, event.value) for event in board.Scalars("train/loss")]
    assert loss == [(line["step"], pytest.approx(line["loss"])) for line in lines]
    norms = [event.value for event in board.Scalars("train/block_grad_norm/1")]
    assert norms == pytest.approx([line["block_grad_norm"]["1"] for line in lines])
    assert [event.step for event in board.Scalars("held_out/toxic")] == [6]


def test_weights_and_biases_is_written_offline(plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    pytest.importorskip("wandb", reason="the extra wandb is not installed")
    monkeypatch.delenv("WANDB_MODE", raising=False)
    run = plan(sinks=("wandb",))
    loop.train(str(tmp_path), run)
    (file,) = (tmp_path / "runs" / "run" / "wandb").rglob("*.wandb")
    written = file.read_bytes()  # numbers as JSON text, between protobuf's bytes
    assert all(json.dumps(line["loss"]).encode() in written for line in logged(tmp_path, run))
    assert b"train/block_grad_norm/embedding" in written and b"held_out/toxic" in written
    assert not (tmp_path / "runs" / "run" / "tensorboard").exists()


def test_a_sink_that_cannot_be_had_is_refused_before_training(plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(ConfigurationError, match=r"there is no sink 'paper'; there are tensorboard, wandb"):
        loop.train(str(tmp_path), plan(sinks=("paper",)))
    monkeypatch.setattr(sinks, "find_spec", lambda name: None)
    with pytest.raises(ConfigurationError, match=r"wandb is not installed; pip install 'hormesis\[wandb\]'"):
        loop.train(str(tmp_path), plan(sinks=("wandb",)))
