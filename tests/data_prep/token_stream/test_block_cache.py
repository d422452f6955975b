"""The cache gives verified blocks, stays within its limits, and never stands in the way."""

import hashlib
import multiprocessing
import os
import stat
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from data_prep.core.errors import ArtefactCorrupt, StorageError
from data_prep.token_stream import block_cache
from data_prep.token_stream.block_cache import BlockCache

MIB = 1 << 20


def block_arguments(
    content: bytes, fetched: list[bytes] | None = None
) -> tuple[str, int, Callable[[], bytes]]:
    """The arguments of Cache.block for `content`; what is fetched is noted."""

    def fetch() -> bytes:
        if fetched is not None:
            fetched.append(content)
        return content

    return hashlib.sha256(content).hexdigest(), len(content), fetch


def cached_blocks(folder: Path) -> set[bytes]:
    return {path.read_bytes() for path in folder.glob("??/*") if path.is_file()}


def test_a_block_is_fetched_once_and_then_cached(tmp_path: Path) -> None:
    fetched: list[bytes] = []
    cache = BlockCache(str(tmp_path), MIB)
    assert [
        cache.block(*block_arguments(content, fetched)) for content in (b"a", b"b", b"a", b"b")
    ] == [
        b"a",
        b"b",
        b"a",
        b"b",
    ]
    assert fetched == [b"a", b"b"] and cached_blocks(tmp_path) == {b"a", b"b"}


@pytest.mark.parametrize("damage", [b"", b"aaab", b"aaa", b"aaaaa"])
def test_a_damaged_block_is_fetched_again_and_replaced(tmp_path: Path, damage: bytes) -> None:
    cache = BlockCache(str(tmp_path), MIB)
    fetched = list[bytes]()
    cache.block(*block_arguments(b"aaaa"))
    (path,) = tmp_path.glob("??/*")
    path.write_bytes(damage)
    assert cache.block(*block_arguments(b"aaaa", fetched)) == b"aaaa"
    assert fetched == [b"aaaa"] and cached_blocks(tmp_path) == {b"aaaa"}


def test_the_least_recently_read_block_is_evicted_first(tmp_path: Path) -> None:
    cache = BlockCache(str(tmp_path), 3)
    for n, content in enumerate([b"a", b"b", b"c"]):
        cache.block(*block_arguments(content))
        (path,) = [path for path in tmp_path.glob("??/*") if path.read_bytes() == content]
        os.utime(path, (n, n))
    cache.block(*block_arguments(b"a"))  # read just now
    cache.block(*block_arguments(b"d"))
    assert cached_blocks(tmp_path) == {b"a", b"c", b"d"}


def test_files_of_others_are_not_touched(tmp_path: Path) -> None:
    (tmp_path / "ab").mkdir()
    (tmp_path / "ab" / "thesis.txt").write_bytes(b"mine")
    cache = BlockCache(str(tmp_path), 1)
    for content in (b"a", b"b"):
        cache.block(*block_arguments(content))
    assert cached_blocks(tmp_path) == {b"mine", b"b"}


def test_an_abandoned_temporary_file_is_removed(tmp_path: Path) -> None:
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
    BlockCache(str(tmp_path), MIB).block(*block_arguments(b"a"))
    assert {path.name for path in (tmp_path / "ab").iterdir()} == {f".{name}.87654321"}


def test_a_cache_that_cannot_be_written_is_reported_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(block_cache.telemetry.logger, "propagate", True)
    (tmp_path / "file").touch()
    cache = BlockCache(str(tmp_path / "file" / "below"), MIB)
    assert [cache.block(*block_arguments(content)) for content in (b"a", b"b")] == [b"a", b"b"]
    # Other tests may have added handlers, so one warning can be captured several times.
    messages = {(record.created, record.message.split(" (")[0]) for record in caplog.records}
    assert [message for _, message in messages] == [
        f"the cache in {cache.folder} cannot be written"
    ]


def test_a_full_disk_leaves_no_partial_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, content: bytes) -> None:
        path.touch()
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(block_cache, "_write_privately", full)
    assert BlockCache(str(tmp_path), MIB).block(*block_arguments(b"a")) == b"a"
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_a_cache_without_room_is_not_used(tmp_path: Path) -> None:
    assert BlockCache(str(tmp_path / "none"), 0).block(*block_arguments(b"a")) == b"a"
    assert not (tmp_path / "none").exists()


def test_a_failed_fetch_raises_and_the_next_one_tries_again(tmp_path: Path) -> None:
    def refuse() -> bytes:
        raise StorageError("the store is gone")

    cache = BlockCache(str(tmp_path), MIB)
    sha256, n_bytes, fetch = block_arguments(b"a")
    with pytest.raises(StorageError, match="gone"):
        cache.block(sha256, n_bytes, refuse)
    assert cache.block(sha256, n_bytes, fetch) == b"a"


