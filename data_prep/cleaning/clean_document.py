"""document → cleaned document, or a drop with its reason

Cleaning removes only what no reader of the text would miss: bytes that are not text, and layout
that carries no meaning. Then it masks personal addresses and numbers (pii.py). Words, case,
spelling and Unicode form stay, because the study compares what models learn from text as people
wrote it. The steps run in the order of STEPS; then the text is dropped for the first of the REASONS
that holds. Cleaning twice gives the same as cleaning once.

Two reasons depend on other documents and are decided elsewhere: overlap with evaluation texts
(decontaminate.py) and duplicates (build/dedup.py).

Most texts need no step and contain nothing to mask, so a quick scan decides: one table over the
bytes of the text (that of pii.py, with a mark for bytes that are not text) and a few searches for
short strings, all at memory speed. The scan works on UTF-8, because a search for a class of
characters in wide strings runs at 45 MB/s. The step that removes non-text is that slow too, so a
text that only has trailing blanks, like most that need a step, is spared it.
"""

import re
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any, NamedTuple

from data_prep.cleaning import pii
from data_prep.config import CleaningConfig
from data_prep.core.errors import ConfigurationError

VERSION = 2  # raise it with any change of the output: streams of another version are built again
LANGUAGE_CHARS = 1000  # of a text, to detect its language: 5 times faster than all of it

# C0 and C1 without tab and line ends, DEL, lone surrogates, the byte order mark and non-characters
NON_TEXT = re.compile("[\x00-\x08\x0b-\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufeff\ufffe\uffff]+")
LINE_END = re.compile("\r\n?")
MANY_BLANK_LINES = re.compile("\n{4,}")
LINK = re.compile(r"[<(\[]?(https?://|www\.)\S+", re.IGNORECASE)

# The same, as `scan` searches for it in UTF-8.
_NON_TEXT_MARK = b"\x00"
_SCAN_TABLE = bytes(  # \r counts as a control character
    0 if (byte < 0x20 and byte not in b"\t\n") or byte == 0x7F else pii.SHAPE[byte]
    for byte in range(256)
)
_C1_CONTROLS = re.compile(b"\xc2[\x80-\x9f]")
_BYTE_ORDER_MARKS = re.compile(b"\xef(?:\xbb\xbf|\xbf[\xbe\xbf])")
# It begins with a literal, so that the regular expression engine skips to line ends.
_LINE_TO_TRIM = re.compile(r"\n(?:(?<=[^\S\n]\n)|\n\n\n)")
_MAY_BE_LINKS = re.compile(r"\s*" + LINK.pattern, re.IGNORECASE)


class Cleaned(NamedTuple):
    """The cleaned text, and whether something personal was masked in it; or no text, and the reason
    of the drop.
    """

    text: str | None
    reason: str = ""
    is_masked: bool = False


def clean(text: str, config: CleaningConfig, scores: Mapping[str, float] | None = None) -> Cleaned:
    """`text` after all STEPS, or the first of the REASONS to drop it. Never raises for a text.

    scores: the scores that the corpus carries for the document.
    """
    scanned = scan(text)
    for step in scanned.steps:
        text = step(text)
    masked = pii.mask(text) if config.mask_personal and scanned.may_be_masked else text
    for reason, holds in REASONS.items():
        if holds(masked, config, scores or {}):
            return Cleaned(None, reason)
    return Cleaned(masked, is_masked=masked != text)


class Scan(NamedTuple):
    """The steps that can change a text, and whether masking can change it after these steps."""

    steps: tuple[Callable[[str], str], ...]
    may_be_masked: bool


def scan(text: str) -> Scan:
    """Decide quickly which steps a text needs. No steps means that all STEPS leave it as it is."""
    try:
        content = text.encode()
    except UnicodeEncodeError:  # a lone surrogate
        return Scan(STEPS, True)
    shape = content.translate(_SCAN_TABLE)
    if _NON_TEXT_MARK in shape:
        return Scan(STEPS, True)
    is_ascii = len(content) == len(text)
    if not is_ascii and (
        (b"\xc2" in content and _C1_CONTROLS.search(content))
        or (b"\xef" in content and _BYTE_ORDER_MARKS.search(content))
    ):
        return Scan(STEPS, True)
    is_trimmed = text[:1] != "\n" and not text[-1:].isspace() and not _LINE_TO_TRIM.search(text)
    return Scan(() if is_trimmed else LAYOUT_STEPS, pii.may_be_masked(content, shape))


def remove_non_text(text: str) -> str:
    return NON_TEXT.sub("", text)


def unify_line_ends(text: str) -> str:
    return LINE_END.sub("\n", text)


def trim_line_ends(text: str) -> str:
    # A regular expression would be quadratic in a long run of spaces.
    return "\n".join([line.rstrip() for line in text.split("\n")])


def collapse_blank_lines(text: str) -> str:
    """At most two blank lines in a row, none at either end."""
    return (MANY_BLANK_LINES.sub("\n\n\n", text) if "\n\n\n\n" in text else text).strip("\n")


def detect_language(text: str) -> str:
    """The code of the language that the start of `text` resembles most; for a few words it is a
    guess.
    """
    return load_language_model().classify(text[:LANGUAGE_CHARS])[0]


@lru_cache(maxsize=1)
def load_language_model() -> Any:
    """The language classifier, loaded once (0.7 s; the model is in the package)."""
    try:
        from py3langid.langid import MODEL_FILE, LanguageIdentifier
    except ImportError as error:
        raise ConfigurationError(
            "data.cleaning.languages is set, but the library py3langid is not installed; install "
            "hormesis[language] on every machine of the build, or leave data.cleaning.languages "
            "empty"
        ) from error
    return LanguageIdentifier.from_model_file(MODEL_FILE)


@lru_cache
def _check_languages(languages: tuple[str, ...]) -> None:
    known = load_language_model().labels
    if unknown := [code for code in languages if code not in known]:
        raise ConfigurationError(
            f"data.cleaning.languages: {', '.join(map(repr, unknown))} is not a language code; "
            f"expected some of {' '.join(known)}"
        )


def _is_links(text: str, config: CleaningConfig, scores: Mapping[str, float]) -> bool:
    return bool(_MAY_BE_LINKS.match(text)) and all(LINK.match(word) for word in text.split())


def _is_in_other_language(text: str, config: CleaningConfig, scores: Mapping[str, float]) -> bool:
    if not config.languages:
        return False
    _check_languages(config.languages)
    return detect_language(text) not in config.languages


def _is_out_of_bounds(text: str, config: CleaningConfig, scores: Mapping[str, float]) -> bool:
    if not scores:
        return False
    is_below = (scores.get(name, bound) < bound for name, bound in config.min_scores.items())
    is_above = (scores.get(name, bound) > bound for name, bound in config.max_scores.items())
    return any(is_below) or any(is_above)


LAYOUT_STEPS: tuple[Callable[[str], str], ...] = (trim_line_ends, collapse_blank_lines)
STEPS: tuple[Callable[[str], str], ...] = (remove_non_text, unify_line_ends, *LAYOUT_STEPS)
REASONS: dict[str, Callable[[str, CleaningConfig, Mapping[str, float]], bool]] = {
    "empty": lambda text, config, scores: not text,
    "too_short": lambda text, config, scores: len(text) < config.min_chars,
    "too_long": lambda text, config, scores: len(text) > config.max_chars,
    "link_only": _is_links,
    "scores": _is_out_of_bounds,
    "language": _is_in_other_language,
}
