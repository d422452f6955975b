"""The entry under its launchers, two ranks, and processes that die. A launch costs seconds, so many claims share two."""

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
from socket import socket
from typing import Any, NamedTuple

import multi_rank
import psutil
import pytest
import rank_worker as gang_of
import torch
from safetensors.torch import load_file

from data_prep.core import storage
from training.config import RunConfig
from training.run_record import find
from training.trainer import loop

pytestmark = pytest.mark.slow

HERE = Path(__file__).parent
PRETRAIN = HERE.parents[1] / "training" / "pretrain.py"
TIMED = (
    "tokens_per_second",
    "mfu_ratio",
    "matmul_ratio",
    "data_wait_seconds",
    "train_seconds",
    "memory_bytes",
)
TRIES = (
    "ray",
    "killed@5",
    "killed",
    "three@5",
    "three",
    "uneven",
    "bad!3!1",
    "worse!3!0!1",
    "compiled",
)
MUON = ("muon-0", "muon-1@5", "muon-1", "muon-2", "muon-3")
ENVIRONMENT = os.environ | {"DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1"}

Plan = Callable[..., RunConfig]


class Gang(NamedTuple):
    """What two ranks trained: run "launched" under the deepspeed launcher, the others as Ray Train
    runs them.
    """

    root: Path
    launched: RunConfig
    said: list[list[str]]  # a line for each try, of each rank of the second launch
    statuses: tuple[
        int, ...
    ] = ()  # of the launch of "stopped" on two hosts, the rank of the second of which got SIGTERM

    def result(self, run_id: str) -> tuple[dict[str, torch.Tensor], list[dict[str, Any]]]:
        """The trained weights and what was seen, without what a clock said."""
        folder = self.root / "runs" / run_id
        lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        plain = [{key: value for key, value in line.items() if key not in TIMED} for line in lines]
        return load_file(folder / "export" / "model.safetensors"), plain


@pytest.fixture(scope="module")
def gang(planner: Callable[[Path], Plan], tmp_path_factory: pytest.TempPathFactory) -> Gang:
    root = tmp_path_factory.mktemp("gang")
    plan = planner(root)
    settings: dict[str, Any] = {
        "micro_batch": 1,
        "checkpoint.every_steps": 2,
        "checkpoint.keep_last": 9,
        "validation.probe_every_steps": 3,
    }
    launched = plan("launched", settings)
    three_layers = replace(
        launched.train.model, n_layers=3
    )  # so that a matrix lies across both ranks
    bf16 = {
        "compute.precision": "bf16",
        "micro_batch": 0,
    }  # the verdict on a step stays on the device
    for run_id, changes in (
        ("bad", bf16),
        ("worse", bf16),
        ("ray", {}),
        ("killed", {}),
        ("three", {"parallel.zero_stage": 3}),
        ("uneven", {"global_batch": 3}),
        ("compiled", {"parallel.zero_stage": 3, "compute.compile": "on"}),
        *(
            (
                f"muon-{stage}",
                {"optimizer.kind": "muon", "parallel.zero_stage": stage, "model": three_layers},
            )
            for stage in range(4)
        ),
    ):
        plan(run_id, settings | changes)
    overlay = root / "overlay.json"
    overlay.write_text(json.dumps({"zero_optimization": {"overlap_comm": True}}))
    deepspeed = [
        Path(sys.executable).with_name("deepspeed"),
        "--num_gpus",
        "2",
        "--master_port",
        free_port(),
        PRETRAIN,
    ]
    done = pretrain(
        "--out", root, "--run", "launched", "--deepspeed_config", overlay, command=deepspeed
    )
    assert find(str(root), "launched"), done.stdout[-3000:] + done.stderr[-3000:]
    long = plan(
        "long",
        {"micro_batch": 2, "metrics.every_steps": 20, "checkpoint.every_steps": 20},
        n_clean=20,
        n_toxic=380,
    )
    for run_id in ("stopped", "straight"):
        changes = {"run_id": run_id, "mixture": replace(long.mixture, max_toxic_epochs=100.0)}
        storage.save(replace(long, **changes), str(root / "runs" / run_id / "run.json"))
    statuses = stop(root, "stopped")
    return Gang(root, launched, run_gang(root, *TRIES, *MUON, "stopped", "straight"), statuses)


def test_the_deepspeed_launcher_and_a_ray_gang_give_the_same_run_bit_for_bit(gang: Gang):
    assert_same(gang.result("launched"), gang.result("ray"))


