"""Megatron .bin/.idx shards: encode, write, read and verify

The format is megatron-core's indexed dataset, version 1. It is written and read by our own few
lines, so that a GPU host needs only numpy to read tokens, and any Megatron-style trainer can read
them too. There is one sequence per document, or per piece of a document that continues in the next
shard:

    .bin   tokens of document 0 … eos, tokens of document 1 … eos, …     uint16 or int32, no header
    .idx   "MMIDIDX\\0\\0" · u64 1 · u8 dtype code · u64 S sequences · u64 D + 1
           int32[S] lengths · int64[S] byte offsets in .bin
           int64[D + 1] first sequence of each document

Megatron itself chooses uint16 below 65,500 ids. Its reader takes the type from the index, so it
opens our uint16 shards of up to 65,535 ids too.
"""

import hashlib
import struct
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np

from data_prep.core import storage, telemetry
from data_prep.core.errors import ArtefactCorrupt, ArtefactMissing
from data_prep.token_stream import parquet_files
from data_prep.token_stream.manifest import Manifest, Shard, Split

if TYPE_CHECKING:
    import pyarrow

MAGIC = b"MMIDIDX\x00\x00"
HEADER = struct.Struct("<9sQBQQ")  # magic, version, dtype code, sequences, documents + 1
DTYPE_CODES = {"int32": 4, "uint16": 8}  # megatron.core.datasets.indexed_dataset.DType
REMEDY = "delete the manifest and build the stream again"

TokenDtype = Literal["uint16", "int32"]


class ShardIndex(NamedTuple):
    """The content of a .idx file: the type of the tokens, and the length of each document in tokens
    (eos included).
    """

    dtype: TokenDtype
    lengths: np.ndarray  # [D] int64


def dtype_for(n_ids: int) -> TokenDtype:
    """The narrowest type of Megatron's format for ids below `n_ids`."""
    return "uint16" if n_ids < 65_536 else "int32"


def encode_index(lengths: np.ndarray, dtype: TokenDtype) -> bytes:
    """The .idx file of documents of these lengths, one sequence each."""
    offsets = (np.cumsum(lengths, dtype=np.int64) - lengths) * np.dtype(dtype).itemsize
    header = HEADER.pack(MAGIC, 1, DTYPE_CODES[dtype], len(lengths), len(lengths) + 1)
    return (
        header
        + lengths.astype("<i4").tobytes()
        + offsets.astype("<i8").tobytes()
        + np.arange(len(lengths) + 1, dtype="<i8").tobytes()
    )


def decode_index(content: bytes, uri: str) -> ShardIndex:
    """Read a .idx file, ours or Megatron's (which may have several sequences per document).

    Raises ArtefactCorrupt if it is neither.
    """
    if len(content) < HEADER.size:
        raise ArtefactCorrupt(
            f"{uri}: the file has {len(content)} bytes, the header of an index has {HEADER.size}; "
            f"{REMEDY}"
        )
    magic, version, code, n_sequences, n_bounds = HEADER.unpack_from(content)
    dtype = {code: name for name, code in DTYPE_CODES.items()}.get(code)
    n_bytes = HEADER.size + 12 * n_sequences + 8 * n_bounds
    if magic != MAGIC or version != 1 or dtype is None or n_bounds < 1 or len(content) < n_bytes:
        raise ArtefactCorrupt(
            f"{uri}: not a Megatron index of uint16 or int32 tokens: magic {magic!r}, version "
            f"{version}, dtype code {code}, {len(content):,} bytes of {n_bytes:,}; {REMEDY}"
        )
    lengths = np.frombuffer(content, "<i4", n_sequences, HEADER.size).astype(np.int64)
    offsets = np.frombuffer(content, "<i8", n_sequences, HEADER.size + 4 * n_sequences)
    bounds = np.frombuffer(content, "<i8", n_bounds, HEADER.size + 12 * n_sequences)
    ends = np.concatenate([[0], np.cumsum(lengths)])
    if (lengths < 0).any() or not np.array_equal(offsets, ends[:-1] * np.dtype(dtype).itemsize):
        raise ArtefactCorrupt(
            f"{uri}: the sequences do not follow each other from the start of the .bin file; "
            f"{REMEDY}"
        )
    if bounds[0] != 0 or bounds[-1] != n_sequences or (np.diff(bounds) < 0).any():
        raise ArtefactCorrupt(
            f"{uri}: the documents do not partition the {n_sequences:,} sequences; {REMEDY}"
        )
    return ShardIndex(dtype, np.diff(ends[bounds]))  # type: ignore[arg-type]


