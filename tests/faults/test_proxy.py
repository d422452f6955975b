"""faults as a client without retries sees them"""

import http.client
import random
import urllib.error
import urllib.request

import pytest
from proxy import FAULTS, OF_BODIES, Fault, Proxy

from data_prep.core import storage
from data_prep.core.store import locations

CONTENT = bytes(range(200))  # of the fixture's `object`


def get(root: str, timeout_seconds: float = 5.0) -> bytes:
    """The object, read by a client that does not retry."""
    filesystem, path = locations.locate(f"{root}/object")
    with urllib.request.urlopen(filesystem.sign(path), timeout=timeout_seconds) as response:
        return response.read()


def test_without_a_fault_all_requests_pass_and_are_counted(root: str, proxy: Proxy) -> None:
    storage.write(f"{root}/a", b"first")
    assert storage.read(f"{root}/a", 1, 3) == b"ir"
    assert storage.glob(f"{root}/*") == [f"{root}/a", f"{root}/object"]
    storage.delete(f"{root}/a")
    assert not storage.exists(f"{root}/a")
    counts = proxy.counts
    assert (counts["PUT"], counts["GET"], counts["DELETE"]) == (1, 1, 1) and counts["LIST"] >= 1
    assert not proxy.injected


@pytest.mark.parametrize(
    ("kind", "seen"),
    [
        ("slow_down", urllib.error.HTTPError),
        ("reset", ConnectionResetError),
        ("lost_answer", ConnectionResetError),
        ("reset_in_body", (ConnectionResetError, http.client.IncompleteRead)),
        ("truncated", http.client.IncompleteRead),
        ("stalled", TimeoutError),
    ],
)
def test_a_client_without_retries_sees_the_fault(
    root: str, proxy: Proxy, kind: str, seen: type[Exception] | tuple[type[Exception], ...]
) -> None:
    proxy.inject(Fault(kind, rate=1))
    with pytest.raises(seen):
        get(root, 1.0 if kind == "stalled" else 5.0)
    assert proxy.injected[kind] == 1
    proxy.inject(None)
    assert get(root) == CONTENT


@pytest.mark.parametrize(
    ("kind", "seen"),
    [
        ("short", CONTENT[:100]),
        ("slow", CONTENT),
        ("latency", CONTENT),
        ("garbled", CONTENT[:100] + b"\x65" + CONTENT[101:]),
    ],
)
def test_a_client_receives_the_body_that_the_fault_leaves(
    root: str, proxy: Proxy, kind: str, seen: bytes
) -> None:
    proxy.inject(Fault(kind, rate=1))
    assert get(root) == seen
    assert proxy.injected[kind] == 1


def test_a_stale_listing_lacks_new_objects(root: str, proxy: Proxy) -> None:
    storage.write(f"{root}/new", b"")
    proxy.inject(Fault("stale_list", rate=1))
    assert storage.glob(f"{root}/*") == [f"{root}/object"]
    proxy.inject(None)
    assert storage.glob(f"{root}/*") == [f"{root}/new", f"{root}/object"]


def test_a_duplicate_put_arrives_after_a_later_one(root: str, proxy: Proxy) -> None:
    proxy.inject(Fault("duplicate", rate=1, limit=1))
    storage.write(f"{root}/twice", b"old")
    storage.write(f"{root}/twice", b"new")
    proxy.inject(None)  # waits for the duplicate
    assert storage.read(f"{root}/twice") == b"old"


def test_the_same_requests_meet_the_same_faults_in_any_order() -> None:
    def disturbed(order: list[str]) -> set[str]:
        proxy = Proxy("http://127.0.0.1:1")
        proxy.inject(Fault("reset", rate=0.3, seed=5))
        requests = {request for request in order if proxy.fault_of("GET", request)}
        proxy._server.server_close()
        return requests

    names = [f"GET /bucket/{i}" for i in range(200)]
    assert disturbed(names) == disturbed(random.Random(0).sample(names, len(names)))
    assert 30 < len(disturbed(names)) < 90


def test_body_faults_apply_only_to_requests_with_a_body() -> None:
    proxy = Proxy("http://127.0.0.1:1")
    for kind in FAULTS:
        proxy.inject(Fault(kind, rate=1))
        disturbed = {
            method
            for method in ("GET", "LIST", "HEAD", "PUT", "DELETE")
            if proxy.fault_of(method, method)
        }
        expected = {"duplicate": {"PUT"}, "stale_list": {"LIST"}} | {
            body: {"GET", "LIST"} for body in OF_BODIES
        }
        assert disturbed == expected.get(kind, {"GET", "LIST", "HEAD", "PUT", "DELETE"}), kind
    proxy._server.server_close()
