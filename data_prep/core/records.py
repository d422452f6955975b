"""records: frozen dataclasses with one canonical JSON form and a digest, loaded strictly

A record is a frozen, keyword-only dataclass. The digest of its canonical JSON identifies it.
pydantic loads it strictly: an unknown key, a missing key or a value of another type is an error
that names its path, and nothing is converted. Settings are records that also check their values
(settings.py).

A record may come from a store that others write to, and names in it are joined to folders: a shard
named `../../.ssh/id` or a checksum `/home/me/thesis` would be read, overwritten or deleted. So a
field that holds one has the type FileName, RelativePath or Sha256, and from_json refuses any other
value before the record exists. A record that may change names its version likewise:
`format_version: Annotated[int, format_version(3)]`.
"""

import hashlib
import json
import re
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Annotated, Any, TypeVar, dataclass_transform

from pydantic import AfterValidator, ConfigDict, TypeAdapter, ValidationError

from data_prep.core.errors import ArtefactCorrupt, ConfigurationError

R = TypeVar("R")

MAX_NAME_BYTES = 255  # of one name on the usual file systems
N_FAULTS_SHOWN = 3  # of a file that a user wrote
FORBIDDEN = re.compile(r"[/\\\x00-\x1f\x7f]")  # a separator, NUL, or a control character
SHA256 = re.compile("[0-9a-f]{64}")
ANOTHER_VERSION = {"loc": ("format_version",), "type": "value_error"}  # a fault of pydantic's


def operational(*, default: Any) -> Any:
    """A field that decides how the work is done and not its result: it is not in the digest."""
    return field(default=default, metadata={"operational": True})


@dataclass_transform(
    kw_only_default=True, frozen_default=True, field_specifiers=(field, operational)
)
def record(cls: type[R]) -> type[R]:
    """Make `cls` a frozen, keyword-only dataclass that loads strictly."""
    cls.__pydantic_config__ = ConfigDict(extra="forbid", strict=True)  # type: ignore[attr-defined]
    return dataclass(frozen=True, kw_only=True)(cls)


def to_dict(value: Any, *, identity: bool = False) -> Any:
    """Plain JSON data; with `identity`, without the operational fields."""
    if is_dataclass(value):
        return {
            f.name: to_dict(getattr(value, f.name), identity=identity)
            for f in fields(value)
            if not (identity and f.metadata.get("operational"))
        }
    if isinstance(value, tuple | list):
        return [to_dict(item, identity=identity) for item in value]
    if isinstance(value, dict):
        return {key: to_dict(item, identity=identity) for key, item in value.items()}
    if identity and isinstance(value, float) and value.is_integer():
        return int(value)  # 0 in a recipe and 0.0 in a record are the same setting
    return value


def to_json(value: Any) -> str:
    """The canonical JSON text of a record: sorted keys, no NaN, one trailing newline."""
    return (
        json.dumps(to_dict(value), sort_keys=True, indent=1, ensure_ascii=False, allow_nan=False)
        + "\n"
    )


def digest(*values: Any) -> str:
    """16 hex digits that identify the values; operational fields are left out."""
    plain = [to_dict(value, identity=True) for value in values]
    text = json.dumps(
        plain, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    )
    try:
        content = text.encode()
    except UnicodeEncodeError as error:
        near = text[max(0, error.start - 60) : error.end + 20].encode("utf-8", "backslashreplace")
        raise ConfigurationError(
            f"…{near.decode()}…: a name is not UTF-8; expected one that records can hold: "
            "rename the file, or correct the setting"
        ) from None
    return hashlib.sha256(content).hexdigest()[:16]


