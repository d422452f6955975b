"""word n-grams of many texts at once, as 64-bit hashes over one flat byte buffer

A word is a run of ASCII letters and digits and of letters outside ASCII, in the form that `fold`
gives: the case, combining marks, full-width letters and zero-width characters make no difference.
Everything else separates words, so quotes, dashes and spaces of any kind make none, either. `words`
is the definition, in plain Python; the rest hashes the same words of a batch of texts with numpy,
in a few operations per byte. Only a text with a character that `fold` would change is folded.

    text        "The cat’s  END."
    normalized  b"the cat   s  end "            one table, then the few marks outside ASCII
    words       b"the" b"cat" b"s" b"end"       8 bytes at a time, gathered where a word starts
    windows     (the cat s) (cat s end)         differences of prefix sums of a polynomial mod 2^64
"""

import hashlib
import re
import unicodedata
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
# Characters that show nothing (Unicode's Default_Ignorable_Code_Point), soft hyphens among them
INVISIBLE = re.compile(
    "[\xad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u202a-\u202e"
    "\u2060-\u206f\u3164\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufff8"
    "\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff]+"
)
MARK_WITHOUT_LETTER = re.compile(" [\u0300-\u036f]+")  # in NFKC the form of an accent alone: ´
WORD, SEPARATOR, FOLDED = range(3)  # kinds of characters outside ASCII
HANGUL_PARTS = ((0x1100, 0x1200), (0xA960, 0xA980), (0xD7B0, 0xD800))  # join to syllables
EMOJI_CODES = np.arange(0x1F300, 0x1FA00, 64) >> 6
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
    only_words = text.encode(errors="replace").translate(TABLE).decode()
    return _normalize(fold(only_words).encode()).split()


def fold(text: str) -> str:
    """`text` in NFKC without case and without invisible characters (as Unicode's NFKC_Casefold).

    É and é, an accent in the letter or behind it, and full-width letters become the same.
    """
    if text.isascii():
        return text.lower()
    text = INVISIBLE.sub("", text)
    for _ in range(2):  # one round is not enough for a few letters with two accents
        text = unicodedata.normalize("NFKC", text).casefold()
    return MARK_WITHOUT_LETTER.sub(" ", unicodedata.normalize("NFKC", text))


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
    text_stops = np.cumsum(np.fromiter(map(len, contents), np.int64, len(texts)) + 1)
    flat = np.frombuffer(joined, np.uint8)
    found = _characters(flat)
    if len(to_fold := found.of(FOLDED)):
        joined, text_stops = _fold_around(to_fold.tolist(), joined, text_stops)
        flat = np.frombuffer(joined, np.uint8)
        found = _characters(flat)
    for length in (2, 3):
        marks = found.of(SEPARATOR, length)
        for i in range(length):
            flat[marks + i] = 0x20
    is_word = flat != 0x20
    edges = np.flatnonzero(is_word[1:] != is_word[:-1]) + 1
    starts = edges[0::2]
    stops = edges[1::2]
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


class _Characters(NamedTuple):
    """The characters outside ASCII in a buffer of UTF-8."""

    starts: np.ndarray  # int64: index of the first byte of each
    first: np.ndarray  # uint8: that byte
    kinds: np.ndarray  # uint8: WORD, SEPARATOR or FOLDED

    def of(self, kind: int, length: int | None = None) -> np.ndarray:
        """The starts of those of a kind, of 2 or 3 bytes if `length` says so."""
        is_of_kind = self.kinds == kind
        if length is not None:
            is_of_kind &= (self.first >= 0xE0) == (length == 3)
        return self.starts[is_of_kind]


def _characters(flat: np.ndarray) -> _Characters:
    starts = np.flatnonzero(flat >= 0xC2)
    first = flat[starts]
    second = flat[starts + 1] & 0x3F
    code = (first & 0x1F).astype(np.uint16) << 6 | second
    is_long = np.flatnonzero(first >= 0xE0)
    third = flat[starts[is_long] + 2] & 0x3F
    code[is_long] = (first[is_long] & 0x0F).astype(np.uint16) << 12 | code[is_long] << 6 | third
    kinds = _kinds()[code]
    # Of four bytes the last is not looked at.
    is_longer = np.flatnonzero(first >= 0xF0)
    if len(is_longer):
        is_emoji = (first[is_longer] == 0xF0) & np.isin(code[is_longer], EMOJI_CODES)
        kinds[is_longer] = np.where(is_emoji, WORD, FOLDED)
    return _Characters(starts, first, kinds)


def _fold_around(
    positions: list[int], joined: bytearray, text_stops: np.ndarray
) -> tuple[bytearray, np.ndarray]:
    """The buffer with the words at these positions folded, and where the texts end in it.

    A word lies between two ASCII characters that are none; `fold` changes nothing across them.
    """
    pieces = list[bytes | bytearray]()
    changes = list[tuple[int, int]]()  # a word's end in `joined`, and bytes added by it and before
    n_done = 0
    n_added = 0
    for position in positions:
        if position < n_done:
            continue
        start = joined.rfind(b" ", 0, position)
        stop = joined.find(b" ", position)
        folded = fold(joined[start:stop].decode()).encode().translate(TABLE)
        pieces += joined[n_done:start], folded
        n_added += len(folded) - (stop - start)
        changes.append((stop, n_added))
        n_done = stop
    ends, added = np.array(changes).T
    added_before = np.concatenate([[0], added])
    text_stops = text_stops + added_before[np.searchsorted(ends, text_stops, "right")]
    return bytearray().join([*pieces, joined[n_done:]]), text_stops


@lru_cache(maxsize=1)
def _kinds() -> np.ndarray:
    """[65536] uint8: the kind of each character.

    FOLDED: `fold` changes its words, or those of the letters beside it.
    """
    first = 0x80
    chars = list(map(chr, range(first, 0x10000)))
    folded = fold("\n".join(chars)).split("\n")
    kinds = np.zeros(0x10000, np.uint8)
    for code, (char, after) in enumerate(zip(chars, folded, strict=True), first):
        is_mark = unicodedata.category(char)[0] == "M"  # joins the letter before it
        if after and not _has_words(after) and not _has_words(char):
            kinds[code] = SEPARATOR
        elif after != char or is_mark:
            kinds[code] = FOLDED
    for low, high in HANGUL_PARTS:
        kinds[low:high] = FOLDED
    return kinds


def _has_words(text: str) -> bool:
    return bool(_normalize(text.encode(errors="replace")).split())


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
