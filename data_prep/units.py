"""one input file → one unit of work: read, clean, tokenize, sort by key; published once, named by content

    units/<stream>-<digest>/<unit>/tokens.bin           the kept documents in order of key, each ended by eos
                                   documents.parquet    key, row, n_tokens, label, where its tokens lie and their crc32
                                   unit.json            this record, written last

The key is a hash of (seed, file's sha256, row): sorting by it within files and merging across files shuffles all documents
globally and once, whoever did the work. A shard is a range of keys, so it reads one contiguous piece of each unit. The
name is a digest of everything that decides the content; a unit whose record exists is done.
"""

import hashlib
import io
import json
import zlib
from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from data_prep import cleaning, corpora, shards, storage
from data_prep.config import DataConfig
from data_prep.records import ArtefactCorrupt, digest, record
from data_prep.tokenizer import Tokenizer

if TYPE_CHECKING:
    import pyarrow

FORMAT_VERSION = 1
BATCH_BYTES = 4 << 20  # of text tokenized at once: bounds the engine's memory, keeps the file's other documents as ids
BATCH_DOCUMENTS = 2048
ROW_GROUP = 8192  # documents a ranged read of documents.parquet fetches at least
KEY_SPACE = 1 << 64


@record
class Unit:
    """What one input file became; counts of documents and tokens are of those kept, eos included."""

    input_sha256: str
    dtype: shards.TokenDtype
    n_rows: int
    n_bad_rows: int
    n_documents: int
    n_tokens: int
    n_text_bytes: int
    drops: dict[str, int]


class Documents(NamedTuple):
    """The documents of a range of keys, in order of (key, row)."""

    table: "pyarrow.Table"  # key uint64, row int64, n_tokens int32, label string
    tokens: list[np.ndarray]  # of each document, eos included


class _Kept(NamedTuple):
    key: int
    row: int
    label: str | None
    tokens: np.ndarray


def key_of(input_sha256: str, row: int, shuffle_seed: int) -> int:
    """The document's place in [0, 2^64): uniform, and the same whatever else is in the corpus."""
    hashed = hashlib.blake2b(f"{input_sha256}:{row}".encode(), digest_size=8, key=str(shuffle_seed).encode())
    return int.from_bytes(hashed.digest(), "big")


def held_out_bound(held_out_ratio: float) -> int:
    """Documents with a key below this are held out."""
    return max(1, int(held_out_ratio * KEY_SPACE))


def name_of(source: corpora.Source, input_sha256: str, tokenizer: Tokenizer, config: DataConfig) -> str:
    chosen = (*corpora.settings(source), config.shuffle_seed)
    return digest(FORMAT_VERSION, input_sha256, chosen, cleaning.VERSION, config.cleaning, tokenizer.fingerprint)


def make(source: corpora.Source, input_sha256: str, tokenizer: Tokenizer, config: DataConfig, uri: str) -> Unit:
    """Publish the unit of `source` in the folder `uri`, or read its record if it is there."""
    record_uri = storage.join(uri, "unit.json")
    if storage.exists(record_uri) and _is_whole(uri, unit := storage.load(Unit, record_uri)):
        return unit
    tally = _Tally(corpora.BadRows(), Counter(), [])
    kept = sorted(_tokenized(source, input_sha256, tokenizer, config, tally), key=lambda document: (document.key, document.row))
    dtype = shards.dtype_for(tokenizer.n_ids)
    tokens = np.concatenate([np.empty(0, dtype), *(document.tokens for document in kept)])
    unit = Unit(
        input_sha256=input_sha256,
        dtype=dtype,
        n_rows=tally.bad.n_rows,
        n_bad_rows=tally.bad.count,
        n_documents=len(kept),
        n_tokens=len(tokens),
        n_text_bytes=sum(tally.text_bytes),
        drops=dict(sorted(tally.drops.items())),
    )
    storage.write(storage.join(uri, "tokens.bin"), tokens.tobytes())
    storage.write(storage.join(uri, "documents.parquet"), shards.parquet_bytes(_table(kept), row_group_size=ROW_GROUP))
    storage.save(unit, record_uri)
    return unit


def count_below(uri: str, bound: int) -> tuple[int, int]:
    """(documents, tokens) of the unit at `uri` with keys below `bound`."""
    table = _rows(uri, 0, bound, ["key", "n_tokens"])
    return table.num_rows, int(np.sum(_column(table, "n_tokens"), dtype=np.int64))


def read(uri: str, low: int, high: int, dtype: shards.TokenDtype) -> Documents:
    """The documents of the unit at `uri` with keys in [low, high), by two ranged reads; ArtefactCorrupt if a byte differs."""
    table = _rows(uri, low, high, ["key", "row", "n_tokens", "label", "start", "crc32"])
    lengths, starts, sums = (_column(table, name) for name in ("n_tokens", "start", "crc32"))
    if not len(lengths):
        return Documents(table, [])
    itemsize, first = np.dtype(dtype).itemsize, int(starts[0])
    tokens_uri = storage.join(uri, "tokens.bin")
    content = storage.read(tokens_uri, first * itemsize, (int(starts[-1]) + int(lengths[-1])) * itemsize)
    tokens = []
    for start, length, expected in zip((starts - first).tolist(), lengths.tolist(), sums.tolist(), strict=True):
        piece = content[start * itemsize : (start + length) * itemsize]
        if zlib.crc32(piece) != expected:
            raise ArtefactCorrupt(
                f"{tokens_uri}: the document at token {first + start:,} has another crc32 than documents.parquet says; "
                "delete unit.json beside it and run the same command again"
            )
        tokens.append(np.frombuffer(piece, np.dtype(dtype).newbyteorder("<")))
    return Documents(table.drop_columns(["start", "crc32"]), tokens)


