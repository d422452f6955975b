"""Probes during training: a planted direction is found, and without one the score is chance."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tiny_run import TRAIN

from data_prep.token_stream import manifest
from data_prep.token_stream.reader import SequenceReader
from training.config import RunConfig
from training.model.hf_export import from_hugging_face
from training.model.olmo import OLMo
from training.trainer import loop, validation

Plan = Callable[..., RunConfig]


def planted_heads(shift: float, n: int = 200) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows of noise whose toxic half is shifted in one head, where another dimension is noisier."""
    generator = torch.Generator().manual_seed(0)
    heads_RLNH = torch.randn(2 * n, 2, 3, 8, generator=generator)
    heads_RLNH[:, 1, 2, 5] *= 10
    labels_R = torch.arange(2 * n) >= n
    heads_RLNH[labels_R, 1, 2, 3] += shift
    heads_RLNH[labels_R, 1, 2, 5] += shift
    return heads_RLNH, labels_R


def test_a_planted_direction_is_found_in_its_head_beside_a_noisy_one():
    point = validation._fit_and_score(*planted_heads(4.0))
    assert point.head == (1, 2) and point.n_windows == 200
    assert point.auroc > 0.97 and point.accuracy > 0.9
    assert 0.5 < point.mean_auroc < 0.65  # of six heads


def test_without_a_direction_the_probe_scores_at_chance():
    point = validation._fit_and_score(*planted_heads(0.0))
    # σ of one head's AUROC is 0.041.
    assert abs(point.auroc - 0.5) < 0.12 and abs(point.mean_auroc - 0.5) < 0.06


def test_the_best_head_is_chosen_without_the_rows_it_is_scored_on():
    heads_RLNH, labels_R = planted_heads(0.0)
    even, odd = (labels_R & (torch.arange(len(labels_R)) % 2 == n) for n in (0, 1))
    heads_RLNH[even, 0, 0, 1] += 4.0
    heads_RLNH[odd, 1, 1, 1] += 4.0
    point = validation._fit_and_score(heads_RLNH, labels_R)
    assert point.head == (0, 0) and abs(point.auroc - 0.5) < 0.2


def test_a_compiled_block_is_restored_after_the_probe():
    model = OLMo(TRAIN.model)
    for block in model.blocks:
        block.forward = block.forward  # an attribute of the block, as compilation.prepare sets it
    before = [block.__dict__["forward"] for block in model.blocks]
    with validation._last_position_outputs(model):
        assert not any("forward" in block.__dict__ for block in model.blocks)
    assert [block.__dict__["forward"] for block in model.blocks] == before


def test_a_tie_counts_half():
    scores = torch.tensor([[0.0, 1.0, 1.0, 2.0], [3.0, 1.0, 2.0, 0.0]])
    assert validation._auroc(scores, torch.tensor([False, False, True, True])).tolist() == [
        0.875,
        0.25,
    ]


@pytest.mark.parametrize("stage", [1, 3])
def test_probes_are_of_the_model_at_their_step_and_do_not_change_training(
    plan: Plan, tmp_path: Path, stage: Any
):
    settings: dict[str, Any] = {"parallel.zero_stage": stage, "micro_batch": 2}
    run = plan("with", {"validation.probe_every_steps": 4, **settings})
    without = plan("without", settings)
    loop.train(str(tmp_path), run)
    text = (tmp_path / "runs" / "with" / "metrics.jsonl").read_text()
    points = [line for line in map(json.loads, text.splitlines()) if "probe" in line]
    assert [(point["step"], point["probe"], point["n_windows"]) for point in points] == [
        (4, "toxic", 6),
        (6, "toxic", 6),
    ]

    weights = load_file(tmp_path / "runs" / "with" / "export" / "model.safetensors")
    model = OLMo(run.train.model)
    model.load_state_dict(from_hugging_face(weights))
    rows = []
    for name in (run.clean, run.toxic):
        uri = str(tmp_path / name)
        tokens_BT = torch.from_numpy(
            SequenceReader(uri, manifest.load(uri), "held_out", 16).read(np.arange(6))
        )
        with torch.no_grad(), validation._last_position_outputs(model) as outputs:
            model(tokens_BT)
            rows.append(torch.stack(outputs, dim=1).view(6, 2, 2, 16))
    expected = validation._fit_and_score(torch.cat(rows), torch.arange(12) >= 6)
    last = points[1]
    assert (last["auroc"], last["accuracy"]) == (expected.auroc, expected.accuracy)
    assert last["mean_auroc"] == pytest.approx(expected.mean_auroc)
    assert last["head"] == list(expected.head)

    loop.train(str(tmp_path), without)
    assert _export(tmp_path, "with") == _export(tmp_path, "without")


def _export(root: Path, run_id: str) -> bytes:
    return (root / "runs" / run_id / "export" / "model.safetensors").read_bytes()