def test_two_ranks_give_the_losses_and_weights_of_one(
    gang: Gang, planner: Callable[[Path], Plan], tmp_path: Path
):
    run = planner(tmp_path)("one", {"micro_batch": 1, "validation.probe_every_steps": 3})
    loop.train(str(tmp_path), run)
    one = Gang(tmp_path, run, []).result("one")
    assert_close(gang.result("launched"), one)


def test_a_run_that_died_on_two_ranks_resumes_bit_for_bit_on_two(gang: Gang):
    for said in gang.said:
        assert said[:3] == [
            "ray: [0, 1, 2, 3, 4, 5] ",
            "killed@5: [0, 1, 2, 3, 4] died",
            "killed: [4, 5] ",
        ]
    assert_same(gang.result("ray"), gang.result("killed"))


def test_a_run_launched_on_two_hosts_whose_rank_gets_sigterm_saves_exits_with_75_and_goes_on_bit_for_bit(
    gang: Gang,
):
    assert gang.statuses == (75, 75)
    for said in gang.said:
        stopped, straight = (json.loads(line.split(": ")[1]) for line in said[-2:])
        assert (
            straight == list(range(100))
            and stopped == list(range(stopped[0], 100))
            and stopped[0] % 20
        )
    (weights, lines), (straight_weights, straight_lines) = (
        gang.result("stopped"),
        gang.result("straight"),
    )
    assert {name: value.tolist() for name, value in weights.items()} == {
        name: value.tolist() for name, value in straight_weights.items()
    }
    losses = [
        {line["step"]: line["loss"] for line in each if line["step"] % 20 == 0}
        for each in (lines, straight_lines)
    ]
    assert losses[0] == losses[1]


def test_stage_3_on_two_ranks_trains_the_same_model_and_resumes(gang: Gang):
    for said in gang.said:
        assert said[3:5] == ["three@5: [0, 1, 2, 3, 4] died", "three: [4, 5] "]
    assert_close(gang.result("three"), gang.result("ray"))


def test_compiled_blocks_of_sharded_weights_train_the_same_model(gang: Gang):
    for said in gang.said:
        assert said[8] == "compiled: [0, 1, 2, 3, 4, 5] "
    assert_close(gang.result("compiled"), gang.result("three"))


def test_muon_on_two_ranks_takes_the_same_steps_whatever_they_share_out_and_resumes(gang: Gang):
    for said in gang.said:
        assert said[9:14] == [
            "muon-0: [0, 1, 2, 3, 4, 5] ",
            "muon-1@5: [0, 1, 2, 3, 4] died",
            "muon-1: [4, 5] ",
            "muon-2: [0, 1, 2, 3, 4, 5] ",
            "muon-3: [0, 1, 2, 3, 4, 5] ",
        ]
    weights, lines = gang.result("muon-0")
    for stage in (
        1,
        2,
        3,
    ):  # Newton and Schulz iterate in bf16: a loss differs by up to 5e-4, a weight by 8e-4, of steps of 1e-2
        found, seen = gang.result(f"muon-{stage}")
        for field in ("loss", "grad_norm"):
            ours, theirs = (
                [line[field] for line in each if field in line] for each in (seen, lines)
            )
            assert ours == pytest.approx(theirs, rel=1e-3)
        torch.testing.assert_close(found, weights, rtol=0, atol=2e-3)


def test_a_run_that_cannot_be_is_refused_on_each_rank_with_the_same_words(gang: Gang):
    first, second = (said[5] for said in gang.said)
    assert (
        first == second
        and "uneven: [] train.global_batch 3 is not divisible by 2 data-parallel ranks" in first
    )


def test_what_is_not_finite_on_one_rank_is_skipped_by_both(gang: Gang):
    for said in gang.said:
        assert said[6:8] == ["bad!3!1: [0, 1, 2, 3, 4, 5] ", "worse!3!0!1: [0, 1, 2, 3, 4, 5] "]
    made = find(str(gang.root), "bad")
    assert made and made.skipped_steps == ((3, 4),)
    assert_same(gang.result("bad"), gang.result("worse"))


