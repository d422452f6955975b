"""Megatron .bin/.idx shards: the format, write, verify

The format is megatron-core's indexed dataset, version 1, written and read by our own few lines, so
that a GPU host reads tokens with numpy alone and any Megatron-style trainer can read them too. We
write one sequence per document, or per piece of one where a shard's end cuts it:

    .bin   tokens of document 0 … eos, tokens of document 1 … eos, …            uint16 or int32, no header
    .idx   "MMIDIDX\\0\\0" · u64 1 · u8 dtype code · u64 S sequences · u64 D + 1
           int32[S] lengths · int64[S] byte offsets in .bin · int64[D + 1] first sequence of each
           document

Megatron itself chooses uint16 below 65,500 ids; its reader takes the type from the index, so ours,
below 65,536, opens too.
"""

import hashlib
import struct
from collections.abc import Iterator
from io import BytesIO
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np

from data_prep.core import storage, telemetry
from data_prep.core.errors import ArtefactCorrupt
from data_prep.token_stream.manifest import Manifest, Shard, Split

if TYPE_CHECKING:
    import pyarrow

MAGIC = b"MMIDIDX\x00\x00"
HEADER = struct.Struct("<9sQBQQ")  # magic, version, dtype code, sequences, documents + 1
DTYPE_CODES = {"int32": 4, "uint16": 8}  # megatron.core.datasets.indexed_dataset.DType

TokenDtype = Literal["uint16", "int32"]


class Index(NamedTuple):
    """What a .idx file says: the type of the tokens and the length of each document in tokens (eos
    included).
    """

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
    """Read a .idx file, ours or Megatron's (which may have several sequences per document);
    ArtefactCorrupt if it is neither.
    """
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
    lengths = np.frombuffer(content, "<i4", n_sequences, HEADER.size).astype(np.int64)
    pointers = np.frombuffer(content, "<i8", n_sequences, HEADER.size + 4 * n_sequences)
    bounds = np.frombuffer(content, "<i8", n_bounds, HEADER.size + 12 * n_sequences)
    ends = np.concatenate([[0], np.cumsum(lengths)])
    if (lengths < 0).any() or not np.array_equal(pointers, ends[:-1] * np.dtype(dtype).itemsize):
        raise ArtefactCorrupt(
            f"{uri}: the sequences do not lie end to end from the start of the .bin; build the stream again"
        )
    if bounds[0] != 0 or bounds[-1] != n_sequences or (np.diff(bounds) < 0).any():
        raise ArtefactCorrupt(
            f"{uri}: the documents do not partition the {n_sequences:,} sequences; build the stream again"
        )
    return Index(dtype, np.diff(ends[bounds]))  # type: ignore[arg-type]


def write_shard(
    stream_uri: str,
    name: str,
    tokens: np.ndarray,
    lengths: np.ndarray,
    documents: "pyarrow.Table",
    n_continued_tokens: int = 0,
) -> Shard:
    """Publish `<name>.bin`, `.idx` and `.documents.parquet`.

    tokens: [N] uint16 or int32. lengths: of the pieces of documents in here (eos included where a
    document ends); the first piece is no document of this shard's if `n_continued_tokens` says that
    it began in an earlier one. documents: a row for each that begins here.
    """
    dtype: TokenDtype = tokens.dtype.name  # type: ignore[assignment]
    assert dtype in DTYPE_CODES, tokens.dtype
    n_begun = len(lengths) - bool(n_continued_tokens)
    assert int(lengths.sum()) == len(tokens) and n_begun == documents.num_rows, (
        len(tokens),
        len(lengths),
        documents.num_rows,
    )
    assert not n_continued_tokens or lengths[0] == n_continued_tokens, (
        n_continued_tokens,
        lengths[:1],
    )
    content = (
        np.ascontiguousarray(tokens)
        .astype(tokens.dtype.newbyteorder("<"), copy=False)
        .view(np.uint8)
        .data
    )
    index, provenance = encode_index(lengths, dtype), parquet_bytes(documents)
    storage.write(storage.join(stream_uri, f"{name}.bin"), content)
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
    """The table as a Parquet file; the same table gives the same bytes under one version of
    pyarrow.
    """
    import pyarrow.parquet

    buffer = BytesIO()
    pyarrow.parquet.write_table(
        table, buffer, compression="zstd", row_group_size=row_group_size, write_page_checksum=True
    )
    return buffer.getvalue()


