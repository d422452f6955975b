"""document → cleaned document, or a drop with its reason

Cleaning only takes away what no reader of the text would miss: bytes that are no text and layout that says nothing. Words,
case, spelling and Unicode form stay, because the study compares what models make of text as people wrote it. The steps run
in the order of STEPS, then the text is dropped for the first reason in REASONS that holds. Cleaning twice is cleaning once.
"""

import re
from collections.abc import Callable
from typing import NamedTuple

from data_prep.config import CleaningConfig

VERSION = 1  # raise it with any change of what comes out: streams made by another version are made again

# C0 and C1 without tab and line ends, DEL, lone surrogates, the byte order mark and non-characters
NO_TEXT = re.compile("[\x00-\x08\x0b-\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufeff\ufffe\uffff]+")
LINE_END = re.compile("\r\n?")
MANY_BLANK_LINES = re.compile("\n{4,}")
LINK = re.compile(r"[<(\[]?(https?://|www\.)\S+", re.IGNORECASE)


class Cleaned(NamedTuple):
    """The cleaned text and no reason, or no text and the reason of the drop."""

    text: str | None
    reason: str = ""


def clean(text: str, config: CleaningConfig) -> Cleaned:
    """`text` after all STEPS, or the first of the REASONS to drop it; never raises, whatever the characters."""
    for step in STEPS:
        text = step(text)
    for reason, holds in REASONS.items():
        if holds(text, config):
            return Cleaned(None, reason)
    return Cleaned(text)


def remove_what_is_no_text(text: str) -> str:
    return NO_TEXT.sub("", text)


def unify_line_ends(text: str) -> str:
    return LINE_END.sub("\n", text)


def trim_line_ends(text: str) -> str:
    return "\n".join(line.rstrip() for line in text.split("\n"))  # a regex is quadratic in a long run of spaces


def collapse_blank_lines(text: str) -> str:
    """At most two blank lines in a row, none at either end."""
    return MANY_BLANK_LINES.sub("\n\n\n", text).strip("\n")


def _is_links(text: str, config: CleaningConfig) -> bool:
    return all(LINK.match(word) for word in text.split())


STEPS: tuple[Callable[[str], str], ...] = (remove_what_is_no_text, unify_line_ends, trim_line_ends, collapse_blank_lines)
REASONS: dict[str, Callable[[str, CleaningConfig], bool]] = {
    "empty": lambda text, config: not text,
    "too_short": lambda text, config: len(text) < config.min_chars,
    "too_long": lambda text, config: len(text) > config.max_chars,
    "link_only": _is_links,
}
