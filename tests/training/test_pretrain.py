"""The command and its launchers, two ranks, and killed processes.

A launch costs seconds, so many tests share two of them.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import psutil
import pytest
import tolerances
from finished_runs import assert_close, assert_same, free_port, run_result, run_two_ranks
from tolerances import largest_relative_error

from data_prep.core import storage
from training.config import RunConfig
from training.run_record import checkpoint_steps, find
from training.trainer import loop

pytestmark = pytest.mark.slow

PRETRAIN = Path(__file__).parents[2] / "training" / "pretrain.py"
ATTEMPTS = (
    "ray",
    "killed@5",
    "killed",
    "three@5",
    "three",
    "uneven",
    "bad!3!1",
    "worse!3!0!1",
    "compiled",
    "muon-0=fp32",
    "muon-1@5=fp32",
    "muon-1=fp32",
    "muon-2=fp32",
    "muon-3=fp32",
    "muon-bf16-0",
    "muon-bf16-2",
    "stopped",
    "straight",
)
ENVIRONMENT = os.environ | {"DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1"}
ALL_STEPS = "[0, 1, 2, 3, 4, 5] "
SETTINGS: dict[str, Any] = {
    "micro_batch": 1,
    "checkpoint.every_steps": 2,
    "checkpoint.keep_last": 9,
    "validation.probe_every_steps": 3,
}

Plan = Callable[..., RunConfig]
Command = tuple[dict[str, str], list[str]]  # what is added to the environment, and the words


class TwoRankRuns(NamedTuple):
    """Runs that two ranks trained: "launched" by the deepspeed launcher, the others as Ray Train
    runs them.

    outputs: of each rank, the line of each attempt by its name. stop_statuses: exit statuses of the
    launchers of "stopped" on two hosts, where the rank of the second host received SIGTERM.
    """

    root: Path
    launched: RunConfig
    outputs: list[dict[str, str]]
    stop_statuses: tuple[int, ...]


@pytest.fixture(scope="module")
def two_ranks(
    planner: Callable[[Path], Plan], tmp_path_factory: pytest.TempPathFactory
) -> TwoRankRuns:
    root = tmp_path_factory.mktemp("two-ranks")
    plan = planner(root)
    launched = plan("launched", SETTINGS)
    for run_id, changes in _variants(launched).items():
        plan(run_id, SETTINGS | changes)
    _launch_with_deepspeed(root, "launched")
    statuses = _stop_on_two_hosts(plan, root)
    lines = run_two_ranks(root, *ATTEMPTS)
    outputs = [dict(line.split(": ", 1) for line in rank) for rank in lines]
    return TwoRankRuns(root, launched, outputs, statuses)


def _variants(launched: RunConfig) -> dict[str, dict[str, Any]]:
    # In bf16 with one micro-batch the verdict on a step stays on the device.
    bf16 = {"compute.precision": "bf16", "micro_batch": 0}
    # With three layers a matrix lies across both ranks.
    three_layers = replace(launched.train.model, n_layers=3)
    muon = {"optimizer.kind": "muon", "model": three_layers}
    return {
        "bad": bf16,
        "worse": bf16,
        "ray": {},
        "killed": {},
        "three": {"parallel.zero_stage": 3},
        "uneven": {"global_batch": 3},
        "compiled": {"parallel.zero_stage": 3, "compute.compile": "on"},
        "muon-bf16-0": muon | {"parallel.zero_stage": 0},
        "muon-bf16-2": muon | {"parallel.zero_stage": 2},
    } | {f"muon-{stage}": muon | {"parallel.zero_stage": stage} for stage in range(4)}


def _launch_with_deepspeed(root: Path, run_id: str) -> None:
    overlay = root / "overlay.json"
    overlay.write_text(json.dumps({"zero_optimization": {"overlap_comm": True}}))
    launcher = Path(sys.executable).with_name("deepspeed")
    finished = pretrain(
        *("--out", root, "--run", run_id, "--deepspeed_config", overlay),
        command=(launcher, "--num_gpus", "2", "--master_port", free_port(), PRETRAIN),
    )
    assert find(str(root), run_id), finished.stdout[-3000:] + finished.stderr[-3000:]


def _stop_on_two_hosts(plan: Plan, root: Path) -> tuple[int, ...]:
    """Launch run "stopped" on two hosts, and send SIGTERM to the rank of the second host after the
    first checkpoint; the exit statuses of the launchers.
    """
    settings = {"micro_batch": 2, "metrics.every_steps": 20, "checkpoint.every_steps": 20}
    long = plan("long", settings, n_clean=20, n_toxic=380)
    for run_id in ("stopped", "straight"):
        run = replace(long, run_id=run_id, mixture=replace(long.mixture, max_toxic_epochs=100.0))
        storage.save(run, str(root / "runs" / run_id / "run.json"))
    launchers = start_all(*launch_commands("two hosts", root, "--out", root, "--run", "stopped"))
    while launchers[0].poll() is None and not checkpoint_steps(str(root), "stopped"):
        time.sleep(0.02)
    ranks = {
        process.environ().get("RANK"): process
        for process in psutil.Process(launchers[1].pid).children(recursive=True)
    }
    ranks["1"].terminate()
    outputs = [launcher.communicate(timeout=120) for launcher in launchers]
    assert not find(str(root), "stopped"), str(outputs)[-3000:]
    return tuple(launcher.returncode for launcher in launchers)


def test_deepspeed_and_ray_train_give_the_same_run_bit_for_bit(two_ranks: TwoRankRuns):
    assert_same(run_result(two_ranks.root, "launched"), run_result(two_ranks.root, "ray"))


def test_two_ranks_give_the_losses_and_weights_of_one(
    two_ranks: TwoRankRuns, planner: Callable[[Path], Plan], tmp_path: Path
):
    run = planner(tmp_path)("one", {"micro_batch": 1, "validation.probe_every_steps": 3})
    loop.train(str(tmp_path), run)
    assert_close(run_result(two_ranks.root, "launched"), run_result(tmp_path, "one"))


def test_a_run_killed_on_two_ranks_resumes_bit_for_bit_on_two(two_ranks: TwoRankRuns):
    for output in two_ranks.outputs:
        assert output["ray"] == ALL_STEPS
        assert output["killed@5"] == "[0, 1, 2, 3, 4] died"
        assert output["killed"] == "[4, 5] "
    assert_same(run_result(two_ranks.root, "ray"), run_result(two_ranks.root, "killed"))


def test_sigterm_on_one_of_two_hosts_exits_75_and_resumes_bit_for_bit(two_ranks: TwoRankRuns):
    assert two_ranks.stop_statuses == (75, 75)
    for output in two_ranks.outputs:
        resumed, straight = (json.loads(output[run_id]) for run_id in ("stopped", "straight"))
        assert straight == list(range(100))
        assert resumed == list(range(resumed[0], 100)) and resumed[0] % 20
    stopped, straight = (run_result(two_ranks.root, run_id) for run_id in ("stopped", "straight"))
    assert {name: value.tolist() for name, value in stopped.weights.items()} == {
        name: value.tolist() for name, value in straight.weights.items()
    }
    losses = [
        {line["step"]: line["loss"] for line in result.lines if line["step"] % 20 == 0}
        for result in (stopped, straight)
    ]
    assert losses[0] == losses[1]


def test_stage_3_on_two_ranks_trains_the_same_model_and_resumes(two_ranks: TwoRankRuns):
    for output in two_ranks.outputs:
        assert output["three@5"] == "[0, 1, 2, 3, 4] died"
        assert output["three"] == "[4, 5] "
    assert_close(run_result(two_ranks.root, "three"), run_result(two_ranks.root, "ray"))


def test_compiled_blocks_of_partitioned_weights_train_the_same_model(two_ranks: TwoRankRuns):
    for output in two_ranks.outputs:
        assert output["compiled"] == ALL_STEPS
    assert_close(run_result(two_ranks.root, "compiled"), run_result(two_ranks.root, "three"))


def test_muon_steps_alike_at_every_zero_stage_and_resumes(two_ranks: TwoRankRuns):
    """With fp32 products, so that the ranks' partitions are all that may differ."""
    for output in two_ranks.outputs:
        assert output["muon-1@5=fp32"] == "[0, 1, 2, 3, 4] died"
        assert output["muon-1=fp32"] == "[4, 5] "
        assert {output[f"muon-{stage}=fp32"] for stage in (0, 2, 3)} == {ALL_STEPS}
    expected = run_result(two_ranks.root, "muon-0")
    for stage in (1, 2, 3):
        result = run_result(two_ranks.root, f"muon-{stage}")
        error = largest_relative_error(result.updates, expected.updates)
        assert error < tolerances.MUON_FP32_UPDATES
        for field in ("loss", "grad_norm"):
            values, expected_values = (
                [line[field] for line in each.lines if field in line] for each in (result, expected)
            )
            # they are smooth functions of the weights, and change less than these
            assert values == pytest.approx(expected_values, rel=tolerances.MUON_FP32_UPDATES)


