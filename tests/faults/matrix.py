"""Builds and reads token streams while things break, and prints: fault, times tried, outcome. Not zero if any was bad.

    python tests/faults/matrix.py [--trials N] [--seed S] [--only NAME …] [--json]

An undisturbed build is made first. A trial disturbs another one, in a folder of its own. Its outcome is

    identical                      it ended well, and every file has the bytes of the undisturbed build's
    clear error, then identical    it ended with one of our errors, which says what to do; the same command, undisturbed, ended well
    resumed, then identical        it was killed; the same command, undisturbed, ended well
    bad                            anything else, with the reason

and whenever a record is there after the disturbance, everything it speaks of is whole.
"""

import argparse
import hashlib
import json
import logging
import os
import random
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import psutil
from proxy import FAULTS, Fault, Proxy

from data_prep import layout, manifest, reader, segments, shards, storage, streams, tasks, units
from data_prep.config import DataConfig, TokenizerConfig
from data_prep.records import HormesisError

ROOT = Path(__file__).resolve().parent.parent.parent
AWS = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "testsecret", "AWS_DEFAULT_REGION": "us-east-1"}
RAY = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0", "RAY_AUTH_MODE": "disabled"}

IDENTICAL, ERROR, RESUMED, BAD = "identical", "clear error, then identical", "resumed, then identical", "bad"
BUCKET = "s3://faults"
BUILD_SECONDS = 180  # a build that takes longer hangs
RATES = {"slow_down": 0.15, "stalled": 0.1, "duplicate": 0.5, "stale_list": 1.0, "latency": 0.5, "slow": 0.5}


class Result(NamedTuple):
    name: str
    trial: int
    outcome: str
    detail: str = ""


class World(NamedTuple):
    """What trials share: the settings, the proxy before the store, the undisturbed build's files by name."""

    config: DataConfig
    proxy: Proxy
    expected: dict[str, str]
    seconds: float  # that the undisturbed build took
    work: Path


def write_corpus(uri: str) -> DataConfig:
    """A small corpus in several formats, and the settings that build it."""
    import gzip

    from data_prep import synthetic

    for stream, n_files in (("clean", 3), ("toxic", 2)):
        for part, source in enumerate(synthetic.expand(f"synthetic:{stream}?documents={60 * n_files}&seed=0&parts={n_files}")):
            lines = "".join(json.dumps({"text": row["text"]}) + "\n" for row in synthetic.rows(source)).encode()
            packed = gzip.compress(lines, mtime=0) if part else lines
            storage.write(f"{uri}/{stream}-{part}.jsonl" + (".gz" if part else ""), packed)
    return DataConfig(
        clean=(f"{uri}/clean-*",),
        toxic=(f"{uri}/toxic-*",),
        tokenizer=TokenizerConfig(source="train", vocab_size=400, train_bytes=40_000),
        held_out_ratio=0.1,
        shard_tokens=20_000,
    )


def build(config: DataConfig, root: str) -> None:
    for stream in ("clean", "toxic"):
        streams.build(config, stream, root)


def files(root: str) -> dict[str, str]:
    """What a build leaves, without work in progress: name → sha256."""
    found = [uri for part in ("tokenizer", "streams") for uri in storage.glob(storage.join(root, part, "**"))]
    return {uri.removeprefix(root).lstrip("/"): hashlib.sha256(storage.read(uri)).hexdigest() for uri in found}


def check_records(root: str) -> None:
    """Whatever record is there speaks of whole things."""
    for uri in storage.glob(storage.join(root, "streams", "*", manifest.NAME)):
        folder = uri.rpartition("/")[0]
        shards.verify(folder, manifest.load(folder))
    for uri in storage.glob(storage.join(root, "units", "**", "segment-*.json")):
        name = uri.removesuffix(".json")
        if segments.load(name, "uint16") is not None:  # else a build that ended is removing it, or it will be made again
            segments.read(name, 0, units.KEY_SPACE, "uint16")


def difference(root: str, expected: dict[str, str]) -> str:
    found = files(root)
    names = sorted(name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name))
    return f"{len(names)} files differ, the first is {names[0]}" if names else ""


def is_clear(text: str) -> bool:
    """One of our errors says where (a URI or path) and what to do after its last semicolon."""
    return ";" in text and "/" in text and "Traceback" not in text