def write_shard(
    stream_uri: str,
    name: str,
    tokens: np.ndarray,
    lengths: np.ndarray,
    documents: "pyarrow.Table",
    n_continued_tokens: int = 0,
) -> Shard:
    """Publish `<name>.bin`, `.idx` and `.documents.parquet`.

    tokens: [N] uint16 or int32. lengths: tokens of each document, or piece of one, in this shard
    (eos included where the document ends). n_continued_tokens: length of the first piece, if its
    document began in an earlier shard; 0 if it begins here. documents: a row per document that
    begins here.
    """
    dtype: TokenDtype = tokens.dtype.name  # type: ignore[assignment]
    assert dtype in DTYPE_CODES, tokens.dtype
    n_begun = len(lengths) - bool(n_continued_tokens)
    assert int(lengths.sum()) == len(tokens), (len(tokens), lengths.sum())
    assert n_begun == documents.num_rows, (len(lengths), documents.num_rows)
    assert not n_continued_tokens or lengths[0] == n_continued_tokens, (
        n_continued_tokens,
        lengths[:1],
    )
    little_endian = tokens.dtype.newbyteorder("<")
    stored = np.ascontiguousarray(tokens).astype(little_endian, copy=False)
    content = stored.view(np.uint8).data
    index = encode_index(lengths, dtype)
    provenance = parquet_files.encode(documents)
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


def write_once(stream_uri: str, record_uri: str, write: Callable[[], Shard]) -> Shard:
    """The shard of the record at `record_uri`; written first if the record or a byte is missing.

    The record must be named by everything that decides the shard's content.
    """
    if storage.exists(record_uri):
        shard = storage.load(Shard, record_uri)
        try:
            check_shard(stream_uri, shard)
            return shard
        except (ArtefactCorrupt, ArtefactMissing) as error:
            telemetry.logger.warning(
                "%s/%s does not match its record (%s); writing it again",
                stream_uri,
                shard.name,
                error,
            )
    shard = write()
    storage.save(shard, record_uri)
    return shard


def verify(stream_uri: str, manifest: Manifest) -> None:
    """Read the whole stream; raise ArtefactCorrupt at the first byte, count or end of a document
    that differs from its manifest.
    """
    for split in ("train", "held_out"):
        shards = manifest.shards(split)
        for number, shard in enumerate(shards):
            uri = storage.join(stream_uri, f"{shard.name}.bin")
            _check_files(stream_uri, shard)
            ends = np.cumsum(read_index(stream_uri, shard, manifest).lengths) - 1
            if _continues(shards, number):
                ends = ends[:-1]
            for block in range(len(shard.block_sha256)):
                content = read_block(uri, shard, block)
                tokens = np.frombuffer(content, np.dtype(manifest.dtype).newbyteorder("<"))
                _check_block(tokens, block, ends, uri, manifest)
    shards = manifest.train + manifest.held_out
    n_tokens = sum(shard.n_tokens for shard in shards)
    n_documents = sum(shard.n_documents for shard in shards)
    _check_equal(stream_uri, "tokens", manifest.n_tokens, n_tokens)
    _check_equal(stream_uri, "documents", manifest.n_documents, n_documents)


def check_shard(stream_uri: str, shard: Shard) -> None:
    """Raise ArtefactMissing or ArtefactCorrupt unless the shard's three files have the bytes of its
    record.
    """
    uri = storage.join(stream_uri, f"{shard.name}.bin")
    _check_files(stream_uri, shard)
    for block in range(len(shard.block_sha256)):
        read_block(uri, shard, block)


