"""SIGTERM where training runs on another thread than signals do; under a launcher it is in test_pretrain.py."""

import json
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
import ray

from data_prep.core import ray_tasks, storage
from data_prep.core.errors import Interrupted
from launch import cluster
from training.checkpoint import manager
from training.config import RunConfig
from training.run_record import find
from training.trainer import loop, preemption

Plan = Callable[..., RunConfig]


def weights(root: Path, run_id: str) -> bytes:
    return (root / "runs" / run_id / "export" / "model.safetensors").read_bytes()


def checkpoints(root: Path, run_id: str) -> list[int]:
    return [
        json.loads(commit.read_text())["step"]
        for commit in (root / "runs" / run_id / "checkpoints").glob("*/commit.json")
    ]


def test_a_run_that_is_asked_to_stop_saves_and_goes_on_from_there(
    plan: Plan, tmp_path: Path, steps_done: list[int], monkeypatch: pytest.MonkeyPatch
):
    run, take_step = plan("run"), loop.train_step

    def asked(job, engine, guard, batch):
        if batch.step == 3:
            preemption.requested.set()
        return take_step(job, engine, guard, batch)

    with monkeypatch.context() as patch:
        patch.setattr(loop, "train_step", asked)
        with pytest.raises(Interrupted, match="run run: stopped at step 5 of 6 on request"):
            loop.train(str(tmp_path), run)
    preemption.requested.clear()
    assert checkpoints(tmp_path, "run") == [5] and not find(str(tmp_path), "run")
    loop.train(str(tmp_path), run)
    assert steps_done == [0, 1, 2, 3, 4, 5]
    loop.train(str(tmp_path), plan("straight"))
    assert weights(tmp_path, "run") == weights(tmp_path, "straight")


def test_the_last_checkpoint_is_saved_though_the_one_before_is_still_being_published(
    plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    run = plan("run", {"checkpoint.every_steps": 2, "checkpoint.keep_last": 9})
    write, take_step, answers = storage.write, loop.train_step, threading.Event()

    def slow(uri, content):
        if uri.endswith("-000.safetensors"):
            answers.wait(60)
        write(uri, content)

    def asked(job, engine, guard, batch):
        if batch.step == 2:  # the checkpoint of step 2 is under way, and stays so for a while
            threading.Timer(0.3, answers.set).start()
            preemption.requested.set()
        return take_step(job, engine, guard, batch)

    monkeypatch.setattr(manager, "WAIT_SECONDS", 0.0)
    monkeypatch.setattr(storage, "write", slow)
    monkeypatch.setattr(loop, "train_step", asked)
    with pytest.raises(Interrupted):
        loop.train(str(tmp_path), run)
    preemption.requested.clear()
    assert sorted(checkpoints(tmp_path, "run")) == [2, 4]


def test_a_ray_worker_that_gets_sigterm_saves_and_its_gang_goes_on(
    plan: Plan, tmp_path: Path, ray_cluster: None
):
    run = plan(
        "run", {"checkpoint.every_steps": 20, "checkpoint.keep_last": 9}, n_clean=20, n_toxic=220
    )
    run = replace(run, mixture=replace(run.mixture, max_toxic_epochs=20.0))  # sixty steps
    under_way = cluster.train(str(tmp_path), run, 1, False)
    while not checkpoints(tmp_path, "run"):
        assert not ray.wait([under_way], timeout=0.02)[0]
    workers = [
        one
        for one in psutil.Process().children(recursive=True)
        if "RayTrainWorker" in one.name() + title(one)
    ]
    assert len(workers) == 1
    workers[0].terminate()
    ray_tasks.outcome(under_way)
    steps = checkpoints(tmp_path, "run")
    assert (
        find(str(tmp_path), "run")
        and sorted(steps)[:1] == [20]
        and len([step for step in steps if step % 20]) == 1
    )


def title(process: psutil.Process) -> str:
    try:
        return "".join(process.cmdline()[:1])
    except psutil.Error:
        return ""
