import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from proxy import Fault, Proxy

from data_prep.core import storage
from data_prep.core.errors import ArtefactMissing, StorageError
from data_prep.core.store import locations, ranged_reads, s3

CONTENT = bytes(range(200))


@pytest.fixture(autouse=True)
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(s3, "FIRST_WAIT_SECONDS", 0.001)


@pytest.fixture
def new_client() -> Iterator[None]:
    """Clients of this test have not contacted a store before."""
    locations.filesystem_of.cache_clear()
    yield
    locations.filesystem_of.cache_clear()


@pytest.fixture
def uri(s3_server: str, proxy: Proxy, tmp_path: Path) -> str:
    """The URI of CONTENT."""
    storage.write(f"{s3_server}/{tmp_path.name}/object", CONTENT)
    return f"{s3_server}/{tmp_path.name}/object"


@pytest.mark.parametrize(
    "kind", ["slow_down", "reset", "lost_answer", "reset_in_body", "truncated", "short"]
)
def test_transient_failures_are_retried_in_every_operation(
    proxy: Proxy, uri: str, tmp_path: Path, kind: str
) -> None:
    def fail_twice() -> None:
        proxy.inject(Fault(kind, rate=1.0, limit=2))

    fail_twice()
    assert storage.read(uri) == CONTENT
    fail_twice()
    assert storage.read(uri, 10, 20) == CONTENT[10:20]
    fail_twice()
    with ranged_reads.open_stream(uri) as stream:
        assert stream.read() == CONTENT
    fail_twice()
    ranged_reads.download(uri, tmp_path / "down")
    assert (tmp_path / "down").read_bytes() == CONTENT
    if kind in ("slow_down", "reset", "lost_answer"):
        fail_twice()
        storage.write(uri, b"second")
        fail_twice()
        assert storage.size(uri) == 6 and storage.exists(uri)
        fail_twice()
        storage.upload(tmp_path / "down", uri)
        fail_twice()
        assert storage.glob(uri.replace("object", "*")) == [uri]
        fail_twice()
        storage.delete(uri)
        fail_twice()
        assert not storage.exists(uri)


def test_a_multipart_upload_retries_only_the_failed_part(
    proxy: Proxy, uri: str, tmp_path: Path
) -> None:
    content = bytes(101 << 20)
    (tmp_path / "large").write_bytes(content)
    proxy.inject(Fault("slow_down", rate=1.0, limit=3))
    before = proxy.counts["PUT"]
    storage.upload(tmp_path / "large", uri)
    assert storage.size(uri) == len(content)
    # Three parts of 50 MiB and three failures, of which some hit the POSTs.
    assert proxy.counts["PUT"] - before <= 3 + 3


def test_no_other_layer_multiplies_the_attempts(
    proxy: Proxy, uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(s3, "MAX_ATTEMPTS", 5)
    proxy.inject(Fault("slow_down", rate=1.0))
    before = proxy.counts["GET"]
    with pytest.raises(StorageError, match=r"cannot read s3://.*reduce your request rate"):
        storage.read(uri)
    assert proxy.counts["GET"] - before == 5


def test_a_store_that_has_responded_gets_its_time_from_first_failure(
    proxy: Proxy, uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(s3, "RETRY_SECONDS", 0.5)
    monkeypatch.setattr(s3, "LONGEST_WAIT_SECONDS", 0.1)
    proxy.inject(Fault("reset", rate=1.0))
    start = time.monotonic()
    with pytest.raises(StorageError, match="cannot read"):
        storage.read(uri)
    assert proxy.injected["reset"] > 5
    assert time.monotonic() - start < 30  # a bound, not a speed


@pytest.mark.usefixtures("new_client")
def test_a_store_that_never_responded_gets_less_time(
    proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(s3, "FIRST_CONTACT_SECONDS", 0.0)
    proxy.inject(Fault("reset", rate=1.0))
    with pytest.raises(StorageError, match="cannot look up"):
        storage.exists("s3://hormesis/x")
    assert proxy.injected["reset"] <= 2  # aiohttp sends a request again once


def test_permanent_failures_are_not_retried(proxy: Proxy, uri: str) -> None:
    before = proxy.counts["GET"]
    for missing in (uri + "x", "s3://no-such-bucket/key"):
        with pytest.raises(ArtefactMissing):
            storage.read(missing)
    assert proxy.counts["GET"] - before == 2


def test_reading_an_object_takes_one_request_and_may_be_empty(proxy: Proxy, uri: str) -> None:
    before = proxy.counts["GET"] + proxy.counts["HEAD"]
    assert storage.read(uri) == CONTENT
    assert proxy.counts["GET"] + proxy.counts["HEAD"] - before == 1
    storage.write(uri, b"")
    assert storage.read(uri) == b""


@given(st.integers(1, 10_000))
def test_a_wait_is_within_its_bounds(n_failed: int) -> None:
    assert (
        0
        <= s3.wait_seconds(n_failed)
        <= min(s3.LONGEST_WAIT_SECONDS, s3.FIRST_WAIT_SECONDS * 2 ** min(n_failed - 1, 60))
    )
