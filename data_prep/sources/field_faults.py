"""faults of rows: which row is bad and why, and what to do when all of them are"""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from data_prep.core.errors import ArtefactCorrupt, ConfigurationError
from data_prep.sources import label_values

MAX_PLACES = 5  # of bad rows kept for the message
MESSAGE_TEXTS = ("content", "text", "value", "message", "body")  # keys of a message's text
NAME_THE_FIELD = "name the right field with URI#text=FIELD (and label and scores, joined by &)"
PLAIN_NAME = re.compile(r"[A-Za-z_]\w*", re.ASCII)


class Fault(NamedTuple):
    """Why a row is bad. columns: the row's columns, where the fault is in one of the fields that
    the URI names. remedy: what to do if all rows are like this one.
    """

    reason: str
    columns: tuple[str, ...] | None = None
    remedy: str = ""


@dataclass
class BadRows:
    """The rows that one `read` could not use, updated while it runs; a new one per file.

    n_rows: all rows of the file so far. count: the bad ones among them. n_field_faults: those of
    which a field is absent or of another type. first_field_fault: the first of them.
    """

    n_rows: int = 0
    count: int = 0
    places: list[str] = field(default_factory=list)
    n_field_faults: int = 0
    first_field_fault: str = ""
    columns: set[str] = field(default_factory=set)

    def add(self, fault: Fault, place: str) -> None:
        """Count a bad row."""
        self.count += 1
        if len(self.places) < MAX_PLACES:
            self.places.append(f"{place} {fault.reason}")
        if fault.columns is not None:
            self.n_field_faults += 1
            self.columns.update(fault.columns)
            remedy = fault.remedy or NAME_THE_FIELD
            self.first_field_fault = self.first_field_fault or f"{place} {fault.reason}; {remedy}"


def check_bad_rows(bad: BadRows, max_ratio: float, uri: str, requested: dict[str, str]) -> None:
    """Raise if the share of bad rows exceeds `max_ratio`: ArtefactCorrupt, or ConfigurationError if
    no row has a field that is requested.

    requested: the names of fields by what they are for (text, label, scores).
    """
    if bad.count <= max_ratio * bad.n_rows:
        return
    if bad.n_field_faults == bad.n_rows:
        missing = ", ".join(f"{what} in field {name!r}" for what, name in requested.items())
        names = ", ".join(map(_shown, sorted(bad.columns))) or "no fields"
        raise ConfigurationError(
            f"{uri}: no row has {missing}; the rows have {names}; {bad.first_field_fault}"
        )
    repair = "repair the file"
    if all("not UTF-8" in place or "not valid UTF-8" in place for place in bad.places):
        repair = "convert it to UTF-8 (from Latin-1: iconv -f LATIN1 -t UTF-8)"
    raise ArtefactCorrupt(
        f"{uri}: {bad.count} of the first {bad.n_rows} rows cannot be used: "
        f"{'; '.join(bad.places)}; their share {bad.count / bad.n_rows:.3g} exceeds "
        f"{max_ratio:g}; {repair}, or leave these rows out of it (for a corpus, "
        "data.cleaning.max_bad_rows_ratio allows more)"
    )


def missing_field(name: str, columns: dict[str, Any], *, is_null: bool) -> Fault:
    """The fault of a row in which a field is null or absent."""
    reason = f"field {name!r} is null" if is_null else f"has no field {name!r}"
    return Fault(reason, tuple(columns))


def wrong_type(name: str, value: Any, columns: dict[str, Any], expected: str) -> Fault:
    """The fault of a row whose field is not the text (or list of posts) that is expected."""
    names = tuple(columns)
    kind = _kind(value)
    if isinstance(value, dict):
        inner = ", ".join(sorted(value)) or "nothing"
        texts = [key for key, held in value.items() if isinstance(held, str | list)]
        chosen = f"#text={name}.{min(texts)}" if texts else "#text=FIELD"
        remedy = f"name a field inside it, such as {chosen}"
        return Fault(f"field {name!r} is an object with {inner}, not {expected}", names, remedy)
    if isinstance(value, list):
        return _list_fault(name, value, names, expected)
    return Fault(f"field {name!r} is {kind}, not {expected}", names)


def wrong_score(name: str, value: Any, columns: dict[str, Any]) -> Fault | None:
    """The fault of a row whose field is named for its score and holds something else. None for a
    score, an object with scores, and a value that says there is none: null, an empty text, −1.
    """
    number = label_values.as_number(value)
    is_score = number is not None and number <= 1
    if is_score or isinstance(value, dict) or label_values.is_missing(value):
        return None
    return Fault(
        f"field {name!r} is {label_values.describe(value)}, not a score from 0 to 1",
        tuple(columns),
        "name the field with the scores with URI#scores=FIELD, on a scale from 0 to 1",
    )


def _list_fault(name: str, values: list[Any], names: tuple[str, ...], expected: str) -> Fault:
    jq_name = _jq_path(name)
    first = values[0] if values else None
    if isinstance(first, dict):
        keys = ", ".join(sorted(first)) or "nothing"
        reason = (
            f"field {name!r} is a list of objects with {keys}, which are not 4chan posts "
            "(objects with no, com or sub)"
        )
        text = next((key for key in MESSAGE_TEXTS if isinstance(first.get(key), str)), None)
        if text is None:
            return Fault(reason, names)
        joined = f'([{jq_name}[].{text}] | join("\\n\\n"))'
    else:
        plural = {str: "texts", list: "lists", bool: "booleans", type(None): "nulls"}
        kind = plural.get(type(first), "numbers")
        reason = f"field {name!r} is a list of {kind}, not {expected}"
        if not isinstance(first, str):
            return Fault(reason, names)
        joined = f'({jq_name} | join("\\n\\n"))'
    remedy = (
        "name a field that holds text with URI#text=FIELD, or join the list into one text per row: "
        f"jq -c '.text = {joined}' OLD.jsonl > NEW.jsonl"
    )
    return Fault(reason, names, remedy)


def _kind(value: Any) -> str:
    if isinstance(value, bool):
        return "true or false"
    if isinstance(value, int | float):
        return "a number"
    return "a text" if isinstance(value, str) else f"a {type(value).__name__}"


def _jq_path(name: str) -> str:
    parts: Sequence[str] = name.split(".")
    if all(PLAIN_NAME.fullmatch(part) for part in parts):
        return "." + ".".join(parts)
    return f".[{json.dumps(name)}]"


def _shown(name: str) -> str:
    """The name of a column, quoted where blanks or other characters would not be seen."""
    return name if name.isprintable() and name == name.strip() and name else repr(name)