def _is_whole(uri: str, unit: Unit) -> bool:
    tokens_uri = storage.join(uri, "tokens.bin")
    if not (storage.exists(tokens_uri) and storage.exists(storage.join(uri, "documents.parquet"))):
        return False
    return storage.size(tokens_uri) == unit.n_tokens * np.dtype(unit.dtype).itemsize


class _Tally(NamedTuple):
    """What is counted while a file is read."""

    bad: corpora.BadRows
    drops: Counter[str]
    text_bytes: list[int]


class _Text(NamedTuple):
    row: int
    label: str | None
    text: str


def _cleaned(source: corpora.Source, config: DataConfig, tally: _Tally) -> Iterator[_Text]:
    ratio = config.cleaning.max_bad_rows_ratio
    for document in corpora.read(source, tally.bad, max_bad_rows_ratio=ratio):
        cleaned = cleaning.clean(document.text, config.cleaning)
        if cleaned.text is None:
            tally.drops[cleaned.reason] += 1
            continue
        label = document.fields[source.label_field] if source.label_field else None
        yield _Text(document.row, label if label is None or isinstance(label, str) else json.dumps(label), cleaned.text)


def _batches(texts: Iterator[_Text]) -> Iterator[list[_Text]]:
    batch, n_bytes = list[_Text](), 0
    for text in texts:
        batch.append(text)
        n_bytes += len(text.text)
        if n_bytes >= BATCH_BYTES or len(batch) == BATCH_DOCUMENTS:
            yield batch
            batch, n_bytes = [], 0
    if batch:
        yield batch


def _tokenized(
    source: corpora.Source, input_sha256: str, tokenizer: Tokenizer, config: DataConfig, tally: _Tally
) -> Iterator[_Kept]:
    """The kept documents in the file's order; each one in `check_every_documents` is compared with the reference."""
    dtype, n_before = np.dtype(shards.dtype_for(tokenizer.n_ids)).newbyteorder("<"), 0
    for batch in _batches(_cleaned(source, config, tally)):
        texts = [text.text for text in batch]
        ids, lengths = tokenizer.encode_batch(texts)
        ends = np.cumsum(lengths)
        for at in range(-n_before % config.check_every_documents, len(batch), config.check_every_documents):
            tokenizer.check(texts[at : at + 1], ids[ends[at] - lengths[at] : ends[at]], lengths[at : at + 1])
        n_before += len(batch)
        tally.text_bytes.append(sum(len(text.encode()) for text in texts))
        for text, start, end in zip(batch, (ends - lengths).tolist(), ends.tolist(), strict=True):
            tokens = np.empty(end - start + 1, dtype)
            tokens[:-1], tokens[-1] = ids[start:end], tokenizer.eos_id
            yield _Kept(key_of(input_sha256, text.row, config.shuffle_seed), text.row, text.label, tokens)


def _table(kept: list[_Kept]) -> "pyarrow.Table":
    import pyarrow as pa

    lengths = np.array([len(document.tokens) for document in kept], dtype=np.int64)
    columns = {
        "key": pa.array([document.key for document in kept], pa.uint64()),
        "row": pa.array([document.row for document in kept], pa.int64()),
        "n_tokens": pa.array(lengths, pa.int64()),
        "label": pa.array([document.label for document in kept], pa.string()),
        "start": pa.array(np.cumsum(lengths) - lengths, pa.int64()),
        "crc32": pa.array([zlib.crc32(document.tokens.data) for document in kept], pa.uint32()),
    }
    return pa.table(columns)


def _rows(uri: str, low: int, high: int, columns: list[str]) -> "pyarrow.Table":
    """The rows with keys in [low, high), low < high: only the row groups that can hold them are fetched."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    documents_uri = storage.join(uri, "documents.parquet")
    try:
        with pq.ParquetFile(_Ranged(documents_uri), page_checksum_verification=True) as file:
            ranges = [file.metadata.row_group(i).column(0).statistics for i in range(file.num_row_groups)]
            groups = [i for i, keys in enumerate(ranges) if keys and keys.min < high and keys.max >= low]  # none: an empty unit
            table = file.read_row_groups(groups, columns)
    except (pa.ArrowException, OSError) as error:
        raise ArtefactCorrupt(f"{documents_uri}: {error}; delete unit.json beside it and run the same command again") from error
    keys = _column(table, "key")
    first = np.searchsorted(keys, np.uint64(low), side="left")
    return table.slice(first, np.searchsorted(keys, np.uint64(high - 1), side="right") - first)  # 2^64 itself is no uint64


def _column(table: "pyarrow.Table", name: str) -> np.ndarray:
    return table.column(name).to_numpy()


class _Ranged(io.RawIOBase):
    """An object in the store as a file that seeks: each read is one ranged request."""

    def __init__(self, uri: str) -> None:
        self._uri, self._size, self._at = uri, storage.size(uri), 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        return self._at

    def readinto(self, buffer: Any) -> int:
        end = min(self._at + len(buffer), self._size)
        content = storage.read(self._uri, self._at, end) if end > self._at else b""
        buffer[: len(content)] = content
        self._at += len(content)
        return len(content)
