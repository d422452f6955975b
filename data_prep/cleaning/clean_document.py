"""document → cleaned document, or a drop with its reason

Cleaning only takes away what no reader of the text would miss: bytes that are no text and layout
that says nothing; then it masks personal addresses and numbers (pii.py). Words, case, spelling and
Unicode form stay, because the study compares what models make of text as people wrote it. The steps
run in the order of STEPS, then the text is dropped for the first reason in REASONS that holds.
Cleaning twice is cleaning once.

Two reasons need other documents and are decided elsewhere: contaminated (decontaminate.py),
duplicate (duplicates.py).

Most texts need no step and hold nothing to mask, so one look decides: a table over the text's bytes
(that of pii.py, with a mark for what is no text) and a few searches for short strings, all at
memory speed. Text outside ASCII is looked at as UTF-8 for that, since a search for a class of
characters in wide strings runs at 45 MB/s. The search for what is no text is that slow, so a text
with nothing but trailing blanks, as most that need a step are, is spared it.
"""

import re
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any, NamedTuple

from data_prep.cleaning import pii
from data_prep.config import CleaningConfig
from data_prep.core.errors import ConfigurationError

VERSION = (
    2  # raise it with any change of what comes out: streams made by another version are made again
)
LANGUAGE_CHARS = (
    1000  # how much of a text is looked at to tell its language: 5 times faster than all of it
)

# C0 and C1 without tab and line ends, DEL, lone surrogates, the byte order mark and non-characters
NO_TEXT = re.compile("[\x00-\x08\x0b-\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufeff\ufffe\uffff]+")
LINE_END = re.compile("\r\n?")
MANY_BLANK_LINES = re.compile("\n{4,}")
LINK = re.compile(r"[<(\[]?(https?://|www\.)\S+", re.IGNORECASE)

# The same as seen by `is_clean`
_NO_TEXT = b"\x00"
_LOOK = bytes(  # \r is among the controls
    0 if (byte < 0x20 and byte not in b"\t\n") or byte == 0x7F else pii.SHAPE[byte]
    for byte in range(256)
)
_C1 = re.compile(b"\xc2[\x80-\x9f]")
_MARKS = re.compile(b"\xef(?:\xbb\xbf|\xbf[\xbe\xbf])")
_LINE_TO_TRIM = re.compile(
    r"\n(?:(?<=[^\S\n]\n)|\n\n\n)"
)  # begins with a literal, so that the engine skips to line ends
_MAY_BE_LINKS = re.compile(r"\s*" + LINK.pattern, re.IGNORECASE)


class Cleaned(NamedTuple):
    """The cleaned text and no reason, or no text and the reason of the drop; was anything personal
    masked?
    """

    text: str | None
    reason: str = ""
    is_masked: bool = False


def clean(text: str, config: CleaningConfig, scores: Mapping[str, float] | None = None) -> Cleaned:
    """`text` after all STEPS, or the first of the REASONS to drop it; no characters make it raise."""
    look = _look_at(text)
    for step in look.steps:
        text = step(text)
    found = pii.mask(text) if config.mask_personal and look.may_be_masked else text
    for reason, holds in REASONS.items():
        if holds(found, config, scores or {}):
            return Cleaned(None, reason)
    return Cleaned(found, is_masked=found != text)


def is_clean(text: str) -> bool:
    """Would all STEPS leave `text` as it is?"""
    return not _look_at(text).steps


class _Look(NamedTuple):
    """The steps that can change a text, and whether masking can; where it is false, it is so after
    the steps as well.
    """

    steps: tuple[Callable[[str], str], ...]
    may_be_masked: bool


def _look_at(text: str) -> _Look:
    try:
        content = text.encode()
    except UnicodeEncodeError:  # a lone surrogate
        return _Look(STEPS, True)
    shape = content.translate(_LOOK)
    if _NO_TEXT in shape:
        return _Look(STEPS, True)
    if len(content) > len(text) and (
        (b"\xc2" in content and _C1.search(content))
        or (b"\xef" in content and _MARKS.search(content))
    ):
        return _Look(STEPS, True)
    is_laid_out = text[:1] != "\n" and not text[-1:].isspace() and not _LINE_TO_TRIM.search(text)
    return _Look(() if is_laid_out else STEPS_OF_LAYOUT, pii.may_be_masked(content, shape))


def remove_what_is_no_text(text: str) -> str:
    return NO_TEXT.sub("", text)


def unify_line_ends(text: str) -> str:
    return LINE_END.sub("\n", text)


def trim_line_ends(text: str) -> str:
    return "\n".join(
        [line.rstrip() for line in text.split("\n")]
    )  # a regex is quadratic in a long run of spaces


def collapse_blank_lines(text: str) -> str:
    """At most two blank lines in a row, none at either end."""
    return (MANY_BLANK_LINES.sub("\n\n\n", text) if "\n\n\n\n" in text else text).strip("\n")


def language_of(text: str) -> str:
    """The code of the language that the start of `text` is most like; for a few words it is a
    guess.
    """
    return language_model().classify(text[:LANGUAGE_CHARS])[0]


@lru_cache(maxsize=1)
def language_model() -> Any:
    """The language classifier, loaded once (0.7 s, model in the package)."""
    try:
        from py3langid.langid import MODEL_FILE, LanguageIdentifier
    except ImportError as error:
        raise ConfigurationError(
            "data.cleaning.languages is set, but the library py3langid is not installed; install hormesis[language] on every "
            "machine of the build, or leave data.cleaning.languages empty"
        ) from error
    return LanguageIdentifier.from_model_file(MODEL_FILE)


@lru_cache
def _check_languages(languages: tuple[str, ...]) -> None:
    known = language_model().labels
    if unknown := [code for code in languages if code not in known]:
        raise ConfigurationError(
            f"data.cleaning.languages: {', '.join(map(repr, unknown))} is no language code; expected some of {' '.join(known)}"
        )


def _is_links(text: str, config: CleaningConfig, scores: Mapping[str, float]) -> bool:
    return bool(_MAY_BE_LINKS.match(text)) and all(LINK.match(word) for word in text.split())


def _is_foreign(text: str, config: CleaningConfig, scores: Mapping[str, float]) -> bool:
    if not config.languages:
        return False
    _check_languages(config.languages)
    return language_of(text) not in config.languages


def _is_out_of_bounds(text: str, config: CleaningConfig, scores: Mapping[str, float]) -> bool:
    if not scores:
        return False
    return any(
        name in scores and scores[name] < bound for name, bound in config.min_scores.items()
    ) or any(name in scores and scores[name] > bound for name, bound in config.max_scores.items())


STEPS_OF_LAYOUT: tuple[Callable[[str], str], ...] = (trim_line_ends, collapse_blank_lines)
STEPS: tuple[Callable[[str], str], ...] = (
    remove_what_is_no_text,
    unify_line_ends,
    *STEPS_OF_LAYOUT,
)
REASONS: dict[str, Callable[[str, CleaningConfig, Mapping[str, float]], bool]] = {
    "empty": lambda text, config, scores: not text,
    "too_short": lambda text, config, scores: len(text) < config.min_chars,
    "too_long": lambda text, config, scores: len(text) > config.max_chars,
    "link_only": _is_links,
    "scores": _is_out_of_bounds,
    "language": _is_foreign,
}
