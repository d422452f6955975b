"""Builds whose processes are killed, that meet another one, or the end of their disk."""

import os
import random
import subprocess
import sys
import threading
import time
from collections import Counter
from contextlib import suppress

import psutil
from builds import BUCKET, World, build, difference, judged
from result_table import BAD, ERROR, IDENTICAL, ROOT, Result, attempt, is_clear

from data_prep.core import storage

BUILD_SECONDS = 180  # a build that takes longer hangs


def kill(process: psutil.Process) -> None:
    with suppress(psutil.NoSuchProcess):
        process.kill()


WORK = (
    "ray::tokenize",
    "ray::copies",
    "ray::count",
    "ray::shard",
    "ray::train",
)  # not Ray's own agents, nor idle workers


def workers_of(parent: int) -> list[psutil.Process]:
    """The Ray workers at work below a process."""
    found = []
    for child in psutil.Process(parent).children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            if "".join(child.cmdline()[:1]).startswith(WORK):
                found.append(child)
    return found


def killed_workers_trial(trial: int, seed: int, world: World) -> Result:
    root, chance, stopped, n_killed = (
        f"{BUCKET}/workers-{trial}",
        random.Random(seed + trial),
        threading.Event(),
        Counter[str](),
    )

    def killer() -> None:
        while not stopped.wait(chance.uniform(0.5, 3)):
            if found := workers_of(os.getpid()):
                kill(chance.choice(found))
                n_killed["worker"] += 1

    thread = threading.Thread(target=killer, daemon=True)
    thread.start()
    error = attempt(lambda: build(world.config, root))
    stopped.set()
    thread.join()
    again = lambda: attempt(lambda: build(world.config, root))  # noqa: E731
    result = judged("workers killed", trial, world, root, error, again)
    return result._replace(detail=f"{n_killed['worker']} killed. {result.detail}")


def command(world: World, root: str) -> list[str]:
    settings = world.work / "data.json"
    if not settings.exists():
        storage.save(world.config, str(settings))
    return [sys.executable, "data_prep/build_streams.py", "--config", str(settings), "--out", root]


def driver(world: World, root: str, *prefix: str, **more: str) -> subprocess.Popen[str]:
    """The build as a user runs it; RAY_ADDRESS in `more` names a cluster to join."""
    environment = dict(os.environ) | {"PYTHONPATH": str(ROOT)} | more
    pipe = subprocess.PIPE
    return subprocess.Popen(
        [*prefix, *command(world, root)],
        cwd=ROOT,
        env=environment,
        stdout=pipe,
        stderr=pipe,
        text=True,
        start_new_session=True,
    )


def ended(process: subprocess.Popen[str]) -> str | None:
    """How a driver ended: None well, "" killed, else its error."""
    try:
        _, text = process.communicate(timeout=BUILD_SECONDS)
    except subprocess.TimeoutExpired:
        family = psutil.Process(process.pid).children(recursive=True)
        process.kill()
        for one in family:
            kill(one)
        process.communicate()
        return "Traceback: it hung"
    if process.returncode == 0:
        return None
    if process.returncode < 0:
        return ""
    errors = [
        line.removeprefix("error: ") for line in text.splitlines() if line.startswith("error: ")
    ]
    return errors[-1] if errors else f"Traceback: exit {process.returncode}: {text[-3000:]}"


def ray_address() -> str:
    import ray

    return ray.get_runtime_context().gcs_address


def wait_until_begun(process: subprocess.Popen[str], root: str) -> None:
    """Until the build has published something (the tokenizer, as a rule), or has ended."""
    while process.poll() is None and not storage.glob(storage.join(root, "**")):
        time.sleep(0.1)


def killed_driver_trial(trial: int, seed: int, world: World) -> Result:
    """The driver of a build on a running cluster is killed at a random moment."""
    root, after = f"{BUCKET}/driver-{trial}", random.Random(seed + trial).uniform(0, world.seconds)
    process = driver(world, root, RAY_ADDRESS=ray_address())
    wait_until_begun(process, root)
    with suppress(subprocess.TimeoutExpired):
        process.wait(after)
    process.kill()
    error = ended(process)
    again = lambda: attempt(lambda: build(world.config, root))  # noqa: E731
    result = judged("driver killed", trial, world, root, error, again)
    return result._replace(detail=f"after {after:.1f} s. {result.detail}")