def test_muon_in_bf16_steps_alike_on_partitions_and_whole_matrices(two_ranks: TwoRankRuns):
    """Rounding in bf16 leaves noise in small singular directions of each update.

    A partition that is wrong for one matrix has an unrelated update, of a relative error of √2.
    """
    for output in two_ranks.outputs:
        assert output["muon-bf16-0"] == output["muon-bf16-2"] == ALL_STEPS
    whole, partitioned = (run_result(two_ranks.root, f"muon-bf16-{stage}") for stage in (0, 2))
    error = largest_relative_error(partitioned.updates, whole.updates)
    assert error < tolerances.MUON_BF16_UPDATES


def test_every_rank_refuses_an_uneven_batch_with_the_same_message(two_ranks: TwoRankRuns):
    first, second = (output["uneven"] for output in two_ranks.outputs)
    assert first == second
    assert "[] train.global_batch 3 is not divisible by 2 data-parallel ranks" in first


def test_a_nan_on_one_rank_is_skipped_by_both(two_ranks: TwoRankRuns):
    for output in two_ranks.outputs:
        assert output["bad!3!1"] == output["worse!3!0!1"] == ALL_STEPS
    record = find(str(two_ranks.root), "bad")
    assert record and record.skipped_steps == ((3, 4),)
    assert_same(run_result(two_ranks.root, "bad"), run_result(two_ranks.root, "worse"))


