"""Faults of training: a run of two ranks is disturbed, repeated until it is done, and compared with an undisturbed one."""

import hashlib
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from socket import socket
from typing import Any, NamedTuple

import psutil
from proxy import Fault, Proxy
from result_table import BAD, CLOSE, ERROR, IDENTICAL, RESUMED, ROOT, Result, is_clear
from safetensors.torch import load

from data_prep.core import storage

sys.path.append(str(ROOT / "tests" / "training"))
from tiny_run import Plan, planner

BUCKET = "s3://trainings"
N_STEPS, LONG_STEPS, EVERY = 120, 600, 10
SETTINGS = {"micro_batch": 1, "checkpoint.keep_last": 3, "checkpoint.every_steps": EVERY}
SEQUENCES = {"n_clean": 20, "n_toxic": 4 * N_STEPS - 20, "max_toxic_epochs": 100.0}
LAUNCH_SECONDS = 300  # a launch that takes longer hangs
N_KILLS, MAX_LAUNCHES = 20, 60
DOWN_SECONDS = 60
TOLERANCE = 1e-4  # of a weight, on other ranks or another stage: sums in another order, through N_STEPS steps
JUMP = """
import threading, time
real, start = time.time, time.monotonic()
time.time = lambda: real() - 86400 * (time.monotonic() - start > 8)
"""


class World(NamedTuple):
    """What trials share: the store, how to plan a run there, an undisturbed run's weights and how
    long its launch took.
    """

    proxy: Proxy
    plan: Plan
    expected: bytes
    seconds: float
    work: Path


