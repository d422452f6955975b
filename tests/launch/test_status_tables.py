from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from data_prep.core.errors import ArtefactMissing
from launch import run_states, status_tables
from launch.recipes import registry
from training import run_record


def test_ratios_that_differ_are_shown_differently(tmp_path: Path) -> None:
    ratios = (0.0, 0.001, 0.002, 0.125, 0.25)
    sweep = replace(registry.named("laptop"), ratios=ratios, seeds=(0,))
    root = str(tmp_path)
    table = status_tables.progress_table(root, sweep, run_states.read(root, sweep))
    console = Console(width=160)
    with console.capture() as printed:
        console.print(table)
    lines = printed.get().splitlines()
    shown = [line.split()[0] for line in lines if "toxic-" in line]
    assert shown == ["0.00", "0.001", "0.002", "0.125", "0.25"]


def test_a_row_names_its_arm_and_is_done_when_the_arms_streams_are(tmp_path: Path) -> None:
    sweep = replace(registry.named("laptop"), ratios=(0.1,), arms=("plain", "inst", "matched"))
    root = str(tmp_path)
    plain = sweep.runs()[0]
    for stream in (plain.clean, plain.toxic):
        (tmp_path / stream).mkdir(parents=True)
        (tmp_path / stream / "manifest.json").touch()
    table = status_tables.progress_table(root, sweep, run_states.read(root, sweep))
    console = Console(width=160)
    with console.capture() as printed:
        console.print(table)
    rows = [line.split() for line in printed.get().splitlines() if "-s0-" in line]
    assert [(row[0], row[1], row[4]) for row in rows] == [
        ("0.10", "plain", "done"),
        ("0.10", "inst", "–"),
        ("0.00", "matched", "done"),
    ]


def test_a_run_that_does_not_exist_is_told_with_those_that_do(tmp_path: Path) -> None:
    for name in ("toxic-0.10-s0-aaaaaaaa", "toxic-0.25-s0-bbbbbbbb"):
        (tmp_path / "runs" / name).mkdir(parents=True)
        (tmp_path / "runs" / name / "record.json").touch()
    (tmp_path / "runs" / "toxic-0.25-s0-bbbbbbbb" / "run.json").touch()
    with pytest.raises(
        ArtefactMissing, match=r"others are: toxic-0\.10-s0-a{8}, toxic-0\.25-s0-b{8}\); train it"
    ):
        run_record.finished(str(tmp_path), "toxic-0.25")
    with pytest.raises(ArtefactMissing, match=r"others are: toxic-0\.25-s0-b{8}\); launch/sweep"):
        run_record.load_config(str(tmp_path), "toxic-0.25")
    with pytest.raises(ArtefactMissing, match=r"nor is any other\)"):
        run_record.finished(str(tmp_path / "elsewhere"), "toxic-0.25")
