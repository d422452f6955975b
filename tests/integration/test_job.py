"""the sweep as a Ray job on a cluster with a token, into object storage, and its metrics"""

import json
import re
import secrets
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from sweeps import ROOT, TINY, environment, kill_tree, losses, sweep

from data_prep.core import storage
from data_prep.core.telemetry import METRICS
from launch import experiment

pytestmark = pytest.mark.slow


class Cluster(NamedTuple):
    environment: dict[str, str]
    dashboard: str
    metrics: str
    token: str

    def api(self, path: str) -> dict:
        request = urllib.request.Request(
            self.dashboard + path, headers={"Authorization": f"Bearer {self.token}"}
        )
        with urllib.request.urlopen(request, timeout=30) as response:
            return json.load(response)


@pytest.fixture(scope="module")
def cluster(
    s3_server: str, tmp_path_factory: pytest.TempPathFactory, free_port
) -> Iterator[Cluster]:
    """`ray start --head` on free loopback ports.

    All Ray heads of a machine have the same default ports, and a head whose agent finds its port in
    use keeps running but accepts no job.
    """
    token = secrets.token_hex(32)
    token_file = tmp_path_factory.mktemp("token") / "token"
    token_file.write_text(token)
    names = (
        "port",
        "dashboard-port",
        "dashboard-agent-listen-port",
        "metrics-export-port",
        "ray-client-server-port",
    )
    ports = {name: free_port() for name in names}
    variables = environment(
        RAY_AUTH_MODE="token",
        RAY_AUTH_TOKEN_PATH=str(token_file),
        RAY_USAGE_STATS_ENABLED="0",
        RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER="0",
        RAY_TRAIN_ENABLE_STATE_TRACKING="1",
    )
    command = [
        "ray",
        "start",
        "--head",
        "--block",
        "--num-cpus",
        "2",
        "--object-store-memory",
        str(200 << 20),
    ]
    command += [f"--{name}={port}" for name, port in ports.items()]
    head = subprocess.Popen(
        command, env=variables, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    cluster = Cluster(
        variables,
        f"http://127.0.0.1:{ports['dashboard-port']}",
        f"http://127.0.0.1:{ports['metrics-export-port']}/metrics",
        token,
    )
    try:
        _wait_for(lambda: cluster.api("/api/version"))
        agent = f"http://127.0.0.1:{ports['dashboard-agent-listen-port']}/api/local_raylet_healthz"
        _wait_for(lambda: urllib.request.urlopen(agent, timeout=30).close())
        yield cluster
    finally:
        kill_tree(head)


def _wait_for(attempt, seconds: float = 60):
    end = time.monotonic() + seconds
    while True:
        try:
            return attempt()
        except OSError:
            if time.monotonic() > end:
                raise
            time.sleep(0.5)


def _scrape(url: str) -> str:
    try:
        with urllib.request.urlopen(url, timeout=10) as response:
            return response.read().decode()
    except OSError:
        return ""


def _run_job(command: list[str], cluster: Cluster) -> tuple[int, str, str]:
    """Run `ray job submit …`: its exit status, its output, and the metrics exported meanwhile."""
    metrics = ""
    with tempfile.TemporaryFile("w+") as log:
        job = subprocess.Popen(
            command, cwd=ROOT, env=cluster.environment, stdout=log, stderr=subprocess.STDOUT
        )
        while job.poll() is None:
            metrics += _scrape(cluster.metrics)
            time.sleep(1)
        log.seek(0)
        return job.returncode, log.read(), metrics


def test_a_submitted_job_gives_what_a_sweep_gives_and_can_be_observed(
    cluster, finished_sweep, s3_server
):
    out = f"{s3_server}/sweep"
    flags = [*TINY, "--ratios", "0.25"]
    entry = [sys.executable, "launch/sweep.py", "--out", out, *flags]
    command = [
        "ray",
        "job",
        "submit",
        "--address",
        cluster.dashboard,
        "--working-dir",
        ".",
        "--",
        *entry,
    ]
    returncode, log, metrics = _run_job(command, cluster)
    assert returncode == 0, log[-4000:]

    (run,) = experiment.load(out).runs()
    assert losses(out, run.run_id) == losses(finished_sweep, run.run_id)
    for name in (
        f"{run.clean}/manifest.json",
        f"{run.toxic}/manifest.json",
        f"runs/{run.run_id}/export/model.safetensors",
    ):
        assert storage.read(storage.join(out, name)) == Path(finished_sweep, name).read_bytes()
    assert b"<html" in storage.read(storage.join(out, "report", "index.html"))
    assert "nothing to do" in sweep(out, *flags).stderr

    tasks = {
        task["name"] for task in cluster.api("/api/v0/tasks?limit=1000")["data"]["result"]["result"]
    }
    assert {f"train {run.run_id}", f"evaluate {run.run_id}"} <= tasks
    assert any(name.startswith("tokenize clean") for name in tasks), sorted(tasks)

    exported = {
        name for name in METRICS if re.search(rf"^ray_{name}(_total)?{{", metrics, re.MULTILINE)
    }
    assert {
        "hormesis_train_loss",
        "hormesis_tokens_per_second",
        "hormesis_documents",
        "hormesis_held_out_loss",
    } <= exported
    assert f'run="{run.run_id}"' in metrics
