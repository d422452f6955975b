"""word n-grams of many texts at once, as 64-bit hashes over one flat byte buffer

A word is a run of ASCII letters and digits, lower-cased, and of letters outside ASCII as they are.
Everything else separates words, so quotes, dashes and spaces of any kind make no difference.
`words` is the definition, in plain Python; the rest hashes the same words of a batch of texts with
numpy, in a few operations per byte.

    text        "The cat’s  END."
    normalized  b"the cat   s  end "            one table, then the few marks outside ASCII
    words       b"the" b"cat" b"s" b"end"       8 bytes at a time, gathered where a word starts
    windows     (the cat s) (cat s end)         differences of prefix sums of a polynomial mod 2^64
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
    ends: np.ndarray  # [texts] int64: where each text ends in `hashes`


def words(text: str) -> list[bytes]:
    """The words of `text`."""
    return _normalize(text.encode(errors="replace")).split()


def batches(texts: Sequence[str]) -> Iterator[slice]:
    """Slices of `texts` of about BATCH_CHARS each, so that the arrays of a batch fit in the CPU
    cache.
    """
    start = 0
    n_chars = 0
    for stop, text in enumerate(texts, 1):
        n_chars += len(text)
        if n_chars >= BATCH_CHARS or stop == len(texts):
            yield slice(start, stop)
            start = stop
            n_chars = 0


def hash_words(texts: Sequence[str]) -> Words:
    """A hash per word of each text; equal words have equal hashes in any batch."""
    contents = [text.encode(errors="replace") for text in texts]
    # A space before each text marks the edge of its first word; 8 spaces at the end allow to load 8
    # bytes from any position of the last word.
    joined = bytearray(b" ").join([b"", *contents, b" " * 8]).translate(TABLE)
    flat = np.frombuffer(joined, np.uint8)
    _blank_marks(flat)
    is_word = flat != 0x20
    edges = np.flatnonzero(is_word[1:] != is_word[:-1]) + 1
    starts = edges[0::2]
    stops = edges[1::2]
    text_stops = np.cumsum(np.fromiter(map(len, contents), np.int64, len(texts)) + 1)
    return Words(_hash_spans(flat, starts, stops - starts), np.searchsorted(starts, text_stops))


def prefix_sums(hashes: np.ndarray) -> np.ndarray:
    """[words + 1]: the sums of which `rolling` takes differences."""
    _, backward = _powers(1 << max(16, len(hashes).bit_length()))
    sums = np.zeros(len(hashes) + 1, np.uint64)
    np.cumsum(hashes * backward[: len(hashes)], out=sums[1:])
    return sums


def rolling(sums: np.ndarray, n: int) -> np.ndarray:
    """A hash of each `n` successive words, also across two texts: [max(0, words − n + 1)]."""
    n_windows = max(0, len(sums) - n)
    forward, _ = _powers(1 << max(16, (len(sums) - 1).bit_length()))
    return (sums[n:] - sums[:n_windows]) * forward[:n_windows]


def windows(hashed: Words, n: int) -> Words:
    """A hash of each `n` successive words within a text; a text of fewer words has none."""
    counts = np.diff(hashed.ends, prepend=0)
    hashes = rolling(prefix_sums(hashed.hashes), n)
    is_inside = np.ones(len(hashes), bool)
    # Windows that start at one of the last n − 1 words of a text reach into the next text.
    for from_end in range(1, n):
        starts = hashed.ends[counts >= from_end] - from_end
        is_inside[starts[starts < len(hashes)]] = False
    return Words(hashes[is_inside], np.cumsum(np.maximum(counts - n + 1, 0)))


def _normalize(content: bytes) -> bytes:
    return MARKS.sub(b" ", content).translate(TABLE)


def _blank_marks(flat: np.ndarray) -> None:
    """Replace MARKS by spaces in place, keeping the length; `flat` is well-formed UTF-8."""
    leads = np.flatnonzero((flat >= 0xC2) & (flat <= 0xE3))
    first, second = flat[leads], flat[leads + 1]
    of_two = leads[first == 0xC2]
    of_three = leads[((first == 0xE2) & (second <= 0x81)) | ((first == 0xE3) & (second == 0x80))]
    flat[of_two] = flat[of_two + 1] = 0x20
    flat[of_three] = flat[of_three + 1] = flat[of_three + 2] = 0x20


def _hash_spans(flat: np.ndarray, starts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """The hash of each word: its bytes as a polynomial in digits of 8 bytes, mixed so that sums of
    hashes do not cancel.
    """
    # The 8 bytes that start at each position, as one integer.
    eight_bytes = np.ndarray((len(flat) - 7,), "<u8", flat, strides=(1,))
    hashes = eight_bytes[starts] & MASKS[np.minimum(lengths, 8)]
    longer = np.flatnonzero(lengths > 8)
    for offset in range(8, LONG_WORD, 8):
        if not len(longer):
            break
        mask = MASKS[np.minimum(lengths[longer] - offset, 8)]
        digit = eight_bytes[starts[longer] + offset] & mask
        hashes[longer] = hashes[longer] * np.uint64(BASE) + digit
        longer = longer[lengths[longer] > offset + 8]
    for i in longer.tolist():
        content = flat[starts[i] : starts[i] + lengths[i]].tobytes()
        hashes[i] = int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), "little")
    return _mix(hashes)


def _mix(x: np.ndarray) -> np.ndarray:
    """A bijection of 64 bits in which every input bit affects every output bit (the finalizer of
    splitmix64).
    """
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


@lru_cache(maxsize=1)
def _powers(n: int) -> tuple[np.ndarray, np.ndarray]:
    """BASE^i and BASE^−i modulo 2^64, i < n."""
    forward, backward = (np.full(n, base, np.uint64) for base in (BASE, pow(BASE, -1, 1 << 64)))
    forward[0] = backward[0] = 1
    return np.cumprod(forward), np.cumprod(backward)
