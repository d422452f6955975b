"""read, publish, list and delete files at URIs: local, S3, in memory; owns fsspec

A URI is a local path, `file://`, `s3://bucket/key` or `memory://`. Endpoint and credentials come
from the environment (AWS_ENDPOINT_URL, AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, …), read by
botocore alone. Only the S3 client retries (s3.py); an error of a local disk is an error.

A file appears under its name only with its complete content: on a local disk by a rename after
fsync, on S3 because a PUT or a completed multipart upload is atomic. So a record that can be read
is complete, and so is everything written before it.
"""

import hashlib
import os
import posixpath
import secrets
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path
from typing import IO, Any, TypeVar, cast

import fsspec
from fsspec.asyn import AsyncFileSystem
from fsspec.implementations.local import LocalFileSystem

from data_prep.core import patterns
from data_prep.core.errors import (
    ArtefactCorrupt,
    ArtefactMissing,
    ConfigurationError,
    StorageError,
    mask_secrets,
)
from data_prep.core.records import from_json, to_json

PROTOCOLS = ("file", "s3", "memory")
ROW_SOURCES = ("hub:", "synthetic:")  # begin URIs of corpora that name no file (data_prep/sources)
BLOCK_BYTES = 8 << 20  # the unit of checksums and ranged reads
PART_BYTES = 32 << 20  # one part of a multipart upload from memory

R = TypeVar("R")


def join(uri: str, *parts: str) -> str:
    return posixpath.join(uri, *parts)


def absolute(uri: str) -> str:
    """A local path as an absolute one, so that it means the same in every process; any other URI
    unchanged. Raises ConfigurationError for a name that is not UTF-8.
    """
    is_path = "://" not in uri and not uri.startswith(ROW_SOURCES)
    result = str(Path(uri).expanduser().absolute()) if is_path else uri
    _check_utf8(result)
    return result


def object_root(uri: str) -> str:
    """An object root as every process should name it: absolute, without empty segments.

    All its characters are literal. An object store takes `a//b` and `a/b` for different keys, and
    lists only one of them. Raises ConfigurationError for a URI that cannot be a root.
    """
    if not uri.strip():
        raise ConfigurationError(
            "the object root is an empty text; expected a folder or s3://bucket/prefix: "
            "check the variable that should hold it"
        )
    protocol, separator, path = absolute(uri).partition("://")
    if not separator:
        return absolute(uri)
    _locate(uri)  # refuses an unknown protocol
    if protocol == "file":
        return f"file://{Path(path).absolute()}"
    segments = patterns.split(path)
    if protocol == "s3" and (not segments or path.startswith("/")):
        raise ConfigurationError(f"{uri}: names no bucket; expected s3://bucket/prefix")
    if "." in segments or ".." in segments:
        raise ConfigurationError(
            f"{uri}: has the segment . or .., which an object store takes literally; "
            "write the prefix without it"
        )
    return f"{protocol}://{'/'.join(segments)}"


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


def list_files(folder: str, pattern: str = "**") -> list[str]:
    """The files below `folder` whose names match `pattern`, sorted, as URIs that begin with
    `folder`; hidden ones, too.

    folder: taken literally, whatever characters it has. pattern: relative to it, with wildcards.
    """
    with _errors("list", folder):
        filesystem, path = _locate(folder)
        found = _entries(filesystem, path, patterns.depth(pattern))
        return sorted(
            join(folder, entry.name)
            for entry in found
            if entry.kind == "file" and patterns.matches(entry.name, pattern, hidden=True)
        )


def glob(pattern: str) -> list[str]:
    """The files that a user's pattern matches, sorted, as URIs of the same kind as `pattern`.

    Where a file or folder with the literal name exists, it is taken. As in a shell, a wildcard
    matches no leading dot. Raises ConfigurationError for a match that cannot be read: a link to
    nothing, a pipe, a name that is not UTF-8.
    """
    _check_utf8(pattern)
    with _errors("list", pattern):
        folder, rest = _literal_folder(pattern)
        filesystem, path = _locate(folder)
        is_local = isinstance(filesystem, LocalFileSystem)
        if not rest:
            if is_local and (kind := patterns.kind_of(path)):
                _check_usable(path, kind)
            return [pattern] if exists(pattern) else []
        names = []
        for entry in _entries(filesystem, path, patterns.depth(rest)):
            if not patterns.matches(entry.name, rest, hidden=False):
                continue
            # `*` may meet any folder; `*.jsonl` meets one whose files would be missed
            has_extension = "." in patterns.split(rest)[-1].lstrip(".")
            is_expected_folder = entry.kind == "folder" and not has_extension
            if is_local and not is_expected_folder:
                _check_usable(posixpath.join(path, entry.name), entry.kind)
            if entry.kind == "file":
                names.append(join(folder, entry.name))
        return sorted(names)


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


