"""temporary files of local writes: their names, and removal of what a killed writer left

A writer holds a lock on its temporary file. The kernel releases it with the process, so whoever
gets the lock knows that nobody is going to publish the file.
"""

import fcntl
import os
import posixpath
import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from fsspec.implementations.local import LocalFileSystem

from data_prep.core.store.listing import list_files
from data_prep.core.store.locations import locate

TEMPORARY = re.compile(r"\..+\.[0-9a-f]{8}")


@contextmanager
def publishing(path: Path) -> Iterator[IO[bytes]]:
    """A temporary file beside `path` that is synced and renamed to it if the block succeeds."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # Not a file of tempfile, which only its owner may read.
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        with temporary.open("xb") as file:
            with suppress(OSError):  # a file system without locks, where nothing is removed either
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            yield file
            file.flush()
            os.fsync(file.fileno())
            temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def remove_abandoned(folder: str, pattern: str = "**") -> list[str]:
    """Remove the temporary files of killed writers below a local folder, and return their names.

    pattern: of the files to look at, relative to the folder. In an object store there are none.
    """
    removed = []
    if isinstance(locate(folder)[0], LocalFileSystem):
        for uri in list_files(folder, pattern):
            if TEMPORARY.fullmatch(posixpath.basename(uri)) and _remove(Path(locate(uri)[1])):
                removed.append(uri)
    return removed


def _remove(path: Path) -> bool:
    with suppress(OSError), path.open("r+b") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        path.unlink()
        return True
    return False
