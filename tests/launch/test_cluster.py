"""Retries of a failed worker group, and out-of-memory on a real Ray.

SIGTERM to a worker group is tested in tests/training/trainer/test_preemption.py.
"""

from dataclasses import replace
from pathlib import Path

import pytest
import tiny_run

from data_prep.core import ray_tasks, storage
from data_prep.core.errors import ArtefactCorrupt, ConfigurationError, Interrupted, StorageError
from launch import cluster
from launch.cluster import MAX_FAILURES, RetryPolicy

CORRUPT = ArtefactCorrupt("block 0")
MEMORY = ConfigurationError("memory")
PREEMPTED = Interrupted("stop")
STORE = StorageError("403")


def n_starts(failures: list[tuple[Exception, int]]) -> int:
    """How many worker groups are started if they fail like this, one after the other.

    failures: the cause, and the step of the newest checkpoint.
    """
    policy = RetryPolicy(0)
    for n, (cause, checkpoint_step) in enumerate(failures, 1):
        if not policy.should_retry(cause, checkpoint_step):
            return n
    return len(failures) + 1


@pytest.mark.parametrize(
    ("failures", "n"),
    [
        ([(MEMORY, 0)], 1),
        ([(MEMORY, 2), (MEMORY, 2), (MEMORY, 2)], 2),
        ([(CORRUPT, 0)] * 9, 2),
        ([(CORRUPT, 0), (STORE, 0), (CORRUPT, 0)] * 3, MAX_FAILURES + 1),
        ([(CORRUPT, 0), (CORRUPT, 2), (CORRUPT, 2)], 3),
        ([(STORE, 0)] * 9, MAX_FAILURES + 1),
        ([(STORE, 1 + n // MAX_FAILURES) for n in range(30)], 31),
        ([(PREEMPTED, 1 + n) for n in range(30)], 31),
    ],
    ids=[
        "out of memory",
        "out of memory after a checkpoint",
        "corrupt",
        "corrupt and store down",
        "corrupt after a checkpoint",
        "store down",
        "store down with progress",
        "preempted",
    ],
)
def test_a_worker_group_restarts_only_after_what_may_not_recur(
    failures: list[tuple[Exception, int]], n: int
):
    assert n_starts(failures) == n


@pytest.mark.slow
def test_out_of_memory_ends_the_run_and_says_what_to_set(tmp_path: Path, ray_cluster: None):
    huge = replace(tiny_run.TRAIN.model, d_mlp=1 << 40)  # 280 TB, whatever a system promises
    run = tiny_run.planner(tmp_path)("large", {"model": huge})
    message = r"run large: a rank ran out of memory; .*train\.micro_batch=auto, train\.compute\.act"
    with pytest.raises(ConfigurationError, match=message):
        ray_tasks.result(cluster.start_training(str(tmp_path), run, 1, False))


@pytest.mark.parametrize("name", ["plain", "out[v2]", "a b#c%23 ü", "what?"])
@pytest.mark.parametrize("kind", ["path", "file", "s3"])
def test_ray_train_keeps_its_files_below_the_literal_root(
    name: str, kind: str, tmp_path: Path, s3_server: str
):
    from ray.train.v2._internal.execution.storage import get_fs_and_path

    parent = {"path": str(tmp_path), "file": f"file://{tmp_path}", "s3": s3_server}[kind]
    files, path = get_fs_and_path(cluster.ray_storage_path(f"{parent}/{name}"))
    assert path == storage.join(parent.rpartition("://")[2], name, "ray")
    files.create_dir(path)
    with files.open_output_stream(f"{path}/marker") as file:
        file.write(b"x")
    assert storage.read(storage.join(parent, name, "ray", "marker")) == b"x"