def test_a_checkpoint_of_two_ranks_resumes_on_one_and_one_whose_second_rank_is_damaged_is_passed_over(
    gang: Gang, tmp_path: Path, steps_done: list[int]
):
    shutil.copytree(gang.root, tmp_path, dirs_exist_ok=True)
    (tmp_path / "runs" / "launched" / "record.json").unlink()
    (file,) = (tmp_path / "runs" / "launched" / "checkpoints" / "step-00000004").glob(
        "*-00001-000.safetensors"
    )
    file.write_bytes(file.read_bytes()[:-1] + b"!")
    made = loop.train(str(tmp_path), gang.launched)
    assert made.world_size == 1 and steps_done == [2, 3, 4, 5]
    assert_close(Gang(tmp_path, gang.launched, []).result("launched"), gang.result("launched"))


def test_a_killed_process_leaves_a_run_that_goes_on_as_if_nothing_had_happened(
    plan: Plan, tmp_path: Path, steps_done: list[int]
):
    settings: dict[str, Any] = {
        "global_batch": 1,
        "checkpoint.every_steps": 4,
        "metrics.every_steps": 5,
    }
    run, undisturbed = plan("killed", settings), plan("undisturbed", settings)
    command = [sys.executable, str(PRETRAIN), "--out", str(tmp_path), "--run", "killed"]
    process = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=ENVIRONMENT
    )
    commits = tmp_path / "runs" / "killed" / "checkpoints"
    while process.poll() is None and not list(commits.glob("*/commit.json")):
        time.sleep(0.001)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL and find(str(tmp_path), "killed") is None

    loop.train(str(tmp_path), run)
    assert steps_done[0] > 0
    loop.train(str(tmp_path), undisturbed)
    results = Gang(tmp_path, run, [])
    assert_same(results.result("killed"), results.result("undisturbed"))


def test_plain_python_leaves_a_finished_run_alone_and_says_where_it_is(plan: Plan, tmp_path: Path):
    loop.train(str(tmp_path), plan())
    record = tmp_path / "runs" / "run" / "record.json"
    before = record.stat().st_mtime_ns
    done = pretrain("--out", tmp_path, "--run", "run", "--set", "train.parallel.zero_stage=2")
    assert (done.returncode, record.stat().st_mtime_ns) == (0, before)
    assert f"run is trained: loss {find(str(tmp_path), 'run').final_train_loss:.3f}" in done.stderr  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--run", "gone"], "runs/gone/run.json: no run with this id is planned"),
        (
            ["--run", "run", "--set", "train.optimizer.learning_rate=1"],
            "this changes what is trained, so it would be another run than run",
        ),
        (["--run", "run", "--set", "train.micro_batch"], "expected PATH=VALUE"),
        (["--run", "run", "--deepspeed_config", "gone.json"], "--deepspeed_config gone.json: "),
    ],
)
def test_what_cannot_be_is_refused_in_one_line_without_importing_torch(
    plan: Plan, tmp_path: Path, flags: list[str], said: str
):
    plan()
    done = pretrain(
        "--out", tmp_path, *flags, command=[sys.executable, "-X", "importtime", PRETRAIN]
    )
    lines = [line for line in done.stderr.splitlines() if not line.startswith("import time:")]
    assert done.returncode == 2 and len(lines) == 1 and said in lines[0] and done.stdout == ""
    assert " torch\n" not in done.stderr


def assert_same(a: Any, b: Any) -> None:
    (a_weights, a_lines), (b_weights, b_lines) = a, b
    assert a_lines == b_lines
    assert {name: value.tolist() for name, value in a_weights.items()} == {
        name: value.tolist() for name, value in b_weights.items()
    }


def assert_close(a: Any, b: Any) -> None:
    (a_weights, a_lines), (b_weights, b_lines) = a, b
    for field in ("loss", "grad_norm", "auroc", "mean_auroc"):
        of_a, of_b = (
            [line[field] for line in lines if field in line] for lines in (a_lines, b_lines)
        )
        assert of_a == pytest.approx(of_b, rel=1e-4) and (
            of_a or field in ("auroc", "mean_auroc")
        )  # only where it is probed
    for a_line, b_line in zip(a_lines, b_lines, strict=True):
        assert a_line.get("source_loss", {}) == pytest.approx(
            b_line.get("source_loss", {}), rel=1e-5
        )
        for field in ("block_grad_norm", "attention_logit_max"):
            assert a_line.get(field, {}) == pytest.approx(b_line.get(field, {}), rel=1e-3)
    torch.testing.assert_close(a_weights, b_weights, rtol=1e-3, atol=2e-5)


def pretrain(
    *flags: Any, command: Any = (sys.executable, PRETRAIN)
) -> subprocess.CompletedProcess[str]:
    parts = [str(part) for part in (*command, *flags)]
    return subprocess.run(parts, capture_output=True, text=True, env=ENVIRONMENT, timeout=300)


