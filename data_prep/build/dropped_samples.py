"""dropped documents for people to look at: a few of each reason and file, masked, in drops.jsonl
beside the manifest

    {"reason": "too_short", "place": "s3://…/c4-train.00000-of-01024.json.gz:17", "text": "O* of
    t****"}

Every word of four letters or more is its first letter and stars: enough to see what kind of text it
was, in a file that may be opened anywhere. Rows that could not be read have the reason `unreadable`
and say what is wrong with them instead.
"""

import json
import re
from collections import Counter
from collections.abc import Iterable

from data_prep.core.records import record

NAME = "drops.jsonl"
UNREADABLE = "unreadable"
PER_FILE = 3  # samples of a reason
PER_REASON = 24
SHOWN_CHARS = 200
WORD = re.compile(r"(\w)(\w{3,})")


@record
class Drop:
    """One dropped document; row and part as in corpora.Document, text masked ("" where it is no
    longer at hand).
    """

    reason: str
    row: int
    part: int
    text: str


class Samples:
    """The first PER_FILE drops of each reason, as they are noted."""

    def __init__(self, already: Iterable[Drop] = ()) -> None:
        self.kept: list[Drop] = []
        self._seen = Counter(drop.reason for drop in already)

    def note(self, reason: str, row: int, part: int, text: str) -> None:
        self._seen[reason] += 1
        if self._seen[reason] <= PER_FILE:
            self.kept.append(Drop(reason=reason, row=row, part=part, text=masked(text)))


def masked(text: str) -> str:
    """The beginning of a text with its longer words hidden."""
    shown = WORD.sub(lambda word: word[1] + "*" * len(word[2]), text[:SHOWN_CHARS])
    return shown + "…" if len(text) > SHOWN_CHARS else shown


def encode(files: Iterable[tuple[str, Iterable[Drop], Iterable[str]]]) -> bytes:
    """The lines of drops.jsonl: by reason, the first of every file before the second of any,
    PER_REASON at most.

    files: URI, drops, and for each unreadable row its line and what is wrong ("12 is not JSON").
    """
    found = list[tuple[str, int, int, str, str]]()
    for number, (uri, dropped, unreadable) in enumerate(files):
        rank = Counter[str]()
        for drop in dropped:
            place = f"{uri}:{drop.row + 1}" + (f" part {drop.part + 1}" if drop.part else "")
            found.append((drop.reason, rank[drop.reason], number, place, drop.text))
            rank[drop.reason] += 1
        for n, fault in enumerate(unreadable):
            line, _, words = fault.partition(" ")
            found.append((UNREADABLE, n, number, f"{uri}:{line}", words))
    lines, of_reason = list[str](), Counter[str]()
    for reason, _, _, place, text in sorted(found):
        of_reason[reason] += 1
        if of_reason[reason] <= PER_REASON:
            lines.append(
                json.dumps({"reason": reason, "place": place, "text": text}, ensure_ascii=False)
                + "\n"
            )
    return "".join(lines).encode()
