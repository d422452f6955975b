"""Runs that begin with somebody's weights."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from data_prep.core.errors import ArtefactMissing, ConfigurationError
from training.config import RunConfig
from training.trainer import loop

Plan = Callable[..., RunConfig]


def export(root: Path, run: RunConfig) -> Path:
    return root / "runs" / run.run_id / "export"


def losses(root: Path, run: RunConfig) -> list[float]:
    lines = map(json.loads, (root / "runs" / run.run_id / "metrics.jsonl").read_text().splitlines())
    return [line["loss"] for line in lines if "grad_norm" in line]


def test_a_run_starts_from_the_weights_of_a_sharded_hugging_face_folder(plan: Plan, tmp_path: Path):
    transformers = pytest.importorskip(
        "transformers", reason="what saves such a folder is not installed"
    )
    first = plan("first")
    made = loop.train(str(tmp_path), first)
    folder = tmp_path / "theirs"
    transformers.AutoModelForCausalLM.from_pretrained(export(tmp_path, first)).save_pretrained(
        folder, max_shard_size="20KB"
    )
    shutil.copy(export(tmp_path, first) / "tokenizer.json", folder)
    assert len(list(folder.glob("*.safetensors"))) > 1

    still = plan("still", {"init_from": str(folder), "optimizer.learning_rate": 0.0})
    held_out = loop.train(str(tmp_path), still).held_out
    assert [part.loss for part in held_out] == [part.loss for part in made.held_out]
    kept, began = (load_file(export(tmp_path, run) / "model.safetensors") for run in (still, first))
    assert all(torch.equal(kept[name], began[name]) for name in began)

    on = loop.train(str(tmp_path), plan("on", {"init_from": str(folder)}))
    assert on.final_train_loss < made.final_train_loss
    assert (
        len(on.init_sha256) == 64
        and on.init_sha256 in (export(tmp_path, on.config) / "README.md").read_text()
    )


def test_a_resumed_run_keeps_the_checksum_without_reading_the_files(plan: Plan, tmp_path: Path):
    first = plan("first")
    loop.train(str(tmp_path), first)
    folder = shutil.copytree(export(tmp_path, first), tmp_path / "theirs")
    run = plan("on", {"init_from": str(folder), "checkpoint.every_steps": 3})
    made = loop.train(str(tmp_path), run)
    straight = (export(tmp_path, run) / "model.safetensors").read_bytes()
    (tmp_path / "runs" / "on" / "record.json").unlink()
    shutil.rmtree(folder)
    assert loop.train(str(tmp_path), run).init_sha256 == made.init_sha256
    assert (export(tmp_path, run) / "model.safetensors").read_bytes() == straight


def test_a_folder_that_does_not_fit_is_refused(plan: Plan, tmp_path: Path):
    first = plan("first")
    loop.train(str(tmp_path), first)
    folder = export(tmp_path, first)
    with pytest.raises(ArtefactMissing, match="holds no file of a Hugging Face folder"):
        loop.train(str(tmp_path), plan("none", {"init_from": str(tmp_path / "nowhere")}))
    with pytest.raises(
        ConfigurationError,
        match=r"holds a ModelConfig\(d_model=32.*the run's model is ModelConfig\(d_model=64",
    ):
        loop.train(
            str(tmp_path),
            plan(
                "wide", {"init_from": str(folder), "model": replace(first.train.model, d_model=64)}
            ),
        )
    words = json.loads((folder / "tokenizer.json").read_text())
    some, other, *_ = words["model"]["vocab"]
    words["model"]["vocab"] |= {
        some: words["model"]["vocab"][other],
        other: words["model"]["vocab"][some],
    }
    (folder / "tokenizer.json").write_text(json.dumps(words))
    with pytest.raises(
        ConfigurationError,
        match="of which 2 have another id there or none; build the streams with the model's",
    ):
        loop.train(str(tmp_path), plan("words", {"init_from": str(folder)}))
