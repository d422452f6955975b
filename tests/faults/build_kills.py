"""builds whose processes are killed, that race each other, or that fill their disk"""

import os
import random
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress

import psutil
from build_faults import BUCKET, BuildSetup, build, difference, finished_files, judge
from result_table import (
    BAD,
    ERROR,
    IDENTICAL,
    ROOT,
    TrialResult,
    attempt,
    error_lines,
    is_clear,
)

from data_prep.core import storage

BUILD_SECONDS = 180  # a build that takes longer is considered hung
# Process titles of Ray that are not tasks; killing an agent would end the whole node.
NOT_TASKS = ("ray::IDLE", "ray::Dashboard", "ray::RuntimeEnv", "ray::SPILL", "ray::RESTORE")
# Runs a command on a small file system, and again on a larger one if it fails.
ON_A_SMALL_DISK = """
mount -t tmpfs -o size="$1" tmpfs "$2" || exit 1
out="$2"
shift 2
"$@"
status=$?
echo "first: $status" >&2
mount -o remount,size=1g "$out" || exit 1
[ $status = 0 ] || "$@" || exit 1
echo "second: 0" >&2
mkdir -p "$out.copy" && cp -r "$out/." "$out.copy"
"""


def kill(process: psutil.Process) -> None:
    with suppress(psutil.NoSuchProcess):
        process.kill()


def busy_workers(parent: int) -> list[psutil.Process]:
    """Descendants of a process that run a Ray task."""
    workers = []
    for child in psutil.Process(parent).children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            title = "".join(child.cmdline()[:1])
            if title.startswith("ray::") and not title.startswith(NOT_TASKS):
                workers.append(child)
    return workers


def build_again(setup: BuildSetup, root: str) -> Callable[[], str | None]:
    return lambda: attempt(lambda: build(setup.config, root))


def killed_workers_trial(trial: int, seed: int, setup: BuildSetup) -> TrialResult:
    """Ray workers of a build are killed at random moments."""
    root = f"{BUCKET}/workers-{trial}"
    rng = random.Random(seed + trial)
    stopped = threading.Event()
    killed: list[int] = []

    def kill_workers() -> None:
        while not stopped.wait(rng.uniform(0.5, 3)):
            if workers := busy_workers(os.getpid()):
                worker = rng.choice(workers)
                kill(worker)
                killed.append(worker.pid)

    thread = threading.Thread(target=kill_workers, daemon=True)
    thread.start()
    error = attempt(lambda: build(setup.config, root))
    stopped.set()
    thread.join()
    result = judge("workers killed", trial, setup, root, error, build_again(setup, root))
    return result._replace(detail=f"{len(killed)} killed. {result.detail}")


def build_command(setup: BuildSetup, root: str) -> list[str]:
    settings = setup.work / "data.json"
    if not settings.exists():
        storage.save(setup.config, str(settings))
    return [sys.executable, "data_prep/build_streams.py", "--config", str(settings), "--out", root]


