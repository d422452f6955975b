"""an object in the bucket of the test session"""

from pathlib import Path

import pytest

from data_prep.core import storage


@pytest.fixture
def root(s3_server: str, tmp_path: Path) -> str:
    """The URI of a folder that holds `object`, of 200 bytes."""
    root = f"{s3_server}/{tmp_path.name}"
    storage.write(f"{root}/object", bytes(range(200)))
    return root
