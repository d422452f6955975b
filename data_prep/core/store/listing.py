"""list the files of a store: below a literal folder, or matched by a pattern of a user"""

import os
import posixpath
from contextlib import suppress
from pathlib import Path
from typing import Any, cast

import fsspec
from fsspec.asyn import AsyncFileSystem
from fsspec.implementations.local import LocalFileSystem

from data_prep.core.errors import ConfigurationError
from data_prep.core.store import patterns
from data_prep.core.store.locations import check_utf8, join, locate
from data_prep.core.store.store_errors import store_errors


def exists(uri: str) -> bool:
    """Whether there is a file `uri`.

    A store that refuses or does not respond raises an error: a "no" would make a finished run look
    unfinished.
    """
    with store_errors("look up", uri):
        filesystem, path = locate(uri)
        try:
            return filesystem.info(path)["type"] == "file"  # isfile() takes any error for "no"
        except (FileNotFoundError, NotADirectoryError):
            return False


def list_files(folder: str, pattern: str = "**") -> list[str]:
    """The files below `folder` whose names match `pattern`, sorted, as URIs that begin with
    `folder`; hidden ones, too.

    folder: taken literally, whatever characters it has. pattern: relative to it, with wildcards.
    """
    with store_errors("list", folder):
        filesystem, path = locate(folder)
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
    check_utf8(pattern)
    with store_errors("list", pattern):
        folder, rest = _literal_folder(pattern)
        filesystem, path = locate(folder)
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
    filesystem, path = locate(uri)
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


def _check_usable(path: str, kind: patterns.Kind) -> None:
    """Raise ConfigurationError for a local path that a pattern matches and nobody can read."""
    check_utf8(path)
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
