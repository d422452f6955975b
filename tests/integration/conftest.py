"""a finished sweep that tests inspect, copy or compare with"""

import pytest
from sweeps import TINY, sweep


@pytest.fixture(scope="session")
def ray_address(ray_cluster: None) -> dict[str, str]:
    """Variables with which a command joins the tests' Ray cluster instead of starting its own."""
    import ray

    return {"RAY_ADDRESS": ray.get_runtime_context().gcs_address, "RAY_AUTH_MODE": "disabled"}


@pytest.fixture(scope="session")
def finished_sweep(tmp_path_factory: pytest.TempPathFactory, ray_address: dict[str, str]) -> str:
    """The object root of an undisturbed sweep."""
    out = str(tmp_path_factory.mktemp("finished"))
    done = sweep(out, *TINY, **ray_address)
    assert done.returncode == 0, done.stderr[-4000:]
    return out
