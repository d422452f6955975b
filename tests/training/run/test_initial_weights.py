"""Runs that start from the weights of a Hugging Face folder."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import tiny_run
import torch
from safetensors.torch import load_file

from data_prep.core.errors import ConfigurationError, HormesisError
from training.config import RunConfig
from training.model.hf_export import hugging_face_config
from training.run import initial_weights
from training.trainer import loop

Plan = Callable[..., RunConfig]


def export_folder(root: Path, run: RunConfig) -> Path:
    return root / "runs" / run.run_id / "export"


def test_a_run_starts_from_the_weights_of_a_sharded_hugging_face_folder(plan: Plan, tmp_path: Path):
    transformers = pytest.importorskip(
        "transformers", reason="what saves such a folder is not installed"
    )
    first = plan("first")
    first_record = loop.train(str(tmp_path), first)
    folder = tmp_path / "external"
    model = transformers.AutoModelForCausalLM.from_pretrained(export_folder(tmp_path, first))
    model.save_pretrained(folder, max_shard_size="20KB")
    shutil.copy(export_folder(tmp_path, first) / "tokenizer.json", folder)
    assert len(list(folder.glob("*.safetensors"))) > 1

    frozen = plan("frozen", {"init_from": str(folder), "optimizer.learning_rate": 0.0})
    held_out = loop.train(str(tmp_path), frozen).held_out
    assert [part.loss for part in held_out] == [part.loss for part in first_record.held_out]
    initial, final = (
        load_file(export_folder(tmp_path, run) / "model.safetensors") for run in (first, frozen)
    )
    assert all(torch.equal(final[name], value) for name, value in initial.items())

    record = loop.train(str(tmp_path), plan("continued", {"init_from": str(folder)}))
    assert record.final_train_loss < first_record.final_train_loss
    model_card = (export_folder(tmp_path, record.config) / "README.md").read_text()
    assert len(record.init_sha256) == 64 and record.init_sha256 in model_card


def test_a_resumed_run_keeps_the_checksum_without_reading_the_files(plan: Plan, tmp_path: Path):
    first = plan("first")
    loop.train(str(tmp_path), first)
    folder = shutil.copytree(export_folder(tmp_path, first), tmp_path / "external")
    run = plan("continued", {"init_from": str(folder), "checkpoint.every_steps": 3})
    record = loop.train(str(tmp_path), run)
    straight = (export_folder(tmp_path, run) / "model.safetensors").read_bytes()
    (tmp_path / "runs" / "continued" / "record.json").unlink()
    shutil.rmtree(folder)
    assert loop.train(str(tmp_path), run).init_sha256 == record.init_sha256
    assert (export_folder(tmp_path, run) / "model.safetensors").read_bytes() == straight


def test_a_folder_that_does_not_fit_is_refused(plan: Plan, tmp_path: Path):
    first = plan("first")
    loop.train(str(tmp_path), first)
    folder = export_folder(tmp_path, first)
    with pytest.raises(ConfigurationError, match="holds no file of a Hugging Face folder"):
        loop.train(str(tmp_path), plan("missing", {"init_from": str(tmp_path / "nowhere")}))
    wide = replace(first.train.model, d_model=64)
    with pytest.raises(
        ConfigurationError,
        match=r"holds a ModelConfig\(d_model=32.*the run's model is ModelConfig\(d_model=64",
    ):
        loop.train(str(tmp_path), plan("wide", {"init_from": str(folder), "model": wide}))
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    vocabulary = tokenizer["model"]["vocab"]
    one, other, *_ = vocabulary
    vocabulary[one], vocabulary[other] = vocabulary[other], vocabulary[one]
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    with pytest.raises(
        ConfigurationError,
        match="of which 2 have another id there or none; build the streams with the model's",
    ):
        loop.train(str(tmp_path), plan("vocabulary", {"init_from": str(folder)}))


def remove(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).unlink()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (shutil.rmtree, "holds no file of a Hugging Face folder"),
        (remove("config.json"), r"has no config\.json"),
        (remove("tokenizer.json"), r"has no tokenizer\.json"),
        (remove("model.safetensors"), r"has no \*\.safetensors"),
        (lambda folder: (folder / "config.json").write_text("{"), "is not JSON"),
    ],
    ids=["no folder", "no config", "no tokenizer", "no weights", "damaged config"],
)
def test_a_folder_without_a_model_is_refused_before_training(
    damage: Callable[[Path], None], message: str, tmp_path: Path
):
    model = tiny_run.TRAIN.model
    folder = tmp_path / "olmo"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(hugging_face_config(model, 0, "float32")))
    for name in ("tokenizer.json", "model.safetensors"):
        (folder / name).touch()
    initial_weights.check_folder(str(folder), model)
    with pytest.raises(ConfigurationError, match=r"set train\.model to the folder's"):
        initial_weights.check_folder(str(folder), replace(model, d_model=64))
    damage(folder)
    with pytest.raises(HormesisError, match=message):
        initial_weights.check_folder(str(folder), model)
