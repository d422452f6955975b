"""document → cleaned document, or a drop with its reason

Cleaning only takes away what no reader of the text would miss: bytes that are no text and layout that says nothing; then
it masks personal addresses and numbers (masking.py). Words, case, spelling and Unicode form stay, because the study
compares what models make of text as people wrote it. The steps run in the order of STEPS, then the text is dropped for
the first reason in REASONS that holds. Cleaning twice is cleaning once.

Two reasons need other documents and are decided elsewhere: contaminated (decontamination.py), duplicate (duplicates.py).

Most texts need no step, so one look decides: a table over the text's bytes and a few searches for short strings, all at
memory speed. Text outside ASCII is looked at as UTF-8 for that, since a search for a class of characters in wide strings
runs at 45 MB/s.
"""

import re
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any, NamedTuple

from data_prep import masking
from data_prep.config import CleaningConfig
from data_prep.records import ConfigurationError

VERSION = 2  # raise it with any change of what comes out: streams made by another version are made again
LANGUAGE_CHARS = 1000  # how much of a text is looked at to tell its language: 5 times faster than all of it

# C0 and C1 without tab and line ends, DEL, lone surrogates, the byte order mark and non-characters
NO_TEXT = re.compile("[\x00-\x08\x0b-\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufeff\ufffe\uffff]+")
LINE_END = re.compile("\r\n?")
MANY_BLANK_LINES = re.compile("\n{4,}")
LINK = re.compile(r"[<(\[]?(https?://|www\.)\S+", re.IGNORECASE)

# The same as seen by `is_clean`
_CONTROLS = bytes(byte for byte in range(256) if (byte < 0x20 and byte not in b"\t\n") or byte == 0x7F)  # \r among them
_C1 = re.compile(b"\xc2[\x80-\x9f]")
_MARKS = re.compile(b"\xef(?:\xbb\xbf|\xbf[\xbe\xbf])")
_LINE_TO_TRIM = re.compile(r"\n(?:(?<=[^\S\n]\n)|\n\n\n)")  # begins with a literal, so that the engine skips to line ends
_MAY_BE_LINKS = re.compile(r"\s*" + LINK.pattern, re.IGNORECASE)


class Cleaned(NamedTuple):
    """The cleaned text and no reason, or no text and the reason of the drop; was anything personal masked?"""

    text: str | None
    reason: str = ""
    is_masked: bool = False


def clean(text: str, config: CleaningConfig, scores: Mapping[str, float] | None = None) -> Cleaned:
    """`text` after all STEPS, or the first of the REASONS to drop it; no characters make it raise."""
    if not is_clean(text):
        for step in STEPS:
            text = step(text)
    found = masking.mask(text) if config.mask_personal else text
    for reason, holds in REASONS.items():
        if holds(found, config, scores or {}):
            return Cleaned(None, reason)
    return Cleaned(found, is_masked=found is not text)


def is_clean(text: str) -> bool:
    """Would all STEPS leave `text` as it is?"""
    try:
        content = text.encode()
    except UnicodeEncodeError:  # a lone surrogate
        return False
    if len(content.translate(None, _CONTROLS)) < len(content):
        return False
    if len(content) > len(text) and (
        (b"\xc2" in content and _C1.search(content)) or (b"\xef" in content and _MARKS.search(content))
    ):
        return False
    return not (text[:1] == "\n" or text[-1:].isspace() or _LINE_TO_TRIM.search(text))


def remove_what_is_no_text(text: str) -> str:
    return NO_TEXT.sub("", text)


def unify_line_ends(text: str) -> str:
    return LINE_END.sub("\n", text)


def trim_line_ends(text: str) -> str:
    return "\n".join([line.rstrip() for line in text.split("\n")])  # a regex is quadratic in a long run of spaces


def collapse_blank_lines(text: str) -> str:
    """At most two blank lines in a row, none at either end."""
    return MANY_BLANK_LINES.sub("\n\n\n", text).strip("\n")


def language_of(text: str) -> str:
    """The code of the language that the start of `text` is most like; short texts are guesses."""
    return _language_model().classify(text[:LANGUAGE_CHARS])[0]


@lru_cache(maxsize=1)
def _language_model() -> Any:
    try:
        import py3langid
    except ImportError as error:
        raise ConfigurationError(
            "data.cleaning.languages is set, but the library py3langid is not installed; install hormesis[language] on every "
            "machine of the build, or leave data.cleaning.languages empty"
        ) from error
    return py3langid


def _is_links(text: str, config: CleaningConfig, scores: Mapping[str, float]) -> bool:
    return bool(_MAY_BE_LINKS.match(text)) and all(LINK.match(word) for word in text.split())


def _is_foreign(text: str, config: CleaningConfig, scores: Mapping[str, float]) -> bool:
    return bool(config.languages) and language_of(text) not in config.languages


def _is_out_of_bounds(text: str, config: CleaningConfig, scores: Mapping[str, float]) -> bool:
    return any(name in scores and scores[name] < bound for name, bound in config.min_scores.items()) or any(
        name in scores and scores[name] > bound for name, bound in config.max_scores.items()
    )


STEPS: tuple[Callable[[str], str], ...] = (remove_what_is_no_text, unify_line_ends, trim_line_ends, collapse_blank_lines)
REASONS: dict[str, Callable[[str, CleaningConfig, Mapping[str, float]], bool]] = {
    "empty": lambda text, config, scores: not text,
    "too_short": lambda text, config, scores: len(text) < config.min_chars,
    "too_long": lambda text, config, scores: len(text) > config.max_chars,
    "link_only": _is_links,
    "scores": _is_out_of_bounds,
    "language": _is_foreign,
}
