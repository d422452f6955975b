"""cache of verified blocks on a node's disk, shared by its ranks and runs

    <folder>/3f/3f9a…       a block, named by its sha256; verified each time it is read
    <folder>/3f/3f9a….lock  held (flock) by the process that fetches the block
    <folder>/3f/.3f9a….5e1  a block being written; a rename publishes it

The ranks of a node read scattered rows of one small window, so they need the same block within a
second: the first rank fetches it, the others wait for its file. Runs of other ratios need it again
hours later, so the cache is as large as the disk allows; above its limit the least recently read
blocks are evicted. A block may be evicted at any time, also while another process reads it (the
file exists until it is closed). The cache is optional: on a full or read-only disk one warning is
logged, and reading continues without it.
"""

import hashlib
import os
import random
import re
import secrets
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from fcntl import LOCK_EX, LOCK_NB, flock
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from data_prep.core import telemetry

WAIT_SECONDS = 90.0  # for another process's fetch, retries included; then it is fetched here too
POLL_SECONDS = 0.02
CACHE_FILE = re.compile(r"\.?[0-9a-f]{64}(?P<temporary>\..+)?")  # no other file is touched
ABANDONED_SECONDS = 3600.0  # age at which a block being written is taken for abandoned
MAX_DISK_SHARE = 0.5  # of the space that the cache has and could have


class CachedFile(NamedTuple):
    """A block in the cache, in order of the time it was last read."""

    last_read: float
    n_bytes: int
    path: Path


class BlockCache(NamedTuple):
    """The cache in `folder`, of at most `max_bytes` and at most half of the free disk space."""

    folder: str
    max_bytes: int

    def block(self, sha256: str, n_bytes: int, fetch: Callable[[], bytes]) -> bytes:
        """The block with this checksum and size, from the cache or else from `fetch`, which returns
        it verified.
        """
        if self.max_bytes < n_bytes:
            return fetch()
        path = Path(self.folder, sha256[:2], sha256)
        cached = self._read(path, sha256, n_bytes)
        if cached is not None:
            return cached
        with _locked(path):
            cached = self._read(path, sha256, n_bytes)  # another process may have fetched it
            if cached is not None:
                return cached
            content = fetch()
            self._write(path, content)
        return content

    def _read(self, path: Path, sha256: str, n_bytes: int) -> bytes | None:
        try:
            content = path.read_bytes()
            os.utime(path)  # the time by which blocks are evicted
        except OSError:
            return None
        if len(content) == n_bytes and hashlib.sha256(content).hexdigest() == sha256:
            telemetry.emit("hormesis_cache_hits", 1)
            return content
        telemetry.logger.warning("%s is damaged; fetching the block again", path)
        with suppress(OSError):
            path.unlink()
        return None

    def _write(self, path: Path, content: bytes) -> None:
        temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._evict(len(content))
            try:
                temporary.write_bytes(content)
                temporary.replace(path)
            finally:
                temporary.unlink(missing_ok=True)
        except OSError as error:
            _warn_once(self.folder, error.strerror or str(error))

    def _evict(self, n_new_bytes: int) -> None:
        """Make room for `n_new_bytes`; the block that was read longest ago is evicted first."""
        cached = self._scan()
        total = sum(file.n_bytes for file in cached)
        free = shutil.disk_usage(self.folder).free
        limit = min(self.max_bytes, int(MAX_DISK_SHARE * (total + free)))
        for file in sorted(cached):
            if total + n_new_bytes <= limit:
                break
            total -= file.n_bytes
            with suppress(OSError):  # another process may have evicted it
                file.path.unlink()

    def _scan(self) -> list[CachedFile]:
        """The blocks in the cache; abandoned temporary files are removed on the way."""
        now = time.time()
        cached = []
        for path in Path(self.folder).glob("??/*"):
            match = CACHE_FILE.fullmatch(path.name)
            if not match:
                continue
            with suppress(OSError):  # it may have disappeared
                stat = path.stat()
                if not match["temporary"]:
                    cached.append(CachedFile(stat.st_mtime, stat.st_size, path))
                elif now - stat.st_mtime > ABANDONED_SECONDS:
                    path.unlink()
        return cached


def default_folder() -> str:
    """A folder of this user below the system's folder for temporary files."""
    return str(Path(tempfile.gettempdir(), f"hormesis-cache-{os.getuid()}"))


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold the lock of a block, unless the disk has no locks or another holder is stuck.

    The holder removes the lock file at the end. A third process may then lock a new file of that
    name while a second one, which waited for the old file, proceeds: both find the block cached.
    """
    lock = path.with_name(path.name + ".lock")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = lock.open("wb")
    except OSError:
        yield
        return
    with file:
        is_held = False
        deadline = time.monotonic() + WAIT_SECONDS
        while not is_held and time.monotonic() < deadline:
            try:
                flock(file, LOCK_EX | LOCK_NB)
                is_held = True
            except BlockingIOError:
                time.sleep(random.uniform(0.5, 1.5) * POLL_SECONDS)
            except OSError:
                break  # a disk without locks
        try:
            yield
        finally:
            if is_held:
                lock.unlink(missing_ok=True)


@lru_cache
def _warn_once(folder: str, error: str) -> None:
    telemetry.logger.warning(
        "the cache in %s cannot be written (%s); reading without it", folder, error
    )