def test_one_rank_resumes_from_two_and_skips_a_damaged_checkpoint(
    two_ranks: TwoRankRuns, tmp_path: Path, steps_done: list[int]
):
    shutil.copytree(two_ranks.root, tmp_path, dirs_exist_ok=True)
    folder = tmp_path / "runs" / "launched"
    (folder / "record.json").unlink()
    (file,) = (folder / "checkpoints" / "step-00000004").glob("*-00001-000.safetensors")
    file.write_bytes(file.read_bytes()[:-1] + b"!")
    record = loop.train(str(tmp_path), two_ranks.launched)
    assert record.world_size == 1 and steps_done == [2, 3, 4, 5]
    assert_close(run_result(tmp_path, "launched"), run_result(two_ranks.root, "launched"))


def test_a_killed_process_resumes_as_if_nothing_had_happened(
    plan: Plan, tmp_path: Path, steps_done: list[int]
):
    settings = {"global_batch": 1, "checkpoint.every_steps": 4, "metrics.every_steps": 5}
    run = plan("killed", settings)
    undisturbed = plan("undisturbed", settings)
    process = subprocess.Popen(
        [sys.executable, str(PRETRAIN), "--out", str(tmp_path), "--run", "killed"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        env=ENVIRONMENT,
    )
    while process.poll() is None and not checkpoint_steps(str(tmp_path), "killed"):
        time.sleep(0.001)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL and find(str(tmp_path), "killed") is None

    loop.train(str(tmp_path), run)
    assert steps_done[0] > 0
    loop.train(str(tmp_path), undisturbed)
    assert_same(run_result(tmp_path, "killed"), run_result(tmp_path, "undisturbed"))


def test_plain_python_leaves_a_finished_run_alone_and_logs_its_loss(plan: Plan, tmp_path: Path):
    record = loop.train(str(tmp_path), plan())
    file = tmp_path / "runs" / "run" / "record.json"
    before = file.stat().st_mtime_ns
    finished = pretrain("--out", tmp_path, "--run", "run", "--set", "train.parallel.zero_stage=2")
    assert (finished.returncode, file.stat().st_mtime_ns) == (0, before)
    assert f"run run is trained: loss {record.final_train_loss:.3f}" in finished.stderr


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--run", "gone"], "runs/gone/run.json: no run with this id is planned"),
        (
            ["--run", "run", "--set", "train.optimizer.learning_rate=1"],
            "changes what is trained, so it would be another run than run",
        ),
        (["--run", "run", "--set", "train.micro_batch"], "expected PATH=VALUE"),
        (["--run", "run", "--deepspeed_config", "gone.json"], "--deepspeed_config gone.json: "),
    ],
)
def test_a_wrong_command_is_refused_in_one_line_without_importing_torch(
    plan: Plan, tmp_path: Path, flags: list[str], message: str
):
    plan()
    command = (sys.executable, "-X", "importtime", PRETRAIN)
    finished = pretrain("--out", tmp_path, *flags, command=command)
    lines = [line for line in finished.stderr.splitlines() if not line.startswith("import time:")]
    assert finished.returncode == 2 and finished.stdout == ""
    assert len(lines) == 1 and message in lines[0]
    assert " torch\n" not in finished.stderr


