"""rows of the fault matrix that are quick; `make test-faults` runs all rows several times"""

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
    """One trial per row, in one process with a Ray of its own."""
    command = [sys.executable, str(MATRIX), "--json", "--trials", "1", "--only", *ROWS]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=500, cwd=MATRIX.parent.parent.parent
    )
    trials = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    assert len(trials) == len(ROWS), done.stderr[-4000:]
    return {trial["name"]: trial for trial in trials}


@pytest.mark.slow
@pytest.mark.parametrize("row", ROWS)
def test_a_disturbed_build_or_read_ends_identical_at_last(
    row: str, results: dict[str, dict]
) -> None:
    assert results[row]["outcome"] != "bad", results[row]["detail"]


def test_a_build_overtaken_by_another_one_returns_the_others_stream(
    tmp_path: Path, ray_cluster: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = DataConfig(
        clean=("synthetic:clean?documents=60&seed=0&parts=2",),
        toxic=("synthetic:toxic?documents=30&seed=0&parts=1",),
        tokenizer=TokenizerConfig(source="train", vocab_size=300, train_bytes=20_000),
        held_out_ratio=0.2,
    )
    merge_into_shards = pipeline.merge_into_shards
    others = []

    def overtaken(*arguments: Any) -> Any:
        monkeypatch.setattr(pipeline, "merge_into_shards", merge_into_shards)
        # finishes, and removes the work in progress
        others.append(pipeline.build(config, "clean", str(tmp_path)))
        return merge_into_shards(*arguments)

    monkeypatch.setattr(pipeline, "merge_into_shards", overtaken)
    assert pipeline.build(config, "clean", str(tmp_path)) == others[0]
