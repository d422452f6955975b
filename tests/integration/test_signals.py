"""Ctrl-C and SIGTERM end a command in time, with one line, its status, and all that it started"""

import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from sweeps import ROOT, TINY, environment, kill_tree

from launch import experiment

pytestmark = pytest.mark.slow
ENDED = {
    (signal.SIGINT, 130, "interrupted; the same command continues from what is done"),
    (signal.SIGTERM, 143, "stopped by SIGTERM; the same command continues from what is done"),
}
LONG = [word.replace("documents=", "documents=200") for word in TINY]


def start(command: list[str], log: Path) -> subprocess.Popen:
    """The command in a process group of its own, where Ctrl-C is not ignored."""
    with log.open("w") as file:
        return subprocess.Popen(
            [sys.executable, *command],
            cwd=ROOT,
            env=environment(),
            stdout=subprocess.DEVNULL,
            stderr=file,
            start_new_session=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        )


def wait_for(text: str, log: Path, process: subprocess.Popen) -> None:
    deadline = time.monotonic() + 120
    while text not in log.read_text(encoding="utf-8"):
        assert process.poll() is None and time.monotonic() < deadline, log.read_text()[-2000:]
        time.sleep(0.1)


def end(process: subprocess.Popen, number: int) -> int:
    """The exit status after the signal; everything that the process started ends, too."""
    children = psutil.Process(process.pid).children(recursive=True)
    try:
        process.send_signal(number)
        status = process.wait(timeout=40)
    finally:
        if process.poll() is None:
            kill_tree(process)
    _, alive = psutil.wait_procs(children, timeout=60)
    assert not alive
    return status


@pytest.mark.parametrize(("number", "status", "line"), sorted(ENDED))
def test_a_signal_ends_the_sweep_and_all_it_started(
    number: int, status: int, line: str, tmp_path: Path
) -> None:
    log = tmp_path / "log"
    sweep = ["launch/sweep.py", "--out", str(tmp_path / "out"), *LONG, "--only", "data"]
    process = start(sweep, log)
    wait_for("tokenize", log, process)  # the driver waits for tasks
    assert end(process, number) == status
    text = log.read_text(encoding="utf-8")
    assert text.splitlines()[-1] == line and "Traceback" not in text


def test_control_c_ends_a_training_with_one_line(finished_sweep: str, tmp_path: Path) -> None:
    root = tmp_path / "out"
    run = experiment.load(finished_sweep).runs()[1].run_id
    shutil.copytree(
        finished_sweep,
        root,
        ignore=shutil.ignore_patterns("report", "eval-*", "record.json", "checkpoints"),
    )
    log = tmp_path / "log"
    process = start(["training/pretrain.py", "--out", str(root), "--run", run], log)
    wait_for("step", log, process)
    assert end(process, signal.SIGINT) == 130
    text = log.read_text(encoding="utf-8")
    assert "interrupted; " in text.splitlines()[-1] and "Traceback" not in text
