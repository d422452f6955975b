"""faults of training: two ranks are disturbed, repeated until done, and compared

A trial disturbs a run, repeats its command without a disturbance until the run has a record, and
compares the weights with those of an undisturbed run.
"""

import hashlib
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from socket import socket
from typing import Any, NamedTuple

import psutil
from proxy import Fault, Proxy
from result_table import (
    BAD,
    CLOSE,
    ERROR,
    IDENTICAL,
    RESUMED,
    ROOT,
    TrialResult,
    error_lines,
    is_clear,
)
from safetensors.torch import load

from data_prep.core import storage
from training.config import RunConfig

sys.path.append(str(ROOT / "tests" / "training"))
from tiny_run import Plan, planner

BUCKET = "s3://trainings"
N_STEPS = 120
N_LONG_STEPS = 600  # of the run that is killed N_KILLS times
CHECKPOINT_EVERY_STEPS = 10
SEQUENCES = {"n_clean": 20, "n_toxic": 4 * N_STEPS - 20, "max_toxic_epochs": 100.0}
SETTINGS = {
    "micro_batch": 1,
    "checkpoint.keep_last": 3,
    "checkpoint.every_steps": CHECKPOINT_EVERY_STEPS,
    "metrics.every_steps": CHECKPOINT_EVERY_STEPS,
}
LOG_EVERY_STEP = {"metrics.every_steps": 1}
LAUNCH_SECONDS = 300  # a launch that takes longer is considered hung
N_KILLS = 20
STORE_DOWN_SECONDS = 60
# Largest difference of a weight on another number of ranks or in another ZeRO stage, where sums
# have another order, after N_STEPS steps.
WEIGHT_TOLERANCE = 1e-4
SKIPPED_MESSAGE = "skipping damaged checkpoint"
NOT_PUBLISHED_MESSAGE = "is not published"
CLOCK_JUMP_PROGRAM = """
import threading, time
real, start = time.time, time.monotonic()
time.time = lambda: real() - 86400 * (time.monotonic() - start > 8)
"""
# Runs a command on a small file system, and again on a larger one if it fails.
ON_A_SMALL_DISK = """
mount -t tmpfs -o size="$1" tmpfs "$2" && cp -r "$3/." "$2" || exit 1
out="$2"
shift 3
"$@"
status=$?
echo "first: $status"
mount -o remount,size=1g "$out" || exit 1
[ $status = 0 ] || "$@" || exit 1
echo "second: 0"
mkdir -p "$out.copy" && cp -r "$out/." "$out.copy"
"""


class TrainingSetup(NamedTuple):
    """What the trials of trainings share."""

    proxy: Proxy
    plan: Plan
    """Plans a run in the store."""
    expected: bytes
    """Weights of the undisturbed run."""
    seconds: float
    """Duration of the undisturbed launch."""
    work: Path


