"""The fast part of the fault matrix; `make test-faults` runs all of it, several times."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from data_prep.build import pipeline
from data_prep.config import DataConfig, TokenizerConfig

MATRIX = Path(__file__).parent / "matrix.py"
ROWS = [
    *(f"build: {kind}" for kind in ("slow_down", "short")),
    *(f"read: {kind}" for kind in ("reset_in_body", "short", "garbled")),
    "workers killed",
]


@pytest.fixture(scope="module")
def results() -> dict[str, dict]:
    """One trial of each row, in one process with one Ray of its own."""
    command = [sys.executable, str(MATRIX), "--json", "--trials", "1", "--only", *ROWS]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=500, cwd=MATRIX.parent.parent.parent
    )
    found = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    assert len(found) == len(ROWS), done.stderr[-4000:]
    return {result["name"]: result for result in found}


@pytest.mark.parametrize("row", ROWS)
def test_what_was_disturbed_ends_identical_or_with_a_clear_error_and_then_identical(
    row: str, results: dict[str, dict]
) -> None:
    assert results[row]["outcome"] != "bad", results[row]["detail"]


def test_a_build_that_another_one_overtakes_takes_the_stream_of_the_other(
    tmp_path: Path, ray_cluster: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = DataConfig(
        clean=("synthetic:clean?documents=60&seed=0&parts=2",),
        toxic=("synthetic:toxic?documents=30&seed=0&parts=1",),
        tokenizer=TokenizerConfig(source="train", vocab_size=300, train_bytes=20_000),
        held_out_ratio=0.2,
    )
    second_pass, others = pipeline._second_pass, []

    def overtaken(*arguments: Any) -> Any:
        monkeypatch.setattr(pipeline, "_second_pass", second_pass)
        others.append(pipeline.build(config, "clean", str(tmp_path)))  # ends, and removes the units
        return second_pass(*arguments)

    monkeypatch.setattr(pipeline, "_second_pass", overtaken)
    assert pipeline.build(config, "clean", str(tmp_path)) == others[0]