def start_driver(setup: BuildSetup, root: str, **environment: str) -> subprocess.Popen[str]:
    """The build as a user runs it; RAY_ADDRESS in `environment` names a cluster to join."""
    return subprocess.Popen(
        build_command(setup, root),
        cwd=ROOT,
        env=dict(os.environ) | {"PYTHONPATH": str(ROOT)} | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def wait_for_driver(process: subprocess.Popen[str]) -> str | None:
    """None if the driver succeeds, "" if it is killed, else its error."""
    try:
        _, stderr = process.communicate(timeout=BUILD_SECONDS)
    except subprocess.TimeoutExpired:
        children = psutil.Process(process.pid).children(recursive=True)
        process.kill()
        for child in children:
            kill(child)
        process.communicate()
        return "Traceback: it hung"
    if process.returncode == 0:
        return None
    if process.returncode < 0:
        return ""
    errors = error_lines(stderr)
    return errors[-1] if errors else f"Traceback: exit {process.returncode}: {stderr[-3000:]}"


def ray_address() -> str:
    import ray

    return ray.get_runtime_context().gcs_address


def wait_for_first_file(process: subprocess.Popen[str], root: str) -> None:
    """Wait until the build has published a file (usually the tokenizer), or has ended."""
    while process.poll() is None and not storage.glob(storage.join(root, "**")):
        time.sleep(0.1)


def killed_driver_trial(trial: int, seed: int, setup: BuildSetup) -> TrialResult:
    """The driver of a build on a running cluster is killed at a random moment."""
    root = f"{BUCKET}/driver-{trial}"
    delay = random.Random(seed + trial).uniform(0, setup.seconds())
    process = start_driver(setup, root, RAY_ADDRESS=ray_address())
    wait_for_first_file(process, root)
    with suppress(subprocess.TimeoutExpired):
        process.wait(delay)
    process.kill()
    error = wait_for_driver(process)
    result = judge("driver killed", trial, setup, root, error, build_again(setup, root))
    return result._replace(detail=f"after {delay:.1f} s. {result.detail}")


def killed_ray_trial(trial: int, seed: int, setup: BuildSetup) -> TrialResult:
    """All of a build's own Ray is killed; the driver then has to end by itself."""
    root = f"{BUCKET}/ray-{trial}"
    delay = random.Random(seed + trial).uniform(0, setup.seconds())
    process = start_driver(setup, root)
    wait_for_first_file(process, root)
    with suppress(subprocess.TimeoutExpired):
        process.wait(delay)
    n_killed = 0
    if process.poll() is None:
        for child in psutil.Process(process.pid).children(recursive=True):
            kill(child)
            n_killed += 1
    start = time.monotonic()
    error = wait_for_driver(process)
    seconds = time.monotonic() - start
    if error and "Failed to connect to GCS" in error:
        # Ray ends the process itself after a minute, without an exception that we could catch.
        error = ""
    result = judge("Ray killed", trial, setup, root, error, build_again(setup, root))
    detail = f"{n_killed} processes after {delay:.1f} s, driver ended {seconds:.0f} s later."
    return result._replace(detail=f"{detail} {result.detail}")


def race_trial(trial: int, seed: int, setup: BuildSetup) -> TrialResult:
    """Two drivers build the same output at the same time on one cluster."""
    root = f"{BUCKET}/race-{trial}"
    first = start_driver(setup, root, RAY_ADDRESS=ray_address())
    time.sleep(random.Random(seed + trial).uniform(0, setup.seconds()))
    second = start_driver(setup, root, RAY_ADDRESS=ray_address())
    ends = [wait_for_driver(process) for process in (first, second)]
    errors = [error for error in ends if error is not None]
    error = errors[0] if errors else None
    return judge("two builds at once", trial, setup, root, error, build_again(setup, root))


def full_disk_trial(trial: int, seed: int, setup: BuildSetup) -> TrialResult:
    """A build fills its disk, and is repeated after the disk has grown."""
    name = "disk full"
    result_bytes = sum(storage.size(uri) for uri in finished_files(f"{BUCKET}/undisturbed"))
    disk_bytes = int(random.Random(seed + trial).uniform(0.1, 0.9) * result_bytes)
    folder = setup.work / f"disk-{trial}"
    folder.mkdir()
    script = ["unshare", "-m", "sh", "-c", ON_A_SMALL_DISK, "sh", str(disk_bytes), str(folder)]
    done = subprocess.run(
        [*script, *build_command(setup, str(folder))],
        cwd=ROOT,
        env=dict(os.environ) | {"PYTHONPATH": str(ROOT), "RAY_ADDRESS": ""},
        capture_output=True,
        text=True,
        timeout=2 * BUILD_SECONDS,
    )
    lines = done.stderr.splitlines()
    errors = error_lines(done.stderr)
    detail = f"at {disk_bytes:,} bytes. {errors[0] if errors else ''}"
    if done.returncode or "second: 0" not in lines:
        detail = f"{detail} exit {done.returncode}: {done.stderr[-3000:]}"
        return TrialResult(name, trial, BAD, detail)
    if different := difference(f"{folder}.copy", setup.expected):
        return TrialResult(name, trial, BAD, f"{detail} {different}")
    if "first: 0" in lines:
        return TrialResult(name, trial, IDENTICAL, detail)
    return TrialResult(name, trial, ERROR if errors and is_clear(errors[0]) else BAD, detail)