class Launch:
    """One start of the ranks of a run, as a user would start them."""

    def __init__(
        self, root: str, run_id: str, *flags: str, n_ranks: int = 2, **environment: str
    ) -> None:
        self.root = root
        self.run_id = run_id
        self._log = tempfile.TemporaryFile("w+")  # noqa: SIM115  # closed with the launch
        self.process = subprocess.Popen(
            [*launch_command(root, run_id, n_ranks), *flags],
            cwd=ROOT,
            env=launch_environment() | environment,
            stdout=self._log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    def ranks(self) -> dict[str, psutil.Process]:
        """The living process per rank."""
        ranks = {}
        with suppress(psutil.Error):
            for child in psutil.Process(self.process.pid).children(recursive=True):
                with suppress(psutil.Error):
                    ranks[child.environ().get("RANK", "")] = child
        return {rank: child for rank, child in ranks.items() if rank}

    def wait_for_checkpoints(self, n: int = 1, seconds: float = LAUNCH_SECONDS) -> None:
        """Wait until `n` more checkpoints exist, the launch has ended, or the time is over."""
        deadline = time.monotonic() + seconds
        step = newest_step(self.root, self.run_id) + n * CHECKPOINT_EVERY_STEPS
        while self.process.poll() is None and newest_step(self.root, self.run_id) < step:
            if time.monotonic() > deadline:
                return
            time.sleep(0.01)

    def kill(self) -> None:
        """Kill all processes; torchrun puts each rank into a process group of its own."""
        processes = []
        with suppress(psutil.Error):
            launcher = psutil.Process(self.process.pid)
            processes = [launcher, *launcher.children(recursive=True)]
        for process in processes:
            with suppress(psutil.Error):
                process.kill()

    def wait(self) -> tuple[int, str]:
        """Exit status and output; -1 if it hung."""
        try:
            status = self.process.wait(LAUNCH_SECONDS)
        except subprocess.TimeoutExpired:
            status = -1
        self.kill()
        self.process.wait()
        self._log.seek(0)
        return status, self._log.read()


def launch_environment() -> dict[str, str]:
    return dict(os.environ) | {
        "OMP_NUM_THREADS": "1",
        "DS_ACCELERATOR": "cpu",
        "PYTHONPATH": str(ROOT),
    }


def launch_command(root: str, run_id: str, n_ranks: int) -> list[str]:
    torchrun = str(Path(sys.executable).with_name("torchrun"))
    ranks = ["--nproc-per-node", str(n_ranks), "--master-port", free_port()]
    # Without `--`, torchrun reads --run as an abbreviation of its own --run-path.
    return [torchrun, *ranks, "--", "training/pretrain.py", "--out", root, "--run", run_id]


def free_port() -> str:
    with socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return str(listener.getsockname()[1])


def newest_step(root: str, run_id: str) -> int:
    """The step of the newest published checkpoint, or 0."""
    checkpoints = storage.join(root, "runs", run_id, "checkpoints")
    commits = storage.glob(storage.join(checkpoints, "step-*", "commit.json"))
    return int(commits[-1].split("/")[-2].removeprefix("step-")) if commits else 0


def exported_weights(root: str, run_id: str) -> bytes:
    """The weights of a finished run, checked against its record; b"" if there is no record."""
    folder = storage.join(root, "runs", run_id)
    record_uri = storage.join(folder, "record.json")
    if not storage.exists(record_uri):
        return b""
    weights = storage.read(storage.join(folder, "export", "model.safetensors"))
    recorded = json.loads(storage.read(record_uri))["export_sha256"]["model.safetensors"]
    assert hashlib.sha256(weights).hexdigest() == recorded, f"{folder}: wrong weights"
    return weights


def judge(
    result: TrialResult, setup: TrainingSetup, run_id: str, root: str = BUCKET
) -> TrialResult:
    """`result`, if the run ends with the expected weights, else a bad one.

    The command is repeated without a disturbance if the run has no record yet.
    """
    if not exported_weights(root, run_id):
        status, output = Launch(root, run_id).wait()
        if status:
            detail = f"{result.detail} repeated without a disturbance: status {status}: "
            return result._replace(outcome=BAD, detail=detail + output[-3000:])
    if exported_weights(root, run_id) == setup.expected:
        return result
    return result._replace(outcome=BAD, detail=f"{result.detail} The weights differ.")


def first_clear_error(output: str) -> str:
    errors = error_lines(output)
    return errors[0] if errors and is_clear(errors[0]) else ""


def disturbed_launch(
    name: str, disturb: Callable[[Launch, random.Random], str]
) -> Callable[[int, int, TrainingSetup], TrialResult]:
    """A trial in which `disturb` is applied at a random moment after the first checkpoint."""

    def trial(number: int, seed: int, setup: TrainingSetup) -> TrialResult:
        rng = random.Random(seed + number)
        run_id = f"{name.replace(' ', '-')}-{number}"
        setup.plan(run_id)
        launch = Launch(BUCKET, run_id)
        launch.wait_for_checkpoints()
        time.sleep(rng.uniform(0, setup.seconds / 6))
        ranks = list(launch.ranks().values())
        detail = disturb(launch, rng)
        if name != "launcher killed":
            status, _ = launch.wait()
            detail += f", status {status}, at checkpoint {newest_step(BUCKET, run_id)}."
        result = judge(TrialResult(f"train: {name}", number, RESUMED, detail), setup, run_id)
        for rank in ranks:  # without their launcher they continue beside the repeated command
            with suppress(psutil.Error):
                rank.kill()
        return result

    return trial


def kill_a_rank(launch: Launch, rng: random.Random) -> str:
    ranks = launch.ranks()
    if not ranks:
        return "it had ended"
    rank = rng.choice(sorted(ranks))
    with suppress(psutil.Error):
        ranks[rank].kill()
    return f"rank {rank}"


def kill_the_launcher(launch: Launch, rng: random.Random) -> str:
    launch.process.kill()
    launch.process.wait()
    return "its ranks continued beside the repeated command."


def preempt(launch: Launch, rng: random.Random) -> str:
    launch.process.terminate()  # torchrun passes the signal on
    return "SIGTERM to the launcher"


def many_kills_trial(trial: int, seed: int, setup: TrainingSetup) -> TrialResult:
    """All processes of a run are killed N_KILLS times, while they start or soon after a checkpoint.

    The run is long enough for that many kills, so it has an undisturbed run of its own.
    """
    name = f"train: {N_KILLS} kills"
    rng = random.Random(seed + trial)
    root = str(setup.work / f"kills-{trial}")
    plan = planner(root)
    for run_id in ("straight", "kills"):
        plan(run_id, SETTINGS, **SEQUENCES | {"n_toxic": 4 * N_LONG_STEPS - 20})
    Launch(root, "straight").wait()
    steps = [0]
    for _ in range(N_KILLS):
        launch = Launch(root, "kills")
        is_long = rng.random() < 0.5
        launch.wait_for_checkpoints(
            seconds=setup.seconds if is_long else rng.uniform(0, setup.seconds / 2)
        )
        time.sleep(rng.uniform(0, 0.2))
        if launch.process.poll() is not None:
            detail = f"it ended before it was killed {N_KILLS} times: {steps} "
            return TrialResult(name, trial, BAD, detail + launch.wait()[1][-2000:])
        launch.kill()
        launch.process.wait()
        steps.append(newest_step(root, "kills"))
    straight = setup._replace(expected=exported_weights(root, "straight"))
    detail = f"checkpoints after each: {steps}."
    return judge(TrialResult(name, trial, RESUMED, detail), straight, "kills", root)


def store_down_trial(trial: int, seed: int, setup: TrainingSetup) -> TrialResult:
    """The store refuses all requests for STORE_DOWN_SECONDS while a run trains."""
    name = "train: store down"
    run_id = f"down-{trial}"
    setup.plan(run_id)
    launch = Launch(BUCKET, run_id)
    launch.wait_for_checkpoints()
    setup.proxy.inject(Fault("slow_down", rate=1.0))
    time.sleep(STORE_DOWN_SECONDS)
    n_refused = sum(setup.proxy.injected.values())
    setup.proxy.inject(None)
    status, output = launch.wait()
    if status and not first_clear_error(output):
        return TrialResult(name, trial, BAD, f"status {status}: {output[-3000:]}")
    detail = (
        f"{n_refused} requests refused, {output.count(NOT_PUBLISHED_MESSAGE)} checkpoints not "
        f"published. {first_clear_error(output)}"
    )
    outcome = ERROR if status else IDENTICAL
    return judge(TrialResult(name, trial, outcome, detail), setup, run_id)


def corrupted_trial(trial: int, seed: int, setup: TrainingSetup) -> TrialResult:
    """One bit of a file of the newest checkpoint is flipped before the run resumes."""
    name = "train: newest corrupted"
    run_id = f"corrupt-{trial}"
    rng = random.Random(seed + trial)
    setup.plan(run_id)
    launch = Launch(BUCKET, run_id)
    launch.wait_for_checkpoints(3)
    launch.kill()
    launch.process.wait()
    step = newest_step(BUCKET, run_id)
    folder = storage.join(BUCKET, "runs", run_id, "checkpoints", f"step-{step:08d}")
    files = storage.glob(storage.join(folder, "*"))
    file = rng.choice([uri for uri in files if not uri.endswith("commit.json")])
    content = bytearray(storage.read(file))
    content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    storage.write(file, bytes(content))
    status, output = Launch(BUCKET, run_id).wait()
    detail = f"{file.rpartition('/')[2]} of step {step}."
    if status == 2 and first_clear_error(output) and file.endswith("commit.json"):
        # The damaged record may name another run, so it is refused, not skipped.
        return TrialResult(name, trial, ERROR, f"{detail} {first_clear_error(output)}")
    if "skipping damaged checkpoint" not in output and exported_weights(BUCKET, run_id) != (
        setup.expected
    ):
        return TrialResult(name, trial, BAD, f"{detail} status {status}: {output[-3000:]}")
    return judge(TrialResult(name, trial, RESUMED, detail), setup, run_id)


def clock_trial(trial: int, seed: int, setup: TrainingSetup) -> TrialResult:
    """The clock that Python programs read jumps back by a day while a run trains.

    The clock of the machine itself is not changed.
    """
    name = "train: clock jump"
    run_id = f"clock-{trial}"
    folder = setup.work / run_id
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(CLOCK_JUMP_PROGRAM)
    setup.plan(run_id)
    status, output = Launch(BUCKET, run_id, PYTHONPATH=f"{folder}{os.pathsep}{ROOT}").wait()
    if status:
        return TrialResult(name, trial, BAD, f"status {status}: {output[-3000:]}")
    detail = "time.time() jumps back by a day after 8 s."
    return judge(TrialResult(name, trial, IDENTICAL, detail), setup, run_id)


def last_step_trial(trial: int, seed: int, setup: TrainingSetup) -> TrialResult:
    """A finished run is repeated, which changes nothing; without its record it resumes."""
    name = "train: last step"
    run_id = f"last-{trial}"
    setup.plan(run_id, {"checkpoint.every_steps": N_STEPS - 1})
    launches = [Launch(BUCKET, run_id).wait() for _ in range(2)]
    statuses = [status for status, _ in launches]
    if statuses != [0, 0] or exported_weights(BUCKET, run_id) != setup.expected:
        return TrialResult(name, trial, BAD, launches[-1][1][-3000:])
    storage.delete(storage.join(BUCKET, "runs", run_id, "record.json"))
    detail = f"from step {newest_step(BUCKET, run_id)}."
    return judge(TrialResult(name, trial, RESUMED, detail), setup, run_id)


def elastic_trial(trial: int, seed: int, setup: TrainingSetup) -> TrialResult:
    """Two ranks in ZeRO stage 1, then four in stage 3, then one in stage 2.

    The run is on a disk, where a checkpoint is visible at once.
    """
    name = "train: other ranks"
    run_id = "elastic"
    root = str(setup.work / f"elastic-{trial}")
    planner(root)(run_id, SETTINGS | LOG_EVERY_STEP, **SEQUENCES)
    steps = []
    for n_ranks, stage in ((2, 1), (4, 3)):
        launch = Launch(root, run_id, *_zero_stage(stage), n_ranks=n_ranks)
        launch.wait_for_checkpoints()
        launch.kill()
        launch.process.wait()
        steps.append(newest_step(root, run_id))
    status, output = Launch(root, run_id, *_zero_stage(2), n_ranks=1).wait()
    if status or not 0 < steps[0] < steps[1] < N_STEPS - CHECKPOINT_EVERY_STEPS:
        detail = f"checkpoints {steps}, status {status}: {output[-3000:]}"
        return TrialResult(name, trial, BAD, detail)
    weights = load(exported_weights(root, run_id))
    expected = load(setup.expected)
    differences = [(weights[key].float() - expected[key].float()).abs().max() for key in expected]
    largest = max(float(difference) for difference in differences)
    outcome = CLOSE if largest < WEIGHT_TOLERANCE else BAD
    detail = f"from {steps}; a weight differs by at most {largest:.2g}."
    return TrialResult(name, trial, outcome, detail)


def _zero_stage(stage: int) -> tuple[str, str]:
    return ("--set", f"train.parallel.zero_stage={stage}")


def not_finite_trial(trial: int, seed: int, setup: TrainingSetup) -> TrialResult:
    """The gradient of one rank is not finite at one step.

    The step is skipped and recorded, also by a run that is killed later.
    """
    name = "train: NaN injected"
    root = str(setup.work / f"nan-{trial}")
    step = random.Random(seed + trial).randrange(CHECKPOINT_EVERY_STEPS, 60)
    plan = planner(root)
    run_ids = ("straight", "killed")
    for run_id in run_ids:
        plan(run_id, SETTINGS | LOG_EVERY_STEP, **SEQUENCES)
    tries = [f"straight!{step}!1", f"killed@70!{step}!1", "killed"]
    worker = [sys.executable, str(ROOT / "tests/training/rank_worker.py"), root]
    environment = dict(os.environ) | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    port = free_port()
    ranks = [
        subprocess.Popen(
            [*worker, str(rank), "2", port, *tries],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        for rank in range(2)
    ]
    outputs = [rank.communicate(timeout=LAUNCH_SECONDS)[0].decode() for rank in ranks]
    skipped: list[Any] = []
    if exported_weights(root, "straight") == exported_weights(root, "killed") != b"":
        records = [storage.read(f"{root}/runs/{run_id}/record.json") for run_id in run_ids]
        skipped = [json.loads(record)["skipped_steps"] for record in records]
    is_good = skipped == [[[step, step + 1]]] * 2
    detail = f"step {step}, skipped {skipped}. {'' if is_good else outputs[0][-2000:]}"
    return TrialResult(name, trial, RESUMED if is_good else BAD, detail)


def full_disk_trial(trial: int, seed: int, setup: TrainingSetup) -> TrialResult:
    """A run fills its disk, and is repeated after the disk has grown."""
    name = "train: disk full"
    run_id = "full"
    folder = setup.work / f"disk-{trial}"
    disk_bytes = int(random.Random(seed + trial).uniform(1.0, 2.5) * 2**20)
    source = setup.work / f"disk-source-{trial}"
    planner(source)(run_id, SETTINGS | LOG_EVERY_STEP | {"checkpoint.keep_last": 100}, **SEQUENCES)
    folder.mkdir()
    script = ["unshare", "-m", "sh", "-c", ON_A_SMALL_DISK, "sh"]
    done = subprocess.run(
        [
            *script,
            str(disk_bytes),
            str(folder),
            str(source),
            *launch_command(str(folder), run_id, n_ranks=2),
        ],
        cwd=ROOT,
        env=launch_environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=2 * LAUNCH_SECONDS,
    )
    output = done.stdout
    n_failed = output.count(NOT_PUBLISHED_MESSAGE)
    error = first_clear_error(output)
    detail = f"at {disk_bytes:,} bytes, {n_failed} checkpoints not published. {error}"
    if "second: 0" not in output or exported_weights(f"{folder}.copy", run_id) != setup.expected:
        return TrialResult(name, trial, BAD, f"{detail} {output[-3000:]}")
    if "first: 0" in output:
        return TrialResult(name, trial, IDENTICAL, detail)
    return TrialResult(name, trial, ERROR if error else BAD, detail)


@contextmanager
def undisturbed(proxy: Proxy, work: Path) -> Iterator[TrainingSetup]:
    """Train once without a disturbance."""
    plan = planner(BUCKET)

    def plan_trial(run_id: str, changes: Mapping[str, Any] | None = None) -> RunConfig:
        return plan(run_id, SETTINGS | dict(changes or {}), **SEQUENCES)

    plan_trial("undisturbed")
    start = time.monotonic()
    status, output = Launch(BUCKET, "undisturbed").wait()
    assert status == 0, output[-3000:]
    seconds = time.monotonic() - start
    yield TrainingSetup(proxy, plan_trial, exported_weights(BUCKET, "undisturbed"), seconds, work)


TRIALS: dict[str, Callable[[int, int, TrainingSetup], TrialResult]] = {
    "train: rank killed": disturbed_launch("rank killed", kill_a_rank),
    "train: launcher killed": disturbed_launch("launcher killed", kill_the_launcher),
    "train: preempted": disturbed_launch("preempted", preempt),
    f"train: {N_KILLS} kills": many_kills_trial,
    "train: store down": store_down_trial,
    "train: disk full": full_disk_trial,
    "train: newest corrupted": corrupted_trial,
    "train: clock jump": clock_trial,
    "train: last step": last_step_trial,
    "train: other ranks": elastic_trial,
    "train: NaN injected": not_finite_trial,
}
