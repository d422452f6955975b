"""dedup: find documents with the same or nearly the same text; only the first is kept

Exact duplicates have the same characters after cleaning, compared by a 64-bit hash (among 4·10^7
documents two different ones collide with probability 10^-4). Near duplicates share many word
5-grams (words as in ngrams.py), which MinHash estimates (Broder 1997): 128 values in 16 bands of 8.
Two texts are near duplicates if one band is equal, which has probability 1 − (1 − J⁸)¹⁶:

    Jaccard J   0.5    0.6    0.7    0.8    0.9    0.95
    found       0.06   0.24   0.61   0.95   1.00   1.00

A long document that quotes a short one is not a duplicate of it. The search runs in bounded memory,
by ranges of hashes:

    hashes of all segments, each sorted ─ a task per range of hashes ─▶ 00000-of-00004.parquet
                                          file, segment, position, key, reason
                                        ─ a task per file ────────────▶ segment-00000.<name>.parquet
                                          position, key

Of the documents that share a hash the first in the order of the stream is kept. Files are ordered
by the sha256 of their input, so nothing depends on which worker did what. A near duplicate is a
document that follows another in one of their groups; so of a chain only the first is kept, and a
document that resembles only a dropped one is dropped too. To search for whole groups would need all
hashes in one memory.

The same search drops documents whose text is in another stream (common_documents.py).
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
import xxhash

from data_prep.build import sorted_segments
from data_prep.build.sorted_segments import column
from data_prep.cleaning import ngrams
from data_prep.core import keyed_random, storage
from data_prep.core.errors import ConfigurationError
from data_prep.token_stream import parquet_files, text_hashes

if TYPE_CHECKING:
    import pyarrow

VERSION = 3  # raise it with any change of which documents are dropped
SHINGLE_WORDS = 5
N_BANDS = 16
N_ROWS = 8
SEED = 0x5EED
HASHES_PER_TASK = 8 << 20  # 30 bytes each, and as much again while they are sorted
# Why a document is dropped here; of several reasons the first counts.
REASONS = ("in_toxic_stream", "exact_duplicate", "near_duplicate")
KEPT = len(REASONS)


class DuplicateSearch(NamedTuple):
    """What is dropped: duplicates by `mode`, and texts of another stream (text_hashes.files)."""

    mode: Literal["keep", "exact", "near"]
    excluded: list[str]

    def drops_any(self) -> bool:
        return self.mode != "keep" or bool(self.excluded)


class FileSegments(NamedTuple):
    """The folder of a tokenized file, and the number of its segments."""

    uri: str
    n_segments: int


# Hashes of texts.


def exact_hashes(texts: Sequence[str]) -> np.ndarray:
    """[texts] uint64: equal for equal texts."""
    return np.array(
        [xxhash.xxh3_64_intdigest(text.encode(errors="surrogatepass")) for text in texts], np.uint64
    )


def minhash_bands(texts: Sequence[str]) -> np.ndarray:
    """[texts, N_BANDS] uint64: near duplicates share at least one value in the same column."""
    try:
        import rensa
    except ImportError as error:
        raise ConfigurationError(
            "data.dedup is 'near', but the library rensa is not installed; install hormesis[near] "
            "on every machine of the build, or set data.dedup=exact"
        ) from error
    bands = np.empty((len(texts), N_BANDS), np.uint64)
    for part in ngrams.batches(texts):
        hashes, ends = _shingles(texts[part])
        offsets = np.concatenate([[0], ends]).astype(np.uint64)
        min_hash: Any = rensa.RMinHash  # type: ignore[attr-defined]  # the stubs lack it
        digests = min_hash.digest_matrix_from_flat_token_hashes(
            hashes, offsets, N_BANDS * N_ROWS, SEED
        )
        values = np.array(digests.to_rows(), np.uint64).reshape(-1, N_BANDS, N_ROWS)
        bands[part] = _fold_rows(values)
    return bands


def hash_table(texts: Sequence[str], mode: Literal["keep", "exact", "near"]) -> "pyarrow.Table":
    """hash, document (index into `texts`), near: the hashes by which equal documents are found.

    The exact one is there even if duplicates are kept: the two streams are compared by it.
    """
    import pyarrow as pa

    hashes = exact_hashes(texts)[:, None]
    if mode == "near":
        bands = minhash_bands(texts)
        # Keyed by column, because equal values in two different columns mean nothing.
        bands = keyed_random.hashes(bands, np.arange(bands.shape[1]))
        hashes = np.concatenate([hashes, bands], axis=1)
    n_texts, n_per_text = hashes.shape
    columns = {
        "hash": pa.array(hashes.reshape(-1), pa.uint64()),
        "document": pa.array(np.repeat(np.arange(n_texts), n_per_text), pa.int64()),
        "near": pa.array(np.tile(np.arange(n_per_text) > 0, n_texts)),
    }
    return pa.table(columns)


def _shingles(texts: Sequence[str]) -> ngrams.Words:
    """The windows of SHINGLE_WORDS words; a shorter text is one shingle: its words if it has any,
    otherwise the text.
    """
    hashes, ends = ngrams.windows(ngrams.hash_words(texts), SHINGLE_WORDS)
    counts = np.diff(ends, prepend=0)
    short = np.flatnonzero(counts == 0)
    if not len(short):
        return ngrams.Words(hashes, ends)
    whole_texts = [
        b" ".join(ngrams.words(texts[i])).decode(errors="replace") or texts[i]
        for i in short.tolist()
    ]
    with_short = np.insert(hashes, ends[short], exact_hashes(whole_texts))
    return ngrams.Words(with_short, np.cumsum(np.maximum(counts, 1)))


def _fold_rows(values: np.ndarray) -> np.ndarray:
    """[…, rows] → […]: one hash of the rows of a band."""
    folded = np.zeros(values.shape[:-1], np.uint64)
    for row in range(values.shape[-1]):
        folded = (folded ^ values[..., row]) * np.uint64(ngrams.BASE)
        folded ^= folded >> np.uint64(32)
    return folded


# The search.


def hash_ranges(n_hashes: int) -> list[tuple[int, int]]:
    """Equal ranges of hashes, of which each has about HASHES_PER_TASK."""
    return text_hashes.ranges(n_hashes, HASHES_PER_TASK)


def find_duplicates(
    files: Sequence[FileSegments], hash_range: tuple[int, int], search: DuplicateSearch, uri: str
) -> None:
    """Publish at `uri` the documents to drop by a hash in the range [low, high), unless the file
    exists.
    """
    import pyarrow as pa

    if storage.exists(uri):
        return
    table = pa.concat_tables(_hashes_of_files(files, *hash_range))
    # A document's place in the stream is (key, file, segment, position).
    by_place = np.lexsort([column(table, name) for name in ("position", "segment", "file", "key")])
    order = np.empty(table.num_rows, np.int64)
    order[by_place] = np.arange(table.num_rows)
    near = column(table, "near")
    hashes = column(table, "hash")
    reason = np.full(table.num_rows, KEPT, np.int8)
    if search.mode != "keep":
        for kind, name in ((near, "near_duplicate"), (~near, "exact_duplicate")):
            is_repeat = repeats(order[kind], hashes[kind])
            reason[kind] = np.where(is_repeat, REASONS.index(name), KEPT)
    if search.excluded:
        excluded = text_hashes.read(search.excluded, *hash_range).hashes
        reason[np.isin(hashes, excluded) & ~near] = REASONS.index("in_toxic_stream")
    table = table.append_column("reason", pa.array(reason))
    duplicates = table.filter(pa.array(reason != KEPT))
    duplicates = duplicates.select(["file", "segment", "position", "key", "reason"])
    duplicates = _sorted(duplicates, "file", "segment", "position", "reason")
    storage.write(uri, parquet_files.encode(duplicates, row_group_rows=sorted_segments.ROW_GROUP))


def _hashes_of_files(files: Sequence[FileSegments], low: int, high: int) -> list["pyarrow.Table"]:
    import pyarrow as pa

    tables = []
    for file_number, file in enumerate(files):
        for segment_number in range(file.n_segments):
            uri = f"{sorted_segments.uri_of(file.uri, segment_number)}.hashes.parquet"
            table = sorted_segments.read_range(uri, low, high, ["key", "position", "near"])
            for name, value in (("file", file_number), ("segment", segment_number)):
                values = np.full(table.num_rows, value, np.int32)
                table = table.append_column(name, pa.array(values))
            tables.append(table)
    return tables


def repeats(order: np.ndarray, hashes: np.ndarray) -> np.ndarray:
    """[documents] bool: of those with equal hashes, all but the first by `order` (numbers to sort
    by; equal ones in the order given).
    """
    by_order = np.argsort(order, kind="stable")
    ordered = hashes[by_order]
    by_hash = np.argsort(ordered, kind="stable")
    follows_equal = np.flatnonzero(ordered[by_hash[1:]] == ordered[by_hash[:-1]]) + 1
    is_repeat = np.zeros(len(order), bool)
    is_repeat[by_order[by_hash[follows_equal]]] = True
    return is_repeat


def of_file(uris: Sequence[str], file_number: int) -> "pyarrow.Table":
    """The duplicates of one file, each once, by (segment, position), with the first of REASONS that
    holds.
    """
    import pyarrow as pa

    duplicates = pa.concat_tables(
        sorted_segments.read_range(
            uri, file_number, file_number + 1, ["segment", "position", "key", "reason"]
        )
        for uri in uris
    )
    duplicates = _sorted(duplicates, "segment", "position", "reason")
    segment = column(duplicates, "segment")
    position = column(duplicates, "position")
    is_first = np.ones(duplicates.num_rows, bool)
    is_first[1:] = (segment[1:] != segment[:-1]) | (position[1:] != position[:-1])
    return duplicates.filter(pa.array(is_first))


def write_of_segment(
    of_file: "pyarrow.Table", segment_uri: str, segment_number: int, name: str
) -> None:
    """Publish the positions of a segment's duplicates, in order of key, beside the segment."""
    import pyarrow as pa

    in_segment = pa.array(column(of_file, "segment") == segment_number)
    table = of_file.filter(in_segment).select(["key", "position"])
    storage.write(
        f"{segment_uri}.{name}.parquet",
        parquet_files.encode(table, row_group_rows=sorted_segments.ROW_GROUP),
    )


def read_of_segment(segment_uri: str, name: str, low: int, high: int) -> np.ndarray:
    """The positions of a segment's duplicates with keys in [low, high)."""
    table = sorted_segments.read_range(f"{segment_uri}.{name}.parquet", low, high, ["position"])
    return column(table, "position")


def _sorted(table: "pyarrow.Table", *names: str) -> "pyarrow.Table":
    return table.sort_by([(name, "ascending") for name in names])
