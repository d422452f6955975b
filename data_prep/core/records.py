"""frozen dataclass ⇄ canonical JSON ⇄ digest; strict load; the error types

Settings and records are the same kind of thing: a frozen, keyword-only dataclass that checks itself
when built, has one canonical JSON form, and is known by the digest of that form. pydantic reads
them back strictly: an unknown key, a missing key or a value of another type is an error that names
its path; nothing is coerced.

    HormesisError
    ├── ConfigurationError    what was asked cannot be: fix the command line, the recipe or the input
    ├── ArtefactMissing       something an earlier stage should have made is not there
    ├── ArtefactCorrupt       something is there, but it is not what its record says
    ├── StorageError          the store did not answer, or refused
    ├── ClusterError          Ray lost workers again and again, or itself
    └── Interrupted           asked to stop, and stopped where it can go on: run the same command again
"""

import hashlib
import json
from dataclasses import dataclass, field, fields, is_dataclass, replace
from typing import Any, TypeVar, dataclass_transform, get_type_hints

from pydantic import ConfigDict, TypeAdapter, ValidationError


class HormesisError(Exception):
    """Base of every error a user can meet; its text is shown without a traceback."""


class ConfigurationError(HormesisError, ValueError):
    """What was asked cannot be: fix the command line, the recipe or the input."""


class ArtefactMissing(HormesisError):
    """Something an earlier stage should have made is not there."""


class ArtefactCorrupt(HormesisError):
    """Something is there, but it is not what its record says."""


class StorageError(HormesisError):
    """The store did not answer, or refused."""


class ClusterError(HormesisError):
    """Ray lost workers again and again, or itself."""


class Interrupted(HormesisError):
    """Asked to stop, and stopped where it can go on: run the same command again."""


R = TypeVar("R")


def operational(*, default: Any) -> Any:
    """A field that says how the work is done, never what is made: it stays out of the digest."""
    return field(default=default, metadata={"operational": True})


@dataclass_transform(
    kw_only_default=True, frozen_default=True, field_specifiers=(field, operational)
)
def record(cls: type[R]) -> type[R]:
    """Make `cls` a frozen, keyword-only dataclass that loads strictly."""
    cls.__pydantic_config__ = ConfigDict(extra="forbid", strict=True)  # type: ignore[attr-defined]
    return dataclass(frozen=True, kw_only=True)(cls)


def to_dict(value: Any, *, identity: bool = False) -> Any:
    """Plain JSON data; with `identity`, without the fields that are operational."""
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
        return int(
            value
        )  # a recipe may say 0 where the record read back says 0.0: the same setting
    return value


def to_json(value: Any) -> str:
    """The canonical JSON text of a record: sorted keys, no NaN, one trailing newline."""
    return (
        json.dumps(to_dict(value), sort_keys=True, indent=1, ensure_ascii=False, allow_nan=False)
        + "\n"
    )


def digest(*values: Any) -> str:
    """16 hex digits that name the values' settings; operational fields do not count."""
    plain = [to_dict(value, identity=True) for value in values]
    text = json.dumps(
        plain, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    )
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def from_json(cls: type[R], text: str | bytes, where: str) -> R:
    """The record in `text`, or ArtefactCorrupt naming `where` and each wrong field."""
    try:
        return TypeAdapter(cls).validate_json(text)
    except ValidationError as error:
        raise ArtefactCorrupt(
            f"{where} is not a valid {cls.__name__}: {_faults(error)}; delete it and make it again"
        ) from error


def override(value: R, path: str, text: str, *, within: str = "") -> R:
    """`value` with the field at dotted `path` set to `text`, read as JSON and checked against the
    field's type. Where a group of settings has a method `named`, its whole is set by a name.

    >>> override(experiment, "train.learning_rate", "3e-4")
    >>> override(experiment, "train.model", "olmo-150m")
    """
    name, _, rest = path.partition(".")
    asked = f"--set {within}{path}={text}"
    hints = get_type_hints(type(value))
    if name not in hints:
        raise ConfigurationError(
            f"{asked}: there is no {within}{name}; {within or 'the experiment '}has {', '.join(sorted(hints))}"
        )
    current = getattr(value, name)
    if rest and not is_dataclass(current):
        raise ConfigurationError(
            f"{asked}: {within}{name} is a value, so {rest!r} names nothing in it"
        )
    if not rest and hasattr(current, "named"):
        return replace(value, **{name: current.named(text)})  # type: ignore[type-var]
    if not rest and is_dataclass(current):
        raise ConfigurationError(
            f"{asked}: {name} is a group; set one of {', '.join(f'{name}.{f.name}' for f in fields(current))}"
        )
    new = (
        override(current, rest, text, within=f"{within}{name}.")
        if rest
        else _typed(hints[name], text, asked)
    )
    return replace(value, **{name: new})  # type: ignore[type-var]


def _typed(hint: Any, text: str, asked: str) -> Any:
    adapter = TypeAdapter(hint, config=ConfigDict(strict=True))
    try:
        return adapter.validate_json(text)
    except ValidationError as as_json:
        try:
            return adapter.validate_python(text)  # a bare word is a string without its quotes
        except ValidationError as as_word:
            fault = as_word if as_json.errors()[0]["type"] == "json_invalid" else as_json
            raise ConfigurationError(f"{asked}: {_faults(fault)}") from fault


def _faults(error: ValidationError) -> str:
    return "; ".join(
        f"{'.'.join(map(str, fault['loc'])) or 'value'}: {fault['msg']} (got {str(fault['input'])[:80]!r})"
        for fault in error.errors()
    )
