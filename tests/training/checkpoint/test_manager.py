"""Checkpoints of one process; more ranks and killed processes are in test_pretrain.py."""

import json
import logging
import re
import shutil
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from data_prep.core import storage, telemetry
from data_prep.core.errors import ArtefactCorrupt, ConfigurationError, StorageError
from data_prep.core.settings import evolve
from training.checkpoint import manager, write_and_commit
from training.checkpoint.manager import CheckpointManager
from training.checkpoint.verify_and_prune import RunIdentity
from training.config import RunConfig
from training.engine import deepspeed_engine, deepspeed_state, process_group
from training.model.loss import next_token_loss
from training.model.olmo import OLMo
from training.trainer import loop

Plan = Callable[..., RunConfig]
FIELDS_MEASURED_BY_A_CLOCK = (
    "tokens_per_second",
    "mfu_ratio",
    "matmul_ratio",
    "data_wait_seconds",
    "train_seconds",
    "memory_bytes",
)


@pytest.fixture
def log(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> pytest.LogCaptureFixture:
    # an entry module may have turned propagation off
    monkeypatch.setattr(telemetry.logger, "propagate", True)
    caplog.set_level(logging.WARNING, "hormesis")
    return caplog


def run_folder(root: Path, run: RunConfig) -> Path:
    return root / "runs" / run.run_id


def committed_checkpoints(root: Path, run: RunConfig) -> list[str]:
    commits = (run_folder(root, run) / "checkpoints").glob("*/commit.json")
    return sorted(commit.parent.name for commit in commits)


def tensors_file(root: Path, run: RunConfig, checkpoint: str) -> Path:
    """The one file of a checkpoint's tensors, of one rank."""
    (file,) = (run_folder(root, run) / "checkpoints" / checkpoint).glob("*-000.safetensors")
    return file


def weights_and_metrics(root: Path, run: RunConfig) -> tuple[bytes, list[dict[str, Any]]]:
    """The exported weights and the metrics log, without what a clock measured."""
    folder = run_folder(root, run)
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    reproducible = [
        {key: value for key, value in line.items() if key not in FIELDS_MEASURED_BY_A_CLOCK}
        for line in lines
    ]
    return (folder / "export" / "model.safetensors").read_bytes(), reproducible


def remove_result(root: Path, run: RunConfig) -> None:
    """Leave the run as if its process had died after its last checkpoint."""
    (run_folder(root, run) / "record.json").unlink()
    shutil.rmtree(run_folder(root, run) / "export")


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def all_equal(a: dict[str, Any], b: dict[str, Any]) -> bool:
    return all(torch.equal(a[name], b[name]) for name in a.keys() | b.keys())


@pytest.mark.parametrize(
    ("stage", "precision", "offload"),
    [
        *((0, precision, False) for precision in ("bf16", "fp32")),
        *((1, precision, False) for precision in ("bf16", "fp32")),
        (2, "fp32", False),
        (3, "bf16", False),
        *((stage, "bf16", True) for stage in (1, 2, 3)),
    ],
)
def test_a_resumed_run_equals_an_uninterrupted_one_bit_for_bit(
    plan: Plan, tmp_path: Path, steps_done: list[int], stage: Any, precision: Any, offload: bool
):
    run = plan(
        "run",
        {
            "parallel.zero_stage": stage,
            "parallel.offload_optimizer": offload,
            "compute.precision": precision,
            "micro_batch": 2,
            "checkpoint.every_steps": 3,
        },
    )
    loop.train(str(tmp_path), run)
    uninterrupted = weights_and_metrics(tmp_path, run)
    remove_result(tmp_path, run)
    loop.train(str(tmp_path), run)
    assert steps_done == [0, 1, 2, 3, 4, 5, 3, 4, 5]
    assert weights_and_metrics(tmp_path, run) == uninterrupted


def test_a_checkpoint_of_one_stage_resumes_in_another(
    plan: Plan, tmp_path: Path, steps_done: list[int]
):
    run = plan("run", {"checkpoint.every_steps": 3})
    uninterrupted = loop.train(str(tmp_path), run)
    remove_result(tmp_path, run)
    changes = {"parallel.zero_stage": 3, "micro_batch": 1}
    resumed = loop.train(str(tmp_path), replace(run, train=evolve(run.train, changes)))
    assert steps_done[6:] == [3, 4, 5]
    assert resumed.final_train_loss == pytest.approx(uninterrupted.final_train_loss, rel=1e-5)


def test_the_newest_checkpoints_are_kept_and_none_if_none_are_set(plan: Plan, tmp_path: Path):
    six, two, none = (
        plan(str(n), {"checkpoint.every_steps": 1, "checkpoint.keep_last": n}) for n in (6, 2, 0)
    )
    loop.train(str(tmp_path), six)
    assert committed_checkpoints(tmp_path, six) == [f"step-{step:08d}" for step in range(1, 6)]
    loop.train(str(tmp_path), two)
    assert committed_checkpoints(tmp_path, two) == ["step-00000004", "step-00000005"]
    loop.train(str(tmp_path), none)
    assert committed_checkpoints(tmp_path, none) == []
    assert not list(run_folder(tmp_path, none).rglob("*-*.safetensors"))


def test_multiples_of_keep_every_steps_are_kept_as_well(plan: Plan, tmp_path: Path):
    changes = {
        "checkpoint.every_steps": 1,
        "checkpoint.keep_last": 1,
        "checkpoint.keep_every_steps": 2,
    }
    run = plan("run", changes)
    loop.train(str(tmp_path), run)
    kept = committed_checkpoints(tmp_path, run)
    assert kept == ["step-00000002", "step-00000004", "step-00000005"]


def test_files_of_a_killed_attempt_are_ignored_and_later_deleted(plan: Plan, tmp_path: Path):
    run = plan("run", {"checkpoint.every_steps": 3})
    loop.train(str(tmp_path), run)
    uninterrupted = weights_and_metrics(tmp_path, run)
    remove_result(tmp_path, run)
    checkpoint = run_folder(tmp_path, run) / "checkpoints" / "step-00000003"
    (checkpoint / "commit.json").unlink()
    leftovers = {file.name for file in checkpoint.iterdir()}
    (checkpoint / ".half-written.0f").write_bytes(b"half")
    loop.train(str(tmp_path), run)
    files = {file.name for file in checkpoint.iterdir()}
    assert len(leftovers) == 3
    assert len(files) == 4 and not leftovers & files
    assert weights_and_metrics(tmp_path, run) == uninterrupted


def test_a_save_is_skipped_while_the_previous_one_is_being_published(
    plan: Plan, tmp_path: Path, log: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
):
    write, store_answers = storage.write, threading.Event()

    def write_slowly(uri: str, content: Any) -> None:
        if uri.endswith("-000.safetensors"):
            store_answers.wait(60)
        write(uri, content)

    train_step = loop.train_step

    def answer_before_the_last_step(job: Any, engine: Any, guard: Any, batch: Any) -> Any:
        if batch.step == 5:
            store_answers.set()
        return train_step(job, engine, guard, batch)

    monkeypatch.setattr(loop, "train_step", answer_before_the_last_step)
    monkeypatch.setattr(storage, "write", write_slowly)
    monkeypatch.setattr(manager, "WAIT_SECONDS", 0.0)
    run = plan("run", {"checkpoint.every_steps": 2, "checkpoint.keep_last": 9})
    loop.train(str(tmp_path), run)
    assert committed_checkpoints(tmp_path, run) == ["step-00000002"]
    assert "skipping the checkpoint of step 4: the previous one was still being" in log.text


def test_a_manifest_that_never_appears_fails_the_save_not_the_run(
    plan: Plan, tmp_path: Path, log: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
):
    list_files = storage.list_files

    def hide_manifests(folder: str, pattern: str = "**") -> list[str]:
        return [] if pattern.endswith("-*.json") else list_files(folder, pattern)

    monkeypatch.setattr(storage, "list_files", hide_manifests)
    monkeypatch.setattr(write_and_commit, "VISIBLE_SECONDS", 0.1)
    run = plan("run", {"checkpoint.every_steps": 3})
    loop.train(str(tmp_path), run)
    assert "0 of 1 rank manifests are visible" in log.text
    assert "a folder that all nodes share" in log.text
    assert committed_checkpoints(tmp_path, run) == []
    assert (run_folder(tmp_path, run) / "record.json").is_file()


def test_a_store_that_never_answers_delays_the_end_by_a_bounded_time(
    plan: Plan, tmp_path: Path, log: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
):
    write, store_answers = storage.write, threading.Event()

    def write_never(uri: str, content: Any) -> None:
        if uri.endswith("-000.safetensors"):
            store_answers.wait(60)
        write(uri, content)

    monkeypatch.setattr(storage, "write", write_never)
    monkeypatch.setattr(manager, "LOG_SECONDS", 0.1)
    monkeypatch.setattr(manager, "END_SECONDS", 0.3)
    run = plan("run", {"checkpoint.every_steps": 5})
    start = time.monotonic()
    loop.train(str(tmp_path), run)
    assert time.monotonic() - start < 30
    store_answers.set()
    assert "the last checkpoint is still being published after" in log.text
    assert (run_folder(tmp_path, run) / "record.json").is_file()


def test_training_continues_without_a_checkpoint_but_not_without_any(
    plan: Plan, tmp_path: Path, log: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
):
    run = plan("run", {"checkpoint.every_steps": 1})
    (run_folder(tmp_path, run) / "checkpoints").write_text("a file where a folder should be")
    loop.train(str(tmp_path), run)
    assert log.text.count("is not published, training continues: cannot write") == 5
    remove_result(tmp_path, run)
    monkeypatch.setattr(manager, "MAX_FAILED", 2)
    with pytest.raises(StorageError, match="2 checkpoints in a row could not be published"):
        loop.train(str(tmp_path), run)


def test_extra_tensors_and_an_engine_that_trained_on_are_restored(plan: Plan, tmp_path: Path):
    run = plan("run", {"checkpoint.keep_last": 2})
    world, identity = process_group.join(), RunIdentity("run", "data")
    model = OLMo(run.train.model)
    model.initialise(0)
    engine = deepspeed_engine.initialise(model, deepspeed_engine.deepspeed_settings(run.train, 1))
    checkpoints = CheckpointManager(
        str(tmp_path / "own"), identity, world, "run", run.train.checkpoint
    )
    tokens_BT = torch.arange(64).reshape(4, 16)

    def train_one_step() -> dict[str, Any]:
        engine.backward(next_token_loss(engine(tokens_BT), tokens_BT).sum())
        engine.step()
        return {name: value.clone() for name, value in deepspeed_state.gather_parameters(engine)}

    window, skipped = torch.tensor([torch.nan, 1 / 3]), torch.tensor([False, True])
    after_step_1 = train_one_step()
    checkpoints.save(engine, 1, 1.5, {"window": window, "skipped": skipped})
    assert checkpoints.finish()
    after_step_2 = train_one_step()
    checkpoints.save(engine, 2, 2.5, {})
    assert not all_equal(after_step_1, after_step_2)

    restored = checkpoints.restore(engine, max_step=1)
    assert restored
    assert (restored.commit.step, restored.commit.train_seconds) == (1, 1.5)
    torch.testing.assert_close(restored.extra["window"], window, rtol=0, atol=0, equal_nan=True)
    assert torch.equal(restored.extra["skipped"], skipped)
    assert all_equal(dict(deepspeed_state.gather_parameters(engine)), after_step_1)
    assert all_equal(dict(model.named_parameters()), after_step_1)
    assert all_equal(train_one_step(), after_step_2)
    deepspeed_engine.release(engine)


def test_a_damaged_checkpoint_is_skipped_and_its_block_is_named(
    plan: Plan, tmp_path: Path, steps_done: list[int], log: pytest.LogCaptureFixture
):
    run = plan("run", {"checkpoint.every_steps": 2, "checkpoint.keep_last": 9})
    loop.train(str(tmp_path), run)
    uninterrupted = weights_and_metrics(tmp_path, run)
    remove_result(tmp_path, run)
    flip_a_bit(tensors_file(tmp_path, run, "step-00000004"))
    loop.train(str(tmp_path), run)
    assert steps_done[6:] == [2, 3, 4, 5]
    assert re.search(
        r"skipping damaged checkpoint, falling back to the previous one: "
        r"\S+step-00000004/\w+-\d-00000-000\.safetensors: block 0",
        log.text,
    )
    assert weights_and_metrics(tmp_path, run) == uninterrupted
    # step 4 was saved again
    assert committed_checkpoints(tmp_path, run) == ["step-00000002", "step-00000004"]


def test_a_run_without_an_intact_checkpoint_is_refused_not_restarted(
    plan: Plan, tmp_path: Path, steps_done: list[int]
):
    run = plan("run", {"checkpoint.every_steps": 3})
    loop.train(str(tmp_path), run)
    remove_result(tmp_path, run)
    flip_a_bit(tensors_file(tmp_path, run, "step-00000003"))
    with pytest.raises(ArtefactCorrupt, match="none of its 1 checkpoints verifies"):
        loop.train(str(tmp_path), run)
    assert steps_done == [0, 1, 2, 3, 4, 5]


def test_files_without_a_commit_are_no_checkpoint(
    plan: Plan, tmp_path: Path, steps_done: list[int]
):
    run = plan("run", {"checkpoint.every_steps": 2, "checkpoint.keep_last": 9})
    loop.train(str(tmp_path), run)
    remove_result(tmp_path, run)
    (run_folder(tmp_path, run) / "checkpoints" / "step-00000004" / "commit.json").unlink()
    loop.train(str(tmp_path), run)
    assert steps_done[6:] == [2, 3, 4, 5]


def test_a_checkpoint_of_other_settings_is_refused(plan: Plan, tmp_path: Path):
    run = plan("run", {"checkpoint.every_steps": 3})
    loop.train(str(tmp_path), run)
    remove_result(tmp_path, run)
    other = evolve(run.train, {"optimizer.learning_rate": 1e-3})
    with pytest.raises(ConfigurationError, match=r"its run_digest is \w{16}, this run's is \w{16}"):
        loop.train(str(tmp_path), replace(run, train=other))


def test_a_checkpoint_of_another_format_version_is_refused(plan: Plan, tmp_path: Path):
    run = plan("run", {"checkpoint.every_steps": 3})
    loop.train(str(tmp_path), run)
    remove_result(tmp_path, run)
    commit = run_folder(tmp_path, run) / "checkpoints" / "step-00000003" / "commit.json"
    commit.write_text(json.dumps(json.loads(commit.read_text()) | {"format_version": 2}))
    with pytest.raises(ConfigurationError, match=r"its format_version is 2, this run's is 3"):
        loop.train(str(tmp_path), run)


def test_checkpoints_in_an_object_store_resume_as_on_a_disk(
    plan: Plan, tmp_path: Path, s3_server: str, steps_done: list[int]
):
    run = plan("run", {"checkpoint.every_steps": 3})
    root = storage.join(s3_server, "training")
    for file in (file for file in tmp_path.rglob("*") if file.is_file()):
        storage.upload(file, storage.join(root, str(file.relative_to(tmp_path))))
    first = loop.train(root, run)
    storage.delete(storage.join(root, "runs/run/record.json"))
    resumed = loop.train(root, run)
    assert steps_done == [0, 1, 2, 3, 4, 5, 3, 4, 5]
    model = "model.safetensors"
    assert resumed.export_sha256[model] == first.export_sha256[model]
    assert loop.train(str(tmp_path), run).export_sha256 == first.export_sha256
