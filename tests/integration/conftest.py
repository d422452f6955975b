"""a finished sweep that tests inspect, copy or compare with"""

import shutil
import tempfile
from collections.abc import Iterator
from typing import Any

import pytest
from sweeps import PLANTED_SECRETS, TINY, PlantedSweep, sweep


@pytest.fixture(scope="session")
def planted_sweep(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PlantedSweep]:
    """An undisturbed sweep with credentials in its environment, and what it wrote and printed."""
    out = str(tmp_path_factory.mktemp("finished"))
    ray_folder = tempfile.mkdtemp(prefix="ray-", dir="/tmp")  # a socket's path must be short
    try:
        secrets: Any = PLANTED_SECRETS  # `timeout` is a keyword, too
        done = sweep(out, *TINY, RAY_TMPDIR=ray_folder, **secrets)
        assert done.returncode == 0, done.stderr[-4000:]
        yield PlantedSweep(out, done.stdout + done.stderr, ray_folder)
    finally:
        shutil.rmtree(ray_folder, ignore_errors=True)


@pytest.fixture(scope="session")
def finished_sweep(planted_sweep: PlantedSweep) -> str:
    """The object root of an undisturbed sweep."""
    return planted_sweep.root


@pytest.fixture(scope="session")
def ray_address(ray_cluster: None) -> dict[str, str]:
    """Variables with which a command joins the tests' Ray cluster instead of starting its own."""
    import ray

    return {"RAY_ADDRESS": ray.get_runtime_context().gcs_address, "RAY_AUTH_MODE": "disabled"}
