"""`python eval/toy_run.py`: result, table, restart, and refused settings."""

import subprocess
import sys
from pathlib import Path

import pytest
from toy_settings import TINY

from data_prep.core import storage
from data_prep.core.records import from_json, to_json
from eval.toy import result_table, run_toy, toy_result
from eval.toy.replicas import train_replicas
from eval.toy.toy_result import ToyResult

ROOT = Path(__file__).resolve().parents[3]
SETTINGS = [
    "training.n_steps=12", "training.warmup_steps=4", "training.batch_size=32",
    "ratios=[0.1,1.0]", "n_seeds=3",
]  # fmt: skip


def toy_run(*words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "eval/toy_run.py", *words]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


def test_the_command_writes_the_record_and_prints_the_table(tmp_path: Path):
    done = toy_run("--out", str(tmp_path), "--set", *SETTINGS)
    assert done.returncode == 0, done.stderr
    ((digest, result),) = toy_result.read_all(str(tmp_path))
    assert result.config == TINY
    assert "12 models: 2 ratios, 3 seeds. 12 features in 4 dimensions" in done.stdout
    assert f"record: {tmp_path}/toy/{digest}/result.json" in done.stdout
    cells = [(cell.weight_decay, cell.estimator, cell.layer) for cell in result.cells]
    assert len(cells) == len(set(cells)) == 2 * 5 * 5
    assert done.stdout.count("state means ") == 10

    record = toy_run("--out", str(tmp_path), "--json", "--set", *SETTINGS)
    assert from_json(ToyResult, record.stdout, "stdout") == result
    assert "found the finished result" in record.stderr


def test_a_repeated_run_gives_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    first, second = str(tmp_path / "first"), str(tmp_path / "second")
    run_toy.run(first, TINY)
    monkeypatch.setattr(train_replicas, "STEPS_PER_CHECKPOINT", 5)
    step = train_replicas._Loop.step

    def stop(loop, state):
        if state.step == 7:
            raise KeyboardInterrupt
        return step(loop, state)

    with monkeypatch.context() as patch:
        patch.setattr(train_replicas._Loop, "step", stop)
        with pytest.raises(KeyboardInterrupt):
            run_toy.run(second, TINY)
    assert not toy_result.read_all(second)
    run_toy.run(second, TINY)
    results = [storage.read(toy_result.result_uri(root, TINY)) for root in (first, second)]
    assert results[0] == results[1]


def test_another_penalty_measures_the_same_models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from dataclasses import replace

    root = str(tmp_path)
    first = run_toy.run(root, TINY)
    monkeypatch.setattr(train_replicas._Loop, "step", None)  # no step may be taken
    second = run_toy.run(root, replace(TINY, probe_l2=0.01))
    assert first.losses == second.losses
    assert first.cells != second.cells
    assert len(toy_result.read_all(root)) == 2


def test_the_record_reads_back_as_it_was_written(tmp_path: Path):
    result = run_toy.run(str(tmp_path), TINY)
    assert from_json(ToyResult, to_json(result), "text") == result
    assert result_table.text(result) == result_table.text(
        storage.load(ToyResult, toy_result.result_uri(str(tmp_path), TINY))
    )


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("ratios=[0,1]", "expected list of number > 0 and <= 1"),
        ("chains.n_chains=1", "expected whole number >= 2"),
        ("toy.chains.n_chains=7", "4 states have 6 cycles"),
        ("ratios=[1e-9,1]", "draws no sequence of the under-sampled chain"),
        ("chains.n_chain=4", "did you mean chains.n_chains? `python eval/toy_run.py --settings`"),
    ],
)
def test_bad_settings_are_refused_in_one_line(tmp_path: Path, word: str, message: str):
    done = toy_run("--out", str(tmp_path), "--set", *SETTINGS, word)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1 and message in done.stderr, done.stderr


def test_settings_are_listed_with_their_meaning():
    done = toy_run("--settings", "--set", "n_seeds=7")
    assert done.returncode == 0
    assert "n_seeds = 7   (whole number >= 3)\n    Replicas per ratio" in done.stdout
    assert "training.weight_decays = [0.0, 1.0]" in done.stdout
