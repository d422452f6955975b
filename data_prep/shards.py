"""Megatron .bin/.idx shards: write, verify, map, read by range

The format is megatron-core's indexed dataset, version 1, written and read by our own few lines, so that a GPU host reads
tokens with numpy alone and any Megatron-style trainer can read them too. We write one sequence per document, or per piece
of one where a shard's end cuts it:

    .bin   tokens of document 0 … eos, tokens of document 1 … eos, …            uint16 or int32, no header
    .idx   "MMIDIDX\\0\\0" · u64 1 · u8 dtype code · u64 S sequences · u64 D + 1
           int32[S] lengths · int64[S] byte offsets in .bin · int64[D + 1] first sequence of each document

Megatron itself chooses uint16 below 65,500 ids; its reader takes the type from the index, so ours, below 65,536, opens too.

Training reads windows of T tokens from the shards laid end to end; documents cross windows, windows never overlap:

    tokens    |  train-00000   |  train-00001   |  …        blocks of 8 MiB are fetched by range and checked against
    windows   |  0  |  1  |  2  |  3  |  4  |               the manifest before a token of theirs is used
"""

import hashlib
import struct
from collections import OrderedDict
from collections.abc import Iterator
from io import BytesIO
from itertools import islice
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np

from data_prep import storage
from data_prep.manifest import Manifest, Shard, Split
from data_prep.records import ArtefactCorrupt

if TYPE_CHECKING:
    import pyarrow

MAGIC = b"MMIDIDX\x00\x00"
HEADER = struct.Struct("<9sQBQQ")  # magic, version, dtype code, sequences, documents + 1
DTYPE_CODES = {"int32": 4, "uint16": 8}  # megatron.core.datasets.indexed_dataset.DType
CACHED_BLOCKS = 4  # a batch is read in stream order, so each block is needed once or in a row

TokenDtype = Literal["uint16", "int32"]


class Index(NamedTuple):
    """What a .idx file says: the type of the tokens and the length of each document in tokens (eos included)."""

    dtype: TokenDtype
    lengths: np.ndarray  # [D] int64


def dtype_for(n_ids: int) -> TokenDtype:
    """The narrowest type that Megatron's format has for ids below `n_ids`."""
    return "uint16" if n_ids < 65_536 else "int32"


def encode_index(lengths: np.ndarray, dtype: TokenDtype) -> bytes:
    """The .idx file of documents of these lengths, one sequence each."""
    pointers = (np.cumsum(lengths, dtype=np.int64) - lengths) * np.dtype(dtype).itemsize
    header = HEADER.pack(MAGIC, 1, DTYPE_CODES[dtype], len(lengths), len(lengths) + 1)
    return (
        header
        + lengths.astype("<i4").tobytes()
        + pointers.astype("<i8").tobytes()
        + np.arange(len(lengths) + 1, dtype="<i8").tobytes()
    )


def decode_index(content: bytes, uri: str) -> Index:
    """Read a .idx file, ours or Megatron's (which may have several sequences per document); ArtefactCorrupt if it is neither."""
    if len(content) < HEADER.size:
        raise ArtefactCorrupt(
            f"{uri}: an index has a header of {HEADER.size} bytes, this file has {len(content)}; build the stream again"
        )
    magic, version, code, n_sequences, n_bounds = HEADER.unpack_from(content)
    dtype = {code: name for name, code in DTYPE_CODES.items()}.get(code)
    expected = HEADER.size + 12 * n_sequences + 8 * n_bounds
    if magic != MAGIC or version != 1 or dtype is None or n_bounds < 1 or len(content) < expected:
        raise ArtefactCorrupt(
            f"{uri}: not a Megatron index of uint16 or int32 tokens: magic {magic!r}, version {version}, dtype code {code}, "
            f"{len(content):,} bytes of {expected:,}; build the stream again"
        )
    ends = np.concatenate([[0], np.cumsum(np.frombuffer(content, "<i4", n_sequences, HEADER.size), dtype=np.int64)])
    bounds = np.frombuffer(content, "<i8", n_bounds, HEADER.size + 12 * n_sequences)
    if bounds[0] != 0 or bounds[-1] != n_sequences or (np.diff(bounds) < 0).any():
        raise ArtefactCorrupt(f"{uri}: the documents do not partition the {n_sequences:,} sequences; build the stream again")
    return Index(dtype, np.diff(ends[bounds]))  # type: ignore[arg-type]


