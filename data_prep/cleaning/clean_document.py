"""document → cleaned document, or a drop with its reason

Cleaning removes only what no reader of the text would miss: bytes that are not text, and layout
that carries no meaning. Then it masks personal addresses and numbers (pii.py). Words, case,
spelling and Unicode form stay, because the study compares what models learn from text as people
wrote it. The steps run in the order of STEPS; then the text is dropped for the first reason that
holds: empty, too_short, too_long, link_only, scores, language. Cleaning twice gives the same as
cleaning once.

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
from typing import NamedTuple

from data_prep.cleaning import language, pii
from data_prep.config import CleaningConfig

VERSION = 3  # raise it with any change of the output: streams of another version are built again

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
# These begin with a literal, so that the regular expression engine skips to line ends.
_BLANK_AND_LINE_END = re.compile(r"\n(?<=[^\S\n]\n)")
_LINE_TO_TRIM = re.compile(r"\n(?:(?<=[^\S\n]\n)|\n\n\n)")
_MAY_BE_LINKS = re.compile(r"\s*" + LINK.pattern, re.IGNORECASE)


class Cleaned(NamedTuple):
    """The cleaned text, whether something personal was masked in it, and whether its language is
    uncertain; or no text, and the reason of the drop.
    """

    text: str | None
    reason: str = ""
    is_masked: bool = False
    is_language_uncertain: bool = False


def clean(text: str, config: CleaningConfig, scores: Mapping[str, float] | None = None) -> Cleaned:
    """`text` after all STEPS, or the first reason to drop it. Never raises for a text.

    scores: the scores that the corpus carries for the document.
    """
    text, is_masked = _without_noise(text, config)
    if reason := _reason_to_drop(text, config, scores):
        return Cleaned(None, reason)
    if not config.languages:
        return Cleaned(text, "", is_masked)
    verdict = language.judge(text, config)
    if verdict == "drop":
        return Cleaned(None, "language")
    return Cleaned(text, "", is_masked, verdict == "uncertain")


def without_drops(text: str, config: CleaningConfig) -> str:
    """`text` as `clean` returns it, if no reason to drop it holds."""
    return _without_noise(text, config)[0]


def _without_noise(text: str, config: CleaningConfig) -> tuple[str, bool]:
    """`text` after all STEPS, masked, and whether something was masked in it."""
    scanned = scan(text)
    for step in scanned.steps:
        text = step(text)
    if not (config.mask_personal and scanned.may_be_masked):
        return text, False
    masked = pii.mask(text, None if scanned.steps else scanned.shape)
    return masked, masked != text


def _reason_to_drop(
    text: str, config: CleaningConfig, scores: Mapping[str, float] | None
) -> str | None:
    """The first reason that holds, other than the language."""
    if not text:
        return "empty"
    if len(text) < config.min_chars:
        return "too_short"
    if len(text) > config.max_chars:
        return "too_long"
    if _MAY_BE_LINKS.match(text) and all(LINK.match(word) for word in text.split()):
        return "link_only"
    return "scores" if scores and _is_out_of_bounds(scores, config) else None


class Scan(NamedTuple):
    """The steps that can change a text, and whether masking can change it after these steps.

    shape: that of the text for pii.mask, if it is known.
    """

    steps: tuple[Callable[[str], str], ...]
    may_be_masked: bool
    shape: bytes | None = None


def scan(text: str) -> Scan:
    """Decide quickly which steps a text needs. No steps means that all STEPS leave it as it is."""
    try:
        content = text.encode()
    except UnicodeEncodeError:  # a lone surrogate
        return Scan(STEPS, True)
    shape = pii.shape_of(content, _SCAN_TABLE)
    if _NON_TEXT_MARK in shape:
        return Scan(STEPS, True)
    is_ascii = len(content) == len(text)
    if not is_ascii and (
        (b"\xc2" in content and _C1_CONTROLS.search(content))
        or (b"\xef" in content and _BYTE_ORDER_MARKS.search(content))
    ):
        return Scan(STEPS, True)
    is_trimmed = text[:1] != "\n" and not text[-1:].isspace() and not _LINE_TO_TRIM.search(text)
    may_be_masked = pii.may_be_masked(content, shape)
    known_shape = None if b"\xef" in content else shape
    return Scan(() if is_trimmed else LAYOUT_STEPS, may_be_masked, known_shape)


def remove_non_text(text: str) -> str:
    return NON_TEXT.sub("", text)


def unify_line_ends(text: str) -> str:
    return LINE_END.sub("\n", text)


def trim_line_ends(text: str) -> str:
    if not _BLANK_AND_LINE_END.search(text):
        head, line_end, last_line = text.rpartition("\n")
        return head + line_end + last_line.rstrip()
    # A regular expression would be quadratic in a long run of spaces.
    return "\n".join([line.rstrip() for line in text.split("\n")])


def collapse_blank_lines(text: str) -> str:
    """At most two blank lines in a row, none at either end."""
    return (MANY_BLANK_LINES.sub("\n\n\n", text) if "\n\n\n\n" in text else text).strip("\n")


def _is_out_of_bounds(scores: Mapping[str, float], config: CleaningConfig) -> bool:
    is_below = (scores.get(name, bound) < bound for name, bound in config.min_scores.items())
    is_above = (scores.get(name, bound) > bound for name, bound in config.max_scores.items())
    return any(is_below) or any(is_above)


LAYOUT_STEPS: tuple[Callable[[str], str], ...] = (trim_line_ends, collapse_blank_lines)
STEPS: tuple[Callable[[str], str], ...] = (remove_non_text, unify_line_ends, *LAYOUT_STEPS)
