"""Out of memory on a real Ray, and the folder that Ray Train keeps its files in.

SIGTERM to a worker group is tested in tests/training/trainer/test_preemption.py.
"""

from dataclasses import replace
from pathlib import Path

import pytest
import tiny_run

from data_prep.core import ray_tasks, storage
from data_prep.core.errors import ConfigurationError
from launch.cluster import run_on_ray


@pytest.mark.slow
def test_out_of_memory_ends_the_run_and_says_what_to_set(tmp_path: Path, ray_cluster: None):
    huge = replace(tiny_run.TRAIN.model, d_mlp=1 << 40)  # 280 TB, whatever a system promises
    run = tiny_run.planner(tmp_path)("large", {"model": huge})
    message = r"run large: a rank ran out of memory; .*train\.micro_batch=auto, train\.compute\.act"
    with pytest.raises(ConfigurationError, match=message):
        ray_tasks.result(run_on_ray.start_training(str(tmp_path), run, 1, False))


@pytest.mark.parametrize("name", ["plain", "out[v2]", "a b#c%23 ü", "what?"])
@pytest.mark.parametrize("kind", ["path", "file", "s3"])
def test_ray_train_keeps_its_files_below_the_literal_root(
    name: str, kind: str, tmp_path: Path, s3_server: str
):
    from ray.train.v2._internal.execution.storage import get_fs_and_path

    parent = {"path": str(tmp_path), "file": f"file://{tmp_path}", "s3": s3_server}[kind]
    files, path = get_fs_and_path(run_on_ray.ray_storage_path(f"{parent}/{name}"))
    assert path == storage.join(parent.rpartition("://")[2], name, "ray")
    files.create_dir(path)
    with files.open_output_stream(f"{path}/marker") as file:
        file.write(b"x")
    assert storage.read(storage.join(parent, name, "ray", "marker")) == b"x"