def write_shard(
    stream_uri: str, name: str, tokens: np.ndarray, lengths: np.ndarray, documents: "pyarrow.Table", n_continued_tokens: int = 0
) -> Shard:
    """Publish `<name>.bin`, `.idx` and `.documents.parquet`.

    tokens: [N] uint16 or int32. lengths: of the pieces of documents in here (eos included where a document ends); the first
    piece is no document of this shard's if `n_continued_tokens` says that it began in an earlier one. documents: a row for
    each that begins here.
    """
    dtype: TokenDtype = tokens.dtype.name  # type: ignore[assignment]
    assert dtype in DTYPE_CODES, tokens.dtype
    n_begun = len(lengths) - bool(n_continued_tokens)
    assert int(lengths.sum()) == len(tokens) and n_begun == documents.num_rows, (len(tokens), len(lengths), documents.num_rows)
    assert not n_continued_tokens or lengths[0] == n_continued_tokens, (n_continued_tokens, lengths[:1])
    content = np.ascontiguousarray(tokens).astype(tokens.dtype.newbyteorder("<"), copy=False).data
    index, provenance = encode_index(lengths, dtype), parquet_bytes(documents)
    storage.write(storage.join(stream_uri, f"{name}.bin"), bytes(content))
    storage.write(storage.join(stream_uri, f"{name}.idx"), index)
    storage.write(storage.join(stream_uri, f"{name}.documents.parquet"), provenance)
    return Shard(
        name=name,
        n_tokens=len(tokens),
        n_documents=n_begun,
        n_continued_tokens=n_continued_tokens,
        n_bytes=tokens.nbytes,
        block_sha256=storage.block_sha256(content),
        idx_sha256=hashlib.sha256(index).hexdigest(),
        documents_sha256=hashlib.sha256(provenance).hexdigest(),
    )


def parquet_bytes(table: "pyarrow.Table", *, row_group_size: int = 1 << 16) -> bytes:
    """The table as a Parquet file; the same table gives the same bytes under one version of pyarrow."""
    import pyarrow.parquet

    buffer = BytesIO()
    pyarrow.parquet.write_table(table, buffer, compression="zstd", row_group_size=row_group_size, write_page_checksum=True)
    return buffer.getvalue()


class SequenceReader:
    """Windows of `sequence_length` tokens of one split; window i is tokens [i·T, (i+1)·T) of its shards laid end to end."""

    def __init__(
        self, stream_uri: str, manifest: Manifest, split: Split, sequence_length: int, *, cached_blocks: int = CACHED_BLOCKS
    ) -> None:
        self._tokens = _Tokens(stream_uri, manifest, split, cached_blocks)
        self.sequence_length = sequence_length
        self.n_sequences = self._tokens.n_tokens // sequence_length

    def read(self, indices: np.ndarray) -> np.ndarray:
        """The windows `indices` [n] as [n, T] int64, in the order asked; each block is fetched once, in stream order."""
        assert not len(indices) or (indices.min() >= 0 and indices.max() < self.n_sequences), (indices, self.n_sequences)
        windows = np.empty((len(indices), self.sequence_length), dtype=np.int64)
        for row in np.argsort(indices, kind="stable"):
            start = int(indices[row]) * self.sequence_length
            self._tokens.copy(start, windows[row])
        return windows


def read_documents(stream_uri: str, manifest: Manifest, split: Split, limit: int) -> list[np.ndarray]:
    """The ids (int64, without eos) of the first `limit` documents of a split, in stream order."""
    tokens, documents = _Tokens(stream_uri, manifest, split, CACHED_BLOCKS), []
    start = 0
    for length in islice(_document_lengths(stream_uri, manifest, split), limit):
        ids = np.empty(length, dtype=np.int64)
        tokens.copy(start, ids)
        documents.append(ids[:-1])
        start += length
    return documents


def verify(stream_uri: str, manifest: Manifest) -> None:
    """Read the whole stream and raise ArtefactCorrupt at the first byte, count or document end that its manifest denies."""
    for split in ("train", "held_out"):
        tokens = _Tokens(stream_uri, manifest, split, cached_blocks=1)
        for number, shard in enumerate(manifest.shards(split)):
            uri = storage.join(stream_uri, f"{shard.name}.bin")
            _check_beside(stream_uri, shard)
            ends = np.cumsum(_index(stream_uri, shard, manifest).lengths) - 1
            if _goes_on(manifest.shards(split), number):
                ends = ends[:-1]
            for block in range(len(shard.block_sha256)):
                _check_block(tokens.block(number, block), block, ends, uri, manifest)
    shards = manifest.train + manifest.held_out
    _expect(stream_uri, "tokens", manifest.n_tokens, sum(shard.n_tokens for shard in shards))
    _expect(stream_uri, "documents", manifest.n_documents, sum(shard.n_documents for shard in shards))


def check_shard(stream_uri: str, shard: Shard) -> None:
    """Raise ArtefactMissing or ArtefactCorrupt unless the shard's three files have the bytes that `shard` names."""
    uri = storage.join(stream_uri, f"{shard.name}.bin")
    _check_beside(stream_uri, shard)
    for block, expected in enumerate(shard.block_sha256):
        storage.verify_block(_read_block(uri, shard, block), expected, uri, block)


def _document_lengths(stream_uri: str, manifest: Manifest, split: Split) -> Iterator[int]:
    """The length of each whole document (eos included), pieces joined; an index is read when it is needed."""
    begun, shards = 0, manifest.shards(split)
    for number, shard in enumerate(shards):
        lengths = _index(stream_uri, shard, manifest).lengths.tolist()
        lengths[0] += begun
        begun = lengths.pop() if _goes_on(shards, number) else 0
        yield from lengths


