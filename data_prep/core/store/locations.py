"""which store and which path a URI names, and URIs that mean the same in every process"""

import os
import posixpath
import sys
from functools import lru_cache
from pathlib import Path

import fsspec

from data_prep.core.errors import ConfigurationError, mask_secrets, summary
from data_prep.core.store import patterns

PROTOCOLS = ("file", "s3", "memory")
S3_PART_BYTES = 8 << 20  # one part of a multipart upload from a file
ROW_SOURCES = ("hub:", "synthetic:")  # begin URIs of corpora that name no file (data_prep/sources)


def join(uri: str, *parts: str) -> str:
    return posixpath.join(uri, *parts)


def absolute(uri: str) -> str:
    """A local path as an absolute one, so that it means the same in every process; any other URI
    unchanged. Raises ConfigurationError for a name that is not UTF-8.
    """
    check_not_empty(uri)
    is_path = "://" not in uri and not uri.startswith(ROW_SOURCES)
    result = _absolute_path(uri) if is_path else uri
    check_utf8(result)
    return result


def check_not_empty(uri: str) -> None:
    """Raise ConfigurationError for a URI that names nothing: an empty text, S3 without a bucket."""
    base, _, options = uri.partition("#")
    if not uri.strip() or (not base and "=" in options):
        raise ConfigurationError(
            f"{uri!r} is an empty URI; expected a path or s3://bucket/key: check the variable that "
            "should hold it"
        )
    protocol, _, path = base.partition("://")
    if protocol == "s3" and (not path.strip() or path.startswith("/")):
        raise ConfigurationError(f"{uri}: names no bucket; expected s3://bucket/key")


def _absolute_path(path: str) -> str:
    try:
        return str(Path(path).expanduser().absolute())
    except FileNotFoundError:
        raise _no_working_directory(path) from None
    except RuntimeError as error:  # ~name without such a user
        raise ConfigurationError(
            f"{path}: {summary(error)}; expected ~/ or the name of a user of this machine: write "
            "the absolute path"
        ) from None


def _no_working_directory(path: str) -> ConfigurationError:
    return ConfigurationError(
        f"{path}: a relative path, but the working directory no longer exists; change to a "
        "folder that does, or give an absolute path"
    )


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
    locate(uri)  # refuses an unknown protocol
    if protocol == "file":
        return f"file://{_absolute_path(path)}"
    segments = patterns.split(path)
    if protocol == "s3" and (not segments or path.startswith("/")):
        raise ConfigurationError(f"{uri}: names no bucket; expected s3://bucket/prefix")
    if "." in segments or ".." in segments:
        raise ConfigurationError(
            f"{uri}: has the segment . or .., which an object store takes literally; "
            "write the prefix without it"
        )
    return f"{protocol}://{'/'.join(segments)}"


@lru_cache
def filesystem_of(protocol: str, pid: int) -> fsspec.AbstractFileSystem:
    """One client per process: a forked S3 client would share sockets with its parent."""
    if protocol == "s3":
        from data_prep.core.store.s3 import RetryingS3  # imported here: half a second

        return RetryingS3(skip_instance_cache=True, default_block_size=S3_PART_BYTES)
    options = {"auto_mkdir": True} if protocol == "file" else {}
    return fsspec.filesystem(protocol, skip_instance_cache=protocol != "memory", **options)


def locate(uri: str) -> tuple[fsspec.AbstractFileSystem, str]:
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
    filesystem = filesystem_of(protocol if separator else "file", os.getpid())
    try:
        return filesystem, str(filesystem._strip_protocol(uri))
    except FileNotFoundError:
        raise _no_working_directory(uri) from None


def check_utf8(name: str) -> None:
    try:
        name.encode()
    except UnicodeEncodeError:
        readable = name.encode("utf-8", "backslashreplace").decode()
        # where the locale is not UTF-8, Python reads no name outside ASCII
        is_utf8 = sys.getfilesystemencoding().lower() == "utf-8"
        remedy = "rename it" if is_utf8 else "set PYTHONUTF8=1, or a UTF-8 locale such as C.UTF-8"
        raise ConfigurationError(
            f"{readable}: the name is not UTF-8{'' if is_utf8 else ' in this locale'}; expected a "
            f"name that records and logs can hold: {remedy}"
        ) from None
