"""run.json and record.json: found, refused when they are of another version or other settings."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from data_prep.core.errors import ArtefactCorrupt, ArtefactMissing, ConfigurationError
from training.config import RunConfig
from training.run_record import checkpoint_steps, expect_same, find, load_config

Plan = Callable[..., RunConfig]


def test_a_planned_run_is_loaded_and_has_no_record_yet(plan: Plan, tmp_path: Path):
    run = plan("run")
    assert load_config(str(tmp_path), "run") == run
    assert find(str(tmp_path), "run") is None
    with pytest.raises(ArtefactMissing, match=r"runs/other/run\.json: no run with this id"):
        load_config(str(tmp_path), "other")


def test_a_run_json_of_an_older_version_is_refused_in_one_line(plan: Plan, tmp_path: Path):
    plan("run")
    file = tmp_path / "runs" / "run" / "run.json"
    settings = json.loads(file.read_text())
    settings["train"] |= settings["train"].pop("optimizer")  # as it was before there were groups
    file.write_text(json.dumps(settings))
    with pytest.raises(ArtefactCorrupt, match="written by another version of Hormesis") as caught:
        load_config(str(tmp_path), "run")
    message = str(caught.value)
    assert "\n" not in message and len(message) < 400 + len(str(tmp_path))


def test_only_checkpoints_with_a_commit_count(tmp_path: Path):
    for step, files in ((20, ["commit.json"]), (4, ["commit.json"]), (30, ["0.safetensors"])):
        folder = tmp_path / "runs" / "run" / "checkpoints" / f"step-{step:08d}"
        folder.mkdir(parents=True)
        for file in files:
            (folder / file).touch()
    assert checkpoint_steps(str(tmp_path), "run") == [4, 20]
    assert checkpoint_steps(str(tmp_path), "other") == []


def test_a_run_id_of_other_settings_is_refused(plan: Plan):
    run = plan("run")
    operational = replace(run, train=replace(run.train, micro_batch=2))
    expect_same(run, operational, "runs/run")
    with pytest.raises(ConfigurationError, match="belongs to a finished run of other settings"):
        expect_same(run, replace(run, seed=1), "runs/run")
