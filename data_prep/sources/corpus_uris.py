"""expand the URIs of a corpus: the files they name, and the fields of their rows"""

import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from types import ModuleType
from typing import Any, Literal, NamedTuple

from data_prep.core import storage
from data_prep.core.errors import ConfigurationError
from data_prep.core.store.locations import check_not_empty
from data_prep.sources import formats, hub, synthetic
from data_prep.sources.uri_options import split_options

OPTIONS = {
    "text": "FIELD",
    "label": "FIELD",
    "group": "FIELD",
    "scores": "FIELD",
    "unit": ("thread", "post"),
}
SOURCE_FIELDS = {  # the field of Source that an option sets
    "text": "text_field",
    "label": "label_field",
    "group": "group_field",
    "unit": "unit",
    "scores": "scores_field",
}


class Source(NamedTuple):
    """One file (or one part of another source) and the fields to take from its rows."""

    uri: str
    text_field: str
    label_field: str | None
    unit: Literal["thread", "post"] = "thread"
    scores_field: str | None = None
    group_field: str | None = None


def expand(uris: Sequence[str]) -> list[Source]:
    """The files that `uris` name, in the order of the URIs, then by name.

    Raises ConfigurationError for a URI without files, an empty file and a file named twice.
    """
    sources = [source for uri in uris for source in _expand_one(uri)]
    seen: dict[str, str] = {}
    for source in sources:
        identity = _identity(source.uri)
        if identity in seen:
            raise ConfigurationError(
                f"{source.uri} is named twice (also as {seen[identity]}) in {list(uris)}; "
                "name each file once"
            )
        seen[identity] = source.uri
    return sources


def _expand_one(uri: str) -> list[Source]:
    check_not_empty(uri)
    pattern, options = _split_uri(uri)
    chosen: dict[str, Any] = {"text_field": "text", "label_field": None}
    chosen |= {SOURCE_FIELDS[key]: value for key, value in options.items()}
    if reader := row_source(pattern):
        if synthetic.is_synthetic(pattern):
            _check_synthetic_options(uri, options)
        return [Source(part, **chosen) for part in reader.expand(pattern)]
    names = storage.glob(pattern)
    if not names and "%23" in pattern:
        names = storage.glob(pattern.replace("%23", "#"))
    _refuse_unfetched(pattern, names)
    if not names:
        is_relative = "://" not in pattern and not Path(pattern).is_absolute()
        where = f" below the working directory {Path.cwd()}" if is_relative else ""
        raise ConfigurationError(
            f"{uri} matches no file{where}; expected the URI of a file, or a pattern such as "
            "folder/*.jsonl.gz; check the name (write [[] for a literal [, [*] for *, [?] for ?, "
            "%23 for #; a name that begins with a dot needs a pattern that does)"
        )
    for name in names:
        formats.check(name)
        formats.check_file(name)
    return [Source(name, **chosen) for name in names]


def _check_synthetic_options(uri: str, options: dict[str, str]) -> None:
    """Raise ConfigurationError for an option that the embedded corpus has no use for."""
    reasons = {"scores": "it has no scores", "text": "the text is in its field text"}
    if options.get("unit") == "post":
        reasons["unit"] = "it has no threads"
    for key, reason in reasons.items():
        if options.get(key, "text") != "text":
            raise ConfigurationError(
                f"{uri}: cannot use #{key}={options[key]}; {reason}; leave the option out"
            )


def _refuse_unfetched(pattern: str, names: Sequence[str]) -> None:
    """Raise ConfigurationError for a file of the pattern that only its DVC pointer shows."""
    if storage.is_remote(pattern) or pattern.endswith("/"):
        return
    for pointer in storage.glob(f"{pattern}.dvc"):
        name = pointer.removesuffix(".dvc")
        if name not in names and not storage.exists(name):
            raise ConfigurationError(
                f"{name} is not there, only its pointer {pointer}; expected the data: "
                "fetch it with dvc pull, or remove the pointer"
            )


def _split_uri(uri: str) -> tuple[str, dict[str, str]]:
    """The pattern and the options of a corpus URI. A `#` that begins no option belongs to the name
    if such a file exists.
    """
    try:
        return split_options(uri, OPTIONS)
    except ConfigurationError as error:
        base, _, fragment = uri.rpartition("#")
        with suppress(ConfigurationError):
            _, options = split_options(f"#{fragment}", OPTIONS)
            if "#" in base and storage.exists(base):
                return base, options
        if not row_source(uri) and storage.exists(uri):
            return uri, {}
        raise ConfigurationError(f"{error}; write %23 for a # in the name of a file") from None


def row_source(uri: str) -> ModuleType | None:
    """The module that reads a URI which names no file; None for files."""
    if synthetic.is_synthetic(uri):
        return synthetic
    return hub if hub.is_hub(uri) else None


def _identity(uri: str) -> str:
    """The same text for two names of one file."""
    local = uri.removeprefix("file://")
    return uri if "://" in local or row_source(uri) else os.path.realpath(local)
