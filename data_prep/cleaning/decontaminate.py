"""decontamination: find documents that contain an n-gram of an evaluation text

A model must not have read the questions it is evaluated on. A document is contaminated if it shares
one run of `n` words with an evaluation text (n = 13: GPT-3, Brown et al. 2020, appendix C). An
evaluation text of fewer words counts as a whole if it has at least MIN_WORDS; a shorter one (the
opening of a tweet, a bare "What is it?") is not searched for, because it would drop documents that
merely use the same phrase. Words are those of ngrams.py, so case, punctuation and layout do not
hide a copy.

The search is by the hash of the first words of a run, then by the words themselves: no document is
dropped for a hash collision, and none that contains an n-gram is missed. Pass plain questions, not
filled templates: an instruction that all prompts share is an n-gram too.
"""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from data_prep.cleaning import ngrams

VERSION = 2  # raise it with any change of which documents are contaminated
MIN_WORDS = 8  # GPT-3's smallest n
SLOTS_PER_HASH = 32  # of the filter, which is probed twice: 1 window in 256 passes by chance


class _Matches(NamedTuple):
    """For each hash found: its position in the query, and its range [low, high) in the table."""

    position: np.ndarray
    low: np.ndarray
    high: np.ndarray


class _HashTable(NamedTuple):
    """The hashes of the first words of all runs, each with the evaluation text it is from, in order
    of (hash, text).
    """

    hashes: np.ndarray  # uint64
    texts: np.ndarray  # int64
    slots: np.ndarray  # [a power of two] bool: a filter; both slots of a known hash are true

    def find(self, wanted: np.ndarray) -> _Matches:
        if not len(self.hashes):
            nothing = np.empty(0, np.int64)
            return _Matches(nothing, nothing, nothing)
        position = np.flatnonzero(self.slots[_slot(wanted, self.slots, 0)])
        position = position[self.slots[_slot(wanted[position], self.slots, 1)]]
        low = np.searchsorted(self.hashes, wanted[position])
        is_known = self.hashes[np.minimum(low, len(self.hashes) - 1)] == wanted[position]
        position = position[is_known]
        high = np.searchsorted(self.hashes, wanted[position], "right")
        return _Matches(position, low[is_known], high)


class NGrams(NamedTuple):
    """The n-grams of evaluation texts, ready to search for. It holds arrays and bytes, so it
    pickles.
    """

    n: int
    texts: tuple[bytes, ...]  # their words, each between spaces
    n_searched: int  # texts long enough to search for
    table: _HashTable

    @classmethod
    def of(cls, texts: Sequence[str], n: int = 13) -> "NGrams":
        assert n > 1, n
        normalized = tuple(b" ".join([b"", *ngrams.words(text), b""]) for text in texts)
        searched = [
            i for i, content in enumerate(normalized) if content.count(b" ") > min(MIN_WORDS, n)
        ]
        return cls(n, normalized, len(searched), _build_table(searched, texts, n))

    @property
    def identity(self) -> str:
        """16 hex digits that identify what is searched for, and how."""
        content = b"\n".join([str((VERSION, self.n, MIN_WORDS)).encode(), *self.texts])
        return hashlib.sha256(content).hexdigest()[:16]

    def hits(self, texts: Sequence[str]) -> np.ndarray:
        """[texts] bool: whether the text contains an n-gram of any evaluation text."""
        return self.first_hits(texts) >= 0

    def first_hits(self, texts: Sequence[str]) -> np.ndarray:
        """[texts] int64: an evaluation text whose n-gram the text contains (the lowest index at its
        first hit), or −1.
        """
        first_hit = np.full(len(texts), -1, np.int64)
        for part in ngrams.batches(texts):
            first_hit[part] = self._first_hits_of_batch(texts[part])
        return first_hit

    def mark_found(self, texts: Sequence[str], is_found: np.ndarray) -> None:
        """Set is_found[i], for each evaluation text i of which a text contains an n-gram.

        is_found: [evaluation texts] bool; what is True already is not looked for again.
        """
        for part in ngrams.batches(texts):
            for document in self._candidates(texts[part]):
                for start, low, high in document.candidates:
                    for text in self.table.texts[low:high].tolist():
                        if not is_found[text] and self._is_at(document.words, start, text):
                            is_found[text] = True

    def _first_hits_of_batch(self, texts: Sequence[str]) -> np.ndarray:
        first_hit = np.full(len(texts), -1, np.int64)
        for document in self._candidates(texts):
            first_hit[document.number] = self._confirm(document)
        return first_hit

    def _candidates(self, texts: Sequence[str]) -> Iterator["_Candidates"]:
        """The documents of a batch that contain the first words of a run, by their hash."""
        hashes, ends = ngrams.hash_words(texts)
        windows = ngrams.rolling(ngrams.prefix_sums(hashes), min(MIN_WORDS, self.n))
        matches = self.table.find(windows)
        # A window across the end of a text belongs to no text; comparing its words refuses it.
        text_of_match = np.searchsorted(ends, matches.position, "right")
        for i in sorted({int(i) for i in text_of_match}):
            here = np.flatnonzero(text_of_match == i)
            first_word = int(ends[i - 1]) if i else 0
            candidates = zip(
                (matches.position[here] - first_word).tolist(),
                matches.low[here].tolist(),
                matches.high[here].tolist(),
                strict=True,
            )
            yield _Candidates(i, ngrams.words(texts[i]), candidates)

    def _confirm(self, document: "_Candidates") -> int:
        """The evaluation text of the first candidate whose words are equal, or −1."""
        for start, low, high in document.candidates:
            for text in self.table.texts[low:high].tolist():
                if self._is_at(document.words, start, text):
                    return text
        return -1

    def _is_at(self, words: list[bytes], start: int, text: int) -> bool:
        """Whether the words from `start` on are a run of the evaluation text."""
        content = self.texts[text]
        length = min(self.n, content.count(b" ") - 1)
        gram = words[start : start + length]
        return len(gram) == length and b" ".join([b"", *gram, b""]) in content


class _Candidates(NamedTuple):
    """A document of a batch by its number, its words, and where a run may begin in them.

    candidates: (start in `words`, range [low, high) in the table).
    """

    number: int
    words: list[bytes]
    candidates: Iterable[tuple[int, int, int]]


def _build_table(searched: list[int], texts: Sequence[str], n: int) -> _HashTable:
    """The table of the texts `searched`. A text of fewer than n words is one run; a longer one has
    a run from each word that n − 1 words follow.
    """
    length = min(MIN_WORDS, n)
    hashes, ends = ngrams.windows(ngrams.hash_words([texts[i] for i in searched]), length)
    counts = np.diff(ends, prepend=0)
    n_runs = np.maximum(counts - (n - length), 1)
    place = np.arange(len(hashes)) - np.repeat(ends - counts, counts)
    hashes = hashes[place < np.repeat(n_runs, counts)]
    text_of_run = np.repeat(np.array(searched, np.int64), n_runs)
    order = np.lexsort((text_of_run, hashes))
    hashes = hashes[order]
    slots = np.zeros(1 << max(10, (SLOTS_PER_HASH * len(hashes)).bit_length()), bool)
    for probe in (0, 1):
        slots[_slot(hashes, slots, probe)] = True
    return _HashTable(hashes, text_of_run[order], slots)


def _slot(hashes: np.ndarray, slots: np.ndarray, probe: int) -> np.ndarray:
    """The slot of each hash: its leading bits, or those of a multiple for the second probe."""
    mixed = hashes * np.uint64(ngrams.BASE) if probe else hashes
    return mixed >> np.uint64(65 - len(slots).bit_length())
