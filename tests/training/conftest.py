"""The study that training is tested on (tiny_run.py), and a watch on its steps."""

import os
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest
import tiny_run

from training.engine import throughput
from training.model import compilation

os.environ.setdefault("OMP_NUM_THREADS", "1")

Plan = tiny_run.Plan
MEASURED = lru_cache(throughput._measure)


@pytest.fixture(autouse=True)
def brief(monkeypatch: pytest.MonkeyPatch) -> None:
    """Most of a run of six steps would be to measure the device, which is done once, and to collect
    garbage.
    """
    monkeypatch.setattr(throughput, "_measure", MEASURED)
    monkeypatch.setattr(compilation, "WARM_UP_STEPS", 1 << 30)


@pytest.fixture(scope="session")
def planner() -> Callable[[Path], Plan]:
    """planner(root) gives plan(run_id, …): a run below `root` with the streams it reads."""
    return tiny_run.planner


@pytest.fixture
def plan(planner: Callable[[Path], Plan], tmp_path: Path) -> Plan:
    return planner(tmp_path)


@pytest.fixture
def steps_done(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The steps that loop.train takes in this process, in order."""
    from training.trainer import loop

    taken, step = [], loop.train_step

    def noted(job: Any, engine: Any, guard: Any, batch: Any) -> Any:
        taken.append(batch.step)
        return step(job, engine, guard, batch)

    monkeypatch.setattr(loop, "train_step", noted)
    return taken