class Launch:
    """One start of a run's ranks, as a user would start them."""

    def __init__(self, root: str, run_id: str, *flags: str, n_ranks: int = 2, **more: str) -> None:
        environment = (
            dict(os.environ)
            | {"OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu", "PYTHONPATH": str(ROOT)}
            | more
        )
        self.root, self.run_id = root, run_id
        self._log = tempfile.TemporaryFile("w+")  # noqa: SIM115  # it lives as long as the launch
        self.process = subprocess.Popen(
            [*command(root, run_id, n_ranks), *flags],
            cwd=ROOT,
            env=environment,
            stdout=self._log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    def ranks(self) -> dict[str, psutil.Process]:
        found = {}
        with suppress(psutil.Error):
            for child in psutil.Process(self.process.pid).children(recursive=True):
                with suppress(psutil.Error):
                    found[child.environ().get("RANK", "")] = child
        return {rank: child for rank, child in found.items() if rank}

    def until_saved(self, n_more: int = 1, seconds: float = LAUNCH_SECONDS) -> None:
        """Until the run has saved that much more, this launch has ended, or the time is over."""
        newest, until = newest_step(self.root, self.run_id), time.monotonic() + seconds
        while (
            self.process.poll() is None
            and newest_step(self.root, self.run_id) < newest + n_more * EVERY
        ):
            if time.monotonic() > until:
                return
            time.sleep(0.01)

    def kill(self) -> None:
        """All its processes; torchrun puts each rank into a process group of its own."""
        family = []
        with suppress(psutil.Error):
            family = [
                psutil.Process(self.process.pid),
                *psutil.Process(self.process.pid).children(recursive=True),
            ]
        for member in family:
            with suppress(psutil.Error):
                member.kill()

    def ended(self) -> tuple[int, str]:
        """Its status and what it said."""
        try:
            status = self.process.wait(LAUNCH_SECONDS)
        except subprocess.TimeoutExpired:
            status = -1
        self.kill()
        self.process.wait()
        self._log.seek(0)
        return status, self._log.read()


def command(root: str, run_id: str, n_ranks: int) -> list[str]:
    torchrun = [
        str(Path(sys.executable).with_name("torchrun")),
        "--nproc-per-node",
        str(n_ranks),
        "--master-port",
        free_port(),
    ]
    return [
        *torchrun,
        "--",
        "training/pretrain.py",
        "--out",
        root,
        "--run",
        run_id,
    ]  # without -- it takes --run for --run-path


def free_port() -> str:
    with socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


def newest_step(root: str, run_id: str) -> int:
    commits = storage.glob(
        storage.join(root, "runs", run_id, "checkpoints", "step-*", "commit.json")
    )
    return int(commits[-1].split("/")[-2].removeprefix("step-")) if commits else 0


def weights(root: str, run_id: str) -> bytes:
    """A finished run's weights; b"" without a record. They have to be what the record says."""
    folder = storage.join(root, "runs", run_id)
    if not storage.exists(storage.join(folder, "record.json")):
        return b""
    content = storage.read(storage.join(folder, "export", "model.safetensors"))
    said = json.loads(storage.read(storage.join(folder, "record.json")))["export_sha256"][
        "model.safetensors"
    ]
    assert hashlib.sha256(content).hexdigest() == said, f"{folder}: its record is of other weights"
    return content


def judged(
    name: str, trial: int, world: World, run_id: str, outcome: str, detail: str, root: str = BUCKET
) -> Result:
    """The outcome, if the run's weights are the undisturbed run's in the end; repeats the command,
    undisturbed.
    """
    if not weights(root, run_id):
        status, said = Launch(root, run_id).ended()
        if status:
            return Result(
                name, trial, BAD, f"{detail} again, undisturbed: status {status}: {said[-3000:]}"
            )
    same = weights(root, run_id) == world.expected
    return Result(
        name, trial, outcome if same else BAD, detail if same else f"{detail} other weights"
    )


def clear_error(said: str) -> str:
    errors = [
        line.removeprefix("error: ") for line in said.splitlines() if line.startswith("error: ")
    ]
    return errors[0] if errors and is_clear(errors[0]) else ""


def killed(
    name: str, harm: Callable[[Launch, random.Random], str]
) -> Callable[[int, int, World], Result]:
    """A trial in which `harm` befalls a launch at a random moment after its first checkpoint."""

    def trial(number: int, seed: int, world: World) -> Result:
        chance, run_id = random.Random(seed + number), f"{name.replace(' ', '-')}-{number}"
        world.plan(run_id)
        launch = Launch(BUCKET, run_id)
        launch.until_saved()
        time.sleep(chance.uniform(0, world.seconds / 6))
        ranks = list(launch.ranks().values())
        detail = harm(launch, chance)
        if name != "launcher killed":
            status, _ = launch.ended()
            detail += f", status {status}, at checkpoint {newest_step(BUCKET, run_id)}."
        result = judged(f"train: {name}", number, world, run_id, RESUMED, detail)
        for rank in ranks:  # without their launcher they went on, beside the repeated command
            with suppress(psutil.Error):
                rank.kill()
        return result

    return trial


def kill_a_rank(launch: Launch, chance: random.Random) -> str:
    ranks = launch.ranks()
    if not ranks:
        return "it had ended"
    rank = chance.choice(sorted(ranks))
    with suppress(psutil.Error):
        ranks[rank].kill()
    return f"rank {rank}"


def kill_the_launcher(launch: Launch, chance: random.Random) -> str:
    launch.process.kill()
    launch.process.wait()
    return "its ranks went on beside the repeated command."


def ask_to_stop(launch: Launch, chance: random.Random) -> str:
    launch.process.terminate()  # torchrun hands it on
    return "SIGTERM to the launcher"


def many_kills_trial(trial: int, seed: int, world: World) -> Result:
    """N_KILLS over one run, all processes at once: at any moment of a launch's start, or soon after
    it saved. The run is long enough for as many, so it has an undisturbed one of its own.
    """
    name, chance = f"train: {N_KILLS} kills", random.Random(seed + trial)
    root, steps = str(world.work / f"kills-{trial}"), [0]
    plan = planner(root)
    settings = SETTINGS | {"metrics.every_steps": EVERY}
    sequences = SEQUENCES | {"n_toxic": 4 * LONG_STEPS - 20}
    for run_id in ("straight", "kills"):
        plan(run_id, settings, **sequences)
    Launch(root, "straight").ended()
    for _ in range(N_KILLS):
        launch = Launch(root, "kills")
        launch.until_saved(
            seconds=world.seconds if chance.random() < 0.5 else chance.uniform(0, world.seconds / 2)
        )
        time.sleep(chance.uniform(0, 0.2))
        if launch.process.poll() is not None:
            return Result(
                name,
                trial,
                BAD,
                f"it ended before it was killed {N_KILLS} times: {steps} {launch.ended()[1][-2000:]}",
            )
        launch.kill()
        launch.process.wait()
        steps.append(newest_step(root, "kills"))
    expected = world._replace(expected=weights(root, "straight"))
    return judged(
        name, trial, expected, "kills", RESUMED, f"checkpoints after each: {steps}.", root
    )


def store_down_trial(trial: int, seed: int, world: World) -> Result:
    run_id = f"down-{trial}"
    world.plan(run_id)
    launch = Launch(BUCKET, run_id)
    launch.until_saved()
    world.proxy.inject(Fault("slow_down", rate=1.0))
    time.sleep(DOWN_SECONDS)
    n = sum(world.proxy.injected.values())
    world.proxy.inject(None)
    status, said = launch.ended()
    if status and not clear_error(said):
        return Result("train: store down", trial, BAD, f"status {status}: {said[-3000:]}")
    detail = f"{n} requests refused, {said.count('is not published')} checkpoints not published. {clear_error(said)}"
    return judged("train: store down", trial, world, run_id, ERROR if status else IDENTICAL, detail)


def corrupted_trial(trial: int, seed: int, world: World) -> Result:
    name, run_id, chance = (
        "train: newest corrupted",
        f"corrupt-{trial}",
        random.Random(seed + trial),
    )
    world.plan(run_id)
    launch = Launch(BUCKET, run_id)
    launch.until_saved(3)
    launch.kill()
    launch.process.wait()
    step = newest_step(BUCKET, run_id)
    files = storage.glob(
        storage.join(BUCKET, "runs", run_id, "checkpoints", f"step-{step:08d}", "*")
    )
    file = chance.choice([uri for uri in files if not uri.endswith("commit.json")])
    content = bytearray(storage.read(file))
    content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
    storage.write(file, bytes(content))
    status, said = Launch(BUCKET, run_id).ended()
    detail = f"{file.rpartition('/')[2]} of step {step}."
    if status == 2 and clear_error(said) and file.endswith("commit.json"):
        return Result(
            name, trial, ERROR, f"{detail} {clear_error(said)}"
        )  # the harm may name another run: refused, not passed over
    if "checkpoint passed over" not in said and weights(BUCKET, run_id) != world.expected:
        return Result(name, trial, BAD, f"{detail} status {status}: {said[-3000:]}")
    return judged(name, trial, world, run_id, RESUMED, detail)


def clock_trial(trial: int, seed: int, world: World) -> Result:
    """The clock that Python programs read goes back by a day while a run trains; the machine's own
    stays as it is.
    """
    run_id, folder = f"clock-{trial}", world.work / f"clock-{trial}"
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(JUMP)
    world.plan(run_id)
    status, said = Launch(BUCKET, run_id, PYTHONPATH=f"{folder}{os.pathsep}{ROOT}").ended()
    if status:
        return Result("train: clock jump", trial, BAD, f"status {status}: {said[-3000:]}")
    return judged(
        "train: clock jump",
        trial,
        world,
        run_id,
        IDENTICAL,
        "time.time() goes back a day after 8 s.",
    )


def last_step_trial(trial: int, seed: int, world: World) -> Result:
    """The repeated command of a finished run changes nothing; without its record it goes on, and
    gives the same again.
    """
    name, run_id = "train: last step", f"last-{trial}"
    world.plan(run_id, {"checkpoint.every_steps": N_STEPS - 1})
    runs = [Launch(BUCKET, run_id).ended() for _ in range(2)]
    if [status for status, _ in runs] != [0, 0] or weights(BUCKET, run_id) != world.expected:
        return Result(name, trial, BAD, runs[-1][1][-3000:])
    storage.delete(storage.join(BUCKET, "runs", run_id, "record.json"))
    return judged(name, trial, world, run_id, RESUMED, f"from step {newest_step(BUCKET, run_id)}.")


def elastic_trial(trial: int, seed: int, world: World) -> Result:
    """Two ranks of stage 1, then four of stage 3, then one of stage 2; on a disk, where a
    checkpoint is seen at once.
    """
    name, run_id, root, steps = (
        "train: other ranks",
        "elastic",
        str(world.work / f"elastic-{trial}"),
        [],
    )
    planner(root)(run_id, SETTINGS, **SEQUENCES)
    for n_ranks, stage in ((2, 1), (4, 3)):
        launch = Launch(
            root, run_id, "--set", f"train.parallel.zero_stage={stage}", n_ranks=n_ranks
        )
        launch.until_saved()
        launch.kill()
        launch.process.wait()
        steps.append(newest_step(root, run_id))
    status, said = Launch(root, run_id, "--set", "train.parallel.zero_stage=2", n_ranks=1).ended()
    if status or not 0 < steps[0] < steps[1] < N_STEPS - EVERY:
        return Result(name, trial, BAD, f"checkpoints {steps}, status {status}: {said[-3000:]}")
    found, expected = load(weights(root, run_id)), load(world.expected)
    apart = max(float((found[key].float() - expected[key].float()).abs().max()) for key in expected)
    return Result(
        name,
        trial,
        CLOSE if apart < TOLERANCE else BAD,
        f"from {steps}; a weight differs by at most {apart:.2g}.",
    )


def not_finite_trial(trial: int, seed: int, world: World) -> Result:
    """A rank's gradient is not finite at a step: that step is skipped and recorded, also by a run
    that is killed later.
    """
    name, root, step = (
        "train: NaN injected",
        str(world.work / f"nan-{trial}"),
        random.Random(seed + trial).randrange(EVERY, 60),
    )
    plan = planner(root)
    for run_id in ("straight", "killed"):
        plan(run_id, SETTINGS, **SEQUENCES)
    tries, port = [f"straight!{step}!1", f"killed@70!{step}!1", "killed"], free_port()
    gang = [sys.executable, str(ROOT / "tests/training/rank_worker.py"), root]
    environment = dict(os.environ) | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    ranks = [
        subprocess.Popen(
            [*gang, str(rank), "2", port, *tries],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        for rank in range(2)
    ]
    said = [rank.communicate(timeout=LAUNCH_SECONDS)[0].decode() for rank in ranks]
    same = weights(root, "straight") == weights(root, "killed") != b""
    skipped = [
        json.loads(storage.read(f"{root}/runs/{run}/record.json"))["skipped_steps"]
        for run in ("straight", "killed")
        if same
    ]
    good = skipped == [[[step, step + 1]]] * 2
    return Result(
        name,
        trial,
        RESUMED if good else BAD,
        f"step {step}, skipped {skipped}. {'' if good else said[0][-2000:]}",
    )


def full_disk_trial(trial: int, seed: int, world: World) -> Result:
    """The output is a small file system of its own: the run hits its end, and is repeated when it
    has grown.
    """
    name, folder, run_id = "train: disk full", world.work / f"disk-{trial}", "full"
    size = int(random.Random(seed + trial).uniform(1.0, 2.5) * 2**20)
    source = world.work / f"disk-source-{trial}"
    planner(source)(run_id, SETTINGS | {"checkpoint.keep_last": 100}, **SEQUENCES)
    folder.mkdir()
    script = (
        'mount -t tmpfs -o size="$1" tmpfs "$2" && cp -r "$3/." "$2" && out="$2" && shift 3 && { "$@"; code=$?; '
        'echo "first: $code"; mount -o remount,size=1g "$out" && { [ $code = 0 ] || "$@"; } '
        '&& echo "second: 0" && mkdir -p "$out.copy" && cp -r "$out/." "$out.copy"; }'
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
            str(source),
            *command(str(folder), run_id, 2),
        ],
        cwd=ROOT,
        env=dict(os.environ)
        | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=2 * LAUNCH_SECONDS,
    )
    detail = f"at {size:,} bytes, {done.stdout.count('is not published')} checkpoints not published. {clear_error(done.stdout)}"
    if "second: 0" not in done.stdout or weights(f"{folder}.copy", run_id) != world.expected:
        return Result(name, trial, BAD, f"{detail} {done.stdout[-3000:]}")
    if "first: 0" in done.stdout:
        return Result(name, trial, IDENTICAL, detail)
    return Result(name, trial, ERROR if clear_error(done.stdout) else BAD, detail)


@contextmanager
def undisturbed(proxy: Proxy, work: Path) -> Iterator[World]:
    plan = planner(BUCKET)

    def planned(run_id: str, changes: dict[str, Any] | None = None) -> Any:
        settings = SETTINGS | {"metrics.every_steps": EVERY} | (changes or {})
        return plan(run_id, settings, **SEQUENCES)

    planned("undisturbed")
    start = time.monotonic()
    status, said = Launch(BUCKET, "undisturbed").ended()
    assert status == 0, said[-3000:]
    yield World(proxy, planned, weights(BUCKET, "undisturbed"), time.monotonic() - start, work)


TRIALS: dict[str, Callable[[int, int, World], Result]] = {
    "train: rank killed": killed("rank killed", kill_a_rank),
    "train: launcher killed": killed("launcher killed", kill_the_launcher),
    "train: asked to stop": killed("asked to stop", ask_to_stop),
    f"train: {N_KILLS} kills": many_kills_trial,
    "train: store down": store_down_trial,
    "train: disk full": full_disk_trial,
    "train: newest corrupted": corrupted_trial,
    "train: clock jump": clock_trial,
    "train: last step": last_step_trial,
    "train: other ranks": elastic_trial,
    "train: NaN injected": not_finite_trial,
}
