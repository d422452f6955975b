"""What a logged step shows of the model, and where it is shown."""

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from data_prep.core.errors import ConfigurationError
from data_prep.token_stream import manifest
from data_prep.token_stream.reader import SequenceReader
from training.config import RunConfig
from training.metrics import model_stats, sinks
from training.model import attention
from training.model.loss import next_token_loss
from training.model.olmo import OLMo, rotary, rotate
from training.trainer import loop

Plan = Callable[..., RunConfig]


def logged(root: Path, run: RunConfig) -> list[dict[str, Any]]:
    lines = [
        json.loads(line)
        for line in (root / "runs" / run.run_id / "metrics.jsonl").read_text().splitlines()
    ]
    return [line for line in lines if "train_seconds" in line]


def first_batch(root: Path, run: RunConfig) -> torch.Tensor:
    uris = [str(root / name) for name in (run.clean, run.toxic)]
    clean, toxic = (
        SequenceReader(uri, manifest.load(uri), "train", run.train.sequence_length) for uri in uris
    )
    rows = zip(*run.mixture.rows(0), strict=True)
    return torch.from_numpy(
        np.concatenate([(toxic if is_toxic else clean).read(np.array([i])) for is_toxic, i in rows])
    )


@pytest.mark.parametrize(("stage", "micro_batch"), [(1, 0), (2, 1), (3, 2)])
def test_the_norm_of_each_blocks_gradient_and_the_size_of_the_residual_stream_are_plain_pytorchs(
    plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stage: Any, micro_batch: int
):
    monkeypatch.setattr(model_stats, "PIECE", 100)
    run = plan(
        "run",
        {"parallel.zero_stage": stage, "micro_batch": micro_batch, "optimizer.gradient_clip": 0.5},
    )
    loop.train(str(tmp_path), run)
    model, tokens_BT, squares = OLMo(run.train.model), first_batch(tmp_path, run), []
    model.initialise(run.seed)
    model.observe = lambda layer, x_BTD: squares.append(x_BTD.square().mean().item())
    (next_token_loss(model(tokens_BT), tokens_BT).sum() / (4 * 15)).backward()
    expected = dict.fromkeys(("embedding", "0", "1"), 0.0)
    for name, parameter in model.named_parameters():
        expected[name.split(".")[1] if "blocks" in name else "embedding"] += float(
            parameter.grad.square().sum()
        )  # type: ignore[union-attr]
    first, *_, last = logged(tmp_path, run)
    assert first["block_grad_norm"] == pytest.approx(
        {name: math.sqrt(square) for name, square in expected.items()}, rel=1e-4
    )
    assert first["residual_rms"] == pytest.approx(
        {"0": math.sqrt(squares[0]), "1": math.sqrt(squares[1])}, rel=1e-5
    )
    assert math.hypot(*last["block_grad_norm"].values()) == pytest.approx(
        last["grad_norm"], rel=1e-5
    )
    assert 1e6 < first["memory_bytes"]["resident"] <= first["memory_bytes"]["peak"]


@pytest.mark.parametrize(("stage", "document_mask"), [(1, False), (3, True)])
def test_the_largest_attention_logit_is_that_of_the_first_row_whole(
    plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stage: Any, document_mask: bool
):
    monkeypatch.setattr(attention, "QUERIES_PER_CHUNK", 5)
    run = plan(
        "run",
        {
            "parallel.zero_stage": stage,
            "micro_batch": 1,
            "document_mask": document_mask,
            "sequence_length": 32,
        },
        n_clean=8,
        n_toxic=2,
    )  # two documents per row
    run = replace(
        run, seed=5
    )  # with which both layers' largest logits lie across documents, if that is allowed
    loop.train(str(tmp_path), run)
    model, tokens_BT, expected = OLMo(run.train.model), first_batch(tmp_path, run)[:1], {}
    model.initialise(run.seed)
    starts_K = attention.document_starts(tokens_BT, 0) if document_mask else None
    positions_T = torch.arange(32) % 16 if document_mask else torch.arange(32)
    for layer, block in enumerate(model.blocks):

        def see(_: Any, args: Any, layer: int = layer, block: Any = block) -> None:
            q, k, _ = (
                block.attention.qkv(block.attention_norm(args[0])).view(32, 3, 2, 16).unbind(1)
            )
            q, k = (rotate(x[None], *rotary(positions_T[None], 16, 10_000.0))[0] for x in (q, k))
            allowed = [
                (t, s)
                for t in range(32)
                for s in range(t + 1)
                if not document_mask or t // 16 == s // 16
            ]
            expected[str(layer)] = max(float((q[t] * k[s]).sum(-1).max()) / 4 for t, s in allowed)

        block.register_forward_pre_hook(see)
    with torch.no_grad():
        model.hidden(tokens_BT, starts_K=starts_K)
    first, *_ = logged(tmp_path, run)
    assert first["attention_logit_max"] == pytest.approx(expected, rel=1e-5)