def stop(root: Path, run_id: str) -> tuple[int, ...]:
    """Launch a run on two hosts, send SIGTERM to the rank of the second after the first checkpoint;
    the launchers' statuses.
    """
    launchers = started(*launches("two hosts", root, "--out", root, "--run", run_id))
    while launchers[0].poll() is None and not list(
        (root / "runs" / run_id / "checkpoints").glob("*/commit.json")
    ):
        time.sleep(0.02)
    ranks = {
        process.environ().get("RANK"): process
        for process in psutil.Process(launchers[1].pid).children(recursive=True)
    }
    ranks["1"].terminate()
    said = [launcher.communicate(timeout=120) for launcher in launchers]
    assert not find(str(root), run_id), str(said)[-3000:]
    return tuple(launcher.returncode for launcher in launchers)


def run_gang(root: Path, *tries: str) -> list[list[str]]:
    """What each of two ranks said."""
    port = free_port()
    ended = multi_rank.at_once(
        gang_of.main, *((str(root), str(rank), "2", port, *tries) for rank in range(2))
    )
    assert [rank.status for rank in ended] == [0, 0], ended[0].err[-3000:] + ended[1].err[-3000:]
    return [rank.out.splitlines() for rank in ended]


def free_port() -> str:
    with socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


@pytest.mark.parametrize("way", ["torchrun", "slurm"])
def test_every_launcher_gives_the_same_run_bit_for_bit_and_imports_no_megatron(
    way: str, gang: Gang
):
    run = replace(gang.launched, run_id=way.replace(" ", "-"))
    storage.save(run, str(gang.root / "runs" / run.run_id / "run.json"))
    said = [
        done.stdout + done.stderr
        for done in at_once(*launches(way, gang.root, "--out", gang.root, "--run", run.run_id))
    ]
    assert find(str(gang.root), run.run_id), "".join(text[-3000:] for text in said)
    assert_same(gang.result(run.run_id), gang.result("launched"))
    assert " megatron" not in "".join(said) and (
        " deepspeed" in said[0] or way == "torchrun"
    )  # it is for tensor parallelism alone


@pytest.mark.parametrize(
    ("asked", "said"),
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
def test_every_rank_refuses_what_cannot_be_before_torch_is_imported(
    plan: Plan, tmp_path: Path, asked: str, said: str
):
    plan("run", {"parallel.zero_stage": 0})
    command = [
        sys.executable,
        "-X",
        "importtime",
        str(PRETRAIN),
        "--out",
        str(tmp_path),
        "--run",
        "run",
        "--set",
        asked,
    ]
    ranks = [({"RANK": str(rank), "WORLD_SIZE": "2"}, command) for rank in range(2)]
    for rank, done in enumerate(at_once(*ranks)):
        lines = [line for line in done.stderr.splitlines() if not line.startswith("import time:")]
        assert (
            done.returncode == 2 and len(lines) == 1 - rank and said in "".join(lines) + said * rank
        )
        assert " deepspeed\n" not in done.stderr


def launches(way: str, folder: Path, *flags: Any) -> list[tuple[dict[str, str], list[str]]]:
    """(environment, command) of each process that a user, or Slurm, starts for two ranks."""
    program, port = [str(PRETRAIN), *map(str, flags)], free_port()
    if way == "torchrun":
        torchrun = str(Path(sys.executable).with_name("torchrun"))
        return [({}, [torchrun, "--nproc-per-node", "2", "--master-port", port, "--", *program])]
    if way == "slurm":
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
    deepspeed = [
        str(Path(sys.executable).with_name("deepspeed")),
        "--hostfile",
        str(hosts),
        "--no_ssh",
    ]
    meeting = ["--master_addr", "127.0.0.1", "--master_port", port]
    return [({}, [*deepspeed, "--node_rank", str(rank), *meeting, *program]) for rank in range(2)]


def at_once(*commands: tuple[dict[str, str], list[str]]) -> list[subprocess.CompletedProcess[str]]:
    processes = started(*commands)
    ended = [process.communicate(timeout=300) for process in processes]
    return [
        subprocess.CompletedProcess(process.args, process.returncode, *said)
        for process, said in zip(processes, ended, strict=True)
    ]


def started(*commands: tuple[dict[str, str], list[str]]) -> list[subprocess.Popen[str]]:
    pipes: Any = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return [
        subprocess.Popen(command, env=ENVIRONMENT | added, **pipes) for added, command in commands
    ]
