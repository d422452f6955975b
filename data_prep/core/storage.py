"""read, publish, list and delete files at URIs: local, S3, in memory; owns fsspec

A URI is a local path, `file://`, `s3://bucket/key` or `memory://`. Endpoint and credentials come
from the environment (AWS_ENDPOINT_URL, AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, …), read by
botocore alone. Only the S3 client retries (s3.py); an error of a local disk is an error.

A file appears under its name only with its complete content: on a local disk by a rename after
fsync, on S3 because a PUT or a completed multipart upload is atomic. So a record that can be read
is complete, and so is everything written before it.
"""

import glob as pathname
import hashlib
import os
import posixpath
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path
from typing import IO, Any, TypeVar, cast

import fsspec
from fsspec.asyn import AsyncFileSystem
from fsspec.implementations.local import LocalFileSystem

from data_prep.core.errors import ArtefactCorrupt, ArtefactMissing, ConfigurationError, StorageError
from data_prep.core.records import from_json, to_json

PROTOCOLS = ("file", "s3", "memory")
BLOCK_BYTES = 8 << 20  # the unit of checksums and ranged reads
PART_BYTES = 32 << 20  # one part of a multipart upload from memory

R = TypeVar("R")


def join(uri: str, *parts: str) -> str:
    return posixpath.join(uri, *parts)


def absolute(uri: str) -> str:
    """A local path as an absolute one, so that it means the same in every process; any other URI
    unchanged.
    """
    return uri if ":" in uri.split("/", 1)[0] else str(Path(uri).expanduser().absolute())


def is_remote(uri: str) -> bool:
    """Whether reading `uri` needs a request over the network."""
    return isinstance(_locate(uri)[0], AsyncFileSystem)


def read(uri: str, start: int | None = None, end: int | None = None) -> bytes:
    """The bytes of `uri` in [start, end), clipped to the file's size like a slice."""
    if end is not None and end <= (start or 0):
        return b""  # an HTTP range cannot be empty: s3fs would send the whole object
    with _errors("read", uri):
        filesystem, path = _locate(uri)
        return bytes(filesystem.cat_file(path, start=start, end=end))  # type: ignore[arg-type]


def write(uri: str, content: bytes | memoryview) -> None:
    """Publish `content` under `uri`: readers see all of it or nothing.

    A large content is uploaded to an object store in parts, several at once.
    """
    with _errors("write", uri):
        filesystem, path = _locate(uri)
        if isinstance(filesystem, LocalFileSystem):
            with _publishing(Path(path)) as file:
                file.write(content)
        elif isinstance(filesystem, AsyncFileSystem) and len(content) >= 2 * PART_BYTES:
            filesystem.pipe_file(path, _SlicedBuffer(content), chunksize=PART_BYTES)  # type: ignore[arg-type]
        else:
            filesystem.pipe_file(path, bytes(content))


def upload(local: Path, uri: str) -> None:
    """Publish a local file under `uri`."""
    with _errors("write", uri):
        filesystem, path = _locate(uri)
        if isinstance(filesystem, LocalFileSystem):
            with _publishing(Path(path)) as file, local.open("rb") as source:
                shutil.copyfileobj(source, file, BLOCK_BYTES)
        else:
            filesystem.put_file(str(local), path)


def open_local(uri: str) -> IO[bytes]:
    """A file on a local disk or in memory, opened for reading."""
    with _errors("read", uri):
        filesystem, path = _locate(uri)
        return cast(IO[bytes], filesystem.open(path, "rb"))


def size(uri: str) -> int:
    with _errors("read", uri):
        filesystem, path = _locate(uri)
        return int(filesystem.info(path)["size"])


def exists(uri: str) -> bool:
    """Whether there is a file `uri`.

    A store that refuses or does not respond raises an error: a "no" would make a finished run look
    unfinished.
    """
    with _errors("look up", uri):
        filesystem, path = _locate(uri)
        try:
            return filesystem.info(path)["type"] == "file"  # isfile() takes any error for "no"
        except (FileNotFoundError, NotADirectoryError):
            return False


