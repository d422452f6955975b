"""documents that are there twice: the same text, or nearly; which of them go

Exact: the same characters after cleaning, by a 64-bit hash (among 4·10^7 documents two different
ones collide with a chance of 10^-4). Near: a high share of common word 5-grams (words as in
ngrams.py), estimated by MinHash (Broder 1997): 128 values, in 16 bands of 8. Two texts are taken
for near duplicates if one band is equal, with the chance 1 − (1 − J⁸)¹⁶:

    Jaccard J   0.5    0.6    0.7    0.8    0.9    0.95
    found       0.06   0.24   0.61   0.95   1.00   1.00

Of those that share a hash the first in stream order stays (dedup.py). A long document that quotes a
short one is no duplicate of it. Hashes and bands are never stored in a stream.
"""

from collections.abc import Sequence

import numpy as np
import xxhash

from data_prep.cleaning import ngrams
from data_prep.core.errors import ConfigurationError

VERSION = 2  # raise it with any change of which documents go
SHINGLE_WORDS = 5
N_BANDS, N_ROWS = 16, 8
SEED = 0x5EED


def exact(texts: Sequence[str]) -> np.ndarray:
    """[texts] uint64: equal for equal texts."""
    return np.array(
        [xxhash.xxh3_64_intdigest(text.encode(errors="surrogatepass")) for text in texts], np.uint64
    )


def bands(texts: Sequence[str]) -> np.ndarray:
    """[texts, N_BANDS] uint64: near duplicates share at least one value in the same column."""
    try:
        import rensa
    except ImportError as error:
        raise ConfigurationError(
            "data.dedup is 'near', but the library rensa is not installed; install hormesis[near] on every machine of "
            "the build, or set data.dedup=exact"
        ) from error
    made = np.empty((len(texts), N_BANDS), np.uint64)
    for part in ngrams.batches(texts):
        hashes, ends = _shingles(texts[part])
        offsets = np.concatenate([[0], ends]).astype(np.uint64)
        digests = rensa.RMinHash.digest_matrix_from_flat_token_hashes(
            hashes, offsets, N_BANDS * N_ROWS, SEED
        )  # type: ignore[attr-defined]
        made[part] = _folded(np.array(digests.to_rows(), np.uint64).reshape(-1, N_BANDS, N_ROWS))
    return made


def copies(order: np.ndarray, hashes: np.ndarray) -> np.ndarray:
    """[documents] bool: of those with equal hashes, all but the first by `order` (numbers that
    sort; equal ones as they come).
    """
    by_order = np.argsort(order, kind="stable")
    ordered = hashes[by_order]
    by_hash = np.argsort(ordered, kind="stable")
    again = np.flatnonzero(ordered[by_hash[1:]] == ordered[by_hash[:-1]]) + 1
    is_copy = np.zeros(len(order), bool)
    is_copy[by_order[by_hash[again]]] = True
    return is_copy


def _shingles(texts: Sequence[str]) -> ngrams.Words:
    """The windows of SHINGLE_WORDS words; a shorter text is one shingle: its words if it has any,
    else the text.
    """
    hashed = ngrams.hash_words(texts)
    hashes, ends = ngrams.windows(hashed, SHINGLE_WORDS)
    counts = np.diff(ends, prepend=0)
    short = np.flatnonzero(counts == 0)
    if not len(short):
        return ngrams.Words(hashes, ends)
    whole = exact(
        [
            b" ".join(ngrams.words(texts[i])).decode(errors="replace") or texts[i]
            for i in short.tolist()
        ]
    )
    return ngrams.Words(np.insert(hashes, ends[short], whole), np.cumsum(np.maximum(counts, 1)))


def _folded(values: np.ndarray) -> np.ndarray:
    """[…, rows] → […]: one hash of the rows of a band."""
    folded = np.zeros(values.shape[:-1], np.uint64)
    for row in range(values.shape[-1]):
        folded = (folded ^ values[..., row]) * np.uint64(ngrams.BASE)
        folded ^= folded >> np.uint64(32)
    return folded