def judged(name: str, trial: int, world: World, root: str, error: str | None, again: Callable[[], str | None]) -> Result:
    """The outcome after the disturbance has ended. error: how it ended, "" for killed, None for well; again: builds once more."""
    try:
        check_records(root)
        if error is None:
            different = difference(root, world.expected)
            return Result(name, trial, BAD, f"ended well, but {different}") if different else Result(name, trial, IDENTICAL)
        if error and not is_clear(error):
            return Result(name, trial, BAD, f"the error is not clear: {error}")
        second = again()
        if second is not None:
            return Result(name, trial, BAD, f"first {error or 'killed'}; again, undisturbed: {second}")
        different = difference(root, world.expected)
        if different:
            return Result(name, trial, BAD, f"first {error or 'killed'}; again: {different}")
        return Result(name, trial, ERROR if error else RESUMED, error)
    except Exception:
        return Result(name, trial, BAD, traceback.format_exc())


# Faults of the store.


def attempt(work: Callable[[], Any]) -> str | None:
    """How `work` ended: None well, else one of our errors' text or a traceback."""
    try:
        work()
    except HormesisError as error:
        return str(error)
    except Exception:
        return traceback.format_exc()
    return None


def store_trial(kind: str, trial: int, seed: int, world: World) -> Result:
    root = f"{BUCKET}/store-{kind}-{trial}"
    limit = 1 if kind == "stalled" else None
    world.proxy.inject(Fault(kind, RATES.get(kind, 0.1), seed + trial, limit=limit))
    try:
        error = attempt(lambda: build(world.config, root))
    finally:
        n_injected = sum(world.proxy.injected.values())
        world.proxy.inject(None)
    result = judged(f"build: {kind}", trial, world, root, error, lambda: attempt(lambda: build(world.config, root)))
    return result._replace(detail=f"{n_injected} injected. {result.detail}")


def read_trial(kind: str, trial: int, seed: int, world: World) -> Result:
    """A training reader under a fault: the same tokens, or a clear error and the same tokens when asked again."""
    import pyarrow as pa

    name, root = f"read: {kind}", f"{BUCKET}/read-stream"
    whole = storage.BLOCK_BYTES
    storage.BLOCK_BYTES = 1 << 14
    try:
        tokens = np.random.default_rng(0).integers(1, 400, 1 << 19).astype(np.uint16)
        tokens[127::128] = 0
        lengths = np.full(len(tokens) // 128, 128)
        shard = shards.write_shard(root, "train-00000", tokens, lengths, pa.table({"row": np.arange(len(lengths))}))
        known = replace(
            manifest.load(storage.join(BUCKET, "undisturbed", layout.stream_uri(world.config, "clean"))), train=(shard,)
        )
        sequences = tokens.reshape(-1, 64)

        def read() -> None:
            windows_of, chance = reader.SequenceReader(root, known, "train", 64, ahead=2), np.random.default_rng(trial)
            for at in range(0, len(sequences), 256):
                asked = chance.permutation(np.arange(at, min(at + 256, len(sequences))))
                if not np.array_equal(windows_of.read(asked), sequences[asked]):
                    raise AssertionError("other tokens than were written")

        rate = 0.02 if kind == "garbled" else RATES.get(kind, 0.1)
        world.proxy.inject(Fault(kind, rate, seed + trial, limit=1 if kind == "stalled" else None))
        try:
            error = attempt(read)
        finally:
            n_injected = sum(world.proxy.injected.values())
            world.proxy.inject(None)
        if error is None:
            return Result(name, trial, IDENTICAL, f"{n_injected} injected.")
        if not is_clear(error):
            return Result(name, trial, BAD, f"the error is not clear: {error}")
        second = attempt(read)
        detail = f"{n_injected} injected. {error}"
        return Result(name, trial, BAD, f"{detail}; again, undisturbed: {second}") if second else Result(name, trial, ERROR, detail)
    finally:
        storage.BLOCK_BYTES = whole


# Processes that are killed, and two at once.


def kill(process: psutil.Process) -> None:
    with suppress(psutil.NoSuchProcess):
        process.kill()


WORK = ("ray::tokenize", "ray::copies", "ray::count", "ray::shard", "ray::train")  # not Ray's own agents, nor idle workers


def workers_of(parent: int) -> list[psutil.Process]:
    """The Ray workers at work below a process."""
    found = []
    for child in psutil.Process(parent).children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            if "".join(child.cmdline()[:1]).startswith(WORK):
                found.append(child)
    return found


def killed_workers_trial(trial: int, seed: int, world: World) -> Result:
    root, chance, stopped, n_killed = f"{BUCKET}/workers-{trial}", random.Random(seed + trial), threading.Event(), Counter[str]()

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
        [*prefix, *command(world, root)], cwd=ROOT, env=environment, stdout=pipe, stderr=pipe, text=True, start_new_session=True
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
    errors = [line.removeprefix("error: ") for line in text.splitlines() if line.startswith("error: ")]
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
    again = lambda: attempt(lambda: build(world.config, root))  # noqa: E731
    result = judged("Ray killed", trial, world, root, error, again)
    return result._replace(detail=f"{killed} processes after {after:.1f} s, driver ended {seconds:.0f} s later. {result.detail}")


def race_trial(trial: int, seed: int, world: World) -> Result:
    """Two drivers build one output at once on one cluster."""
    root = f"{BUCKET}/race-{trial}"
    first = driver(world, root, RAY_ADDRESS=ray_address())
    time.sleep(random.Random(seed + trial).uniform(0, world.seconds))
    second = driver(world, root, RAY_ADDRESS=ray_address())
    errors = [error for process in (first, second) for error in [ended(process)] if error is not None]
    again = lambda: attempt(lambda: build(world.config, root))  # noqa: E731
    return judged("two builds at once", trial, world, root, errors[0] if errors else None, again)


def full_disk_trial(trial: int, seed: int, world: World) -> Result:
    """The output is a small file system of its own: the build hits its end, is repeated when it has grown."""
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
        ["unshare", "-m", "sh", "-c", script, "sh", str(size), str(folder), *command(world, str(folder))],
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
    return sum(storage.size(uri) for part in ("tokenizer", "streams") for uri in storage.glob(storage.join(root, part, "**")))


@contextmanager
def undisturbed(work: Path) -> Iterator[World]:
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)  # else a line for each request
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    with Proxy(f"http://{host}:{port}") as proxy:
        os.environ["AWS_ENDPOINT_URL"] = proxy.url
        storage._filesystem.cache_clear()
        filesystem, _ = storage._locate(BUCKET)
        filesystem.call_s3("create_bucket", Bucket=BUCKET.removeprefix("s3://"))  # type: ignore[attr-defined]
        config = write_corpus(f"{BUCKET}/corpus")
        with tasks.session(n_cpus=2):
            build(config, f"{BUCKET}/warm-up")
            start = time.monotonic()
            build(config, f"{BUCKET}/undisturbed")
            seconds = time.monotonic() - start
            yield World(config, proxy, files(f"{BUCKET}/undisturbed"), seconds, work)
    server.stop()


