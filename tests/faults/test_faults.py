"""The fast part of the fault matrix; `make test-faults` runs all of it, several times."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

MATRIX = Path(__file__).parent / "matrix.py"
ROWS = [
    *(f"build: {kind}" for kind in ("slow_down", "reset", "lost_answer", "truncated", "short", "stale_list", "duplicate")),
    *(f"read: {kind}" for kind in ("slow_down", "reset_in_body", "truncated", "short", "garbled")),
    "workers killed",
    "two builds at once",
]


@pytest.fixture(scope="module")
def results() -> dict[str, dict]:
    """One trial of each row, in one process with one Ray of its own."""
    command = [sys.executable, str(MATRIX), "--json", "--trials", "1", "--only", *ROWS]
    done = subprocess.run(command, capture_output=True, text=True, timeout=500, cwd=MATRIX.parent.parent.parent)
    found = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    assert len(found) == len(ROWS), done.stderr[-4000:]
    return {result["name"]: result for result in found}


@pytest.mark.parametrize("row", ROWS)
def test_what_was_disturbed_ends_identical_or_with_a_clear_error_and_then_identical(row: str, results: dict[str, dict]) -> None:
    assert results[row]["outcome"] != "bad", results[row]["detail"]
