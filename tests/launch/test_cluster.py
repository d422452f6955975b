"""What becomes of a gang that fails, on a real Ray; SIGTERM to one is in tests/training/trainer/test_preemption.py."""

from dataclasses import replace
from pathlib import Path

import pytest
import tiny_run

from data_prep.core import ray_tasks
from data_prep.core.errors import ArtefactCorrupt, ConfigurationError, Interrupted, StorageError
from launch import cluster
from launch.cluster import MAX_FAILURES, Patience

CORRUPT, MEMORY, STOPPED, STORE = (
    ArtefactCorrupt("block 0"),
    ConfigurationError("memory"),
    Interrupted("stop"),
    StorageError("403"),
)


def n_started(failures: list[tuple[Exception, int]]) -> int:
    """How many gangs are started if they fail like this, one after the other."""
    patience = Patience(0)
    return next(
        (n for n, each in enumerate(failures, 1) if not patience.lasts(*each)), len(failures) + 1
    )


@pytest.mark.parametrize(
    ("failures", "n"),
    [
        ([(MEMORY, 0)], 1),
        ([(MEMORY, 2), (MEMORY, 2), (MEMORY, 2)], 2),
        ([(CORRUPT, 0)] * 9, 2),
        ([(CORRUPT, 0), (STORE, 0), (CORRUPT, 0)] * 3, MAX_FAILURES + 1),
        ([(CORRUPT, 0), (CORRUPT, 2), (CORRUPT, 2)], 3),
        ([(STORE, 0)] * 9, MAX_FAILURES + 1),
        ([(STORE, n // MAX_FAILURES) for n in range(30)], 31),
        ([(STOPPED, n) for n in range(30)], 31),
    ],
    ids=[
        "memory",
        "memory later",
        "corrupt",
        "corrupt and down",
        "corrupt later",
        "store down",
        "with progress",
        "preempted",
    ],
)
def test_a_gang_is_started_again_only_for_what_may_pass(
    failures: list[tuple[Exception, int]], n: int
):
    assert n_started(failures) == n


@pytest.mark.slow
def test_a_rank_without_memory_ends_the_run_at_once_and_says_what_to_set(
    tmp_path: Path, ray_cluster: None
):
    run = tiny_run.planner(tmp_path)(
        "large", {"model": replace(tiny_run.TRAIN.model, d_mlp=1 << 40)}
    )  # 280 TB, whatever a system promises
    with pytest.raises(
        ConfigurationError,
        match=r"run large: a rank ran out of memory; .*train\.micro_batch=auto, train\.activ",
    ):
        ray_tasks.result(cluster.train(str(tmp_path), run, 1, False))
