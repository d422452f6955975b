"""sorted segments of a tokenized file: written once, read by ranges of shuffle keys

    segment-00000.tokens.bin          the documents in order of key, each ended by eos
    segment-00000.documents.parquet   key, position, row, part, id, n_tokens, n_bytes, label,
                                      scores, masked, annotated, language_uncertain, start (of its
                                      tokens), crc32
    segment-00000.hashes.parquet      hash, key, position, near, in order of hash; only with dedup
    segment-00000.json                the record, written last

`position` is a document's index in its segment. The Parquet files are sorted by their first column,
so that a range of it is a few row groups.
"""

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from isal import isal_zlib

from data_prep.cleaning.dropped_samples import DroppedDocument
from data_prep.core import storage
from data_prep.core.errors import ArtefactCorrupt
from data_prep.core.records import record
from data_prep.token_stream import parquet_files
from data_prep.token_stream.megatron_shards import TokenDtype
from data_prep.token_stream.parquet_files import column

if TYPE_CHECKING:
    import pyarrow

ROW_GROUP = 8192  # rows that a ranged read of a Parquet file fetches at least
# The provenance that a shard has of its documents. masked: something personal was masked;
# annotated: the text starts with its toxicity; language_uncertain: kept by the language filter
# though its language is uncertain.
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
    "language_uncertain",
)
REMEDY = "delete the .json files beside it and run the same command again"


@record
class Segment:
    """Counts of documents and tokens are of those kept, eos included; drops and samples are of the
    documents dropped since the previous segment.

    engine: the tokenizer engine that made the ids.
    last_row, last_part: the last document that was read, kept or not; −1 if there was none.
    n_hashes: rows of the hashes file; 0 if there is none.
    n_annotated: documents that start with their toxicity, duplicates among them.
    """

    engine: str
    last_row: int
    last_part: int
    n_documents: int
    n_tokens: int
    n_text_bytes: int
    n_hashes: int
    drops: dict[str, int]
    samples: tuple[DroppedDocument, ...]
    n_annotated: int


class TokenizedDocuments(NamedTuple):
    """Documents, a row of `table` each, and their tokens end to end (eos included)."""

    table: "pyarrow.Table"
    tokens: np.ndarray  # [sum of n_tokens]


def uri_of(file_uri: str, number: int) -> str:
    """The common beginning of the names of a segment's files."""
    return storage.join(file_uri, f"segment-{number:05}")


def write(
    uri: str, documents: TokenizedDocuments, hashes: "pyarrow.Table | None", segment: Segment
) -> None:
    """Publish the documents, given in any order, and then their record.

    hashes: hash uint64, document int64 (its index in `documents`), near bool.
    """
    keys = column(documents.table, "key")
    order = np.argsort(keys, kind="stable")
    tokens = permute_documents(documents.tokens, column(documents.table, "n_tokens"), order)
    storage.write(f"{uri}.tokens.bin", tokens.view(np.uint8).data)
    _write_table(f"{uri}.documents.parquet", _sorted_table(documents.table, order, tokens))
    if hashes is not None:
        _write_table(f"{uri}.hashes.parquet", _sorted_hashes(hashes, keys, order))
    storage.save(segment, f"{uri}.json")


def _sorted_table(table: "pyarrow.Table", order: np.ndarray, tokens: np.ndarray) -> "pyarrow.Table":
    """The documents in `order`, with their positions, and starts and checksums of their tokens."""
    import pyarrow as pa

    table = table.take(pa.array(order))
    lengths = column(table, "n_tokens")
    starts = np.cumsum(lengths) - lengths
    columns = {
        "position": pa.array(np.arange(len(order)), pa.int32()),
        "start": pa.array(starts),
        "crc32": pa.array(_checksums(tokens, starts, lengths)),
    }
    for name, values in columns.items():
        table = table.append_column(name, values)
    return table


def _sorted_hashes(hashes: "pyarrow.Table", keys: np.ndarray, order: np.ndarray) -> "pyarrow.Table":
    """The hashes in their order, each with key and position of its document."""
    import pyarrow as pa

    position = np.empty(len(order), np.int32)
    position[order] = np.arange(len(order))
    document = column(hashes, "document")
    columns = {
        "hash": hashes["hash"],
        "key": pa.array(keys[document]),
        "position": pa.array(position[document]),
        "near": hashes["near"],
    }
    by = [(name, "ascending") for name in ("hash", "near", "key", "position")]
    return pa.table(columns).sort_by(by)


