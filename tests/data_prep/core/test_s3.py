import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from proxy import Fault, Proxy

from data_prep.core import ranged_reads, s3, storage
from data_prep.core.errors import ArtefactMissing, StorageError

CONTENT = bytes(range(200))


@pytest.fixture(autouse=True)
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(s3, "FIRST_WAIT_SECONDS", 0.001)


@pytest.fixture
def new_client() -> Iterator[None]:
    """Clients of this test have not contacted a store before."""
    storage._filesystem.cache_clear()
    yield
    storage._filesystem.cache_clear()


@pytest.fixture
def uri(s3_server: str, proxy: Proxy, tmp_path: Path) -> str:
    """The URI of CONTENT."""
    storage.write(f"{s3_server}/{tmp_path.name}/object", CONTENT)
    return f"{s3_server}/{tmp_path.name}/object"


@pytest.mark.parametrize(
    "kind", ["slow_down", "reset", "lost_answer", "reset_in_body", "truncated", "short"]
)
def test_what_may_pass_is_tried_again_in_every_operation(
    proxy: Proxy, uri: str, tmp_path: Path, kind: str
) -> None:
    def again() -> None:
        proxy.inject(Fault(kind, rate=1.0, limit=2))

    again()
    assert storage.read(uri) == CONTENT
    again()
    assert storage.read(uri, 10, 20) == CONTENT[10:20]
    again()
    with ranged_reads.open_stream(uri) as stream:
        assert stream.read() == CONTENT
    again()
    ranged_reads.download(uri, tmp_path / "down")
    assert (tmp_path / "down").read_bytes() == CONTENT
    if kind in ("slow_down", "reset", "lost_answer"):
        again()
        storage.write(uri, b"second")
        again()
        assert storage.size(uri) == 6 and storage.exists(uri)
        again()
        storage.upload(tmp_path / "down", uri)
        again()
        assert storage.glob(uri.replace("object", "*")) == [uri]
        again()
        storage.delete(uri)
        again()
        assert not storage.exists(uri)


def test_an_upload_in_parts_goes_on_at_the_part_that_failed(
    proxy: Proxy, uri: str, tmp_path: Path
) -> None:
    content = bytes(101 << 20)
    (tmp_path / "large").write_bytes(content)
    proxy.inject(Fault("slow_down", rate=1.0, limit=3))
    before = proxy.counts["PUT"]
    storage.upload(tmp_path / "large", uri)
    assert storage.size(uri) == len(content)
    assert (
        proxy.counts["PUT"] - before <= 3 + 3
    )  # three parts of 50 MiB, three failures (of which some hit its POSTs)


def test_an_error_that_stays_is_raised_after_the_stated_attempts_and_no_layer_below_multiplies_them(
    proxy: Proxy, uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(s3, "MAX_ATTEMPTS", 5)
    proxy.inject(Fault("slow_down", rate=1.0))
    before = proxy.counts["GET"]
    with pytest.raises(StorageError, match=r"cannot read s3://.*reduce your request rate"):
        storage.read(uri)
    assert proxy.counts["GET"] - before == 5


def test_a_store_that_has_answered_is_given_its_seconds_from_the_first_failure(
    proxy: Proxy, uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(s3, "PATIENCE_SECONDS", 0.5)
    monkeypatch.setattr(s3, "LONGEST_WAIT_SECONDS", 0.1)
    proxy.inject(Fault("reset", rate=1.0))
    began = time.monotonic()
    with pytest.raises(StorageError, match="cannot read"):
        storage.read(uri)
    assert proxy.injected["reset"] > 5
    assert time.monotonic() - began < 30  # a bound, not a speed


@pytest.mark.usefixtures("new_client")
def test_a_store_that_never_answered_is_given_up_sooner(
    proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(s3, "FIRST_CONTACT_SECONDS", 0.0)
    proxy.inject(Fault("reset", rate=1.0))
    with pytest.raises(StorageError, match="cannot look up"):
        storage.exists("s3://hormesis/x")
    assert proxy.injected["reset"] <= 2  # aiohttp asks once more by itself


def test_what_will_not_pass_is_asked_once(proxy: Proxy, uri: str) -> None:
    before = proxy.counts["GET"]
    for missing in (uri + "x", "s3://no-such-bucket/key"):
        with pytest.raises(ArtefactMissing):
            storage.read(missing)
    assert proxy.counts["GET"] - before == 2


def test_a_whole_object_takes_one_request_and_an_empty_one_is_empty(proxy: Proxy, uri: str) -> None:
    before = proxy.counts["GET"] + proxy.counts["HEAD"]
    assert storage.read(uri) == CONTENT
    assert proxy.counts["GET"] + proxy.counts["HEAD"] - before == 1
    storage.write(uri, b"")
    assert storage.read(uri) == b""


@pytest.mark.parametrize("block_bytes", [7, 64, 200, 999])
def test_a_stream_takes_one_get_per_block(
    proxy: Proxy, uri: str, monkeypatch: pytest.MonkeyPatch, block_bytes: int
) -> None:
    monkeypatch.setattr(storage, "BLOCK_BYTES", block_bytes)
    before = proxy.counts["GET"]
    with ranged_reads.open_stream(uri) as stream:
        assert b"".join(iter(lambda: stream.read(3), b"")) == CONTENT
    assert proxy.counts["GET"] - before == -(-len(CONTENT) // block_bytes)


def test_a_stream_can_be_read_from_anywhere(uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage, "BLOCK_BYTES", 16)
    with ranged_reads.open_stream(uri) as stream:
        for at in (150, 0, 16, 199, 200, 40):
            assert (stream.seek(at), stream.read(40)) == (at, CONTENT[at : at + 40])
        assert stream.seek(-5, 2) == 195 and stream.read() == CONTENT[195:]


@given(st.integers(1, 10_000))
def test_a_pause_is_within_its_bounds(n_failed: int) -> None:
    assert (
        0
        <= s3.pause(n_failed)
        <= min(s3.LONGEST_WAIT_SECONDS, s3.FIRST_WAIT_SECONDS * 2 ** min(n_failed - 1, 60))
    )
