"""word n-grams of many texts at once, as 64-bit hashes over one flat byte buffer

A word is a run of ASCII letters and digits, lower-cased, and of letters outside ASCII as they are; everything else parts
words, so that quotes, dashes and spaces of any kind make no difference. `words` is the definition, in plain Python; the
rest hashes the same words of a batch of texts with numpy, a few operations per byte.

    text        "The cat’s  END."
    normalised  b"the cat s  end "              one table, after the few marks outside ASCII
    words       b"the" b"cat" b"s" b"end"       8 bytes at a time, gathered where a word starts
    windows     (the cat s) (cat s end)         differences of prefix sums of a polynomial modulo 2^64
"""

import hashlib
import re
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np

# No-break space and Latin-1 signs; general punctuation (curly quotes, dashes, spaces, ellipsis); CJK punctuation
MARKS = re.compile(b"\xc2[\x80-\xbf]|\xe2[\x80\x81][\x80-\xbf]|\xe3\x80[\x80-\xbf]")
TABLE = bytes(byte if byte >= 0x80 else ord(chr(byte).lower()) if chr(byte).isalnum() else 0x20 for byte in range(256))
LONG_WORD = 64  # bytes; longer ones (text without spaces) are hashed one by one
BASE = 0x9E3779B97F4A7C15  # odd, so that it has an inverse modulo 2^64
MASKS = np.array([(1 << 8 * n) - 1 for n in range(8)] + [(1 << 64) - 1], dtype=np.uint64)


class Words(NamedTuple):
    """The words of several texts, end to end."""

    hashes: np.ndarray  # [words] uint64
    ends: np.ndarray  # [texts] int64: how many words the texts up to and with this one have


class Windows(NamedTuple):
    """The n-grams of several texts, end to end; none reaches over the end of a text."""

    hashes: np.ndarray  # [windows] uint64
    ends: np.ndarray  # [texts] int64: how many windows the texts up to and with this one have


def words(text: str) -> list[bytes]:
    """The words of `text`."""
    return _normalised(text.encode(errors="replace")).split()


def hash_words(texts: Sequence[str]) -> Words:
    """One hash for each word of each text: equal words have equal hashes in any batch."""
    contents = [text.encode(errors="replace") for text in texts]
    normalised = [_normalised(content) for content in contents]
    # a space before each text, for its first word's edge, and 8 behind the last, for the load of its last word
    flat = np.frombuffer(b" ".join([b"", *normalised, b" " * 8]), np.uint8)
    is_word = flat != 0x20
    edges = np.flatnonzero(is_word[1:] != is_word[:-1]) + 1
    starts, stops = edges[0::2], edges[1::2]
    text_stops = np.cumsum(np.fromiter(map(len, normalised), np.int64, len(texts)) + 1)
    return Words(_hash_spans(flat, starts, stops - starts), np.searchsorted(starts, text_stops))


def windows(hashed: Words, n: int) -> Windows:
    """A hash for each `n` successive words of one text; a text of fewer words has none."""
    hashes, ends = hashed
    forward, backward = _powers(1 << max(18, len(hashes).bit_length()))
    sums = np.zeros(len(hashes) + 1, np.uint64)
    np.cumsum(hashes * backward[: len(hashes)], out=sums[1:])
    counts = np.diff(ends, prepend=0)
    n_windows = np.maximum(counts - n + 1, 0)
    if len(hashes) < n:
        return Windows(np.empty(0, np.uint64), np.zeros(len(ends), np.int64))
    found = (sums[n:] - sums[:-n]) * forward[: len(hashes) - n + 1]
    if len(ends) > 1:
        inside = np.ones(len(found), bool)
        for lost in range(1, n):  # the windows that start on one of a text's last n − 1 words
            at = ends[:-1] - lost
            inside[at[(at >= 0) & (lost <= counts[:-1]) & (at < len(inside))]] = False
        found = found[inside]
    return Windows(found, np.cumsum(n_windows))


def _normalised(content: bytes) -> bytes:
    return (content if content.isascii() else MARKS.sub(b" ", content)).translate(TABLE)


def _hash_spans(flat: np.ndarray, starts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Of each word: its bytes as a polynomial in 8-byte digits, its length, then mixed so that sums of hashes do not cancel."""
    loads = np.ndarray((len(flat) - 7,), "<u8", flat, strides=(1,))  # the 8 bytes from each position on
    hashes = (loads[starts] & MASKS[np.minimum(lengths, 8)]) ^ (lengths.astype(np.uint64) << np.uint64(56))
    left = np.flatnonzero(lengths > 8)
    hashes = _mixed(hashes)
    for at in range(8, LONG_WORD, 8):
        if not len(left):
            break
        more = loads[starts[left] + at] & MASKS[np.minimum(lengths[left] - at, 8)]
        hashes[left] = _mixed(hashes[left] ^ more)
        left = left[lengths[left] > at + 8]
    for i in left.tolist():
        content = flat[starts[i] : starts[i] + lengths[i]].tobytes()
        hashes[i] = int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), "little")
    return hashes


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