def _write_table(uri: str, table: "pyarrow.Table") -> None:
    storage.write(uri, parquet_files.encode(table, row_group_rows=ROW_GROUP))


def load(uri: str, dtype: TokenDtype) -> Segment | None:
    """The segment's record, or None if the record or one of its files is missing or short."""
    if not storage.exists(f"{uri}.json"):
        return None
    segment = storage.load(Segment, f"{uri}.json")
    return segment if is_whole(uri, segment, dtype) else None


def is_whole(uri: str, segment: Segment, dtype: TokenDtype) -> bool:
    """Whether the segment's files exist and the tokens have their size."""
    names = ["tokens.bin", "documents.parquet", *(["hashes.parquet"] if segment.n_hashes else [])]
    if not all(storage.exists(f"{uri}.{name}") for name in names):
        return False
    return storage.size(f"{uri}.tokens.bin") == segment.n_tokens * np.dtype(dtype).itemsize


def read(uri: str, low: int, high: int, dtype: TokenDtype) -> TokenizedDocuments:
    """The documents with keys in [low, high), by two ranged reads; ArtefactCorrupt if a byte
    differs.
    """
    names = [*PROVENANCE, "position", "start", "crc32"]
    table = read_range(f"{uri}.documents.parquet", low, high, names)
    lengths, starts, expected = (column(table, name) for name in ("n_tokens", "start", "crc32"))
    stored = np.dtype(dtype).newbyteorder("<")
    if not len(lengths):
        return TokenizedDocuments(table, np.empty(0, stored))
    first = int(starts[0])
    end = int(starts[-1] + lengths[-1])
    content = storage.read(f"{uri}.tokens.bin", first * stored.itemsize, end * stored.itemsize)
    if len(content) != (end - first) * stored.itemsize:
        raise ArtefactCorrupt(
            f"{uri}.tokens.bin: has {len(content):,} bytes from token {first:,} on, expected "
            f"{(end - first) * stored.itemsize:,}; {REMEDY}"
        )
    tokens = np.frombuffer(content, stored)
    different = np.flatnonzero(_checksums(tokens, starts - first, lengths) != expected)
    if len(different):
        raise ArtefactCorrupt(
            f"{uri}.tokens.bin: the document at token {int(starts[different[0]]):,} has another "
            f"crc32 than documents.parquet states; {REMEDY}"
        )
    return TokenizedDocuments(table, tokens)


def permute_documents(tokens: np.ndarray, lengths: np.ndarray, order: np.ndarray) -> np.ndarray:
    """The tokens of the documents `order` (indices), end to end.

    tokens: all documents end to end, of these `lengths`. Arrow moves them as strings, which takes
    0.4 µs and a memcpy per document.
    """
    import pyarrow as pa

    if not len(order):
        return tokens[:0]
    offsets = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)]) * tokens.itemsize
    documents = pa.Array.from_buffers(
        pa.large_binary(), len(lengths), [None, pa.py_buffer(offsets), pa.py_buffer(tokens)]
    )
    permuted = documents.take(pa.array(order)).buffers()[2]
    return np.frombuffer(permuted, tokens.dtype, int(lengths[order].sum()))


def read_range(uri: str, low: int, high: int, columns: list[str]) -> "pyarrow.Table":
    """parquet_files.read_range of a file of a segment."""
    return parquet_files.read_range(uri, low, high, columns, REMEDY)


def _checksums(tokens: np.ndarray, starts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """crc32 of each document, [D] uint32. That of isal takes 0.5 µs, and 1 ns per five bytes."""
    content = tokens.data.cast("B")
    first_bytes = (starts * tokens.itemsize).tolist()
    end_bytes = ((starts + lengths) * tokens.itemsize).tolist()
    spans = zip(first_bytes, end_bytes, strict=True)
    return np.array([isal_zlib.crc32(content[first:end]) for first, end in spans], np.uint32)
