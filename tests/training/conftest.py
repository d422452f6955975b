"""Fixtures of the training tests: planned runs (tiny_run.py), and the steps that were taken."""

import os
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest
import tiny_run

from training.engine import throughput
from training.trainer import gc_pauses

os.environ.setdefault("OMP_NUM_THREADS", "1")

Plan = tiny_run.Plan
MEASURED = lru_cache(throughput._measure_matmul)


@pytest.fixture(autouse=True)
def short_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Measure the device once for all tests, and do not collect garbage: both take longer than a
    run of six steps.
    """
    monkeypatch.setattr(throughput, "_measure_matmul", MEASURED)
    monkeypatch.setattr(gc_pauses, "WARM_UP_STEPS", 1 << 30)


@pytest.fixture(scope="session")
def planner() -> Callable[[Path], Plan]:
    """planner(root) returns plan(run_id, …), which plans runs below `root` (tiny_run.py)."""
    return tiny_run.planner


@pytest.fixture
def plan(planner: Callable[[Path], Plan], tmp_path: Path) -> Plan:
    return planner(tmp_path)


@pytest.fixture
def steps_done(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The steps that loop.train takes in this process, in order."""
    from training.trainer import loop

    steps: list[int] = []
    train_step = loop.train_step

    def recording_step(context: Any, engine: Any, guard: Any, batch: Any) -> Any:
        steps.append(batch.step)
        return train_step(context, engine, guard, batch)

    monkeypatch.setattr(loop, "train_step", recording_step)
    return steps
