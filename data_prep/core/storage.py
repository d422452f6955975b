"""read, publish, list and delete files at URIs: local, S3, in memory

A URI is a local path, `file://`, `s3://bucket/key` or `memory://`. Endpoint and credentials come
from the environment (AWS_ENDPOINT_URL, AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, …), read by
botocore alone. Only the S3 client retries (store/s3.py); an error of a local disk is an error.

A file appears under its name only with its complete content: on a local disk by a rename after
fsync, on S3 because a PUT or a completed multipart upload is atomic. So a record that can be read
is complete, and so is everything written before it.
"""

import hashlib
import os
import shutil
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, TypeVar, cast

from fsspec.asyn import AsyncFileSystem
from fsspec.implementations.local import LocalFileSystem

from data_prep.core.errors import ArtefactCorrupt, ConfigurationError, HormesisError
from data_prep.core.records import from_json, to_json
from data_prep.core.store.listing import exists, glob, list_files
from data_prep.core.store.locations import absolute, check_not_empty, join, locate, object_root
from data_prep.core.store.store_errors import store_errors
from data_prep.core.store.temporaries import publishing, remove_abandoned
from data_prep.core.store.versions import FileVersion, file_versions

__all__ = [
    "FileVersion", "absolute", "block_sha256", "check_writable", "delete", "delete_below", "exists",
    "file_versions", "glob", "is_remote", "join", "list_files", "load", "object_root", "open_local",
    "other_folders", "read", "read_text", "remove_abandoned", "save", "size", "upload",
    "verify_block", "write",
]  # fmt: skip

BLOCK_BYTES = 8 << 20  # the unit of checksums and ranged reads
N_LISTED = 12  # folders that an error lists
MAX_TEXT_BYTES = 64 << 20  # the largest tokenizers have 35 MB
PART_BYTES = 32 << 20  # one part of a multipart upload from memory

R = TypeVar("R")


def is_remote(uri: str) -> bool:
    """Whether reading `uri` needs a request over the network."""
    return isinstance(locate(uri)[0], AsyncFileSystem)


def read(uri: str, start: int | None = None, end: int | None = None) -> bytes:
    """The bytes of `uri` in [start, end), clipped to the file's size like a slice."""
    if end is not None and end <= (start or 0):
        return b""  # an HTTP range cannot be empty: s3fs would send the whole object
    with store_errors("read", uri):
        filesystem, path = locate(uri)
        return bytes(filesystem.cat_file(path, start=start, end=end))  # type: ignore[arg-type]


def read_text(uri: str) -> str:
    """The text of a file that a user names and that is read whole: settings, a tokenizer.

    Raises ConfigurationError for one that is no UTF-8 text or has more than MAX_TEXT_BYTES.
    """
    check_not_empty(uri)
    content = read(uri, 0, MAX_TEXT_BYTES + 1)
    if len(content) > MAX_TEXT_BYTES:
        raise ConfigurationError(
            f"{uri} has more than {MAX_TEXT_BYTES:,} bytes; expected settings or a tokenizer as "
            "JSON: check the name"
        )
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigurationError(
            f"{uri} is not UTF-8 text (byte {error.start}); expected JSON: check the name, or "
            "convert the file"
        ) from None


def write(uri: str, content: bytes | memoryview) -> None:
    """Publish `content` under `uri`: readers see all of it or nothing.

    A large content is uploaded to an object store in parts, several at once.
    """
    with store_errors("write", uri):
        filesystem, path = locate(uri)
        if isinstance(filesystem, LocalFileSystem):
            with publishing(Path(path)) as file:
                file.write(content)
        elif isinstance(filesystem, AsyncFileSystem) and len(content) >= 2 * PART_BYTES:
            filesystem.pipe_file(path, _SlicedBuffer(content), chunksize=PART_BYTES)  # type: ignore[arg-type]
        else:
            filesystem.pipe_file(path, bytes(content))


