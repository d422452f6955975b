"""cache of verified blocks on a node's disk, shared by its ranks and runs

    <folder>/3f/3f9a…       a block, named by its sha256; verified each time it is read
    <folder>/3f/3f9a….lock  held (flock) by the process that fetches the block
    <folder>/3f/.3f9a….5e1  a block being written; a rename publishes it

The ranks of a node read scattered rows of one small window, so they need the same block within a
second: the first rank fetches it, the others wait for its file. Runs of other ratios need it again
hours later, so the cache is as large as the disk allows; above its limit the least recently read
blocks are evicted. A block may be evicted at any time, also while another process reads it (the
file exists until it is closed).

The folder's name is known to all users of the node, so it must be a real folder of this user that
nobody else can write to (mode 0700). Names are checksums that were checked for form, and links are
not followed. The cache is optional: in a folder that is not private, or on a full or read-only
disk, one warning is logged, and reading continues without it.
"""

import hashlib
import os
import random
import re
import secrets
import shutil
import stat
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from fcntl import LOCK_EX, LOCK_NB, flock
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from data_prep.core import telemetry
from data_prep.core.errors import ArtefactCorrupt
from data_prep.core.records import is_sha256

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
        if not is_sha256(sha256):
            raise ArtefactCorrupt(
                f"a block is recorded with the sha256 {sha256[:80]!r}; expected 64 hex digits: the "
                "manifest of its stream is damaged, build the stream again"
            )
        if self.max_bytes < n_bytes or not self._is_usable():
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
            with os.fdopen(os.open(path, os.O_RDONLY | os.O_NOFOLLOW), "rb") as file:
                content = file.read(n_bytes + 1)
                os.utime(file.fileno())  # the time by which blocks are evicted
        except OSError:
            return None
        if len(content) == n_bytes and hashlib.sha256(content).hexdigest() == sha256:
            telemetry.emit("hormesis_cache_hits", 1)
            return content
        telemetry.logger.warning("%s is damaged; fetching the block again", path)
        with suppress(OSError):
            path.unlink()
        return None

    def _is_usable(self) -> bool:
        """Whether the folder, made if it is missing, is private; if not, a warning says so once."""
        try:
            make_private(Path(self.folder))
        except NotPrivate as error:
            _warn_once(self.folder, "is not private", str(error))
        except OSError as error:
            _warn_once(self.folder, "cannot be written", error.strerror or str(error))
        else:
            return True
        return False

    def _write(self, path: Path, content: bytes) -> None:
        temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
        try:
            make_private(path.parent)
            self._evict(len(content))
            try:
                _write_privately(temporary, content)
                temporary.replace(path)
            finally:
                temporary.unlink(missing_ok=True)
        except NotPrivate as error:
            _warn_once(self.folder, "is not private", str(error))
        except OSError as error:
            _warn_once(self.folder, "cannot be written", error.strerror or str(error))

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
                status = path.lstat()
                if not match["temporary"]:
                    cached.append(CachedFile(status.st_mtime, status.st_size, path))
                elif now - status.st_mtime > ABANDONED_SECONDS:
                    path.unlink()
        return cached


def default_folder() -> str:
    """A folder of this user below the system's folder for temporary files."""
    return str(Path(tempfile.gettempdir(), f"hormesis-cache-{os.getuid()}"))


class NotPrivate(Exception):
    """Another user could replace or read what a folder holds."""


def make_private(folder: Path) -> None:
    """Make `folder` with mode 0700, or check the one that exists; NotPrivate if it is not ours."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    status = folder.lstat()
    if not stat.S_ISDIR(status.st_mode):
        raise NotPrivate("it is a link or a file")
    if status.st_uid != os.geteuid():
        raise NotPrivate(f"it belongs to user {status.st_uid}, this process to {os.geteuid()}")
    if status.st_mode & 0o022:
        raise NotPrivate(f"others can write to it, its mode is {stat.S_IMODE(status.st_mode):o}")
    if status.st_mode & 0o077:
        folder.chmod(0o700)


def _open_privately(path: str, flags: int) -> int:
    """As open() opens, with mode 0600 and not through a link."""
    return os.open(path, flags | os.O_NOFOLLOW, 0o600)


def _write_privately(path: Path, content: bytes) -> None:
    with open(path, "xb", opener=_open_privately) as file:
        file.write(content)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold the lock of a block, unless the disk has no locks or another holder is stuck.

    The holder removes the lock file at the end. A third process may then lock a new file of that
    name while a second one, which waited for the old file, proceeds: both find the block cached.
    """
    lock = path.with_name(path.name + ".lock")
    try:
        make_private(path.parent)
        file = open(lock, "ab", opener=_open_privately)  # noqa: SIM115  # closed by `with` below
    except (OSError, NotPrivate):
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
        else:
            if not is_held:
                telemetry.logger.warning(
                    "%s was held for %.0f s by another process; fetching the block here, too",
                    lock,
                    WAIT_SECONDS,
                )
        try:
            yield
        finally:
            if is_held:
                lock.unlink(missing_ok=True)


@lru_cache
def _warn_once(folder: str, fault: str, reason: str) -> None:
    telemetry.logger.warning(
        "the cache in %s %s (%s); reading without it: remove it, or set TMPDIR to a folder of "
        "your own",
        folder,
        fault,
        reason,
    )
