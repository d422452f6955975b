"""word n-grams of many texts at once, as 64-bit hashes over one flat byte buffer

A word is a run of ASCII letters and digits, lower-cased, and of letters outside ASCII as they are;
everything else parts words, so that quotes, dashes and spaces of any kind make no difference.
`words` is the definition, in plain Python; the rest hashes the same words of a batch of texts with
numpy, a few operations per byte.

    text        "The cat’s  END."
    normalised  b"the cat   s  end "            one table; then the few marks outside ASCII
    words       b"the" b"cat" b"s" b"end"       8 bytes at a time, gathered where a word starts
    windows     (the cat s) (cat s end)         differences of prefix sums of a polynomial modulo 2^64
"""

import hashlib
import re
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np

# No-break space and Latin-1 signs; general punctuation (curly quotes, dashes, spaces, ellipsis);
# CJK punctuation
MARKS = re.compile(b"\xc2[\x80-\xbf]|\xe2[\x80\x81][\x80-\xbf]|\xe3\x80[\x80-\xbf]")
TABLE = bytes(
    byte if byte >= 0x80 else ord(chr(byte).lower()) if chr(byte).isalnum() else 0x20
    for byte in range(256)
)
BATCH_CHARS = 256 << 10
LONG_WORD = 64  # bytes; longer ones (text without spaces) are hashed one by one
BASE = 0x9E3779B97F4A7C15  # odd, so that it has an inverse modulo 2^64
MASKS = np.array([(1 << 8 * n) - 1 for n in range(8)] + [(1 << 64) - 1], dtype=np.uint64)


class Words(NamedTuple):
    """The words, or windows of words, of several texts, end to end."""

    hashes: np.ndarray  # [words] uint64
    ends: np.ndarray  # [texts] int64: how many the texts up to and with this one have


def words(text: str) -> list[bytes]:
    """The words of `text`."""
    return _normalised(text.encode(errors="replace")).split()


def batches(texts: Sequence[str]) -> Iterator[slice]:
    """Cuts `texts` into pieces of about BATCH_CHARS, so that the arrays of one stay near the
    processor.
    """
    start = n_chars = 0
    for stop, text in enumerate(texts, 1):
        n_chars += len(text)
        if n_chars >= BATCH_CHARS or stop == len(texts):
            yield slice(start, stop)
            start, n_chars = stop, 0


def hash_words(texts: Sequence[str]) -> Words:
    """One hash for each word of each text: equal words have equal hashes in any batch."""
    contents = [text.encode(errors="replace") for text in texts]
    # a space before each text, for its first word's edge, and 8 behind the last, for the load of
    # its last word
    joined = bytearray(b" ").join([b"", *contents, b" " * 8]).translate(TABLE)
    flat = np.frombuffer(joined, np.uint8)
    _blank_marks(flat)
    is_word = flat != 0x20
    edges = np.flatnonzero(is_word[1:] != is_word[:-1]) + 1
    starts, stops = edges[0::2], edges[1::2]
    text_stops = np.cumsum(np.fromiter(map(len, contents), np.int64, len(texts)) + 1)
    return Words(_hash_spans(flat, starts, stops - starts), np.searchsorted(starts, text_stops))


def prefix_sums(hashes: np.ndarray) -> np.ndarray:
    """[words + 1]: what `rolling` takes differences of."""
    _, backward = _powers(1 << max(16, len(hashes).bit_length()))
    sums = np.zeros(len(hashes) + 1, np.uint64)
    np.cumsum(hashes * backward[: len(hashes)], out=sums[1:])
    return sums


def rolling(sums: np.ndarray, n: int) -> np.ndarray:
    """A hash of each `n` successive words, those that reach from one text into the next too:
    [max(0, words − n + 1)].
    """
    n_windows = max(0, len(sums) - n)
    forward, _ = _powers(1 << max(16, (len(sums) - 1).bit_length()))
    return (sums[n:] - sums[:n_windows]) * forward[:n_windows]


def windows(hashed: Words, n: int) -> Words:
    """A hash of each `n` successive words of one text, end to end; a text of fewer words has none."""
    counts = np.diff(hashed.ends, prepend=0)
    found = rolling(prefix_sums(hashed.hashes), n)
    inside = np.ones(len(found), bool)
    for lost in range(1, n):  # the windows that start on one of the last n − 1 words of a text
        at = hashed.ends[counts >= lost] - lost
        inside[at[at < len(found)]] = False
    return Words(found[inside], np.cumsum(np.maximum(counts - n + 1, 0)))


def _normalised(content: bytes) -> bytes:
    return MARKS.sub(b" ", content).translate(TABLE)


def _blank_marks(flat: np.ndarray) -> None:
    """MARKS.sub, on well-formed UTF-8, keeping the length."""
    leads = np.flatnonzero((flat >= 0xC2) & (flat <= 0xE3))
    first, second = flat[leads], flat[leads + 1]
    of_two = leads[first == 0xC2]
    of_three = leads[((first == 0xE2) & (second <= 0x81)) | ((first == 0xE3) & (second == 0x80))]
    flat[of_two] = flat[of_two + 1] = 0x20
    flat[of_three] = flat[of_three + 1] = flat[of_three + 2] = 0x20


def _hash_spans(flat: np.ndarray, starts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Of each word: its bytes as a polynomial in digits of 8 bytes, mixed so that sums of hashes do
    not cancel.
    """
    loads = np.ndarray(
        (len(flat) - 7,), "<u8", flat, strides=(1,)
    )  # the 8 bytes from each position on
    hashes = loads[starts] & MASKS[np.minimum(lengths, 8)]
    left = np.flatnonzero(lengths > 8)
    for at in range(8, LONG_WORD, 8):
        if not len(left):
            break
        more = loads[starts[left] + at] & MASKS[np.minimum(lengths[left] - at, 8)]
        hashes[left] = hashes[left] * np.uint64(BASE) + more
        left = left[lengths[left] > at + 8]
    for i in left.tolist():
        content = flat[starts[i] : starts[i] + lengths[i]].tobytes()
        hashes[i] = int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), "little")
    return _mixed(hashes)


def _mixed(x: np.ndarray) -> np.ndarray:
    """A bijection of 64 bits in which every bit counts (the finaliser of splitmix64)."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


@lru_cache(maxsize=1)
def _powers(n: int) -> tuple[np.ndarray, np.ndarray]:
    """BASE^i and BASE^−i modulo 2^64, i < n."""
    forward, backward = (np.full(n, base, np.uint64) for base in (BASE, pow(BASE, -1, 1 << 64)))
    forward[0] = backward[0] = 1
    return np.cumprod(forward), np.cumprod(backward)