def glob(pattern: str) -> list[str]:
    """The files that match, sorted, as URIs of the same kind as `pattern`.

    A name without wildcards matches itself if it exists.
    """
    with _errors("list", pattern):
        filesystem, path = _locate(pattern)
        if not pathname.has_magic(path):
            return [pattern] if exists(pattern) else []
        try:
            infos = cast(dict[str, Any], filesystem.glob(path, detail=True))
        except FileNotFoundError:
            # There is no such bucket; or the last file of a folder was deleted while listing it,
            # and a second attempt succeeds.
            infos = cast(dict[str, Any], filesystem.glob(path, detail=True))
        return [
            _as_uri(filesystem, name, pattern)
            for name, info in sorted(infos.items())
            if info["type"] == "file"
        ]


def delete(uri: str) -> None:
    """Delete a file, if it exists, and the local folders that become empty."""
    with _errors("delete", uri):
        filesystem, path = _locate(uri)
        with suppress(FileNotFoundError):
            filesystem.rm_file(path)
        if isinstance(filesystem, LocalFileSystem):
            with suppress(OSError):  # ends at the first folder that is not empty
                for folder in Path(path).parents:
                    folder.rmdir()


def load(cls: type[R], uri: str) -> R:
    """The record of type `cls` at `uri`."""
    return from_json(cls, read(uri), uri)


def save(value: Any, uri: str) -> None:
    """Publish a record's canonical JSON at `uri`."""
    write(uri, to_json(value).encode())


def check_writable(uri: str) -> None:
    """Write and delete a small file below `uri`, so that a store that refuses does so before any
    work is done.
    """
    probe = join(uri, f".write-check-{os.getpid()}")
    write(probe, b"")
    filesystem, path = _locate(probe)
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


@lru_cache
def _filesystem(protocol: str, pid: int) -> fsspec.AbstractFileSystem:
    """One client per process: a forked S3 client would share sockets with its parent."""
    if protocol == "s3":
        from data_prep.core.s3 import RetryingS3  # imported here: half a second

        return RetryingS3(skip_instance_cache=True, default_block_size=BLOCK_BYTES)
    options = {"auto_mkdir": True} if protocol == "file" else {}
    return fsspec.filesystem(protocol, skip_instance_cache=protocol != "memory", **options)


def _locate(uri: str) -> tuple[fsspec.AbstractFileSystem, str]:
    protocol, separator, _ = uri.partition("://")
    if separator and protocol not in PROTOCOLS:
        raise ConfigurationError(
            f"{uri}: unknown protocol {protocol}://; expected a path, or one of "
            f"{', '.join(PROTOCOLS)}"
        )
    filesystem = _filesystem(protocol if separator else "file", os.getpid())
    return filesystem, str(filesystem._strip_protocol(uri))


def _as_uri(filesystem: fsspec.AbstractFileSystem, name: str, pattern: str) -> str:
    protocol, separator, _ = pattern.partition("://")
    if separator:
        return (
            f"{protocol}://{name if isinstance(filesystem, LocalFileSystem) else name.lstrip('/')}"
        )
    return name if Path(pattern).is_absolute() else os.path.relpath(name)


@contextmanager
def _publishing(path: Path) -> Iterator[IO[bytes]]:
    """A temporary file beside `path` that is synced and renamed to it if the block succeeds."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # Not a file of tempfile, which only its owner may read.
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        with temporary.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


@contextmanager
def _errors(verb: str, uri: str) -> Iterator[None]:
    """Turn what a store can raise into our error types, with a remedy."""
    try:
        yield
    except FileNotFoundError as error:
        raise ArtefactMissing(
            f"cannot {verb} {uri}: there is no such file, folder or bucket; check the name"
        ) from error
    except PermissionError as error:
        raise StorageError(
            f"cannot {verb} {uri}: permission denied ({_first_line(error)}); "
            "for s3 check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
        ) from error
    except OSError as error:
        raise StorageError(
            f"cannot {verb} {uri}: {_first_line(error)}; "
            "check the disk, the bucket and AWS_ENDPOINT_URL"
        ) from error
    except Exception as error:
        if not type(error).__module__.startswith(("botocore", "aiobotocore", "aiohttp")):
            raise
        raise StorageError(
            f"cannot {verb} {uri}: {_first_line(error)}; "
            "check AWS_ENDPOINT_URL, AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
        ) from error


def _first_line(error: Exception) -> str:
    text = str(error) or type(error).__name__
    return text.splitlines()[0][:300]
