"""reads, writes and listings through a store that fails twice and then works"""

import time

import pytest
from proxy import Fault, Proxy

from data_prep.core import storage
from data_prep.core.errors import StorageError
from data_prep.core.store import s3

CONTENT = bytes(range(200))  # of the fixture's `object`


@pytest.mark.parametrize(
    "kind",
    [
        "slow_down",
        "reset",
        "lost_answer",
        "reset_in_body",
        "truncated",
        "short",
        "garbled",
        "slow",
        "latency",
    ],
)
def test_a_read_is_complete(root: str, proxy: Proxy, kind: str) -> None:
    proxy.inject(Fault(kind, rate=1, limit=2))
    assert storage.read(f"{root}/object") == CONTENT
    assert proxy.injected[kind] > 0


@pytest.mark.parametrize(
    "kind", ["slow_down", "reset", "lost_answer", "reset_in_body", "truncated", "short"]
)
def test_a_ranged_read_is_complete(root: str, proxy: Proxy, kind: str) -> None:
    proxy.inject(Fault(kind, rate=1, limit=2))
    assert storage.read(f"{root}/object", 50, 150) == CONTENT[50:150]
    assert proxy.injected[kind] == 2


@pytest.mark.parametrize(
    "kind", ["slow_down", "reset", "lost_answer", "reset_in_body", "truncated", "short"]
)
def test_a_listing_is_complete(root: str, proxy: Proxy, kind: str) -> None:
    proxy.inject(Fault(kind, rate=1, limit=2))
    assert storage.glob(f"{root}/*") == [f"{root}/object"]
    assert proxy.injected[kind] == 2


@pytest.mark.parametrize("kind", ["slow_down", "reset", "lost_answer", "duplicate"])
def test_a_write_stores_the_whole_object(root: str, proxy: Proxy, kind: str) -> None:
    proxy.inject(Fault(kind, rate=1, limit=2))
    storage.write(f"{root}/written", CONTENT)
    assert proxy.injected[kind] > 0
    proxy.inject(None)
    assert storage.read(f"{root}/written") == CONTENT


@pytest.mark.parametrize("kind", ["slow_down", "reset", "lost_answer"])
def test_a_deleted_object_is_gone(root: str, proxy: Proxy, kind: str) -> None:
    proxy.inject(Fault(kind, rate=1, limit=2))
    storage.delete(f"{root}/object")
    proxy.inject(None)
    assert not storage.exists(f"{root}/object")


def test_a_body_that_trickles_in_is_given_up_in_bounded_time(
    root: str, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(s3, "ATTEMPT_SECONDS", 0.5)
    monkeypatch.setattr(s3, "RETRY_SECONDS", 1.0)
    proxy.inject(Fault("slow", rate=1, seconds=2.0))  # 3 s in all, and never silent for long
    start = time.monotonic()
    with pytest.raises(StorageError, match=r"cannot read s3://.*/object"):
        storage.read(f"{root}/object")
    assert time.monotonic() - start < 3
    proxy.inject(Fault("slow", rate=1, seconds=2.0, limit=1))
    assert storage.read(f"{root}/object") == CONTENT