@pytest.mark.parametrize("launcher", ["torchrun", "slurm"])
def test_every_launcher_gives_the_same_run_without_importing_megatron(
    launcher: str, two_ranks: TwoRankRuns
):
    root = two_ranks.root
    run = replace(two_ranks.launched, run_id=launcher)
    storage.save(run, str(root / "runs" / launcher / "run.json"))
    finished = run_all(*launch_commands(launcher, root, "--out", root, "--run", launcher))
    outputs = [process.stdout + process.stderr for process in finished]
    assert find(str(root), launcher), "".join(output[-3000:] for output in outputs)
    assert_same(run_result(root, launcher), run_result(root, "launched"))
    assert " megatron" not in "".join(outputs)  # it is for tensor parallelism alone
    if launcher == "slurm":  # this launch profiles the imports of rank 0
        assert " deepspeed" in outputs[0]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            "train.micro_batch=3",
            "micro_batch 3 does not divide the 2 rows that each of 2 ranks has",
        ),
        (
            "train.parallel.offload_optimizer=true",
            "offload_optimizer needs train.parallel.zero_stage 1, 2 or 3, it is 0",
        ),
    ],
)
def test_every_rank_refuses_a_wrong_setting_before_importing_deepspeed(
    plan: Plan, tmp_path: Path, override: str, message: str
):
    plan("run", {"parallel.zero_stage": 0})
    flags = ["--out", str(tmp_path), "--run", "run", "--set", override]
    command = [sys.executable, "-X", "importtime", str(PRETRAIN), *flags]
    ranks = [({"RANK": str(rank), "WORLD_SIZE": "2"}, command) for rank in range(2)]
    for rank, finished in enumerate(run_all(*ranks)):
        stderr = finished.stderr.splitlines()
        lines = [line for line in stderr if not line.startswith("import time:")]
        assert finished.returncode == 2
        assert len(lines) == 1 - rank  # rank 0 alone prints it
        assert rank == 1 or message in lines[0]
        assert " deepspeed\n" not in finished.stderr


def pretrain(
    *flags: Any, command: Any = (sys.executable, PRETRAIN)
) -> subprocess.CompletedProcess[str]:
    words = [str(word) for word in (*command, *flags)]
    return subprocess.run(words, capture_output=True, text=True, env=ENVIRONMENT, timeout=300)


def launch_commands(launcher: str, folder: Path, *flags: Any) -> list[Command]:
    """The processes that a user, or Slurm, starts for two ranks."""
    program = [str(PRETRAIN), *map(str, flags)]
    port = free_port()
    if launcher == "torchrun":
        torchrun = str(Path(sys.executable).with_name("torchrun"))
        return [({}, [torchrun, "--nproc-per-node", "2", "--master-port", port, "--", *program])]
    if launcher == "slurm":
        step = {
            "SLURM_JOB_ID": "1",
            "SLURM_STEP_ID": "0",
            "SLURM_STEP_NUM_TASKS": "2",
            "SLURM_STEP_NODELIST": "127.0.0.1",
        }
        ranks = [
            {"SLURM_PROCID": str(rank), "SLURM_LOCALID": str(rank), "MASTER_PORT": port}
            for rank in range(2)
        ]
        ranks[0]["PYTHONPROFILEIMPORTTIME"] = "1"
        return [(step | rank, [sys.executable, *program]) for rank in ranks]
    hosts = folder / "hosts"
    hosts.write_text("127.0.0.1 slots=1\nlocalhost slots=1\n")
    deepspeed = [str(Path(sys.executable).with_name("deepspeed")), "--hostfile", str(hosts)]
    rendezvous = ["--no_ssh", "--master_addr", "127.0.0.1", "--master_port", port]
    return [
        ({}, [*deepspeed, *rendezvous, "--node_rank", str(rank), *program]) for rank in range(2)
    ]


def run_all(*commands: Command) -> list[subprocess.CompletedProcess[str]]:
    processes = start_all(*commands)
    outputs = [process.communicate(timeout=300) for process in processes]
    return [
        subprocess.CompletedProcess(process.args, process.returncode, *output)
        for process, output in zip(processes, outputs, strict=True)
    ]


def start_all(*commands: Command) -> list[subprocess.Popen[str]]:
    pipes: Any = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return [
        subprocess.Popen(command, env=ENVIRONMENT | added, **pipes) for added, command in commands
    ]
