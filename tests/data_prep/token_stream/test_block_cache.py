import hashlib
import multiprocessing
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from data_prep.core.errors import StorageError
from data_prep.token_stream import block_cache
from data_prep.token_stream.block_cache import BlockCache

MIB = 1 << 20


def block(
    content: bytes, fetched: list[bytes] | None = None
) -> tuple[str, int, Callable[[], bytes]]:
    """The arguments of Cache.block for `content`; what is fetched is noted."""

    def fetch() -> bytes:
        if fetched is not None:
            fetched.append(content)
        return content

    return hashlib.sha256(content).hexdigest(), len(content), fetch


def kept(folder: Path) -> set[bytes]:
    return {path.read_bytes() for path in folder.glob("??/*") if path.is_file()}


def test_a_block_is_fetched_once_and_then_found(tmp_path: Path) -> None:
    fetched: list[bytes] = []
    shared = BlockCache(str(tmp_path), MIB)
    assert [shared.block(*block(content, fetched)) for content in (b"a", b"b", b"a", b"b")] == [
        b"a",
        b"b",
        b"a",
        b"b",
    ]
    assert fetched == [b"a", b"b"] and kept(tmp_path) == {b"a", b"b"}


@pytest.mark.parametrize("damage", [b"", b"aaab", b"aaa", b"aaaaa"])
def test_a_damaged_block_is_fetched_again_and_mended(tmp_path: Path, damage: bytes) -> None:
    shared, fetched = BlockCache(str(tmp_path), MIB), list[bytes]()
    shared.block(*block(b"aaaa"))
    (path,) = tmp_path.glob("??/*")
    path.write_bytes(damage)
    assert shared.block(*block(b"aaaa", fetched)) == b"aaaa"
    assert fetched == [b"aaaa"] and kept(tmp_path) == {b"aaaa"}


def test_what_was_read_longest_ago_goes_first(tmp_path: Path) -> None:
    shared = BlockCache(str(tmp_path), 3)
    for n, content in enumerate([b"a", b"b", b"c"]):
        shared.block(*block(content))
        (path,) = [path for path in tmp_path.glob("??/*") if path.read_bytes() == content]
        os.utime(path, (n, n))
    shared.block(*block(b"a"))  # read just now
    shared.block(*block(b"d"))
    assert kept(tmp_path) == {b"a", b"c", b"d"}


def test_what_is_not_the_caches_stays(tmp_path: Path) -> None:
    (tmp_path / "ab").mkdir()
    (tmp_path / "ab" / "thesis.txt").write_bytes(b"mine")
    shared = BlockCache(str(tmp_path), 1)
    for content in (b"a", b"b"):
        shared.block(*block(content))
    assert kept(tmp_path) == {b"mine", b"b"}


def test_half_a_block_that_nobody_goes_on_with_is_removed(tmp_path: Path) -> None:
    name = "ab" + "0" * 62
    (tmp_path / "ab").mkdir()
    for stale, age in (
        (f".{name}.12345678", 2 * block_cache.ABANDONED_SECONDS),
        (f".{name}.87654321", 0),
        (f"{name}.lock", 1e6),
    ):
        (tmp_path / "ab" / stale).touch()
        modified = time.time() - age
        os.utime(tmp_path / "ab" / stale, (modified, modified))
    BlockCache(str(tmp_path), MIB).block(*block(b"a"))
    assert {path.name for path in (tmp_path / "ab").iterdir()} == {f".{name}.87654321"}


def test_a_cache_that_cannot_be_written_is_said_once_and_read_past(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(block_cache.telemetry.logger, "propagate", True)
    (tmp_path / "file").touch()
    shared = BlockCache(str(tmp_path / "file" / "below"), MIB)
    assert [shared.block(*block(content)) for content in (b"a", b"b")] == [b"a", b"b"]
    assert [record.message.split(" (")[0] for record in caplog.records] == [
        f"the cache in {shared.folder} cannot be written"
    ]


def test_a_full_disk_leaves_nothing_half_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, content: bytes) -> int:
        path.touch()
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    assert BlockCache(str(tmp_path), MIB).block(*block(b"a")) == b"a"
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_no_room_or_no_cache_asked_for_reads_through(tmp_path: Path) -> None:
    assert BlockCache(str(tmp_path / "none"), 0).block(*block(b"a")) == b"a"
    assert not (tmp_path / "none").exists()


def test_a_failed_fetch_is_its_own_error_and_the_next_one_tries_again(tmp_path: Path) -> None:
    def refuse() -> bytes:
        raise StorageError("the store is gone")

    shared, (sha256, n_bytes, fetch) = BlockCache(str(tmp_path), MIB), block(b"a")
    with pytest.raises(StorageError, match="gone"):
        shared.block(sha256, n_bytes, refuse)
    assert shared.block(sha256, n_bytes, fetch) == b"a"


def test_a_holder_that_is_stuck_is_waited_for_no_longer_than_stated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(block_cache, "WAIT_SECONDS", 0.05)
    shared, (sha256, n_bytes, fetch) = BlockCache(str(tmp_path), MIB), block(b"a")
    with block_cache._locked(tmp_path / sha256[:2] / sha256):
        assert shared.block(sha256, n_bytes, fetch) == b"a"


def _read_many(folder: str, max_bytes: int, log: str, go: Any) -> None:
    go.wait()
    for n in range(40):
        content = bytes([n]) * 64

        def fetch(content: bytes = content) -> bytes:
            with open(log, "ab") as file:  # noqa: PTH123  # one write, appended
                file.write(content[:1])
            time.sleep(0.002)
            return content

        assert (
            BlockCache(folder, max_bytes).block(hashlib.sha256(content).hexdigest(), 64, fetch)
            == content
        )


@pytest.mark.parametrize(("max_bytes", "fetches"), [(MIB, range(40, 41)), (5 * 64, range(40, 161))])
def test_four_processes_fetch_a_block_once_and_may_evict_at_once(
    tmp_path: Path, max_bytes: int, fetches: range
) -> None:
    context = multiprocessing.get_context("fork")
    go, log = context.Event(), tmp_path / "log"
    arguments = (str(tmp_path / "cache"), max_bytes, str(log), go)
    processes = [context.Process(target=_read_many, args=arguments) for _ in range(4)]
    for process in processes:
        process.start()
    go.set()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0] * 4
    assert len(log.read_bytes()) in fetches
    assert sum(map(len, kept(tmp_path / "cache"))) <= max_bytes
