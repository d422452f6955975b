"""Checkpoints of one process; other numbers of ranks and killed processes are in test_pretrain.py."""

import json
import logging
import re
import shutil
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from data_prep.core import storage, telemetry
from data_prep.core.errors import ArtefactCorrupt, ConfigurationError, StorageError
from data_prep.core.settings import evolve
from training.checkpoint import manager
from training.checkpoint.manager import CheckpointManager, RunIdentity
from training.config import RunConfig
from training.engine import deepspeed_engine, deepspeed_state, process_group
from training.model.loss import next_token_loss
from training.model.olmo import OLMo
from training.trainer import loop

Plan = Callable[..., RunConfig]
TIMED = (
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
    monkeypatch.setattr(
        telemetry.logger, "propagate", True
    )  # an entry module may have turned it off
    caplog.set_level(logging.WARNING, "hormesis")
    return caplog


def folder(root: Path, run: RunConfig) -> Path:
    return root / "runs" / run.run_id


def kept(root: Path, run: RunConfig) -> list[str]:
    return sorted(
        commit.parent.name for commit in (folder(root, run) / "checkpoints").glob("*/commit.json")
    )


def state(root: Path, run: RunConfig, name: str) -> Path:
    """The one file of a checkpoint's tensors, of one rank."""
    (file,) = (folder(root, run) / "checkpoints" / name).glob("*-000.safetensors")
    return file


def result(root: Path, run: RunConfig) -> tuple[bytes, list[dict[str, Any]]]:
    """The trained weights and what was seen, without what a clock said."""
    lines = [
        json.loads(line) for line in (folder(root, run) / "metrics.jsonl").read_text().splitlines()
    ]
    plain = [{key: value for key, value in line.items() if key not in TIMED} for line in lines]
    return (folder(root, run) / "export" / "model.safetensors").read_bytes(), plain


def unfinish(root: Path, run: RunConfig, *later: str) -> None:
    """Put the run back to where its process died after its first checkpoint that is not among
    `later`.
    """
    (folder(root, run) / "record.json").unlink()
    shutil.rmtree(folder(root, run) / "export")
    for name in later:
        shutil.rmtree(folder(root, run) / "checkpoints" / name)


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
def test_a_resumed_run_has_bit_for_bit_the_losses_and_weights_of_one_that_went_through(
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
    straight = result(tmp_path, run)
    unfinish(tmp_path, run)
    loop.train(str(tmp_path), run)
    assert steps_done == [0, 1, 2, 3, 4, 5, 3, 4, 5]
    assert result(tmp_path, run) == straight


def test_a_checkpoint_of_one_stage_resumes_in_another(
    plan: Plan, tmp_path: Path, steps_done: list[int]
):
    run = plan("run", {"checkpoint.every_steps": 3})
    straight = loop.train(str(tmp_path), run)
    unfinish(tmp_path, run)
    again = loop.train(
        str(tmp_path),
        replace(run, train=evolve(run.train, {"parallel.zero_stage": 3, "micro_batch": 1})),
    )
    assert steps_done[6:] == [3, 4, 5]
    assert again.final_train_loss == pytest.approx(straight.final_train_loss, rel=1e-5)


def test_the_newest_checkpoints_are_kept_and_none_after_the_record_if_none_are_asked_for(
    plan: Plan, tmp_path: Path
):
    six, two, none = (
        plan(str(n), {"checkpoint.every_steps": 1, "checkpoint.keep_last": n}) for n in (6, 2, 0)
    )
    loop.train(str(tmp_path), six)
    assert kept(tmp_path, six) == [f"step-{step:08d}" for step in range(1, 6)]
    loop.train(str(tmp_path), two)
    assert kept(tmp_path, two) == ["step-00000004", "step-00000005"]
    loop.train(str(tmp_path), none)
    assert kept(tmp_path, none) == [] and not list(folder(tmp_path, none).rglob("*-*.safetensors"))


def test_multiples_of_keep_every_steps_stay_beside_the_newest(plan: Plan, tmp_path: Path):
    run = plan(
        "run",
        {"checkpoint.every_steps": 1, "checkpoint.keep_last": 1, "checkpoint.keep_every_steps": 2},
    )
    loop.train(str(tmp_path), run)
    assert kept(tmp_path, run) == ["step-00000002", "step-00000004", "step-00000005"]


def test_what_a_killed_attempt_left_is_not_read_and_goes_when_its_step_is_saved_again(
    plan: Plan, tmp_path: Path
):
    run = plan("run", {"checkpoint.every_steps": 3})
    loop.train(str(tmp_path), run)
    straight = result(tmp_path, run)
    unfinish(tmp_path, run)
    at = folder(tmp_path, run) / "checkpoints" / "step-00000003"
    (at / "commit.json").unlink()
    left = {file.name for file in at.iterdir()}
    (at / ".half-written.0f").write_bytes(b"half")
    loop.train(str(tmp_path), run)
    assert (
        len(left) == 3
        and not left & {file.name for file in at.iterdir()}
        and len(list(at.iterdir())) == 4
    )
    assert result(tmp_path, run) == straight


def test_a_save_is_left_out_while_the_one_before_is_being_published(
    plan: Plan, tmp_path: Path, log: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
):
    write, answers = storage.write, threading.Event()

    def slow(uri: str, content: Any) -> None:
        if uri.endswith("-000.safetensors"):
            answers.wait(60)
        write(uri, content)

    def open_at_the_end(job: Any, engine: Any, guard: Any, batch: Any) -> Any:
        if batch.step == 5:
            answers.set()
        return take_step(job, engine, guard, batch)

    take_step = loop.train_step
    monkeypatch.setattr(loop, "train_step", open_at_the_end)
    monkeypatch.setattr(storage, "write", slow)
    monkeypatch.setattr(manager, "WAIT_SECONDS", 0.0)
    run = plan("run", {"checkpoint.every_steps": 2, "checkpoint.keep_last": 9})
    loop.train(str(tmp_path), run)
    assert kept(tmp_path, run) == ["step-00000002"]
    assert (
        "the checkpoint of step 4 is left out: after 0 s more the one before is still being published"
        in log.text
    )


def test_training_goes_on_when_a_checkpoint_cannot_be_written_and_ends_when_none_can(
    plan: Plan, tmp_path: Path, log: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
):
    run = plan("run", {"checkpoint.every_steps": 1})
    folder(tmp_path, run).joinpath("checkpoints").write_text("in the way of a folder")
    loop.train(str(tmp_path), run)
    assert log.text.count("is not published, training goes on: cannot write") == 5
    unfinish(tmp_path, run)
    monkeypatch.setattr(manager, "MAX_FAILED", 2)
    with pytest.raises(StorageError, match="2 checkpoints in a row could not be published"):
        loop.train(str(tmp_path), run)


def test_what_others_must_remember_comes_back_and_an_engine_that_trained_on_is_set_back(
    plan: Plan, tmp_path: Path
):
    run = plan("run", {"checkpoint.keep_last": 2})
    world, identity = process_group.join(), RunIdentity("run", "data")
    model = OLMo(run.train.model)
    model.initialise(0)
    engine = deepspeed_engine.initialise(model, deepspeed_engine.deepspeed_settings(run.train, 1))
    checkpoints = CheckpointManager(
        str(tmp_path / "own"), identity, world, "run", run.train.checkpoint
    )
    tokens_BT = torch.arange(64).reshape(4, 16)

    def train() -> None:
        engine.backward(next_token_loss(engine(tokens_BT), tokens_BT).sum())
        engine.step()

    train()
    checkpoints.save(
        engine,
        1,
        1.5,
        {"window": torch.tensor([torch.nan, 1 / 3]), "skipped": torch.tensor([False, True])},
    )
    assert checkpoints.finish()
    after_1 = {name: value.clone() for name, value in deepspeed_state.gather_parameters(engine)}
    train()
    after_2 = {name: value.clone() for name, value in deepspeed_state.gather_parameters(engine)}
    checkpoints.save(engine, 2, 2.5, {})
    found = checkpoints.restore(engine, at_most=1)
    assert found and (found.commit.step, found.commit.train_seconds) == (1, 1.5)
    assert found.extra["window"].isnan().tolist() == [True, False] and found.extra[
        "skipped"
    ].tolist() == [False, True]
    assert equal(dict(deepspeed_state.gather_parameters(engine)), after_1) and equal(
        dict(model.named_parameters()), after_1
    )
    train()
    assert equal(dict(deepspeed_state.gather_parameters(engine)), after_2) and not equal(
        after_1, after_2
    )
    deepspeed_engine.release(engine)


def test_a_damaged_checkpoint_is_passed_over_with_a_warning_that_names_the_block(
    plan: Plan, tmp_path: Path, steps_done: list[int], log: pytest.LogCaptureFixture
):
    run = plan("run", {"checkpoint.every_steps": 2, "checkpoint.keep_last": 9})
    loop.train(str(tmp_path), run)
    straight = result(tmp_path, run)
    unfinish(tmp_path, run)
    damage(state(tmp_path, run, "step-00000004"))
    loop.train(str(tmp_path), run)
    assert steps_done[6:] == [2, 3, 4, 5]
    assert re.search(r"step-00000004/\w+-\d-00000-000\.safetensors: block 0", log.text)
    assert result(tmp_path, run) == straight
    assert kept(tmp_path, run) == ["step-00000002", "step-00000004"]  # made again


def test_if_no_checkpoint_verifies_the_run_is_refused_rather_than_begun_again(
    plan: Plan, tmp_path: Path, steps_done: list[int]
):
    run = plan("run", {"checkpoint.every_steps": 3})
    loop.train(str(tmp_path), run)
    unfinish(tmp_path, run)
    damage(state(tmp_path, run, "step-00000003"))
    with pytest.raises(ArtefactCorrupt, match="none of its 1 checkpoints verifies"):
        loop.train(str(tmp_path), run)
    assert steps_done == [0, 1, 2, 3, 4, 5]


def test_an_upload_without_its_commit_is_no_checkpoint(
    plan: Plan, tmp_path: Path, steps_done: list[int]
):
    run = plan("run", {"checkpoint.every_steps": 2, "checkpoint.keep_last": 9})
    loop.train(str(tmp_path), run)
    unfinish(tmp_path, run)
    (folder(tmp_path, run) / "checkpoints" / "step-00000004" / "commit.json").unlink()
    loop.train(str(tmp_path), run)
    assert steps_done[6:] == [2, 3, 4, 5]


def test_a_checkpoint_of_other_settings_is_refused(plan: Plan, tmp_path: Path):
    run = plan("run", {"checkpoint.every_steps": 3})
    loop.train(str(tmp_path), run)
    unfinish(tmp_path, run)
    with pytest.raises(ConfigurationError, match=r"its run_digest is \w{16}, this run's is \w{16}"):
        loop.train(
            str(tmp_path), replace(run, train=evolve(run.train, {"optimizer.learning_rate": 1e-3}))
        )


def test_a_run_in_an_object_store_checkpoints_and_resumes_as_on_a_disk(
    plan: Plan, tmp_path: Path, s3_server: str, steps_done: list[int]
):
    run, root = plan("run", {"checkpoint.every_steps": 3}), storage.join(s3_server, "training")
    for file in (file for file in tmp_path.rglob("*") if file.is_file()):
        storage.upload(file, storage.join(root, str(file.relative_to(tmp_path))))
    made = loop.train(root, run)
    storage.delete(storage.join(root, "runs/run/record.json"))
    again = loop.train(root, run)
    assert steps_done == [0, 1, 2, 3, 4, 5, 3, 4, 5]
    assert again.export_sha256["model.safetensors"] == made.export_sha256["model.safetensors"]
    assert loop.train(str(tmp_path), run).export_sha256 == made.export_sha256


def equal(a: dict[str, Any], b: dict[str, Any]) -> bool:
    return all(torch.equal(a[name], b[name]) for name in a.keys() | b.keys())


def damage(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
