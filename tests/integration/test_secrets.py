"""Credentials in the environment are found in no file, log line, Ray record or error text."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from sweeps import PLANTED_SECRETS, ROOT, TINY, PlantedSweep, environment, sweep

pytestmark = pytest.mark.slow


def leaks(text: bytes) -> list[str]:
    """The names of the planted secrets that a text holds."""
    return [name for name, value in PLANTED_SECRETS.items() if value.encode() in text]


def leaks_below(folder: str) -> dict[str, list[str]]:
    """The files below a folder that hold secrets, or have one in their name."""
    files = [path for path in Path(folder).rglob("*") if path.is_file() and not path.is_symlink()]
    leaks_by_file = {str(path): leaks(os.fsencode(path) + path.read_bytes()) for path in files}
    assert files
    return {path: names for path, names in leaks_by_file.items() if names}


def run_with_secrets(program: str) -> subprocess.CompletedProcess[bytes]:
    """A Python program that ends well, with PLANTED_SECRETS in its environment."""
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT,
        env=environment(**PLANTED_SECRETS),
        capture_output=True,
        timeout=180,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done


def test_a_whole_sweep_keeps_no_secret_of_its_environment(planted_sweep: PlantedSweep) -> None:
    assert leaks_below(planted_sweep.root) == {}
    assert leaks(planted_sweep.printed.encode()) == []


def test_ray_keeps_no_secret_in_logs_or_runtime_environments(planted_sweep: PlantedSweep) -> None:
    assert list(Path(planted_sweep.ray_folder).rglob("*.log"))  # it kept them here
    assert leaks_below(planted_sweep.ray_folder) == {}


def test_ray_is_given_no_secret_in_runtime_environments() -> None:
    program = (
        "from data_prep.core import ray_session, ray_tasks\n"
        "def given():\n"
        "    import ray\n"
        "    return str(ray.get_runtime_context().runtime_env)\n"
        "with ray_session.session(1):\n"
        "    import ray\n"
        "    from ray._private.state import state\n"
        "    task = ray_tasks.RayTask('given', given, (), 1)\n"
        "    print('of a task:', *ray_tasks.run([task], 'given', 'task'))\n"
        "    print('of the job:', state.job_table())\n"
        "    print('of the driver:', ray.get_runtime_context().runtime_env)\n"
    )
    done = run_with_secrets(program)
    assert done.stdout.count(b"PYTHONPATH") >= 2  # it is what the environments hold
    assert leaks(done.stdout + done.stderr) == []


def test_an_error_of_the_store_shows_no_secret(tmp_path: Path) -> None:
    secrets: Any = PLANTED_SECRETS
    endpoint = "http://me:planted-password@127.0.0.1:9"
    done = sweep("s3://bucket/prefix", *TINY, AWS_ENDPOINT_URL=endpoint, **secrets)
    assert done.returncode == 2 and done.stderr.strip().splitlines()[-1].startswith("error: ")
    printed = done.stdout + done.stderr
    assert leaks(printed.encode()) == [] and "planted-password" not in printed


def test_weights_and_biases_keeps_no_key(tmp_path: Path) -> None:
    program = (
        "from pathlib import Path\n"
        "from training.metrics.sinks import WeightsAndBiasesSink\n"
        f"sink = WeightsAndBiasesSink('run', Path({str(tmp_path)!r}))\n"
        "sink.write(1, 1.0, {'loss': 1.0})\n"
        "sink.close()\n"
    )
    done = run_with_secrets(program)
    assert leaks(done.stdout + done.stderr) == [] and leaks_below(str(tmp_path)) == {}