def delete_below(folder: str, uris: Iterable[str]) -> None:
    """Delete files that list_files found below `folder`; a link to a folder elsewhere is not
    followed, because what it leads to is not ours.
    """
    filesystem, path = _locate(folder)
    root = Path(path).resolve()
    for uri in uris:
        parent = Path(_locate(uri)[1]).parent
        is_local = isinstance(filesystem, LocalFileSystem)
        if not is_local or parent.resolve().is_relative_to(root):
            delete(uri)


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
    if mask_secrets(uri) != uri:
        raise ConfigurationError(
            f"{uri}: has credentials in the URI, which would be kept in records and reports; "
            "expected a URI without them: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY in the "
            "environment"
        )
    if separator and protocol not in PROTOCOLS:
        raise ConfigurationError(
            f"{uri}: unknown protocol {protocol}://; expected a path, or one of "
            f"{', '.join(PROTOCOLS)}"
        )
    filesystem = _filesystem(protocol if separator else "file", os.getpid())
    return filesystem, str(filesystem._strip_protocol(uri))


def _literal_folder(pattern: str) -> tuple[str, str]:
    """The folder that holds all matches, and the rest of the pattern, below it; the rest is empty
    for a literal name. A segment with wildcards is literal if there is a file or folder of
    exactly this name.
    """
    protocol, separator, path = pattern.rpartition("://")
    segments = path.split("/")
    n_literal = 0
    while n_literal < len(segments):
        literal = protocol + separator + "/".join(segments[: n_literal + 1])
        if patterns.has_wildcard(segments[n_literal]) and not _is_there(literal):
            break
        n_literal += 1
    folder = "/".join(segments[:n_literal])
    if protocol == "s3" and not folder:
        raise ConfigurationError(f"{pattern}: names no bucket; expected s3://bucket/key")
    is_top = n_literal and not folder and not separator
    return protocol + separator + ("/" if is_top else folder), "/".join(segments[n_literal:])


def _is_there(uri: str) -> bool:
    """Whether a file or folder has exactly this name."""
    filesystem, path = _locate(uri)
    if isinstance(filesystem, LocalFileSystem):
        return os.path.lexists(path)
    if "/" not in path.strip("/") and isinstance(filesystem, AsyncFileSystem):
        return False  # no bucket has a wildcard in its name
    try:
        filesystem.info(path)
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True


def _entries(
    filesystem: fsspec.AbstractFileSystem, path: str, depth: int | None
) -> list[patterns.Entry]:
    """Everything below the folder `path` of a local disk; the files below it in another store."""
    if isinstance(filesystem, LocalFileSystem):
        return list(patterns.walk(path, depth))

    def reraise_unless_gone(error: Exception) -> None:
        if not isinstance(error, FileNotFoundError):
            raise error

    is_s3 = isinstance(filesystem, AsyncFileSystem)
    options: dict[str, Any] = {"on_error": reraise_unless_gone} if is_s3 and depth else {}
    infos = cast(dict[str, Any], filesystem.find(path, maxdepth=depth, detail=True, **options))
    if is_s3 and not infos:
        with suppress(PermissionError):  # a user who may list need not be allowed to ask for it
            filesystem.info(path.partition("/")[0])  # raises if there is no such bucket
    prefix = path.rstrip("/") + "/"
    return [
        patterns.Entry(name.removeprefix(prefix), "file")
        for name, info in infos.items()
        if info["type"] == "file" and name.startswith(prefix) and not name.endswith("/")
    ]


def _check_utf8(name: str) -> None:
    try:
        name.encode()
    except UnicodeEncodeError:
        readable = name.encode("utf-8", "backslashreplace").decode()
        raise ConfigurationError(
            f"{readable}: the name is not UTF-8; expected a name that records and logs can hold: "
            "rename it"
        ) from None


def _check_usable(path: str, kind: patterns.Kind) -> None:
    """Raise ConfigurationError for a local path that a pattern matches and nobody can read."""
    _check_utf8(path)
    if kind == "link":
        target = os.fsencode(Path(path).readlink()).decode("utf-8", "backslashreplace")
        raise ConfigurationError(
            f"{path} is a symbolic link to {target}, which does not exist; expected a file: "
            "fetch its content (git annex get, git lfs pull, dvc pull) or remove the link"
        )
    if kind == "folder":
        raise ConfigurationError(
            f"{path} is a folder, so it matches no file; expected files: name those in it, such as "
            f"{path}/*.jsonl"
        )
    if kind == "other":
        raise ConfigurationError(
            f"{path} is a pipe, socket or device; expected a file: write its content to a file"
        )


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
