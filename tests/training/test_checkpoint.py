"""Checkpoints of one process; other numbers of ranks and killed processes are in test_pretrain.py."""

import json
import logging
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from data_prep import storage, telemetry
from data_prep.records import ArtefactCorrupt, ConfigurationError
from training import loop
from training.config import RunConfig

Plan = Callable[..., RunConfig]
TIMED = ("tokens_per_second", "mfu_ratio", "data_wait_seconds", "train_seconds")


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> pytest.LogCaptureFixture:
    monkeypatch.setattr(telemetry.logger, "propagate", True)  # an entry module may have turned it off
    caplog.set_level(logging.WARNING, "hormesis")
    return caplog


def folder(root: Path, run: RunConfig) -> Path:
    return root / "runs" / run.run_id


def kept(root: Path, run: RunConfig) -> list[str]:
    return sorted(commit.parent.name for commit in (folder(root, run) / "checkpoints").glob("*/commit.json"))


def result(root: Path, run: RunConfig) -> tuple[bytes, list[dict[str, Any]]]:
    """The trained weights and what was seen, without what a clock said."""
    lines = [json.loads(line) for line in (folder(root, run) / "metrics.jsonl").read_text().splitlines()]
    plain = [{key: value for key, value in line.items() if key not in TIMED} for line in lines]
    return (folder(root, run) / "export" / "model.safetensors").read_bytes(), plain


def unfinish(root: Path, run: RunConfig, *later: str) -> None:
    """Put the run back to where its process died after its first checkpoint that is not among `later`."""
    (folder(root, run) / "record.json").unlink()
    shutil.rmtree(folder(root, run) / "export")
    for name in later:
        shutil.rmtree(folder(root, run) / "checkpoints" / name)


@pytest.mark.parametrize(("stage", "precision"), [(1, "bf16"), (1, "fp32"), (2, "fp32"), (3, "bf16")])
def test_a_resumed_run_has_bit_for_bit_the_losses_and_weights_of_one_that_went_through(
    plan: Plan, tmp_path: Path, steps_done: list[int], stage: Any, precision: Any
):
    run = plan(zero_stage=stage, precision=precision, micro_batch=2, checkpoint_every_steps=3)
    loop.train(str(tmp_path), run)
    straight = result(tmp_path, run)
    unfinish(tmp_path, run)
    loop.train(str(tmp_path), run)
    assert steps_done == [0, 1, 2, 3, 4, 5, 3, 4, 5]
    assert result(tmp_path, run) == straight


def test_a_checkpoint_of_one_stage_resumes_in_another(plan: Plan, tmp_path: Path, steps_done: list[int]):
    run = plan(checkpoint_every_steps=3)
    straight = loop.train(str(tmp_path), run)
    unfinish(tmp_path, run)
    again = loop.train(str(tmp_path), replace(run, train=replace(run.train, zero_stage=3, micro_batch=1)))
    assert steps_done[6:] == [3, 4, 5]
    assert again.final_train_loss == pytest.approx(straight.final_train_loss, rel=1e-5)


def test_the_newest_checkpoints_are_kept_and_none_after_the_record_if_none_are_asked_for(plan: Plan, tmp_path: Path):
    two, none = (
        plan("two", checkpoint_every_steps=1, keep_checkpoints=2),
        plan("none", checkpoint_every_steps=1, keep_checkpoints=0),
    )
    loop.train(str(tmp_path), two)
    assert kept(tmp_path, two) == ["step-00000004", "step-00000005"]
    loop.train(str(tmp_path), none)
    assert kept(tmp_path, none) == [] and not list(folder(tmp_path, none).rglob("state.safetensors"))


def test_a_damaged_checkpoint_is_passed_over_with_a_warning_that_names_the_block(
    plan: Plan, tmp_path: Path, steps_done: list[int], log: pytest.LogCaptureFixture
):
    run = plan(checkpoint_every_steps=2, keep_checkpoints=9)
    loop.train(str(tmp_path), run)
    straight = result(tmp_path, run)
    unfinish(tmp_path, run)
    damage(folder(tmp_path, run) / "checkpoints" / "step-00000004" / "state.safetensors")
    loop.train(str(tmp_path), run)
    assert steps_done[6:] == [2, 3, 4, 5]
    assert "step-00000004/state.safetensors: block 0" in log.text
    assert result(tmp_path, run) == straight
    assert kept(tmp_path, run) == ["step-00000002", "step-00000004"]  # made again


def test_if_no_checkpoint_verifies_the_run_is_refused_rather_than_begun_again(plan: Plan, tmp_path: Path, steps_done: list[int]):
    run = plan(checkpoint_every_steps=3)
    loop.train(str(tmp_path), run)
    unfinish(tmp_path, run)
    damage(folder(tmp_path, run) / "checkpoints" / "step-00000003" / "state.safetensors")
    with pytest.raises(ArtefactCorrupt, match="none of its 1 checkpoints verifies"):
        loop.train(str(tmp_path), run)
    assert steps_done == [0, 1, 2, 3, 4, 5]


def test_an_upload_without_its_commit_is_no_checkpoint(plan: Plan, tmp_path: Path, steps_done: list[int]):
    run = plan(checkpoint_every_steps=2, keep_checkpoints=9)
    loop.train(str(tmp_path), run)
    unfinish(tmp_path, run)
    (folder(tmp_path, run) / "checkpoints" / "step-00000004" / "commit.json").unlink()
    loop.train(str(tmp_path), run)
    assert steps_done[6:] == [2, 3, 4, 5]


def test_a_checkpoint_of_other_settings_is_refused(plan: Plan, tmp_path: Path):
    run = plan(checkpoint_every_steps=3)
    loop.train(str(tmp_path), run)
    unfinish(tmp_path, run)
    with pytest.raises(ConfigurationError, match=r"its run_digest is \w{16}, this run's is \w{16}"):
        loop.train(str(tmp_path), replace(run, train=replace(run.train, learning_rate=1e-3)))


def test_a_run_in_an_object_store_checkpoints_and_resumes_as_on_a_disk(
    plan: Plan, tmp_path: Path, s3_server: str, steps_done: list[int]
):
    run, root = plan(checkpoint_every_steps=3), storage.join(s3_server, "training")
    for file in (file for file in tmp_path.rglob("*") if file.is_file()):
        storage.upload(file, storage.join(root, str(file.relative_to(tmp_path))))
    made = loop.train(root, run)
    storage.delete(storage.join(root, "runs/run/record.json"))
    again = loop.train(root, run)
    assert steps_done == [0, 1, 2, 3, 4, 5, 3, 4, 5]
    assert again.export_sha256["model.safetensors"] == made.export_sha256["model.safetensors"]
    assert loop.train(str(tmp_path), run).export_sha256 == made.export_sha256


def damage(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
