"""read files by byte ranges: a seekable file, a sequential stream, a parallel download

Each range is one request to the store. A stream and a download keep several requests in flight,
because one connection to an object store is slower than the network.
"""

import io
import os
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, NamedTuple, cast

from data_prep.core import storage
from data_prep.core.background_thread import in_background
from data_prep.core.errors import ArtefactCorrupt

PARALLEL_RANGES = 4  # of one download


@contextmanager
def open_stream(uri: str) -> Iterator[IO[bytes]]:
    """`uri` as a byte stream for reading; it can seek, but is fast only from start to end."""
    if storage.is_remote(uri):
        file = RangedFile(uri, read_ahead=True)
        stream = cast(IO[bytes], io.BufferedReader(file, storage.BLOCK_BYTES))
    else:
        stream = storage.open_local(uri)
    with stream:
        yield stream


def download(uri: str, local: Path) -> None:
    """Copy `uri` to a local file, several ranges at once."""
    n_bytes = storage.size(uri)
    local.parent.mkdir(parents=True, exist_ok=True)
    with local.open("wb") as file, ThreadPoolExecutor(PARALLEL_RANGES, "download") as pool:

        def fetch(start: int) -> None:
            end = min(start + storage.BLOCK_BYTES, n_bytes)
            _write_all(file.fileno(), read_exactly(uri, start, end), start)

        deque(pool.map(fetch, range(0, n_bytes, storage.BLOCK_BYTES)), maxlen=0)


def _write_all(descriptor: int, content: bytes, position: int) -> None:
    """Write at a position; the system may take a part, as when the disk has just become full."""
    rest = memoryview(content)
    while rest:
        n_written = os.pwrite(descriptor, rest, position)
        rest = rest[n_written:]
        position += n_written


def read_exactly(uri: str, start: int, end: int) -> bytes:
    """The bytes of `uri` in [start, end); ArtefactCorrupt if the file ends before `end`."""
    content = storage.read(uri, start, end)
    if len(content) != end - start:
        raise ArtefactCorrupt(
            f"{uri}: the store returned {len(content):,} bytes for the range {start:,} to "
            f"{end:,}, expected {end - start:,}; the file was truncated while it was being read: "
            "write it again and repeat the command"
        )
    return content


class RangedFile(io.RawIOBase):
    """A file in any store as a seekable file object; each read is one ranged request.

    read_ahead: when reads follow each other without a gap, request the next range in the
        background while the caller works on this one.
    """

    def __init__(self, uri: str, *, read_ahead: bool = False) -> None:
        self._uri = uri
        self._n_bytes = storage.size(uri)
        self._read_ahead = read_ahead
        self._position = 0
        self._previous_end = 0  # where the last read ended
        self._prefetched: _Prefetched | None = None

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        origins = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._n_bytes}
        self._position = origins[whence] + offset
        return self._position

    def tell(self) -> int:
        return self._position

    def readinto(self, buffer: Any) -> int:
        start = self._position
        end = min(start + len(buffer), self._n_bytes)
        if start >= end:
            return 0
        content = self._take(start, end)
        is_sequential = 0 < start == self._previous_end
        if self._read_ahead and is_sequential and end < self._n_bytes:
            self._prefetch(end, min(end + len(buffer), self._n_bytes))
        buffer[: end - start] = content
        self._position = self._previous_end = end
        return end - start

    def _take(self, start: int, end: int) -> bytes:
        """The bytes in [start, end), from the range in flight if it is this one."""
        prefetched, self._prefetched = self._prefetched, None
        if prefetched and (prefetched.start, prefetched.end) == (start, end):
            return prefetched.content.result()
        return read_exactly(self._uri, start, end)

    def _prefetch(self, start: int, end: int) -> None:
        content = in_background(lambda: read_exactly(self._uri, start, end), "range")
        self._prefetched = _Prefetched(start, end, content)


class _Prefetched(NamedTuple):
    start: int
    end: int
    content: Future[bytes]
