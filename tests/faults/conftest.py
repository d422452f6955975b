"""a proxy before the S3 server of the test session"""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from proxy import Proxy

from data_prep.core import s3, storage

FIRST_CONTACT_SECONDS = 60.0  # a new client on a busy machine


@pytest.fixture
def proxy(s3_server: str, tmp_path: Path) -> Iterator[Proxy]:
    """A proxy that the clients of this process use, with one object in its bucket."""
    with Proxy(os.environ["AWS_ENDPOINT_URL"]) as proxy, pytest.MonkeyPatch.context() as patch:
        with pytest.MonkeyPatch.context() as patient:
            patient.setattr(s3, "FIRST_CONTACT_SECONDS", FIRST_CONTACT_SECONDS)
            storage.write(f"{s3_server}/{tmp_path.name}/object", bytes(range(200)))
        patch.setenv("AWS_ENDPOINT_URL", proxy.url)
        storage._filesystem.cache_clear()
        yield proxy
    storage._filesystem.cache_clear()


@pytest.fixture
def root(s3_server: str, tmp_path: Path) -> str:
    return f"{s3_server}/{tmp_path.name}"