def from_json(
    cls: type[R], text: str | bytes, where: str, *, is_written_by_user: bool = False
) -> R:
    """The record in `text`.

    Raises ArtefactCorrupt, with `where` and each wrong field, if it is no record of this version.
    With `is_written_by_user` it raises ConfigurationError instead, also for a doubled key.
    """
    if is_written_by_user:
        refuse_doubled_keys(text, where)
    try:
        return TypeAdapter(cls).validate_json(text)
    except ValidationError as error:
        faults = error.errors()
        if is_written_by_user:
            n_more = len(faults) - N_FAULTS_SHOWN
            more = f" (and {n_more} more faults)" if n_more > 0 else ""
            raise ConfigurationError(
                f"{where}: {'; '.join(map(_describe, faults[:N_FAULTS_SHOWN]))}{more}; expected a "
                f"{cls.__name__} as JSON: correct the file"
            ) from error
        versions = [fault for fault in faults if fault.items() >= ANOTHER_VERSION.items()]
        wrong_fields = versions or [fault for fault in faults if fault["type"] in _WRONG_FIELDS]
        if wrong_fields:  # one of them is enough: a version that differs has many
            n_more = len(faults) - 1
            more = f" (and {n_more} more differences)" if n_more else ""
            raise ArtefactCorrupt(
                f"{where} is not a valid {cls.__name__}: {_describe(wrong_fields[0])}{more}; it "
                "was written by another version of Hormesis: read it with that version, or choose "
                "a new --out"
            ) from error
        raise ArtefactCorrupt(
            f"{where} is not a valid {cls.__name__}: {_describe_all(error)}; "
            "delete it and run the command again"
        ) from error


def refuse_doubled_keys(text: str | bytes, where: str) -> None:
    """Raise ConfigurationError if an object in the JSON `text` has a key twice: readers would take
    the last value and ignore the other in silence.
    """
    doubled: list[str] = []

    def keep(pairs: list[tuple[str, Any]]) -> None:
        doubled.extend(name for name, n in Counter(name for name, _ in pairs).items() if n > 1)

    with suppress(ValueError, RecursionError):  # what is no JSON is reported by its reader
        json.loads(text, object_pairs_hook=keep)
    if doubled:
        raise ConfigurationError(
            f"{where} has {doubled[0]!r} twice in one object; expected each key once: correct the "
            "file, or the text"
        )


# pydantic's names of faults that show another set of fields, rather than a damaged value.
_WRONG_FIELDS = {"missing", "unexpected_keyword_argument", "missing_keyword_only_argument"}


def _describe_all(error: ValidationError) -> str:
    """Each fault of a validation as `path: message (got value)`."""
    return "; ".join(map(_describe, error.errors()))


def _describe(fault: Any) -> str:
    path = ".".join(map(str, fault["loc"])) or "value"
    return f"{path}: {fault['msg']} (got {str(fault['input'])[:80]!r})"


def name_fault(text: str) -> str:
    """Why `text` cannot be the name of a file in a folder; empty if it can."""
    if text in ("", ".", ".."):
        return "should be a file name, not empty, . or .."
    if FORBIDDEN.search(text):
        return "should be a file name, without / and control characters"
    if len(text.encode(errors="surrogateescape")) > MAX_NAME_BYTES:
        return f"should be a file name of at most {MAX_NAME_BYTES} bytes"
    return ""


def is_sha256(text: str) -> bool:
    """Whether `text` is a sha256 as records write it."""
    return SHA256.fullmatch(text) is not None


def _file_name(text: str) -> str:
    if fault := name_fault(text):
        raise ValueError(fault)
    return text


def _file_name_or_empty(text: str) -> str:
    return text and _file_name(text)


def _relative_path(text: str) -> str:
    if any(map(name_fault, text.split("/"))):
        raise ValueError("should be a path below the object root, such as streams/clean-1f3c9a20")
    return text


def _sha256(text: str) -> str:
    if not is_sha256(text):
        raise ValueError("should be a sha256: 64 hex digits")
    return text


def _sha256_or_empty(text: str) -> str:
    return text and _sha256(text)


def format_version(expected: int) -> AfterValidator:
    """In the `Annotated` type of a record's format_version: only this version is loaded."""

    def check(value: int) -> int:
        if value != expected:
            raise ValueError(f"this program reads version {expected}")
        return value

    return AfterValidator(check)


FileName = Annotated[str, AfterValidator(_file_name)]
FileNameOrEmpty = Annotated[str, AfterValidator(_file_name_or_empty)]
RelativePath = Annotated[str, AfterValidator(_relative_path)]
Sha256 = Annotated[str, AfterValidator(_sha256)]
Sha256OrEmpty = Annotated[str, AfterValidator(_sha256_or_empty)]