def test_a_stuck_holder_of_the_lock_is_waited_for_a_bounded_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(block_cache, "WAIT_SECONDS", 0.05)
    cache = BlockCache(str(tmp_path), MIB)
    sha256, n_bytes, fetch = block_arguments(b"a")
    with block_cache._locked(tmp_path / sha256[:2] / sha256):
        assert cache.block(sha256, n_bytes, fetch) == b"a"


def read_forty_blocks(folder: str, max_bytes: int, log: str, go: Any) -> None:
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
def test_four_processes_share_the_cache_while_evicting(
    tmp_path: Path, max_bytes: int, fetches: range
) -> None:
    context = multiprocessing.get_context("fork")
    go, log = context.Event(), tmp_path / "log"
    arguments = (str(tmp_path / "cache"), max_bytes, str(log), go)
    processes = [context.Process(target=read_forty_blocks, args=arguments) for _ in range(4)]
    for process in processes:
        process.start()
    go.set()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0] * 4
    assert len(log.read_bytes()) in fetches
    assert sum(map(len, cached_blocks(tmp_path / "cache"))) <= max_bytes


@pytest.mark.parametrize("name", ["/absolute", "../../thesis", "..", "", 64 * "A"])
def test_a_block_whose_name_is_no_checksum_never_touches_a_file(tmp_path: Path, name: str) -> None:
    theirs = tmp_path / "thesis"
    theirs.write_bytes(b"mine")
    cache = BlockCache(str(tmp_path / "cache"), MIB)
    sha256 = str(theirs) if name == "/absolute" else name
    with pytest.raises(ArtefactCorrupt, match="sha256"):
        cache.block(sha256, 1, lambda: b"a")
    assert theirs.read_bytes() == b"mine" and not (tmp_path / "cache").exists()


def test_the_cache_is_private_to_its_user(tmp_path: Path) -> None:
    cache = BlockCache(str(tmp_path / "cache"), MIB)
    cache.block(*block_arguments(b"a"))
    (block,) = (tmp_path / "cache").glob("??/*")
    for folder in (tmp_path / "cache", block.parent):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert stat.S_IMODE(block.stat().st_mode) & 0o077 == 0


def shared_folder(folder: Path) -> None:
    folder.mkdir()
    folder.chmod(0o777)


def link_to_folder(folder: Path) -> None:
    (folder.parent / "theirs").mkdir(mode=0o700)
    folder.symlink_to(folder.parent / "theirs")


@pytest.mark.parametrize("make", [shared_folder, link_to_folder])
def test_a_cache_that_others_can_write_is_not_used_and_reported_once(
    tmp_path: Path,
    make: Callable[[Path], None],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(block_cache.telemetry.logger, "propagate", True)
    make(tmp_path / "cache")
    cache = BlockCache(str(tmp_path / "cache"), MIB)
    assert [cache.block(*block_arguments(content)) for content in (b"a", b"b")] == [b"a", b"b"]
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
    assert len({(entry.created, entry.message) for entry in caplog.records}) == 1
    assert "not private" in caplog.text and str(tmp_path / "cache") in caplog.text


def test_a_cache_of_another_user_is_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "cache").mkdir(mode=0o700)
    monkeypatch.setattr(os, "geteuid", lambda: (tmp_path / "cache").stat().st_uid + 1)
    assert BlockCache(str(tmp_path / "cache"), MIB).block(*block_arguments(b"a")) == b"a"
    assert list((tmp_path / "cache").iterdir()) == []


def test_a_cache_readable_by_others_from_earlier_is_made_private(tmp_path: Path) -> None:
    (tmp_path / "cache").mkdir(mode=0o755)
    (tmp_path / "cache").chmod(0o755)
    BlockCache(str(tmp_path / "cache"), MIB).block(*block_arguments(b"a"))
    assert stat.S_IMODE((tmp_path / "cache").stat().st_mode) == 0o700
    assert cached_blocks(tmp_path / "cache") == {b"a"}


def test_links_in_the_cache_are_not_followed(tmp_path: Path) -> None:
    theirs = tmp_path / "thesis"
    theirs.write_bytes(b"mine")
    cache = BlockCache(str(tmp_path / "cache"), MIB)
    sha256, n_bytes, fetch = block_arguments(b"a")
    folder = tmp_path / "cache" / sha256[:2]
    folder.mkdir(parents=True, mode=0o700)
    (tmp_path / "cache").chmod(0o700)
    (folder / f"{sha256}.lock").symlink_to(theirs)
    (folder / sha256).symlink_to(theirs)
    modified = theirs.stat().st_mtime_ns
    assert cache.block(sha256, n_bytes, fetch) == b"a"
    assert theirs.read_bytes() == b"mine" and theirs.stat().st_mtime_ns == modified