def verify(stream_uri: str, manifest: Manifest) -> None:
    """Read the whole stream and raise ArtefactCorrupt at the first byte, count or document end that
    its manifest denies.
    """
    for split in ("train", "held_out"):
        for number, shard in enumerate(manifest.shards(split)):
            uri = storage.join(stream_uri, f"{shard.name}.bin")
            _check_beside(stream_uri, shard)
            ends = np.cumsum(read_index(stream_uri, shard, manifest).lengths) - 1
            if _goes_on(manifest.shards(split), number):
                ends = ends[:-1]
            for block in range(len(shard.block_sha256)):
                tokens = np.frombuffer(
                    read_block(uri, shard, block), np.dtype(manifest.dtype).newbyteorder("<")
                )
                _check_block(tokens, block, ends, uri, manifest)
    shards = manifest.train + manifest.held_out
    _expect(stream_uri, "tokens", manifest.n_tokens, sum(shard.n_tokens for shard in shards))
    _expect(
        stream_uri, "documents", manifest.n_documents, sum(shard.n_documents for shard in shards)
    )


def check_shard(stream_uri: str, shard: Shard) -> None:
    """Raise ArtefactMissing or ArtefactCorrupt unless the shard's three files have the bytes that
    `shard` names.
    """
    uri = storage.join(stream_uri, f"{shard.name}.bin")
    _check_beside(stream_uri, shard)
    for block in range(len(shard.block_sha256)):
        read_block(uri, shard, block)


def document_lengths(stream_uri: str, manifest: Manifest, split: Split) -> Iterator[int]:
    """The length of each whole document (eos included), pieces joined; an index is read when it is
    needed.
    """
    begun, shards = 0, manifest.shards(split)
    for number, shard in enumerate(shards):
        lengths = read_index(stream_uri, shard, manifest).lengths.tolist()
        if begun:
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
    for suffix, expected in (
        (".idx", shard.idx_sha256),
        (".documents.parquet", shard.documents_sha256),
    ):
        other = storage.join(stream_uri, f"{shard.name}{suffix}")
        _check_sha256(storage.read(other), expected, other)


def _check_block(
    tokens: np.ndarray, block: int, ends: np.ndarray, uri: str, manifest: Manifest
) -> None:
    first = block * storage.BLOCK_BYTES // tokens.itemsize
    inside = ends[(ends >= first) & (ends < first + len(tokens))] - first
    _expect(
        uri,
        f"documents of block {block} ending with eos",
        len(inside),
        int((tokens[inside] == manifest.eos_id).sum()),
    )
    highest = int(tokens.max())
    if highest >= manifest.vocab_size:
        raise ArtefactCorrupt(
            f"{uri}: block {block} holds id {highest}, the vocabulary has {manifest.vocab_size:,} ids; build the stream again"
        )


def read_block(uri: str, shard: Shard, block: int) -> bytes:
    """Block `block` of the .bin at `uri`, verified; what does not fit is read once more, for bytes
    can be hurt on the way.
    """
    start, expected = block * storage.BLOCK_BYTES, shard.block_sha256[block]
    end = min(start + storage.BLOCK_BYTES, shard.n_bytes)
    content = storage.read(uri, start, end)
    if hashlib.sha256(content).hexdigest() != expected:
        telemetry.emit("hormesis_storage_retries", 1, reason="checksum")
        content = storage.read(uri, start, end)
        storage.verify_block(content, expected, uri, block)
    return content


def read_index(stream_uri: str, shard: Shard, manifest: Manifest) -> Index:
    """The .idx file of `shard`, verified."""
    uri = storage.join(stream_uri, f"{shard.name}.idx")
    content = storage.read(uri)
    _check_sha256(content, shard.idx_sha256, uri)
    index = decode_index(content, uri)
    if index.dtype != manifest.dtype:
        raise ArtefactCorrupt(
            f"{uri}: tokens are {index.dtype}, the manifest says {manifest.dtype}; build the stream again"
        )
    _expect(
        uri, "documents", shard.n_documents + bool(shard.n_continued_tokens), len(index.lengths)
    )
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
        raise ArtefactCorrupt(
            f"{uri}: {got:,} {what}, expected {expected:,}; delete the manifest and build the stream again"
        )
