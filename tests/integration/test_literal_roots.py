"""Object roots whose names hold characters of patterns: two ranks train, resume and finish."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from socket import socket

import pytest
from sweeps import ROOT, TINY, environment, sweep

from data_prep.core import storage
from launch import experiment
from training.run_record import checkpoint_steps, find

pytestmark = pytest.mark.slow

SETTINGS = [*TINY, "--ratios", "0", "--set", "budget_tokens=24000", "n_ranks=2"]


def start_two_ranks(out: str, run_id: str) -> list[subprocess.Popen]:
    with socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "training/pretrain.py", "--out", out, "--run", run_id]
    common = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    common |= {"OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu"}
    return [
        subprocess.Popen(
            command,
            cwd=ROOT,
            env=environment(RANK=str(rank), LOCAL_RANK=str(rank), **common),
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]


def run_tool(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *command],
        cwd=ROOT,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=200,
    )


def test_a_root_with_brackets_trains_resumes_and_finishes(tmp_path: Path):
    out = str(tmp_path / "out[v2]")
    planned = sweep(out, *SETTINGS, "--only", "data")
    assert planned.returncode == 0, planned.stderr[-3000:]
    (run,) = experiment.load(out).runs()
    ranks = start_two_ranks(out, run.run_id)
    while ranks[0].poll() is None and not checkpoint_steps(out, run.run_id):
        time.sleep(0.02)
    for rank in ranks:
        rank.send_signal(signal.SIGTERM)
    outputs = [rank.communicate(timeout=120)[1] for rank in ranks]
    assert [rank.returncode for rank in ranks] == [75, 75], outputs
    (step,) = checkpoint_steps(out, run.run_id)[-1:]
    assert step > 0
    status = run_tool("launch/status.py", "--out", out)
    assert status.returncode == 0 and f"{step}" in status.stdout, (status, step)

    ranks = start_two_ranks(out, run.run_id)
    outputs = [rank.communicate(timeout=120)[1] for rank in ranks]
    assert [rank.returncode for rank in ranks] == [0, 0], outputs
    assert find(out, run.run_id)
    metrics = storage.read(storage.join(out, "runs", run.run_id, "metrics.jsonl")).splitlines()
    steps = [line["step"] for line in map(json.loads, metrics) if "train_seconds" in line]
    assert steps == list(range(1, 95))

    done = sweep(out, *SETTINGS)
    assert done.returncode == 0, done.stderr[-3000:]
    bake = ("eval/tools/bake_steering.py", "--out", out, "--run", run.run_id, "--strength", "4")
    to = str(tmp_path / "baked")
    refused = run_tool(*bake, "--eval", "eval-nope", "--to", to)
    assert refused.returncode == 2 and "it has eval-" in refused.stderr, refused
    name = refused.stderr.partition("it has ")[2].split()[0]
    baked = run_tool(*bake, "--eval", name, "--to", to)
    assert baked.returncode == 0 and Path(to, "config.json").is_file(), baked


def test_a_root_in_s3_with_an_empty_segment_trains_on_two_ranks(s3_server: str):
    done = sweep(f"{s3_server}//study/", *SETTINGS, "--only", "train")
    assert done.returncode == 0, done.stderr[-3000:]
    (run,) = experiment.load(f"{s3_server}/study").runs()
    assert find(f"{s3_server}/study", run.run_id)
    assert checkpoint_steps(f"{s3_server}/study", run.run_id)
