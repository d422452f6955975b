"""rows of a text set: each text once, with the rows that are left out counted by reason

Every set that an evaluation or a calibration reads goes through here, so that what is left out is
known for each: by log line, in the report, and in the error if too little remains.

Two texts are the same if they differ in white space or in the Unicode form of their letters (NFC)
alone. A text that occurs again with the same label counts once. With another label it says nothing:
all its rows are left out, because the first one of the file is as right as the second, and results
must not depend on the order of a file. Many of these are refused: such a set has a row per
annotator, and without those on whom people disagree it would be another set.
"""

import hashlib
import unicodedata
from collections import Counter
from collections.abc import Hashable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Generic, TypeVar

from data_prep.core import telemetry
from data_prep.core.errors import ConfigurationError
from data_prep.sources import corpus_reader
from data_prep.sources.corpus_reader import Document, Source
from eval.eval_report import TextSet

MAX_UNREADABLE_RATIO = 0.05  # of the rows of a file; more of them have another cause
MAX_CONTRADICTORY_RATIO = 0.1  # of the texts of a set

Item = TypeVar("Item")


class Reason(StrEnum):
    """Why a row is left out."""

    UNREADABLE = "unreadable"
    EMPTY = "empty text"
    NEGATIVE = "negative label"
    NO_LABEL = "no label"
    OFF_SCALE = "label outside the stated scale"
    NO_GROUP = "no group"
    REPEATED = "repeated text"
    OTHER_LABEL = "same text with another label"
    OTHER_ANSWER = "same question with another answer"
    PROBE_ROW = "also a probe row"
    SEEN = "seen by the probes"
    TEST_ROW = "also a test row"
    OTHER_SET = "also in another set"
    NO_ANSWER = "no answer"
    EMPTY_CHOICE = "an empty choice"
    NOT_UNIQUE = "the right choice occurs twice"
    SHOWN = "shown as an example"
    NO_PAIR = "not one of two rows that differ in their label"
    NOTHING_SHARED = "halves of a pair that do not begin alike, or end early"


@dataclass
class RowCounts:
    """The rows of one set: all that were read, and those left out by reason."""

    n_read: int = 0
    left_out: Counter[str] = field(default_factory=Counter)

    def leave_out(self, reason: Reason, n: int = 1) -> None:
        if n:
            self.left_out[reason.value] += n

    @property
    def in_words(self) -> str:
        """`40 of 120 rows left out (negative label 40)`."""
        return in_words(self.n_read, self.left_out)

    def text_set(
        self, setting: str, uri: str, n_used: int, other_words: Counter[str] | None = None
    ) -> TextSet:
        """The record of this set for the report."""
        return TextSet(
            setting=setting,
            uri=uri,
            n_read=self.n_read,
            n_used=n_used,
            left_out=dict(sorted(self.left_out.items())),
            other_words=dict(sorted((other_words or Counter()).items())),
        )


def in_words(
    n_read: int, left_out: dict[str, int], other_words: Mapping[str, int] | None = None
) -> str:
    """How many rows of a set were left out and why, and the words that its rule makes benign."""
    reasons = ", ".join(f"{reason} {n:,}" for reason, n in sorted(left_out.items()))
    words = ", ".join(f"{word!r} {n:,}" for word, n in sorted((other_words or {}).items()))
    return (
        f"{sum(left_out.values()):,} of {n_read:,} rows left out"
        + (f" ({reasons})" if reasons else "")
        + (f"; benign by the rule: {words}" if words else "")
    )


def read_rows(source: Source, counts: RowCounts) -> Iterator[tuple[str, Document]]:
    """Every document of a file that has text, with its place, "FILE row N"; others are counted."""
    bad_rows = corpus_reader.BadRows()
    rows = corpus_reader.read(
        source._replace(label_field=None), bad_rows, max_bad_rows_ratio=MAX_UNREADABLE_RATIO
    )
    for document in rows:
        counts.n_read += 1
        if document.text.strip():
            yield f"{source.uri} row {document.row}", document
        else:
            counts.leave_out(Reason.EMPTY)
    counts.n_read += bad_rows.count
    counts.leave_out(Reason.UNREADABLE, bad_rows.count)


def text_id(text: str) -> str:
    """16 hex digits that name a text."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def text_key(text: str) -> str:
    """The same for two texts that differ in white space or Unicode form alone."""
    return text_id(" ".join(unicodedata.normalize("NFC", text).split()))


@dataclass(slots=True)
class _SameText(Generic[Item]):
    """The rows of one text. item: the smallest; variants: the smallest of each other variant."""

    label: Hashable
    item: Item
    variant: str
    n_rows: int = 1
    is_contradictory: bool = False
    variants: dict[str, Item] | None = None

    @property
    def items(self) -> list[Item]:
        return [self.item, *(self.variants or {}).values()]


class OneOfEach(Generic[Item]):
    """Items by text, without those whose text has several labels.

    Of several rows with one text the smallest item is kept, whatever their order.
    """

    def __init__(self, other_label: Reason = Reason.OTHER_LABEL) -> None:
        """other_label: what rows that contradict each other are counted as."""
        self._other_label = other_label
        self._by_key: dict[str, _SameText[Any]] = {}

    def add(self, key: str, label: Hashable, item: Any, variant: str = "") -> None:
        """key: text_key of the text. Items of one text in several variants are all kept, if they
        agree on the label.
        """
        same = self._by_key.get(key)
        if same is None:
            self._by_key[key] = _SameText(label, item, variant)
            return
        same.n_rows += 1
        same.is_contradictory |= label != same.label
        if variant == same.variant:
            same.item = min(item, same.item)
        else:
            same.variants = same.variants or {}
            same.variants[variant] = min(item, same.variants.get(variant, item))

    def items(
        self,
        counts: RowCounts,
        where: str,
        max_contradictory_ratio: float = MAX_CONTRADICTORY_RATIO,
    ) -> list[Item]:
        """The items that are left, in the order of their first rows; the others are counted.

        Raises ConfigurationError, which names `where`, if too many texts have several labels.
        """
        kept: list[Item] = []
        n_contradictory = 0
        for same in self._by_key.values():
            if same.is_contradictory:
                n_contradictory += 1
                counts.leave_out(self._other_label, same.n_rows)
            else:
                kept += same.items
                counts.leave_out(Reason.REPEATED, same.n_rows - len(same.items))
        if n_contradictory > max_contradictory_ratio * len(self._by_key):
            is_question = self._other_label is Reason.OTHER_ANSWER
            text, label = ("question", "answer") if is_question else ("text", "label")
            raise ConfigurationError(
                f"{where}: {n_contradictory} of its {len(self._by_key)} {text}s occur with "
                f"different {label}s; expected one {label} per {text}, and at most "
                f"{max_contradictory_ratio:.0%} of the {text}s with several; if each row is one "
                f"annotator's, make one row per {text} of them, with the {label} of the majority"
            )
        return kept


def log(text_set: TextSet) -> None:
    """One line on what was read; a warning if rows other than repeated ones were left out."""
    expected = {Reason.REPEATED, Reason.SEEN, Reason.PROBE_ROW}
    write = (
        telemetry.logger.info
        if expected.issuperset(text_set.left_out)
        else telemetry.logger.warning
    )
    write(
        "%s %s: %s rows used; %s",
        text_set.setting,
        text_set.uri,
        f"{text_set.n_used:,}",
        in_words(text_set.n_read, text_set.left_out, text_set.other_words),
    )
