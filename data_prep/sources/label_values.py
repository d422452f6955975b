"""values of a label field: which are numbers, which are words, and which are no label

Every command that takes labels from files reads them here, so that one value means the same to all:

    true, 1, 1.0, "1", " TRUE "           the number 1
    null, NaN, "", " ", "n/a", "null"     no label: the row is left out and counted
    "0,5", "85%", "1_000", inf, [0, 1]    neither: the caller refuses it by name

Words are compared folded: without case, without blanks around them, and in NFKC, where a full-width
letter is the plain one.
"""

import math
import re
import unicodedata
from collections.abc import Set
from decimal import Decimal
from typing import Any

TRUTH_VALUES = {"true": 1.0, "false": 0.0}  # CSV has no booleans
NO_LABEL = frozenset({"", "nan", "na", "n/a", "n.a.", "<na>", "#n/a", "null"})
# These may be the name of a class ("none" is one in HASOC and EDOS), but are no number.
NO_NUMBER = NO_LABEL | {"none", "nil", "-", "--", "?", "unknown", "missing", "unlabeled"}
NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?", re.ASCII)
DASHES = re.compile(r"[‐‑‒–—−]")
INVISIBLE = re.compile("[\u200b-\u200f\u2060\ufeff\u00ad]")


def fold(text: str) -> str:
    """A word as it is compared: NFKC, casefolded, plain dashes, single blanks, none around it."""
    plain = INVISIBLE.sub("", DASHES.sub("-", unicodedata.normalize("NFKC", text)))
    return " ".join(plain.casefold().split())


def is_missing(value: Any, words: Set[str] = NO_LABEL) -> bool:
    """Whether a value says that there is no label: null, NaN, or one of the folded `words`."""
    if isinstance(value, str):
        return fold(value) in words
    return value is None or (isinstance(value, float | Decimal) and math.isnan(value))


def as_number(value: Any) -> float | None:
    """The finite number that a value is, a truth value as 0 or 1; None if it is none."""
    if isinstance(value, str):
        word = fold(value)
        number = TRUTH_VALUES.get(word)
        if number is None:
            number = float(word) if NUMBER.fullmatch(word) else math.nan
    elif isinstance(value, bool | int | float | Decimal):
        try:
            number = float(value)
        except OverflowError:
            number = math.inf
    else:
        return None
    return number if math.isfinite(number) else None


def as_word(value: Any) -> str | None:
    """The folded word that a value is; numbers that are equal are one word. None for a list or an
    object.
    """
    number = as_number(value)
    if number is not None:
        return str(int(number)) if number.is_integer() else repr(number)
    return fold(value) if isinstance(value, str) else None


def describe(value: Any) -> str:
    """A value as errors quote it: its text, or the kind of thing it is."""
    if isinstance(value, list | tuple):
        return f"a list of {len(value)}"
    if isinstance(value, dict):
        return "an object"
    return f"{value!r:.40}"
