"""a sorted run of a file's documents and their tokens: written once, read by ranges of keys

    segment-00000.tokens.bin          the documents in order of key, each ended by eos
    segment-00000.documents.parquet   key, at, row, part, id, n_tokens, n_bytes, label, scores, start (of its tokens), crc32
    segment-00000.hashes.parquet      hash, key, at, near, in order of hash: only where duplicates are looked for
    segment-00000.json                its record, written last

`at` is a document's place in its segment. Parquet files are sorted by their first column, so that a
range of it is a few row groups.
"""

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from isal import isal_zlib

from data_prep.build.dropped_samples import Drop
from data_prep.core import ranged_reads, storage
from data_prep.core.errors import ArtefactCorrupt
from data_prep.core.records import record
from data_prep.token_stream import megatron_shards

if TYPE_CHECKING:
    import pyarrow

ROW_GROUP = 8192  # rows that a ranged read of a Parquet file fetches at least
# What a shard says of its documents; masked: personal data were, annotated: the text begins with
# its toxicity
PROVENANCE = (
    "key",
    "row",
    "part",
    "id",
    "n_tokens",
    "n_bytes",
    "label",
    "scores",
    "masked",
    "annotated",
)
AGAIN = "delete the .json files beside it and run the same command again"


@record
class Segment:
    """Counts of documents and tokens are of those kept, eos included; drops and samples of those
    dropped on the way.

    engine: which tokenizer made the ids.
    last_row, last_part: the last document that was looked at, kept or not; −1 when there was none.
    n_hashes: rows of the hashes file; 0 when there is none.
    n_annotated: documents with their toxicity written on them, copies of others among them.
    """

    engine: str
    last_row: int
    last_part: int
    n_documents: int
    n_tokens: int
    n_text_bytes: int
    n_hashes: int
    drops: dict[str, int]
    samples: tuple[Drop, ...]
    n_annotated: int


class Documents(NamedTuple):
    """Documents of one segment, in order of (key, row, part), and their tokens end to end (eos
    included).
    """

    table: "pyarrow.Table"
    tokens: np.ndarray  # [sum of n_tokens]


def uri_of(unit_uri: str, number: int) -> str:
    """What the names of the segment's files begin with."""
    return storage.join(unit_uri, f"segment-{number:05}")


def write(uri: str, documents: Documents, hashes: "pyarrow.Table | None", segment: Segment) -> None:
    """Publish the documents, which come in any order, and then their record.

    hashes: hash uint64, document int64 (its place in `documents`), near bool.
    """
    import pyarrow as pa

    keys = column(documents.table, "key")
    order = np.argsort(keys, kind="stable")
    tokens = permuted(documents.tokens, column(documents.table, "n_tokens"), order)
    table = documents.table.take(pa.array(order))
    lengths = column(table, "n_tokens")
    starts = np.cumsum(lengths) - lengths
    table = table.append_column("at", pa.array(np.arange(len(order)), pa.int32()))
    table = table.append_column("start", pa.array(starts)).append_column(
        "crc32", pa.array(_checksums(tokens, starts, lengths))
    )
    storage.write(f"{uri}.tokens.bin", tokens.view(np.uint8).data)
    storage.write(
        f"{uri}.documents.parquet", megatron_shards.parquet_bytes(table, row_group_size=ROW_GROUP)
    )
    if hashes is not None:
        at = np.empty(len(order), np.int32)
        at[order] = np.arange(len(order))
        of = column(hashes, "document")
        columns = {
            "hash": hashes["hash"],
            "key": pa.array(keys[of]),
            "at": pa.array(at[of]),
            "near": hashes["near"],
        }
        by_hash = pa.table(columns).sort_by(
            [
                ("hash", "ascending"),
                ("near", "ascending"),
                ("key", "ascending"),
                ("at", "ascending"),
            ]
        )
        storage.write(
            f"{uri}.hashes.parquet",
            megatron_shards.parquet_bytes(by_hash, row_group_size=ROW_GROUP),
        )
    storage.save(segment, f"{uri}.json")


def load(uri: str, dtype: megatron_shards.TokenDtype) -> Segment | None:
    """The segment's record, or None if it is not there or a file of its is missing or short."""
    if not storage.exists(f"{uri}.json"):
        return None
    segment = storage.load(Segment, f"{uri}.json")
    return segment if is_whole(uri, segment, dtype) else None


