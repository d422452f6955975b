"""size and version of files, to notice that one was changed without reading it

The version is text for people, too: when a local file was modified, or the ETag of an object. Files
of one folder of an object store are listed, a thousand per request, and not asked for one by one.
"""

import posixpath
from collections import defaultdict
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple, cast

import fsspec
from fsspec.asyn import AsyncFileSystem
from fsspec.implementations.local import LocalFileSystem

from data_prep.core.store.locations import locate
from data_prep.core.store.store_errors import store_errors

MIN_FILES_TO_LIST = 3  # of one folder; fewer take no more requests one by one


class FileVersion(NamedTuple):
    """The size of a file, and a text that differs when the file was changed or replaced."""

    n_bytes: int
    version: str


def file_versions(uris: Iterable[str]) -> dict[str, FileVersion]:
    """Size and version of each file; ArtefactMissing if one does not exist."""
    versions: dict[str, FileVersion] = {}
    listed: dict[str, list[str]] = defaultdict(list)
    for uri in uris:
        with store_errors("look up", uri):
            filesystem, path = locate(uri)
            if isinstance(filesystem, AsyncFileSystem):
                listed[posixpath.dirname(uri)].append(uri)
            elif isinstance(filesystem, LocalFileSystem):
                versions[uri] = _of_local(path)
            else:
                versions[uri] = _of_info(filesystem.info(path))
    for folder, of_folder in listed.items():
        with store_errors("list", folder):
            versions |= _of_objects(of_folder)
    return versions


def _of_local(path: str) -> FileVersion:
    status = Path(path).stat()
    seconds, nanoseconds = divmod(status.st_mtime_ns, 10**9)
    modified = datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S")
    return FileVersion(status.st_size, f"modified {modified}.{nanoseconds:09} UTC")


def _of_objects(uris: Sequence[str]) -> dict[str, FileVersion]:
    """uris: objects of one folder."""
    filesystem = locate(uris[0])[0]
    paths = {uri: locate(uri)[1] for uri in uris}
    infos: dict[str, Any] = {}
    if len(uris) >= MIN_FILES_TO_LIST:
        names = [posixpath.basename(path) for path in paths.values()]
        infos = _list(filesystem, posixpath.dirname(paths[uris[0]]), _common_start(names))
    return {
        uri: _of_info(infos[path] if path in infos else filesystem.info(path))
        for uri, path in paths.items()
    }


def _list(filesystem: fsspec.AbstractFileSystem, folder: str, prefix: str) -> dict[str, Any]:
    options: dict[str, Any] = {"prefix": prefix} if prefix else {"maxdepth": 1}
    return cast(dict[str, Any], filesystem.find(folder, detail=True, **options))


def _common_start(names: Sequence[str]) -> str:
    """What all names begin with; the first and the last in order differ earliest."""
    first, last = min(names), max(names)
    n = next((i for i, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), len(first))
    return first[:n]


def _of_info(info: dict[str, Any]) -> FileVersion:
    tag = str(info.get("ETag") or "").strip('"')
    changed = info.get("LastModified") or info.get("created") or ""
    return FileVersion(int(info["size"]), f"ETag {tag}" if tag else f"modified {changed}")