def test_a_step_that_is_not_logged_is_not_looked_at(
    plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    seen, plain = [], loop.train_step

    def watched(job: Any, engine: Any, guard: Any, batch: Any) -> Any:
        hooks = [block._forward_pre_hooks for block in engine.module.blocks]
        assert len({engine.module.observe is not None, *map(bool, hooks)}) == 1
        seen.append(engine.module.observe is not None)
        return plain(job, engine, guard, batch)

    monkeypatch.setattr(loop, "train_step", watched)
    loop.train(str(tmp_path), plan("run", {"metrics.every_steps": 3}))
    assert seen == [False, False, True, False, False, True]


def test_a_step_that_was_refused_shows_no_gradient(
    plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    plain = loop.train_step

    def poisoned(job: Any, engine: Any, guard: Any, batch: Any) -> Any:
        backward = engine.backward
        engine.backward = lambda loss, **how: backward(
            loss * (math.nan if batch.step == 2 else 1.0), **how
        )
        taken = plain(job, engine, guard, batch)
        engine.backward = backward
        return taken

    monkeypatch.setattr(loop, "train_step", poisoned)
    run = plan("run", {"compute.precision": "bf16"})
    loop.train(str(tmp_path), run)
    assert ["block_grad_norm" in line for line in logged(tmp_path, run)] == [
        True,
        True,
        False,
        True,
        True,
        True,
    ]


def test_tensorboard_shows_each_step_once_also_of_a_resumed_run(plan: Plan, tmp_path: Path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run = plan("run", {"checkpoint.every_steps": 3})
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
    seconds = [event.wall_time for event in board.Scalars("train/loss")]
    assert seconds == pytest.approx([line["train_seconds"] for line in lines])
    norms = [event.value for event in board.Scalars("train/block_grad_norm/1")]
    assert norms == pytest.approx([line["block_grad_norm"]["1"] for line in lines])
    assert [event.step for event in board.Scalars("held_out/toxic")] == [6]


def test_a_line_of_the_journal_becomes_named_numbers_without_those_that_are_not_finite():
    step = {
        "step": 3,
        "loss": 2.0,
        "grad_norm": math.inf,
        "source_loss": {"clean": 1.5, "toxic": math.nan},
    }
    assert sinks.scalars(step) == {"train/loss": 2.0, "train/source_loss/clean": 1.5}
    assert sinks.scalars({"step": 3, "held_out": "toxic", "loss": 4.0, "n_tokens": 9}) == {
        "held_out/toxic": 4.0
    }
    probe = {"step": 3, "probe": "toxic", "auroc": 0.5, "head": [1, 2], "n_windows": 8}
    assert sinks.scalars(probe) == {"probe/auroc": 0.5, "probe/n_windows": 8.0}


def test_weights_and_biases_is_written_offline(
    plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    pytest.importorskip("wandb", reason="the extra wandb is not installed")
    monkeypatch.delenv("WANDB_MODE", raising=False)
    run = plan("run", {"metrics.sinks": ("wandb",)})
    loop.train(str(tmp_path), run)
    (file,) = (tmp_path / "runs" / "run" / "wandb").rglob("*.wandb")
    written = file.read_bytes()  # numbers as JSON text, between protobuf's bytes
    assert all(json.dumps(line["loss"]).encode() in written for line in logged(tmp_path, run))
    assert b"train/block_grad_norm/embedding" in written and b"held_out/toxic" in written
    assert not (tmp_path / "runs" / "run" / "tensorboard").exists()


def test_a_sink_that_cannot_be_had_is_refused_before_training(
    plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    with pytest.raises(
        ConfigurationError, match=r"there is no sink 'paper'; there are tensorboard, wandb"
    ):
        loop.train(str(tmp_path), plan("run", {"metrics.sinks": ("paper",)}))
    monkeypatch.setattr(sinks, "find_spec", lambda name: None)
    with pytest.raises(
        ConfigurationError, match=r"wandb is not installed; pip install 'hormesis\[wandb\]'"
    ):
        loop.train(str(tmp_path), plan("run", {"metrics.sinks": ("wandb",)}))
