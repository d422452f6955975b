"""verified blocks on a node's disk, shared by its ranks and runs: named by content, bounded,
fetched by one at a time

    <folder>/3f/3f9a…       a block, named by its sha256: size and checksum are verified each time it is read
    <folder>/3f/3f9a….lock  held (flock) by who fetches it meanwhile
    <folder>/3f/.3f9a….5e1  half a block; a rename publishes it

Ranks read scattered rows of one small window, so those of a node want the same block within a
second: the first fetches it, the others wait for its file. Runs of other ratios want it again hours
later: so the cache is large if there is room, and of what is over its bound the least recently read
goes. A block may be removed at any time, also while another process reads it (the file lives on
until it is closed). Nothing here is needed: a full or read-only disk is said once, and reading goes
on.
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

WAIT_SECONDS = 90.0  # for another's fetch, retries included; then it is fetched here, too
POLL_SECONDS = 0.02
OURS = re.compile(r"\.?[0-9a-f]{64}(?P<passing>\..+)?")  # nothing else in the folder is touched
ABANDONED_SECONDS = 3600.0  # half a block that nobody goes on with
LONGEST_SHARE = 0.5  # of the room there is: the cache's own and the free


class Cache(NamedTuple):
    """The cache in `folder`, of at most `max_bytes` and at most half the room on its disk."""

    folder: str
    max_bytes: int

    def block(self, sha256: str, n_bytes: int, fetch: Callable[[], bytes]) -> bytes:
        """The block, from the cache or else from `fetch`, which returns it verified."""
        if self.max_bytes < n_bytes:
            return fetch()
        path = Path(self.folder, sha256[:2], sha256)
        found = self._find(path, sha256, n_bytes)
        if found is not None:
            return found
        with _alone(path):
            found = self._find(path, sha256, n_bytes)  # whoever was before us has brought it
            if found is not None:
                return found
            content = fetch()
            self._keep(path, content)
        return content

    def _find(self, path: Path, sha256: str, n_bytes: int) -> bytes | None:
        try:
            content = path.read_bytes()
            os.utime(path)  # read just now: the last to go
        except OSError:
            return None
        if len(content) == n_bytes and hashlib.sha256(content).hexdigest() == sha256:
            telemetry.emit("hormesis_cache_hits", 1)
            return content
        telemetry.logger.warning("%s is damaged and will be fetched again", path)
        with suppress(OSError):
            path.unlink()
        return None

    def _keep(self, path: Path, content: bytes) -> None:
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
            _say_once(self.folder, error.strerror or str(error))

    def _evict(self, n_coming: int) -> None:
        """Make room for `n_coming` bytes: what was read longest ago goes first."""
        now, kept = time.time(), []
        for path in Path(self.folder).glob("??/*"):
            ours = OURS.fullmatch(path.name)
            if not ours:
                continue
            with suppress(OSError):
                stat = path.stat()
                if ours["passing"] and now - stat.st_mtime > ABANDONED_SECONDS:
                    path.unlink()
                elif not ours["passing"]:
                    kept.append((stat.st_mtime, stat.st_size, path))
        total = sum(size for _, size, _ in kept)
        bound = min(
            self.max_bytes, int(LONGEST_SHARE * (total + shutil.disk_usage(self.folder).free))
        )
        for _, size, path in sorted(kept):
            if total + n_coming <= bound:
                break
            total -= size
            with suppress(OSError):  # another process makes room, too
                path.unlink()


def default_folder() -> str:
    """A folder of this user's below the system's for temporary files."""
    return str(Path(tempfile.gettempdir(), f"hormesis-cache-{os.getuid()}"))


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Hold the block's lock, as far as the disk has locks and its holder is not stuck.

    Whoever lets go of the lock removes its file. A third may then lock a new file of that name
    beside the second, who waited for the old one: both find the block there.
    """
    lock = path.with_name(path.name + ".lock")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = lock.open("wb")
    except OSError:
        yield
        return
    with file:
        held, until = False, time.monotonic() + WAIT_SECONDS
        while not held and time.monotonic() < until:
            try:
                flock(file, LOCK_EX | LOCK_NB)
                held = True
            except BlockingIOError:
                time.sleep(random.uniform(0.5, 1.5) * POLL_SECONDS)
            except OSError:
                break  # a disk without locks
        try:
            yield
        finally:
            if held:
                lock.unlink(missing_ok=True)


@lru_cache
def _say_once(folder: str, error: str) -> None:
    telemetry.logger.warning(
        "the cache in %s cannot be written (%s); reading goes on without it", folder, error
    )
