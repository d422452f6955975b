"""documents that are there twice: the same text, or nearly; which of them go

Exact: the same characters after cleaning, by a 64-bit hash (among 4·10^7 documents two different ones collide with a
chance of 10^-4). Near: a high share of common word 5-grams (words as in ngrams.py), estimated by MinHash (Broder 1997):
128 values, in 16 bands of 8. Two texts are taken for near duplicates if one band is equal, with the chance 1 − (1 − J⁸)¹⁶:

    Jaccard J   0.5    0.6    0.7    0.8    0.9    0.95
    found       0.06   0.24   0.61   0.95   1.00   1.00

Duplicates of duplicates are one group; of each group the first in stream order stays. A long document that quotes a short
one is no duplicate of it. Hashes and bands are never stored in a stream, only who went.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import xxhash

from data_prep import ngrams
from data_prep.records import ConfigurationError

VERSION = 2  # raise it with any change of which documents go
SHINGLE_WORDS = 5
N_BANDS, N_ROWS = 16, 8
SEED = 0x5EED


class Losers(NamedTuple):
    """Which documents go; no document for two reasons."""

    exact: np.ndarray  # [documents] bool
    near: np.ndarray  # [documents] bool


def exact(texts: Sequence[str]) -> np.ndarray:
    """[texts] uint64: equal for equal texts."""
    return np.array([xxhash.xxh3_64_intdigest(text.encode(errors="surrogatepass")) for text in texts], np.uint64)


def bands(texts: Sequence[str]) -> np.ndarray:
    """[texts, N_BANDS] uint64: near duplicates share at least one value in the same column."""
    try:
        import rensa
    except ImportError as error:
        raise ConfigurationError(
            "data.duplicates is 'near', but the library rensa is not installed; install hormesis[near] on every machine of "
            "the build, or set data.duplicates=exact"
        ) from error
    made = np.empty((len(texts), N_BANDS), np.uint64)
    for part in ngrams.batches(texts):
        hashes, ends = _shingles(texts[part])
        offsets = np.concatenate([[0], ends]).astype(np.uint64)
        digests = rensa.RMinHash.digest_matrix_from_flat_token_hashes(hashes, offsets, N_BANDS * N_ROWS, SEED)  # type: ignore[attr-defined]
        made[part] = _folded(np.array(digests.to_rows(), np.uint64).reshape(-1, N_BANDS, N_ROWS))
    return made


def losers(order: np.ndarray, exact: np.ndarray, bands: np.ndarray | None = None) -> Losers:
    """Of each group of duplicates all but the first by `order` (any numbers that sort; equal ones stay as they come)."""
    by_order = np.argsort(order, kind="stable")
    is_copy = _heads(exact[by_order]) != np.arange(len(by_order))
    is_near = np.zeros(len(by_order), bool)
    if bands is not None:
        root = np.arange(len(by_order))
        for column in range(bands.shape[1]):
            _join(root, _heads(bands[by_order, column]))
        is_near = (root != np.arange(len(root))) & ~is_copy
    made = Losers(np.empty(len(order), bool), np.empty(len(order), bool))
    made.exact[by_order], made.near[by_order] = is_copy, is_near
    return made


def _shingles(texts: Sequence[str]) -> ngrams.Words:
    """The windows of SHINGLE_WORDS words; a shorter text is one shingle: its words if it has any, else the text."""
    hashed = ngrams.hash_words(texts)
    hashes, ends = ngrams.windows(hashed, SHINGLE_WORDS)
    counts = np.diff(ends, prepend=0)
    short = np.flatnonzero(counts == 0)
    if not len(short):
        return ngrams.Words(hashes, ends)
    whole = exact([b" ".join(ngrams.words(texts[i])).decode(errors="replace") or texts[i] for i in short.tolist()])
    return ngrams.Words(np.insert(hashes, ends[short], whole), np.cumsum(np.maximum(counts, 1)))


def _folded(values: np.ndarray) -> np.ndarray:
    """[…, rows] → […]: one hash of the rows of a band."""
    folded = np.zeros(values.shape[:-1], np.uint64)
    for row in range(values.shape[-1]):
        folded = (folded ^ values[..., row]) * np.uint64(ngrams.BASE)
        folded ^= folded >> np.uint64(32)
    return folded


def _heads(values: np.ndarray) -> np.ndarray:
    """For each place the first place with the same value."""
    order = np.argsort(values, kind="stable")
    is_first = np.ones(len(values), bool)
    is_first[1:] = values[order[1:]] != values[order[:-1]]
    heads = np.empty(len(values), np.int64)
    heads[order] = order[np.flatnonzero(is_first)[np.cumsum(is_first) - 1]] if len(values) else order
    return heads


def _join(root: np.ndarray, heads: np.ndarray) -> None:
    """Put each place into the group of its head; `root[i]` is the first place of i's group, before and after."""
    a = np.flatnonzero(heads != np.arange(len(heads)))
    b = heads[a]
    while len(apart := np.flatnonzero(root[a] != root[b])):
        first, second = root[a[apart]], root[b[apart]]
        np.minimum.at(root, np.maximum(first, second), np.minimum(first, second))
        while (root[root] != root).any():
            root[:] = root[root]
