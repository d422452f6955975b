"""the sweep end to end, as a user runs it: complete, repeated, killed, by other launchers"""

import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from sweeps import ROOT, TINY, environment, kill_tree, losses, sweep

from data_prep.build.materialize_mixture import MaterializedMixture
from data_prep.core import storage
from launch import experiment, run_states

pytestmark = pytest.mark.slow


def bytes_below(root: str, pattern: str) -> dict[str, bytes]:
    return {
        str(path.relative_to(root)): path.read_bytes() for path in sorted(Path(root).glob(pattern))
    }


def test_a_sweep_ends_with_records_a_table_and_a_report(finished_sweep):
    states = run_states.read(finished_sweep, experiment.load(finished_sweep))
    assert [entry.run.toxic_ratio for entry in states] == [0.0, 0.25]
    assert all(entry.record and entry.report for entry in states)
    page = storage.read(storage.join(finished_sweep, "report", "index.html")).decode()
    assert all(entry.run.run_id in page for entry in states)
    assert 'href="data.html"' in page and b'href="index.html"' in storage.read(
        storage.join(finished_sweep, "report", "data.html")
    )
    status = subprocess.run(
        [sys.executable, "launch/status.py", "--out", finished_sweep],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert status.returncode == 0 and status.stdout.count("done") == 6


def test_repeating_a_finished_sweep_does_nothing_and_says_so(finished_sweep):
    before = bytes_below(finished_sweep, "**/*.json")
    again = sweep(finished_sweep, *TINY)
    assert again.returncode == 0 and "nothing to do" in again.stderr
    assert bytes_below(finished_sweep, "**/*.json") == before


def test_an_arm_added_to_a_finished_sweep_leaves_what_is_there(
    finished_sweep, ray_address, tmp_path
):
    root = str(tmp_path / "out")
    shutil.copytree(finished_sweep, root)
    plain = experiment.load(root).runs()
    flags = ["--set", 'arms=["plain","meda"]', "arm_ratios=[0.25]"]
    done = sweep(root, *TINY, *flags, **ray_address)
    assert done.returncode == 0, done.stderr[-4000:]
    for pattern in ("runs/toxic-*/**/*.json", "tokenizer/*/*", f"{plain[0].clean}/*.bin"):
        assert bytes_below(root, pattern) == bytes_below(finished_sweep, pattern) != {}
    state = run_states.read(root, experiment.load(root))[-1]
    assert state.record and state.report
    assert (state.record.config.arm, state.record.config.control_text) == (
        "meda",
        "toxicity: 0.0\n",
    )
    for name in ("clean", "toxic"):
        ours, theirs = (getattr(run, name) for run in (state.run, plain[0]))
        held_out, of_plain = (bytes_below(root, f"{uri}/held_out-*.bin") for uri in (ours, theirs))
        assert list(held_out.values()) == list(of_plain.values()) != []
        trained_on = [bytes_below(root, f"{uri}/train-*.bin").values() for uri in (ours, theirs)]
        assert list(trained_on[0]) != list(trained_on[1])
    before, after = (bytes_below(folder, "report/summary.md") for folder in (finished_sweep, root))
    assert before == after  # the arm changes no curve
    assert "meda" in (tmp_path / "out" / "report" / "index.html").read_text()


def test_the_report_is_written_after_every_evaluation(planted_sweep):
    assert "report of 1 of 2 runs" in planted_sweep.printed
    assert planted_sweep.printed.count("report of 2 of 2 runs") == 1


def test_an_evaluation_that_cannot_start_is_refused_before_the_build(ray_address, tmp_path):
    flags = ["--set", f"eval.scoring.scorer=lexicon:{tmp_path}/words.jsonl"]
    refused = sweep(str(tmp_path / "out"), *TINY, *flags, **ray_address)
    assert refused.returncode == 2 and "words.jsonl" in refused.stderr.splitlines()[-1]
    assert not (tmp_path / "out" / "streams").exists()


def test_a_run_that_fails_leaves_the_others_complete_and_reported(
    finished_sweep, ray_address, tmp_path
):
    root = tmp_path / "out"
    shutil.copytree(finished_sweep, root)
    shutil.rmtree(root / "report")
    good, damaged = (run.run_id for run in experiment.load(str(root)).runs())
    for run_id in (good, damaged):
        for report in (root / "runs" / run_id).glob("eval-*/report.json"):
            report.unlink()
    weights = root / "runs" / damaged / "export" / "model.safetensors"
    content = weights.read_bytes()
    weights.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    failed = sweep(str(root), *TINY, **ray_address)
    last_line = failed.stderr.splitlines()[-1]
    assert failed.returncode == 2
    assert (
        f"1 of this sweep's trainings and evaluations failed: evaluation of {damaged}" in last_line
    )
    assert good in (root / "report" / "index.html").read_text()
    weights.write_bytes(content)
    mended = sweep(str(root), *TINY, **ray_address)
    assert mended.returncode == 0, mended.stderr[-4000:]
    report = "report/results.json"
    assert bytes_below(str(root), report).keys() == bytes_below(finished_sweep, report).keys()


def test_killing_everything_and_repeating_gives_the_same_bytes_and_losses(finished_sweep, tmp_path):
    flags = [*TINY, "--ratios", "0.25"]
    command = [sys.executable, "launch/sweep.py", "--out", str(tmp_path), *flags]
    for landmark in ("streams/clean-*/manifest.json", "runs/*/checkpoints/*/commit.json"):
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            env=environment(),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        while not list(tmp_path.glob(landmark)) and process.poll() is None:
            time.sleep(0.02)
        assert process.poll() is None, f"the sweep ended before {landmark} appeared"
        kill_tree(process)
    assert not list(tmp_path.glob("runs/*/eval-*/report.json"))
    done = sweep(str(tmp_path), *flags)
    assert done.returncode == 0, done.stderr[-4000:]
    assert bytes_below(str(tmp_path), "streams/*/*") == bytes_below(finished_sweep, "streams/*/*")
    (run,) = experiment.load(str(tmp_path)).runs()
    assert losses(str(tmp_path), run.run_id) == losses(finished_sweep, run.run_id)
    weights = f"runs/{run.run_id}/export/model.safetensors"
    assert bytes_below(str(tmp_path), weights) == bytes_below(finished_sweep, weights)


def test_the_deepspeed_launcher_gives_the_sweeps_losses_bit_for_bit(
    finished_sweep, ray_address, tmp_path
):
    done = sweep(str(tmp_path), *TINY, "--only", "data", "--materialize", **ray_address)
    assert done.returncode == 0 and f"data card: {tmp_path}/report/data.html" in done.stdout
    runs = experiment.load(finished_sweep).runs()
    mixtures = [
        storage.load(
            MaterializedMixture, str(tmp_path / "materialized" / run.run_id / "manifest.json")
        )
        for run in runs
    ]
    assert [each.mixture for each in mixtures] == [run.mixture for run in runs]
    run = runs[1]
    command = [
        "deepspeed",
        "--num_gpus",
        "2",
        "training/pretrain.py",
        "--out",
        str(tmp_path),
        "--run",
        run.run_id,
    ]
    subprocess.run(
        command, cwd=ROOT, env=environment(), check=True, capture_output=True, timeout=300
    )
    assert losses(str(tmp_path), run.run_id) == losses(finished_sweep, run.run_id)
    weights = f"runs/{run.run_id}/export/model.safetensors"
    assert bytes_below(str(tmp_path), weights) == bytes_below(finished_sweep, weights)
