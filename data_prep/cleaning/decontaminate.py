"""texts of an evaluation → their 13-grams; which documents contain one

A model that has read the questions is not examined by them. A document is contaminated if it shares
one run of `n` words with an evaluation text (n = 13: GPT-3, Brown et al. 2020, appendix C). An
evaluation text of fewer words counts whole if it has at least SHORTEST; a shorter one (a tweet's
opening, a bare "What is it?") would cost documents that merely speak like it, and is not looked
for. Words are those of ngrams.py: case, punctuation and layout do not hide a copy.

The search is by the hash of a run's first words and then by the words themselves: no document is
dropped for a collision, and none that holds an n-gram is missed. Give plain questions, not filled
templates: an instruction that all prompts share is an n-gram too.
"""

import hashlib
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from data_prep.cleaning import ngrams

VERSION = 1  # raise it with any change of which documents are hit
SHORTEST = 8  # words, GPT-3's smallest n
SLOTS_PER_HASH = (
    32  # of the table that is asked first, twice: about 1 window in 256 passes by chance
)


class _Table(NamedTuple):
    """The hashes of the first words of all runs, each with the evaluation text it is from, in order
    of (hash, text).
    """

    hashes: np.ndarray  # uint64
    texts: np.ndarray  # int64
    slots: np.ndarray  # [a power of two] bool: may a hash with one of these places be among them?

    def find(self, wanted: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Which of `wanted` are among the hashes, and from where to where."""
        if not len(self.hashes):
            return np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, np.int64)
        at = np.flatnonzero(self.slots[_place(wanted, self.slots, 0)])
        at = at[self.slots[_place(wanted[at], self.slots, 1)]]
        low = np.searchsorted(self.hashes, wanted[at])
        is_known = self.hashes[np.minimum(low, len(self.hashes) - 1)] == wanted[at]
        at, low = at[is_known], low[is_known]
        return at, low, np.searchsorted(self.hashes, wanted[at], "right")


class NGrams(NamedTuple):
    """The n-grams of evaluation texts, ready to be looked for. Plain arrays and bytes: it pickles."""

    n: int
    texts: tuple[bytes, ...]  # their words, each between spaces
    n_sought: int  # texts long enough to be looked for
    table: _Table

    @classmethod
    def of(cls, texts: Sequence[str], n: int = 13) -> "NGrams":
        assert n > 1, n
        normalised = tuple(b" ".join([b"", *ngrams.words(text), b""]) for text in texts)
        sought = [
            i for i, content in enumerate(normalised) if content.count(b" ") > min(SHORTEST, n)
        ]
        return cls(n, normalised, len(sought), _table(sought, texts, n))

    @property
    def identity(self) -> str:
        """16 hex digits that name what is looked for and how."""
        content = b"\n".join([str((VERSION, self.n, SHORTEST)).encode(), *self.texts])
        return hashlib.sha256(content).hexdigest()[:16]

    def hits(self, texts: Sequence[str]) -> np.ndarray:
        """[texts] bool: does the text contain an n-gram of any evaluation text?"""
        return self.first_hits(texts) >= 0

    def first_hits(self, texts: Sequence[str]) -> np.ndarray:
        """[texts] int64: an evaluation text whose n-gram the text contains (the lowest index at its
        first hit), or −1.
        """
        found = np.full(len(texts), -1, np.int64)
        for part in ngrams.batches(texts):
            found[part] = self._of_batch(texts[part])
        return found

    def _of_batch(self, texts: Sequence[str]) -> np.ndarray:
        found = np.full(len(texts), -1, np.int64)
        hashes, ends = ngrams.hash_words(texts)
        at, low, high = self.table.find(
            ngrams.rolling(ngrams.prefix_sums(hashes), min(SHORTEST, self.n))
        )
        owner = np.searchsorted(
            ends, at, "right"
        )  # a run over the end of its text fails when its words are compared
        for i in {int(i) for i in owner}:
            mine = np.flatnonzero(owner == i)
            start = int(ends[i - 1]) if i else 0
            places = zip(
                (at[mine] - start).tolist(), low[mine].tolist(), high[mine].tolist(), strict=True
            )
            found[i] = self._confirmed(ngrams.words(texts[i]), places)
        return found

    def _confirmed(self, words: list[bytes], places: Iterable[tuple[int, int, int]]) -> int:
        """The evaluation text of the first place where the words are the same, or −1."""
        for start, low, high in places:
            for text in self.table.texts[low:high].tolist():
                content = self.texts[text]
                length = min(self.n, content.count(b" ") - 1)
                gram = words[start : start + length]
                if len(gram) == length and b" ".join([b"", *gram, b""]) in content:
                    return text
        return -1


def _table(chosen: list[int], texts: Sequence[str], n: int) -> _Table:
    """Of the texts `chosen`: a text of fewer than n words is one run, another has one from each
    word that n − 1 follow.
    """
    length = min(SHORTEST, n)
    hashes, ends = ngrams.windows(ngrams.hash_words([texts[i] for i in chosen]), length)
    counts = np.diff(ends, prepend=0)
    n_runs = np.maximum(counts - (n - length), 1)
    place = np.arange(len(hashes)) - np.repeat(ends - counts, counts)
    hashes, owners = (
        hashes[place < np.repeat(n_runs, counts)],
        np.repeat(np.array(chosen, np.int64), n_runs),
    )
    order = np.lexsort((owners, hashes))
    hashes, owners = hashes[order], owners[order]
    slots = np.zeros(1 << max(10, (SLOTS_PER_HASH * len(hashes)).bit_length()), bool)
    for probe in (0, 1):
        slots[_place(hashes, slots, probe)] = True
    return _Table(hashes, owners, slots)


def _place(hashes: np.ndarray, slots: np.ndarray, probe: int) -> np.ndarray:
    """Of each hash its place among the slots: its leading bits, or those of a multiple."""
    return (hashes * np.uint64(ngrams.BASE) if probe else hashes) >> np.uint64(
        65 - len(slots).bit_length()
    )
