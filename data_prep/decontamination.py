"""texts of an evaluation → their 13-grams; which documents contain one

A model that has read the questions is not examined by them. A document is contaminated if it shares one run of `n` words
with an evaluation text (n = 13: GPT-3, Brown et al. 2020, appendix C). An evaluation text of fewer words counts whole if
it has at least SHORTEST; a shorter one (a tweet's opening, a bare "What is it?") would cost documents that merely speak
like it, and is not looked for. Words are those of ngrams.py: case, punctuation and layout do not hide a copy.

The search is by hash and then by the words themselves: no document is dropped for a collision, and none that holds an
n-gram is missed. Give plain questions, not filled templates: an instruction that all prompts share is an n-gram too.
"""

import hashlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from data_prep import ngrams

VERSION = 1  # raise it with any change of which documents are hit
SHORTEST = 8  # words, GPT-3's smallest n
SLOTS_PER_HASH = 16  # of the table that is asked first: 1 window in 16 passes it by chance, and costs a binary search
BATCH_BYTES = 1 << 20  # hashed at once: the arrays of a batch stay near the processor


class _Table(NamedTuple):
    """The hashes of one window length, each with the evaluation text it is from, in order of (hash, text)."""

    length: int
    hashes: np.ndarray  # uint64
    texts: np.ndarray  # int64
    slots: np.ndarray  # bool: may a hash with these leading bits be among them?


class NGrams:
    """The n-grams of evaluation texts, ready to be looked for. Plain arrays and bytes: it pickles."""

    def __init__(self, texts: Sequence[str], n: int = 13) -> None:
        assert n > 1, n
        self.n = n
        self._words = [b" ".join([b"", *ngrams.words(text), b""]) for text in texts]
        counts = np.array([content.count(b" ") - 1 for content in self._words], np.int64).reshape(-1)
        self._tables = [
            _table([i for i, count in enumerate(counts) if count >= n], texts, n),
            _table([i for i, count in enumerate(counts) if SHORTEST <= count < n], texts, min(SHORTEST, n), only_first=True),
        ]
        self.n_texts_sought = int(np.count_nonzero(counts >= min(SHORTEST, n)))

    @classmethod
    def of(cls, texts: Sequence[str], n: int = 13) -> "NGrams":
        return cls(texts, n)

    @property
    def identity(self) -> str:
        """16 hex digits that name what is looked for and how."""
        content = b"\n".join([str((VERSION, self.n, SHORTEST)).encode(), *self._words])
        return hashlib.sha256(content).hexdigest()[:16]

    def hits(self, texts: Sequence[str]) -> np.ndarray:
        """[texts] bool: does the text contain an n-gram of any evaluation text?"""
        return self.first_hits(texts) >= 0

    def first_hits(self, texts: Sequence[str]) -> np.ndarray:
        """[texts] int64: an evaluation text whose n-gram the text contains (the lowest index at its first hit), or −1."""
        found = np.full(len(texts), -1, np.int64)
        start = n_bytes = 0
        for stop in range(1, len(texts) + 1):
            n_bytes += len(texts[stop - 1])
            if n_bytes >= BATCH_BYTES or stop == len(texts):
                found[start:stop] = self._of_batch(texts[start:stop])
                start, n_bytes = stop, 0
        return found

    def _of_batch(self, texts: Sequence[str]) -> np.ndarray:
        found = np.full(len(texts), -1, np.int64)
        hashed = ngrams.hash_words(texts)
        for table in self._tables:
            if not len(table.hashes):
                continue
            hashes, ends = ngrams.windows(hashed, table.length)
            at = np.flatnonzero(table.slots[hashes >> _shift(table.slots)])
            low, high = (np.searchsorted(table.hashes, hashes[at], side) for side in ("left", "right"))
            is_known = low < high
            at, low, high = at[is_known], low[is_known], high[is_known]
            text = np.searchsorted(ends, at, "right")
            starts = at - (ends - np.diff(ends, prepend=0))[text]
            for i in sorted(set(text[found[text] < 0].tolist())):
                mine = np.flatnonzero(text == i)
                found[i] = self._confirmed(ngrams.words(texts[i]), table, zip(starts[mine], low[mine], high[mine], strict=True))
        return found

    def _confirmed(self, words: list[bytes], table: _Table, candidates: "zip[tuple[int, int, int]]") -> int:
        for start, low, high in candidates:
            for owner in table.texts[low:high].tolist():
                content = self._words[owner]
                length = min(self.n, content.count(b" ") - 1)
                gram = b" ".join([b"", *words[start : start + length], b""])
                if gram.count(b" ") - 1 == length and (gram in content):
                    return owner
        return -1


def _table(chosen: list[int], texts: Sequence[str], length: int, *, only_first: bool = False) -> _Table:
    hashes, ends = ngrams.windows(ngrams.hash_words([texts[i] for i in chosen]), length)
    counts = np.diff(ends, prepend=0)
    owners = np.repeat(np.array(chosen, np.int64), counts)
    if only_first:
        first = ends - counts
        hashes, owners = hashes[first], owners[first]
    order = np.lexsort((owners, hashes))
    hashes, owners = hashes[order], owners[order]
    slots = np.zeros(1 << max(10, (SLOTS_PER_HASH * len(hashes)).bit_length()), bool)
    slots[hashes >> _shift(slots)] = True
    return _Table(length, hashes, owners, slots)


def _shift(slots: np.ndarray) -> np.uint64:
    return np.uint64(65 - len(slots).bit_length())
