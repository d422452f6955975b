"""The shapes that gpu_check.py measures on a GPU are valid, though no test computes them."""

import json
from types import SimpleNamespace
from typing import Any

import pytest
import sm90_report
import train_contenders
import train_profile
from gpu_check_parts import (
    determinism,
    engine_numbers,
    environment,
    evaluation,
    kernels,
    model_numbers,
    speed,
    trained_runs,
    variants,
)
from gpu_check_parts.recorder import Recorder

from data_prep.core.settings import evolve
from training.engine import roofline

FULL: Any = SimpleNamespace(is_tiny=False)


def test_the_1b_has_the_matrix_products_of_the_roofline():
    model, n_tokens = environment._model(FULL)
    assert (model.n_parameters, n_tokens) == (1_176_764_416, 32_768)
    found = environment.gemms(model, n_tokens)
    assert len(found) == 15
    flops = sum(2 * gemm.m * gemm.n * gemm.k * count for gemm, count in found)
    parts = {part.name: part.flops for part in roofline.parts(model, 16, 2048, 4)}
    expected = parts["matrix products of the blocks"] + parts["matrix products of the loss"]
    assert flops == pytest.approx(expected, rel=0.05)


def test_every_part_of_the_roofline_is_in_one_kind_of_the_profile():
    train = train_contenders.settings_of("olmo-1b")
    ceilings = speed.ceilings_ms(train.model, train_contenders.shape_of(train), 4)
    kinds = ("GEMM", "attention", train_profile.ELEMENTWISE, speed.OPTIMIZER_RANGE)
    assert sum(ceilings[kind] for kind in kinds) == pytest.approx(ceilings["all"])
    assert 300 < ceilings["all"] < 400  # milliseconds of 32,768 tokens: about 90,000 per second


@pytest.mark.parametrize("name", variants.VARIANTS)
def test_a_variant_of_the_1b_is_a_valid_setting(name: str):
    train = train_contenders.settings_of("olmo-1b")
    variant = variants.variant_of(train, variants.VARIANTS[name])
    shape = train_contenders.shape_of(variant)
    assert shape.rows == 64 and 64 % shape.micro == 0
    micro = {"micro-batch × 2": 32, "micro-batch / 2": 8}
    assert shape.micro == micro.get(name, 16)


def test_the_settings_of_the_correctness_parts_are_valid():
    train = trained_runs.train_settings(is_tiny=False)
    for changes in (*engine_numbers.FP32_CASES.values(), *engine_numbers.BF16_CASES.values()):
        assert evolve(train, changes).passes(1).micro_batch in (8, 16)
    train, n_steps = determinism._settings(FULL)
    assert (train.model.d_head, train.checkpoint.every_steps, n_steps) == (128, 6, 12)
    config, tokens_BT = model_numbers._model_and_tokens(FULL)
    assert (config.d_head, tuple(tokens_BT.shape)) == (128, (4, 512))
    assert 0 < (tokens_BT == model_numbers.EOS_ID).sum() < 100
    assert evaluation.FULL.model.d_head == 128


def _graph(n_triton: int, n_others: int = 0, n_matmuls: int = 0) -> dict[str, Any]:
    calls = [f"triton_{i}" for i in range(n_triton)] + ["extern_kernels.mm"] * n_matmuls
    calls += ["torch.ops.attention"] * n_others
    figures = {"registers": 64, "spilled_bytes": 0, "n_warps": 4}
    return {"calls": calls, "kernels": {f"triton_{i}": [dict(figures)] for i in range(n_triton)}}


def _kernel_faults(report: dict[str, Any], folder: Any) -> list[str]:
    """The checks of a report of compiled kernels that do not hold."""
    file = folder / "lines"
    file.unlink(missing_ok=True)
    kernels.record_report(Recorder("part", file, FULL, 10.0, folder), report)
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    return [line["name"] for line in lines if not line["holds"]]


def test_a_break_a_copy_and_a_spill_of_compiled_kernels_are_faults(tmp_path: Any):
    report: dict[str, Any] = {
        "counts": {kind: {"n_graphs": 1, "n_graph_breaks": 0} for kind in ("block", "documents")},
        "graphs": {graph: _graph(1) for graph in sm90_report.CHUNKS}
        | {
            graph: _graph(limits.n_triton, 1, limits.n_matmuls)
            for graph, limits in sm90_report.BLOCKS.items()
        },
    }
    assert _kernel_faults(report, tmp_path) == []
    report["counts"]["block"]["n_graph_breaks"] = 1
    report["graphs"]["block backward"]["calls"].append("aten.clone")
    report["graphs"]["loss forward"]["kernels"]["triton_0"][0]["spilled_bytes"] = 8
    assert _kernel_faults(report, tmp_path) == [
        "sm_90: all layers are one graph, block",
        "sm_90: calls of block backward",
        "sm_90: registers of loss forward",
    ]


def test_kernels_are_skipped_with_a_reason(tmp_path: Any, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sm90_report, "missing", lambda: "triton is not installed")
    kernels.record(Recorder("part", tmp_path / "lines", FULL, 10.0, tmp_path))
    line = json.loads((tmp_path / "lines").read_text())
    assert (line["kind"], line["note"]) == ("skipped", "triton is not installed")


def test_a_number_that_is_not_finite_is_written_as_json(tmp_path: Any):
    scale: Any = SimpleNamespace(is_tiny=False)
    recorder = Recorder("part", tmp_path / "lines", scale, 10.0, tmp_path)
    recorder.at_most("error", float("nan"), 1.0)
    recorder.goal("rate", 69_000, "tokens/s", bar=70_000)
    recorder.goal("overhead", 0.01, "share", bar=0.02)
    lines = [json.loads(line) for line in (tmp_path / "lines").read_text().splitlines()]
    assert [(line["value"], line["holds"]) for line in lines] == [
        (None, False),
        (69_000.0, False),
        (0.01, True),
    ]
    assert [line["note"] for line in lines] == ["nan; at most 1", "bar ≥ 70,000", "bar ≤ 0.02"]
