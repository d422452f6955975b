"""a finished sweep that tests inspect, copy or compare with"""

import pytest
from sweeps import TINY, sweep


@pytest.fixture(scope="session")
def finished_sweep(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The object root of an undisturbed sweep."""
    out = str(tmp_path_factory.mktemp("finished"))
    done = sweep(out, *TINY)
    assert done.returncode == 0, done.stderr[-4000:]
    return out