def document_lengths(stream_uri: str, manifest: Manifest, split: Split) -> Iterator[int]:
    """The length of each whole document (eos included), its pieces joined; an index is read when it
    is needed.
    """
    shards = manifest.shards(split)
    n_begun = 0  # tokens of the last document, if it continues in the next shard
    for number, shard in enumerate(shards):
        lengths = read_index(stream_uri, shard, manifest).lengths.tolist()
        if n_begun:
            lengths[0] += n_begun
        n_begun = lengths.pop() if _continues(shards, number) else 0
        yield from lengths


def _continues(shards: tuple[Shard, ...], number: int) -> bool:
    """Whether the last document of shard `number` continues in the next shard."""
    return number + 1 < len(shards) and shards[number + 1].n_continued_tokens > 0


def _check_files(stream_uri: str, shard: Shard) -> None:
    """Check the size of the .bin file, and the checksums of the two others."""
    uri = storage.join(stream_uri, f"{shard.name}.bin")
    _check_equal(uri, "bytes", shard.n_bytes, storage.size(uri))
    for suffix, expected in (
        (".idx", shard.idx_sha256),
        (".documents.parquet", shard.documents_sha256),
    ):
        other = storage.join(stream_uri, f"{shard.name}{suffix}")
        _check_sha256(storage.read(other), expected, other)


def _check_block(
    tokens: np.ndarray, block: int, ends: np.ndarray, uri: str, manifest: Manifest
) -> None:
    """Check that ids are in the vocabulary, and that the documents that end in the block (`ends`:
    index of their last token in the shard) end with eos.
    """
    first = block * storage.BLOCK_BYTES // tokens.itemsize
    inside = ends[(ends >= first) & (ends < first + len(tokens))] - first
    n_eos = int((tokens[inside] == manifest.eos_id).sum())
    _check_equal(uri, f"documents of block {block} ending with eos", len(inside), n_eos)
    highest = int(tokens.max())
    if highest >= manifest.vocab_size:
        raise ArtefactCorrupt(
            f"{uri}: block {block} holds id {highest}, but the vocabulary has "
            f"{manifest.vocab_size:,} ids; {REMEDY}"
        )


def read_block(uri: str, shard: Shard, block: int) -> bytes:
    """Block `block` of the .bin file at `uri`, verified.

    A block with a wrong checksum is read once more, because bytes can be damaged in transit.
    """
    start = block * storage.BLOCK_BYTES
    end = min(start + storage.BLOCK_BYTES, shard.n_bytes)
    expected = shard.block_sha256[block]
    content = storage.read(uri, start, end)
    if hashlib.sha256(content).hexdigest() != expected:
        telemetry.emit("hormesis_storage_retries", 1, reason="checksum")
        content = storage.read(uri, start, end)
        storage.verify_block(content, expected, uri, block)
    return content


def read_index(stream_uri: str, shard: Shard, manifest: Manifest) -> ShardIndex:
    """The .idx file of `shard`, verified."""
    uri = storage.join(stream_uri, f"{shard.name}.idx")
    content = storage.read(uri)
    _check_sha256(content, shard.idx_sha256, uri)
    index = decode_index(content, uri)
    if index.dtype != manifest.dtype:
        raise ArtefactCorrupt(
            f"{uri}: tokens are {index.dtype}, the manifest says {manifest.dtype}; {REMEDY}"
        )
    n_pieces = shard.n_documents + bool(shard.n_continued_tokens)
    _check_equal(uri, "documents", n_pieces, len(index.lengths))
    if shard.n_continued_tokens:
        n_continued = int(index.lengths[0])
        _check_equal(uri, "continued tokens", shard.n_continued_tokens, n_continued)
    _check_equal(uri, "tokens", shard.n_tokens, int(index.lengths.sum()))
    return index


def _check_sha256(content: bytes, expected: str, uri: str) -> None:
    got = hashlib.sha256(content).hexdigest()
    if got != expected:
        raise ArtefactCorrupt(
            f"{uri}: has sha256 {got[:16]}…, the manifest says {expected[:16]}…; {REMEDY}"
        )


def _check_equal(uri: str, what: str, expected: int, got: int) -> None:
    if got != expected:
        raise ArtefactCorrupt(f"{uri}: {got:,} {what}, expected {expected:,}; {REMEDY}")
