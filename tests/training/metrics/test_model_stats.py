"""Statistics of the model in logged steps, against plain PyTorch."""

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tolerances
import torch
from torch import Tensor

from data_prep.token_stream import manifest
from data_prep.token_stream.reader import SequenceReader
from training.config import RunConfig
from training.metrics import model_stats
from training.model import attention
from training.model.loss import next_token_loss
from training.model.olmo import Block, OLMo
from training.model.rotary_positions import rotary, rotate
from training.trainer import loop

Plan = Callable[..., RunConfig]


def logged_steps(root: Path, run: RunConfig) -> list[dict[str, Any]]:
    text = (root / "runs" / run.run_id / "metrics.jsonl").read_text()
    lines = [json.loads(line) for line in text.splitlines()]
    return [line for line in lines if "train_seconds" in line]


def first_batch(root: Path, run: RunConfig) -> Tensor:
    uris = [str(root / name) for name in (run.clean, run.toxic)]
    clean, toxic = (
        SequenceReader(uri, manifest.load(uri), "train", run.train.sequence_length) for uri in uris
    )
    rows = [
        (toxic if is_toxic else clean).read(np.array([i]))
        for is_toxic, i in zip(*run.mixture.rows(0), strict=True)
    ]
    return torch.from_numpy(np.concatenate(rows))


@pytest.mark.numeric
@pytest.mark.parametrize(("stage", "micro_batch"), [(1, 0), (2, 1), (3, 2)])
def test_gradient_norms_and_residual_sizes_are_plain_pytorchs(
    plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stage: Any, micro_batch: int
):
    monkeypatch.setattr(model_stats, "SQUARES_CHUNK", 100)
    changes = {
        "parallel.zero_stage": stage,
        "micro_batch": micro_batch,
        "optimizer.gradient_clip": 0.5,
    }
    run = plan("run", changes)
    loop.train(str(tmp_path), run)
    first, *_, last = logged_steps(tmp_path, run)

    model, tokens_BT = OLMo(run.train.model), first_batch(tmp_path, run)
    model.initialise(run.seed)
    mean_squares: list[float] = []
    model.observe = lambda layer, x_BTD: mean_squares.append(x_BTD.square().mean().item())
    (next_token_loss(model(tokens_BT), tokens_BT).sum() / (4 * 15)).backward()
    squares = {"embedding": 0.0, "0": 0.0, "1": 0.0}
    for name, parameter in model.named_parameters():
        block = name.split(".")[1] if "blocks" in name else "embedding"
        squares |= {block: squares[block] + float(parameter.grad.square().sum())}
    norms = {name: math.sqrt(square) for name, square in squares.items()}
    rms = {str(layer): math.sqrt(square) for layer, square in enumerate(mean_squares)}
    assert first["block_grad_norm"] == pytest.approx(norms, rel=tolerances.FP32_GRADIENT)
    assert first["residual_rms"] == pytest.approx(rms, rel=tolerances.FP32_VALUE)
    total_norm = math.hypot(*last["block_grad_norm"].values())
    assert total_norm == pytest.approx(last["grad_norm"], rel=tolerances.FP32_GRADIENT)
    assert 1e6 < first["memory_bytes"]["resident"] <= first["memory_bytes"]["peak"]


def largest_logits(model: OLMo, tokens_BT: Tensor, *, document_mask: bool) -> dict[str, float]:
    """The largest attention logit of each layer for one row of two documents of 16 tokens."""
    starts_K = attention.document_starts(tokens_BT, 0) if document_mask else None
    positions_T = torch.arange(32) % 16 if document_mask else torch.arange(32)
    allowed = [
        (t, s) for t in range(32) for s in range(t + 1) if not document_mask or t // 16 == s // 16
    ]
    largest: dict[str, float] = {}

    def compute_largest(block: Block, arguments: Any) -> None:
        qkv_TD = block.attention.qkv(block.attention_norm(arguments[0]))
        q, k, _ = qkv_TD.view(32, 3, 2, 16).unbind(1)
        q, k = (rotate(x[None], *rotary(positions_T[None], 16, 10_000.0))[0] for x in (q, k))
        largest[str(block.layer)] = max(float((q[t] * k[s]).sum(-1).max()) / 4 for t, s in allowed)

    for block in model.blocks:
        block.register_forward_pre_hook(compute_largest)
    with torch.no_grad():
        model.hidden(tokens_BT, starts_K=starts_K)
    return largest


@pytest.mark.numeric
@pytest.mark.parametrize(("stage", "document_mask"), [(1, False), (3, True)])
def test_the_largest_attention_logit_is_the_first_rows(
    plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stage: Any, document_mask: bool
):
    monkeypatch.setattr(attention, "QUERIES_PER_CHUNK", 5)
    changes = {
        "parallel.zero_stage": stage,
        "micro_batch": 1,
        "document_mask": document_mask,
        "sequence_length": 32,  # two documents per row
    }
    run = plan("run", changes, n_clean=8, n_toxic=2)
    # With this seed the largest logits of both layers lie across documents, if that is allowed.
    run = replace(run, seed=5)
    loop.train(str(tmp_path), run)
    model = OLMo(run.train.model)
    model.initialise(run.seed)
    expected = largest_logits(model, first_batch(tmp_path, run)[:1], document_mask=document_mask)
    first, *_ = logged_steps(tmp_path, run)
    # A logit is a dot product of two hidden states; the largest one is no sum that cancels.
    assert first["attention_logit_max"] == pytest.approx(expected, rel=2 * tolerances.FP32_VALUE)


def test_statistics_are_collected_in_logged_steps_only(
    plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    is_collecting, train_step = [], loop.train_step

    def record_hooks(job: Any, engine: Any, guard: Any, batch: Any) -> Any:
        has_hooks = [bool(block._forward_pre_hooks) for block in engine.module.blocks]
        has_observer = engine.module.observe is not None
        assert {*has_hooks} == {has_observer}
        is_collecting.append(has_observer)
        return train_step(job, engine, guard, batch)

    monkeypatch.setattr(loop, "train_step", record_hooks)
    loop.train(str(tmp_path), plan("run", {"metrics.every_steps": 3}))
    assert is_collecting == [False, False, True, False, False, True]


def test_a_skipped_step_has_no_gradient_norms(
    plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    train_step = loop.train_step

    def poison_step_2(job: Any, engine: Any, guard: Any, batch: Any) -> Any:
        backward = engine.backward
        factor = math.nan if batch.step == 2 else 1.0
        engine.backward = lambda loss, **options: backward(loss * factor, **options)
        result = train_step(job, engine, guard, batch)
        engine.backward = backward
        return result

    monkeypatch.setattr(loop, "train_step", poison_step_2)
    run = plan("run", {"compute.precision": "bf16"})
    loop.train(str(tmp_path), run)
    has_norms = ["block_grad_norm" in line for line in logged_steps(tmp_path, run)]
    assert has_norms == [True, True, False, True, True, True]
