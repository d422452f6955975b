"""samples of dropped documents for people to read, masked, in drops.jsonl

    {"reason": "too_short", "place": "s3://…/c4-train.00000-of-01024.json.gz:17", "text": "O* of
    t****"}

The file is written beside the manifest, with a few documents per reason and input file. Every word
of four letters or more is reduced to its first letter and stars: enough to see what kind of text it
was, in a file that may be opened anywhere. Rows that could not be read have the reason `unreadable`
and the fault in place of the text.
"""

import json
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable
from typing import NamedTuple

from data_prep.cleaning.ngrams import INVISIBLE
from data_prep.core.records import record

NAME = "drops.jsonl"
UNREADABLE = "unreadable"
PER_FILE = 3  # samples per reason and input file
PER_REASON = 24
SHOWN_CHARS = 200
# Characters outside ASCII belong to a word unless they are signs: combining marks do, too.
LONG_WORD = re.compile(r"(\w)((?:\w|[^\x00-\xbf\s\u2000-\u206f\u3000-\u303f]){3,})")


@record
class DroppedDocument:
    """One dropped document: its row and part as in corpus_reader.Document, its masked text ("" if
    the text was no longer in memory when the document was dropped).
    """

    reason: str
    row: int
    part: int
    text: str


class FileDrops(NamedTuple):
    """The drops of one input file. unreadable: line and fault of each row, "12 is not JSON"."""

    uri: str
    dropped: Iterable[DroppedDocument]
    unreadable: Iterable[str]


class DropCounter:
    """Counts dropped documents by reason, and keeps the first PER_FILE per reason as samples."""

    def __init__(self, earlier: Iterable[DroppedDocument] = ()) -> None:
        """earlier: samples of the same file that count towards PER_FILE but are not kept again."""
        self.counts = Counter[str]()
        self.samples: list[DroppedDocument] = []
        self._n_samples = Counter(drop.reason for drop in earlier)

    def add(self, reason: str, row: int, part: int, text: str) -> None:
        self.counts[reason] += 1
        if self._n_samples[reason] < PER_FILE:
            self._n_samples[reason] += 1
            sample = DroppedDocument(reason=reason, row=row, part=part, text=mask_words(text))
            self.samples.append(sample)


def mask_words(text: str) -> str:
    """The first SHOWN_CHARS of a text, with its longer words hidden."""
    # Invisible characters would cut a word into short ones, which are shown.
    shown = INVISIBLE.sub("", unicodedata.normalize("NFC", text[:SHOWN_CHARS]))
    shown = LONG_WORD.sub(lambda word: word[1] + "*" * len(word[2]), shown)
    return shown + "…" if len(text) > SHOWN_CHARS else shown


def add_counts(counts: Iterable[dict[str, int]]) -> dict[str, int]:
    """The sum of several counts of dropped documents by reason, in order of the reasons."""
    total = Counter[str]()
    for of_reason in counts:
        total.update(of_reason)
    return dict(sorted(total.items()))


def encode(files: Iterable[FileDrops]) -> bytes:
    """The content of drops.jsonl, in order of the reasons.

    Within a reason the first sample of every file comes before the second of any, PER_REASON at
    most.
    """
    samples = list[tuple[str, int, int, str, str]]()  # reason, rank in file, file, place, text
    for file_number, file in enumerate(files):
        rank = Counter[str]()
        for drop in file.dropped:
            part = f" part {drop.part + 1}" if drop.part else ""
            place = f"{file.uri}:{drop.row + 1}{part}"
            samples.append((drop.reason, rank[drop.reason], file_number, place, drop.text))
            rank[drop.reason] += 1
        for number, line_and_fault in enumerate(file.unreadable):
            line, _, fault = line_and_fault.partition(" ")
            samples.append((UNREADABLE, number, file_number, f"{file.uri}:{line}", fault))
    lines = list[str]()
    n_of_reason = Counter[str]()
    for reason, _, _, place, text in sorted(samples):
        n_of_reason[reason] += 1
        if n_of_reason[reason] <= PER_REASON:
            line = {"reason": reason, "place": place, "text": text}
            lines.append(json.dumps(line, ensure_ascii=False) + "\n")
    return "".join(lines).encode()
