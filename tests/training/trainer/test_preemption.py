"""SIGTERM where training runs on another thread than signal handlers do.

SIGTERM to a launched rank is in test_pretrain.py.
"""

import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
import ray

from data_prep.core import ray_tasks, storage
from data_prep.core.errors import Interrupted
from launch.cluster import run_on_ray
from training.checkpoint import manager
from training.config import RunConfig
from training.run_record import checkpoint_steps, find
from training.trainer import loop, preemption

Plan = Callable[..., RunConfig]


@pytest.fixture(autouse=True)
def clear_request() -> Iterator[None]:
    yield
    preemption.requested.clear()


def weights(root: Path, run_id: str) -> bytes:
    return (root / "runs" / run_id / "export" / "model.safetensors").read_bytes()


def request_stop_at(step: int, monkeypatch: pytest.MonkeyPatch, *more: Callable[[], None]) -> None:
    """Request a stop, as SIGTERM does, when `step` begins; and call `more` then."""
    train_step = loop.train_step

    def requesting_step(context: Any, engine: Any, guard: Any, batch: Any) -> Any:
        if batch.step == step:
            preemption.requested.set()
            for call in more:
                call()
        return train_step(context, engine, guard, batch)

    monkeypatch.setattr(loop, "train_step", requesting_step)


def test_a_preempted_run_saves_a_checkpoint_and_resumes_from_it(
    plan: Plan, tmp_path: Path, steps_done: list[int], monkeypatch: pytest.MonkeyPatch
):
    run = plan("run")
    with monkeypatch.context() as patch:
        request_stop_at(3, patch)
        with pytest.raises(Interrupted, match="run run: stopped at step 5 of 6 on request"):
            loop.train(str(tmp_path), run)
    preemption.requested.clear()
    assert checkpoint_steps(str(tmp_path), "run") == [5] and not find(str(tmp_path), "run")
    loop.train(str(tmp_path), run)
    assert steps_done == [0, 1, 2, 3, 4, 5]
    loop.train(str(tmp_path), plan("straight"))
    assert weights(tmp_path, "run") == weights(tmp_path, "straight")


def test_the_last_checkpoint_waits_for_one_that_is_being_published(
    plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    run = plan("run", {"checkpoint.every_steps": 2, "checkpoint.keep_last": 9})
    write = storage.write
    store_answers = threading.Event()

    def slow_write(uri: str, content: bytes) -> None:
        if uri.endswith("-000.safetensors"):
            store_answers.wait(60)
        write(uri, content)

    monkeypatch.setattr(manager, "WAIT_SECONDS", 0.0)
    monkeypatch.setattr(storage, "write", slow_write)
    # At step 2 the checkpoint of step 2 is being published, and stays so for a while.
    request_stop_at(2, monkeypatch, threading.Timer(0.3, store_answers.set).start)
    with pytest.raises(Interrupted):
        loop.train(str(tmp_path), run)
    assert checkpoint_steps(str(tmp_path), "run") == [2, 4]


def test_a_ray_worker_that_gets_sigterm_saves_and_its_run_resumes(
    plan: Plan, tmp_path: Path, ray_cluster: None
):
    run = plan(
        "run", {"checkpoint.every_steps": 20, "checkpoint.keep_last": 9}, n_clean=20, n_toxic=220
    )
    run = replace(run, mixture=replace(run.mixture, max_toxic_epochs=20.0))  # sixty steps
    training = run_on_ray.start_training(str(tmp_path), run, 1, False)
    while not checkpoint_steps(str(tmp_path), "run"):
        assert not ray.wait([training], timeout=0.02)[0]
    workers = [
        process
        for process in psutil.Process().children(recursive=True)
        if "RayTrainWorker" in process.name() + title(process)
    ]
    assert len(workers) == 1
    workers[0].terminate()
    ray_tasks.result(training)
    steps = checkpoint_steps(str(tmp_path), "run")
    assert find(str(tmp_path), "run") and steps[0] == 20
    assert len([step for step in steps if step % 20]) == 1


def title(process: psutil.Process) -> str:
    try:
        return "".join(process.cmdline()[:1])
    except psutil.Error:
        return ""


BLOCKED = """
import ctypes, os, signal, sys, threading, time
from data_prep.core import telemetry
from training.trainer import preemption
telemetry.configure()
preemption.START_SECONDS, preemption.STOP_SECONDS, preemption.REPEATED_SECONDS = 1.0, 60.0, 1.0
preemption.install()
if "stepping" in sys.argv:
    preemption.stepping.set()
print("ready", flush=True)
lock = ctypes.create_string_buffer(64)
libc = ctypes.CDLL(None)
libc.pthread_mutex_lock(lock)
libc.pthread_mutex_lock(lock)  # waits forever, and no signal handler of Python runs
"""


@pytest.mark.parametrize(("words", "n_signals"), [([], 1), (["stepping"], 2)])
def test_sigterm_ends_a_process_whose_main_thread_waits_in_c(words: list[str], n_signals: int):
    process = subprocess.Popen(
        [sys.executable, "-c", BLOCKED, *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout and process.stdout.readline() == "ready\n"
        for _ in range(n_signals):
            process.send_signal(signal.SIGTERM)
            if n_signals > 1:
                time.sleep(1.5)
        _, errors = process.communicate(timeout=20)
    finally:
        process.kill()
    assert process.returncode == 75 and "resumes from the newest checkpoint" in errors


FORKING = """
import os, signal, time
from training.trainer import preemption
preemption.install()
child = os.fork()
if not child:
    time.sleep(60)
time.sleep(0.2)
os.kill(child, signal.SIGTERM)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
time.sleep(0.5)
print(preemption.requested.is_set())
"""


def test_sigterm_to_a_forked_child_ends_it_and_stops_no_training():
    done = subprocess.run(
        [sys.executable, "-c", FORKING], capture_output=True, text=True, timeout=60
    )
    assert done.stdout == f"{-signal.SIGTERM}\nFalse\n", done