def _goes_on(shards: tuple[Shard, ...], number: int) -> bool:
    """Whether the last piece of a shard is continued in the next."""
    return number + 1 < len(shards) and shards[number + 1].n_continued_tokens > 0


def _check_beside(stream_uri: str, shard: Shard) -> None:
    """Size of the .bin, checksums of the two files beside it."""
    uri = storage.join(stream_uri, f"{shard.name}.bin")
    _expect(uri, "bytes", shard.n_bytes, storage.size(uri))
    for suffix, expected in ((".idx", shard.idx_sha256), (".documents.parquet", shard.documents_sha256)):
        other = storage.join(stream_uri, f"{shard.name}{suffix}")
        _check_sha256(storage.read(other), expected, other)


def _check_block(tokens: np.ndarray, block: int, ends: np.ndarray, uri: str, manifest: Manifest) -> None:
    first = block * storage.BLOCK_BYTES // tokens.itemsize
    inside = ends[(ends >= first) & (ends < first + len(tokens))] - first
    _expect(uri, f"documents of block {block} ending with eos", len(inside), int((tokens[inside] == manifest.eos_id).sum()))
    highest = int(tokens.max())
    if highest >= manifest.vocab_size:
        raise ArtefactCorrupt(
            f"{uri}: block {block} holds id {highest}, the vocabulary has {manifest.vocab_size:,} ids; build the stream again"
        )


def _read_block(uri: str, shard: Shard, block: int) -> bytes:
    start = block * storage.BLOCK_BYTES
    return storage.read(uri, start, min(start + storage.BLOCK_BYTES, shard.n_bytes))


class _Tokens:
    """The shards of a split laid end to end, through a small cache of verified blocks."""

    def __init__(self, stream_uri: str, manifest: Manifest, split: Split, cached_blocks: int) -> None:
        self._uri, self._shards = stream_uri, manifest.shards(split)
        self._dtype = np.dtype(manifest.dtype).newbyteorder("<")
        self._starts = np.concatenate([[0], np.cumsum([shard.n_tokens for shard in self._shards], dtype=np.int64)])
        self._blocks: OrderedDict[tuple[int, int], np.ndarray] = OrderedDict()
        self._capacity = cached_blocks
        self.n_tokens = int(self._starts[-1])

    def copy(self, start: int, into: np.ndarray) -> None:
        """Fill `into` with the tokens from `start` on."""
        done = 0
        for number, block, first, last in self._spans(start, start + len(into)):
            into[done : done + last - first] = self.block(number, block)[first:last]
            done += last - first

    def _spans(self, start: int, end: int) -> Iterator[tuple[int, int, int, int]]:
        """(shard, block, first, last) of the pieces that hold tokens [start, end)."""
        block_tokens = storage.BLOCK_BYTES // self._dtype.itemsize
        while start < end:
            number = int(np.searchsorted(self._starts, start, side="right")) - 1
            block, first = divmod(start - int(self._starts[number]), block_tokens)
            n = min(end - start, block_tokens - first, int(self._starts[number + 1]) - start)
            yield number, block, first, first + n
            start += n

    def block(self, number: int, block: int) -> np.ndarray:
        """Block `block` of shard `number`, verified."""
        key = (number, block)
        if key not in self._blocks:
            shard = self._shards[number]
            uri = storage.join(self._uri, f"{shard.name}.bin")
            content = _read_block(uri, shard, block)
            storage.verify_block(content, shard.block_sha256[block], uri, block)
            while len(self._blocks) >= self._capacity:
                self._blocks.popitem(last=False)
            self._blocks[key] = np.frombuffer(content, self._dtype)
        self._blocks.move_to_end(key)
        return self._blocks[key]


def _index(stream_uri: str, shard: Shard, manifest: Manifest) -> Index:
    uri = storage.join(stream_uri, f"{shard.name}.idx")
    content = storage.read(uri)
    _check_sha256(content, shard.idx_sha256, uri)
    index = decode_index(content, uri)
    if index.dtype != manifest.dtype:
        raise ArtefactCorrupt(f"{uri}: tokens are {index.dtype}, the manifest says {manifest.dtype}; build the stream again")
    _expect(uri, "documents", shard.n_documents + bool(shard.n_continued_tokens), len(index.lengths))
    if shard.n_continued_tokens:
        _expect(uri, "continued tokens", shard.n_continued_tokens, int(index.lengths[0]))
    _expect(uri, "tokens", shard.n_tokens, int(index.lengths.sum()))
    return index


def _check_sha256(content: bytes, expected: str, uri: str) -> None:
    got = hashlib.sha256(content).hexdigest()
    if got != expected:
        raise ArtefactCorrupt(
            f"{uri}: has sha256 {got[:16]}…, the manifest says {expected[:16]}…; delete the manifest and build the stream again"
        )


def _expect(uri: str, what: str, expected: int, got: int) -> None:
    if got != expected:
        raise ArtefactCorrupt(f"{uri}: {got:,} {what}, expected {expected:,}; delete the manifest and build the stream again")