def trials() -> dict[str, Callable[[int, int, World], Result]]:
    """Every row of the table: name → one trial of (number, seed, world)."""
    of_store = {f"build: {kind}": kind for kind in FAULTS if kind != "garbled"}
    of_reader = {f"read: {kind}": kind for kind in FAULTS if kind not in ("duplicate", "stale_list")}
    return {
        **{name: lambda t, s, w, kind=kind: store_trial(kind, t, s, w) for name, kind in of_store.items()},
        **{name: lambda t, s, w, kind=kind: read_trial(kind, t, s, w) for name, kind in of_reader.items()},
        "workers killed": killed_workers_trial,
        "driver killed": killed_driver_trial,
        "Ray killed": killed_ray_trial,
        "two builds at once": race_trial,
        "disk full": full_disk_trial,
    }


def table(results: list[Result]) -> str:
    outcomes = (IDENTICAL, RESUMED, ERROR, BAD)
    lines = [f"{'fault':<24}{'tried':>6}  " + "".join(f"{outcome:>30}" for outcome in outcomes)]
    for name in dict.fromkeys(result.name for result in results):
        counts = Counter(result.outcome for result in results if result.name == name)
        lines.append(f"{name:<24}{counts.total():>6}  " + "".join(f"{counts[outcome] or '':>30}" for outcome in outcomes))
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(prog="matrix.py", description="Break builds and reads, and look at what is left.")
    parser.add_argument("--trials", type=int, default=3, help="of each fault")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="+", metavar="NAME", help="these rows of the table")
    parser.add_argument("--json", action="store_true", help="one result a line instead of the table")
    asked = parser.parse_args()
    os.environ.pop("RAY_ADDRESS", None)
    os.environ |= AWS | RAY
    results, work = [], Path(tempfile.mkdtemp(prefix="faults-"))
    try:
        with undisturbed(work) as world:
            for name, trial in trials().items():
                for number in range(asked.trials if asked.only is None or name in asked.only else 0):
                    start = time.monotonic()
                    results.append(trial(number, asked.seed, world))
                    seconds = time.monotonic() - start
                    if asked.json:
                        print(json.dumps(results[-1]._asdict()), flush=True)
                    else:
                        one = results[-1]
                        print(
                            f"\n{one.name} {one.trial}: {one.outcome} in {seconds:.0f} s. {one.detail[:2000]}",
                            file=sys.stderr,
                            flush=True,
                        )
    finally:
        shutil.rmtree(work, ignore_errors=True)
    if not asked.json:
        print(table(results))
    return int(any(result.outcome == BAD for result in results))


if __name__ == "__main__":
    sys.exit(main())