def is_whole(uri: str, segment: Segment, dtype: megatron_shards.TokenDtype) -> bool:
    """Whether its files are there and the tokens have their size."""
    names = ["tokens.bin", "documents.parquet", *(["hashes.parquet"] if segment.n_hashes else [])]
    if not all(storage.exists(f"{uri}.{name}") for name in names):
        return False
    return storage.size(f"{uri}.tokens.bin") == segment.n_tokens * np.dtype(dtype).itemsize


def read(uri: str, low: int, high: int, dtype: megatron_shards.TokenDtype) -> Documents:
    """The documents with keys in [low, high), by two ranged reads; ArtefactCorrupt if a byte
    differs.
    """
    table = rows(f"{uri}.documents.parquet", low, high, [*PROVENANCE, "at", "start", "crc32"])
    lengths, starts, expected = (column(table, name) for name in ("n_tokens", "start", "crc32"))
    stored = np.dtype(dtype).newbyteorder("<")
    if not len(lengths):
        return Documents(table, np.empty(0, stored))
    first, end = int(starts[0]), int(starts[-1] + lengths[-1])
    content = storage.read(f"{uri}.tokens.bin", first * stored.itemsize, end * stored.itemsize)
    if len(content) != (end - first) * stored.itemsize:
        raise ArtefactCorrupt(f"{uri}.tokens.bin: ends before token {end:,}; {AGAIN}")
    tokens = np.frombuffer(content, stored)
    wrong = np.flatnonzero(_checksums(tokens, starts - first, lengths) != expected)
    if len(wrong):
        raise ArtefactCorrupt(
            f"{uri}.tokens.bin: the document at token {int(starts[wrong[0]]):,} has another crc32 than documents.parquet says; "
            f"{AGAIN}"
        )
    return Documents(table, tokens)


def permuted(tokens: np.ndarray, lengths: np.ndarray, order: np.ndarray) -> np.ndarray:
    """The documents `order` of those of these lengths, end to end; Arrow copies them as strings,
    0.4 µs and a memcpy each.
    """
    import pyarrow as pa

    if not len(order):
        return tokens[:0]
    offsets = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)]) * tokens.itemsize
    documents = pa.Array.from_buffers(
        pa.large_binary(), len(lengths), [None, pa.py_buffer(offsets), pa.py_buffer(tokens)]
    )
    return np.frombuffer(
        documents.take(pa.array(order)).buffers()[2], tokens.dtype, int(lengths[order].sum())
    )


def rows(uri: str, low: int, high: int, columns: list[str]) -> "pyarrow.Table":
    """The rows of a Parquet file whose first column is in [low, high), low < high: only the row
    groups that can hold them are fetched.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(ranged_reads.RangedFile(uri), page_checksum_verification=True) as file:
            first = file.schema_arrow.names[0]
            ranges = [
                file.metadata.row_group(i).column(0).statistics for i in range(file.num_row_groups)
            ]
            groups = [
                i
                for i, values in enumerate(ranges)
                if values and values.min < high and values.max >= low
            ]  # none: empty
            table = file.read_row_groups(
                groups, [first, *(name for name in columns if name != first)]
            )
    except (pa.ArrowException, OSError) as error:
        raise ArtefactCorrupt(f"{uri}: {error}; {AGAIN}") from error
    values = column(table, first)
    start = np.searchsorted(values, values.dtype.type(low), side="left")
    end = np.searchsorted(
        values, values.dtype.type(high - 1), side="right"
    )  # 2^64 itself is no uint64
    return table.slice(start, end - start)


def column(table: "pyarrow.Table", name: str) -> np.ndarray:
    return table.column(name).to_numpy()


def _checksums(tokens: np.ndarray, starts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """crc32 of each document, [D] uint32; isal's takes 0.5 µs and a nanosecond for five bytes."""
    content, itemsize = tokens.data.cast("B"), tokens.itemsize
    bounds = zip(
        (starts * itemsize).tolist(), ((starts + lengths) * itemsize).tolist(), strict=True
    )
    return np.array([isal_zlib.crc32(content[start:end]) for start, end in bounds], np.uint32)