def killed_ray_trial(trial: int, seed: int, world: World) -> Result:
    """A build with a Ray of its own: all of Ray is killed, then the driver has to end by itself."""
    root, after = f"{BUCKET}/ray-{trial}", random.Random(seed + trial).uniform(0, world.seconds)
    process = driver(world, root)
    wait_until_begun(process, root)
    with suppress(subprocess.TimeoutExpired):
        process.wait(after)
    killed = 0
    if process.poll() is None:
        for child in psutil.Process(process.pid).children(recursive=True):
            kill(child)
            killed += 1
    start = time.monotonic()
    error = ended(process)
    seconds = time.monotonic() - start
    if error and "Failed to connect to GCS" in error:
        error = ""  # Ray ends the process itself after a minute, with this message and no exception that we could catch
    again = lambda: attempt(lambda: build(world.config, root))  # noqa: E731
    result = judged("Ray killed", trial, world, root, error, again)
    return result._replace(
        detail=f"{killed} processes after {after:.1f} s, driver ended {seconds:.0f} s later. {result.detail}"
    )


def race_trial(trial: int, seed: int, world: World) -> Result:
    """Two drivers build one output at once on one cluster."""
    root = f"{BUCKET}/race-{trial}"
    first = driver(world, root, RAY_ADDRESS=ray_address())
    time.sleep(random.Random(seed + trial).uniform(0, world.seconds))
    second = driver(world, root, RAY_ADDRESS=ray_address())
    errors = [
        error for process in (first, second) for error in [ended(process)] if error is not None
    ]
    again = lambda: attempt(lambda: build(world.config, root))  # noqa: E731
    return judged("two builds at once", trial, world, root, errors[0] if errors else None, again)


def full_disk_trial(trial: int, seed: int, world: World) -> Result:
    """The output is a small file system of its own: the build hits its end, is repeated when it has
    grown.
    """
    chance = random.Random(seed + trial)
    size = int(chance.uniform(0.1, 0.9) * full_size(world))
    folder = world.work / f"disk-{trial}"
    folder.mkdir()
    script = (
        'mount -t tmpfs -o size="$1" tmpfs "$2" && shift 1 && out="$1" && shift 1 && { "$@"; code=$?; '
        'echo "first: $code" >&2; mount -o remount,size=1g "$out" && { [ $code = 0 ] || "$@"; } '
        '&& echo "second: 0" >&2 && mkdir -p "$out.copy" && cp -r "$out/." "$out.copy"; }'
    )
    done = subprocess.run(
        [
            "unshare",
            "-m",
            "sh",
            "-c",
            script,
            "sh",
            str(size),
            str(folder),
            *command(world, str(folder)),
        ],
        cwd=ROOT,
        env=dict(os.environ) | {"PYTHONPATH": str(ROOT), "RAY_ADDRESS": ""},
        capture_output=True,
        text=True,
        timeout=2 * BUILD_SECONDS,
    )
    name, lines = "disk full", done.stderr.splitlines()
    errors = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
    detail = f"at {size:,} bytes. {errors[0] if errors else ''}"
    if done.returncode or "second: 0" not in lines:
        return Result(name, trial, BAD, f"{detail} exit {done.returncode}: {done.stderr[-3000:]}")
    if different := difference(f"{folder}.copy", world.expected):
        return Result(name, trial, BAD, f"{detail} {different}")
    if "first: 0" in lines:
        return Result(name, trial, IDENTICAL, detail)
    return Result(name, trial, ERROR if errors and is_clear(errors[0]) else BAD, detail)


def full_size(world: World) -> int:
    """Bytes of a finished build, about what its disk must hold; units come on top."""
    root = f"{BUCKET}/undisturbed"
    return sum(
        storage.size(uri)
        for part in ("tokenizer", "streams")
        for uri in storage.glob(storage.join(root, part, "**"))
    )
