"""A proxy before the session's S3 server."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from proxy import Proxy

from data_prep.core import s3, storage


@pytest.fixture
def proxy(s3_server: str, tmp_path: Path) -> Iterator[Proxy]:
    """A proxy before the S3 server, with an object in its bucket; the clients of this process go
    through it.
    """
    with Proxy(os.environ["AWS_ENDPOINT_URL"]) as proxy, pytest.MonkeyPatch.context() as patch:
        with pytest.MonkeyPatch.context() as patient:
            patient.setattr(
                s3, "FIRST_CONTACT_SECONDS", 60.0
            )  # a new client on a machine full of work
            storage.write(f"{s3_server}/{tmp_path.name}/object", bytes(range(200)))
        patch.setenv("AWS_ENDPOINT_URL", proxy.url)
        storage._filesystem.cache_clear()
        yield proxy
    storage._filesystem.cache_clear()


@pytest.fixture
def root(s3_server: str, tmp_path: Path) -> str:
    return f"{s3_server}/{tmp_path.name}"