def upload(local: Path, uri: str) -> None:
    """Publish a local file under `uri`."""
    with store_errors("write", uri):
        filesystem, path = locate(uri)
        if isinstance(filesystem, LocalFileSystem):
            with publishing(Path(path)) as file, local.open("rb") as source:
                shutil.copyfileobj(source, file, BLOCK_BYTES)
        else:
            filesystem.put_file(str(local), path)


def open_local(uri: str) -> IO[bytes]:
    """A file on a local disk or in memory, opened for reading."""
    with store_errors("read", uri):
        filesystem, path = locate(uri)
        return cast(IO[bytes], filesystem.open(path, "rb"))


def size(uri: str) -> int:
    with store_errors("read", uri):
        filesystem, path = locate(uri)
        return int(filesystem.info(path)["size"])


def delete(uri: str) -> None:
    """Delete a file, if it exists, and the local folders that become empty."""
    with store_errors("delete", uri):
        filesystem, path = locate(uri)
        with suppress(FileNotFoundError):
            filesystem.rm_file(path)
        if isinstance(filesystem, LocalFileSystem):
            with suppress(OSError):  # ends at the first folder that is not empty
                for folder in Path(path).parents:
                    folder.rmdir()


def delete_below(folder: str, uris: Iterable[str]) -> None:
    """Delete files that list_files found below `folder`; a link to a folder elsewhere is not
    followed, because what it leads to is not ours.
    """
    filesystem, path = locate(folder)
    root = Path(path).resolve()
    for uri in uris:
        parent = Path(locate(uri)[1]).parent
        is_local = isinstance(filesystem, LocalFileSystem)
        if not is_local or parent.resolve().is_relative_to(root):
            delete(uri)


def load(cls: type[R], uri: str) -> R:
    """The record of type `cls` at `uri`."""
    return from_json(cls, read(uri), uri)


def save(value: Any, uri: str) -> None:
    """Publish a record's canonical JSON at `uri`."""
    write(uri, to_json(value).encode())


def other_folders(folder: str, name: str) -> str:
    """The subfolders with a file of this name, as words for an error about one without it."""
    with suppress(HormesisError):
        uris = list_files(folder, f"*/{name}")
        names = [uri.removeprefix(f"{folder}/").partition("/")[0] for uri in uris]
        more = f" and {len(names) - N_LISTED} more" if len(names) > N_LISTED else ""
        return f"others are: {', '.join(names[:N_LISTED])}{more}" if names else "nor is any other"
    return "the others cannot be listed"


def check_writable(uri: str) -> None:
    """Write and delete a small file below `uri`, so that a store that refuses does so before any
    work is done.
    """
    probe = join(uri, f".write-check-{os.getpid()}")
    write(probe, b"")
    filesystem, path = locate(probe)
    filesystem.rm_file(path)  # not delete(), which would remove an empty folder


def block_sha256(content: bytes | memoryview) -> tuple[str, ...]:
    """One checksum per block of BLOCK_BYTES; the last block may be shorter."""
    view = memoryview(content).cast("B")
    return tuple(
        hashlib.sha256(view[start : start + BLOCK_BYTES]).hexdigest()
        for start in range(0, len(view), BLOCK_BYTES)
    )


def verify_block(content: bytes, expected: str, uri: str, block: int) -> None:
    """Raise ArtefactCorrupt, with file and block, unless the sha256 of the block is `expected`."""
    actual = hashlib.sha256(content).hexdigest()
    if actual != expected:
        start = block * BLOCK_BYTES
        raise ArtefactCorrupt(
            f"{uri}: block {block} (bytes {start:,} to {start + len(content):,}) has sha256 "
            f"{actual[:16]}…; expected {expected[:16]}… from its record; delete the file's record "
            "and run the same command again"
        )


class _SlicedBuffer:
    """A buffer whose slices are bytes, as the S3 client needs: it copies one part at a time, not
    the whole content.
    """

    def __init__(self, content: bytes | memoryview) -> None:
        self._view = memoryview(content)

    def __len__(self) -> int:
        return len(self._view)

    def __getitem__(self, part: slice) -> bytes:
        return bytes(self._view[part])
