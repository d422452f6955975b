"""match file names against wildcards, segment by segment, and walk a local folder

A root may contain `[`, `*` or `?` itself, so a pattern is never appended to it: files are listed
below the literal folder, and only their names below it are matched.
"""

import os
from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Literal, NamedTuple

WILDCARDS = "*?["

Kind = Literal["file", "folder", "link", "other"]


class Entry(NamedTuple):
    """A name below a folder, separated by `/`.

    kind: a link is a symbolic link that leads nowhere; any other link is what it leads to. Other:
    a named pipe, a socket or a device.
    """

    name: str
    kind: Kind


def has_wildcard(text: str) -> bool:
    return any(character in text for character in WILDCARDS)


def depth(pattern: str) -> int | None:
    """How many levels below the folder the pattern reaches; None without a limit."""
    segments = split(pattern)
    return None if "**" in segments else len(segments)


def split(pattern: str) -> list[str]:
    return [segment for segment in pattern.split("/") if segment]


def matches(name: str, pattern: str, *, hidden: bool) -> bool:
    """Whether the pattern matches the whole name; a segment `**` matches any number of folders.

    hidden: whether a wildcard may match a leading dot; if not, as in a shell, a name that begins
    with a dot is only matched by a segment that does.
    """
    return _matches(split(name), split(pattern), hidden)


def _matches(names: Sequence[str], segments: Sequence[str], hidden: bool) -> bool:
    if not names or not segments:
        return not names and not segments
    first, rest = segments[0], segments[1:]
    is_allowed = hidden or not names[0].startswith(".")
    if first != "**":
        is_allowed = is_allowed or first.startswith(".")
        return is_allowed and fnmatchcase(names[0], first) and _matches(names[1:], rest, hidden)
    if rest and _matches(names, rest, hidden):
        return True
    if not is_allowed:
        return False
    return (not rest and len(names) == 1) or _matches(names[1:], segments, hidden)


def walk(folder: str, max_depth: int | None) -> Iterator[Entry]:
    """All entries below a local folder, folders before what they hold; nothing if there is none.

    A link to a folder above itself is not followed. Raises PermissionError for a folder that may
    not be listed: leaving it out would lose its files silently.
    """
    yield from _walk(folder, "", max_depth, (os.path.realpath(folder),))


def kind_of(path: str) -> Kind | None:
    """What is at a local path; None if there is nothing."""
    if Path(path).is_file():
        return "file"
    if Path(path).is_dir():
        return "folder"
    if Path(path).is_symlink():
        return "link"
    return "other" if os.path.lexists(path) else None


def _walk(
    folder: str, prefix: str, max_depth: int | None, ancestors: tuple[str, ...]
) -> Iterator[Entry]:
    try:
        names = sorted(path.name for path in Path(folder).iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return  # there is none, or another process deleted it
    for name in names:
        path = str(Path(folder, name))
        kind = kind_of(path)
        if kind is None:
            continue
        yield Entry(prefix + name, kind)
        if kind == "folder" and max_depth != 1:
            real = os.path.realpath(path)
            if real not in ancestors:
                deeper = None if max_depth is None else max_depth - 1
                yield from _walk(path, f"{prefix}{name}/", deeper, (*ancestors, real))
