"""Megatron and we read each other's indexed datasets, beyond 2 GiB too."""

import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_manifest import manifest_of

from data_prep.core import storage
from data_prep.core.errors import ArtefactCorrupt
from data_prep.token_stream import megatron_shards, reader
from data_prep.token_stream.manifest import Manifest, Shard

indexed = pytest.importorskip("megatron.core.datasets.indexed_dataset")
torch = pytest.importorskip("torch")

DTYPES = pytest.mark.parametrize("dtype", ["uint16", "int32"])
EOS = 9


def manifest_for(folder: Path, dtype: megatron_shards.TokenDtype) -> Manifest:
    """A manifest for a `train-00000` that Megatron wrote."""
    content = (folder / "train-00000.bin").read_bytes()
    index = (folder / "train-00000.idx").read_bytes()
    lengths = megatron_shards.decode_index(index, "train-00000.idx").lengths
    shard = Shard(
        name="train-00000",
        n_tokens=len(content) // np.dtype(dtype).itemsize,
        n_documents=len(lengths),
        n_bytes=len(content),
        block_sha256=storage.block_sha256(content),
        idx_sha256=hashlib.sha256(index).hexdigest(),
        documents_sha256="",
    )
    return manifest_of((shard,), dtype=dtype)


def write_with_megatron(folder: Path, documents: list[list[list[int]]], dtype: str) -> None:
    """documents: each a list of sequences of ids."""
    builder = indexed.IndexedDatasetBuilder(
        str(folder / "train-00000.bin"), dtype=np.dtype(dtype).type
    )
    for document in documents:
        ids = torch.tensor([token for sequence in document for token in sequence])
        builder.add_document(ids, [len(sequence) for sequence in document])
    builder.finalize(str(folder / "train-00000.idx"))


def write_with_ours(folder: Path, documents: list[list[int]], dtype: str) -> Shard:
    tokens = np.array([token for document in documents for token in document], dtype)
    table = pa.table({"row": list(range(len(documents)))})
    return megatron_shards.write_shard(
        str(folder), "train-00000", tokens, np.array([len(d) for d in documents], np.int64), table
    )


dtypes_st = st.sampled_from(["uint16", "int32"])
ids_st = st.lists(st.integers(10, 59_999), max_size=6)


@settings(max_examples=40, deadline=None)
@given(
    documents=st.lists(st.lists(ids_st, min_size=1, max_size=3), min_size=1, max_size=5),
    dtype=dtypes_st,
)
def test_we_read_documents_of_several_sequences_by_megatron(
    documents: list[list[list[int]]],
    dtype: megatron_shards.TokenDtype,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    folder = tmp_path_factory.mktemp("theirs")
    joined = [
        [*(token for sequence in document for token in sequence), EOS] for document in documents
    ]
    write_with_megatron(folder, [[*document, [EOS]] for document in documents], dtype)
    known = manifest_for(folder, dtype)
    assert [ids.tolist() for ids in reader.read_documents(str(folder), known, "train", 100)] == [
        ids[:-1] for ids in joined
    ]
    windows = reader.SequenceReader(str(folder), known, "train", 1)
    assert windows.read(np.arange(windows.n_sequences)).reshape(-1).tolist() == [
        token for ids in joined for token in ids
    ]


@settings(max_examples=40, deadline=None)
@given(documents=st.lists(ids_st.filter(len), min_size=1, max_size=8), dtype=dtypes_st)
def test_megatron_reads_our_documents_memory_mapped_or_not(
    documents: list[list[int]], dtype: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("ours")
    write_with_ours(folder, documents, dtype)
    for mapped in (True, False):
        theirs = indexed.IndexedDataset(str(folder / "train-00000"), mmap=mapped)
        assert [theirs[i].tolist() for i in range(len(theirs))] == documents
        assert [theirs.get(i, offset=len(ids) - 1).tolist() for i, ids in enumerate(documents)] == [
            ids[-1:] for ids in documents
        ]
        assert theirs[0].dtype == dtype and theirs.document_indices.tolist() == list(
            range(len(documents) + 1)
        )


@DTYPES
def test_we_write_the_same_bytes_as_megatron(tmp_path: Path, dtype: str) -> None:
    documents = [[EOS], [10, 11, EOS], [59_999], [12] * 1000 + [EOS]]
    for name in ("ours", "theirs"):
        (tmp_path / name).mkdir()
    write_with_megatron(tmp_path / "theirs", [[document] for document in documents], dtype)
    write_with_ours(tmp_path / "ours", documents, dtype)
    for name in ("train-00000.bin", "train-00000.idx"):
        assert (tmp_path / "ours" / name).read_bytes() == (
            tmp_path / "theirs" / name
        ).read_bytes(), name


@DTYPES
def test_an_empty_document_by_megatron_has_no_tokens(
    tmp_path: Path, dtype: megatron_shards.TokenDtype
) -> None:
    builder = indexed.IndexedDatasetBuilder(
        str(tmp_path / "train-00000.bin"), dtype=np.dtype(dtype).type
    )
    builder.add_document(torch.tensor([10, EOS]), [2])
    builder.end_document()  # of no sequence
    builder.add_document(torch.tensor([], dtype=torch.int64), [0])  # of one, without tokens
    builder.add_document(torch.tensor([EOS]), [1])
    builder.finalize(str(tmp_path / "train-00000.idx"))
    index = megatron_shards.decode_index(
        (tmp_path / "train-00000.idx").read_bytes(), "train-00000.idx"
    )
    assert (index.dtype, index.lengths.tolist()) == (dtype, [2, 0, 0, 1])
    windows_of = reader.SequenceReader(str(tmp_path), manifest_for(tmp_path, dtype), "train", 3)
    assert windows_of.read(np.array([0])).tolist() == [[10, EOS, EOS]]


@DTYPES
def test_both_read_a_file_without_documents(
    tmp_path: Path, dtype: megatron_shards.TokenDtype
) -> None:
    for name in ("ours", "theirs"):
        (tmp_path / name).mkdir()
    write_with_ours(tmp_path / "ours", [], dtype)
    write_with_megatron(tmp_path / "theirs", [], dtype)
    ours, theirs = (
        (tmp_path / name / "train-00000.idx").read_bytes() for name in ("ours", "theirs")
    )
    assert ours == theirs
    known = manifest_for(tmp_path / "theirs", dtype)
    assert reader.read_documents(str(tmp_path / "theirs"), known, "train", 9) == []
    assert reader.SequenceReader(str(tmp_path / "theirs"), known, "train", 4).n_sequences == 0
    assert len(indexed.IndexedDataset(str(tmp_path / "ours" / "train-00000"), mmap=False)) == 0


BOUNDARY = 1 << 31  # bytes: where a signed 32-bit offset ends


@DTYPES
def test_documents_on_both_sides_of_two_gib_are_found(
    tmp_path: Path, dtype: megatron_shards.TokenDtype
) -> None:
    """A sparse file: zeros, then documents before, across and after the boundary."""
    itemsize = np.dtype(dtype).itemsize
    tail = [list(range(10, 18)), list(range(20, 30)), [31], list(range(40, 50))]
    # Tokens before the tail: its second document starts four tokens before the boundary.
    before = BOUNDARY // itemsize - 8 - 4
    documents = np.array([before - 7, 7, *(len(ids) for ids in tail)])
    content = np.concatenate([np.array(ids, dtype) for ids in tail]).tobytes()
    path = tmp_path / "train-00000.bin"
    uri = str(tmp_path)
    with path.open("wb") as file:
        file.seek(before * itemsize)
        file.write(content)
    n_bytes = path.stat().st_size
    assert n_bytes > BOUNDARY and path.stat().st_blocks * 512 < 1 << 20, (
        "the file system has no sparse files"
    )

    ours = megatron_shards.encode_index(documents, dtype)
    with indexed._IndexWriter(str(tmp_path / "theirs.idx"), np.dtype(dtype).type) as writer:
        writer.write(documents.tolist(), None, list(range(len(documents) + 1)))
    assert ours == (tmp_path / "theirs.idx").read_bytes()
    (tmp_path / "train-00000.idx").write_bytes(ours)
    theirs = indexed.IndexedDataset(str(tmp_path / "train-00000"))
    assert [theirs[i].tolist() for i in range(2, 6)] == tail
    assert theirs.index.sequence_pointers[3] < BOUNDARY < theirs.index.sequence_pointers[4]

    zeros = hashlib.sha256(bytes(storage.BLOCK_BYTES)).hexdigest()
    n_blocks = -(-n_bytes // storage.BLOCK_BYTES)
    last = (
        storage.read(
            f"{uri}/train-00000.bin", at * storage.BLOCK_BYTES, (at + 1) * storage.BLOCK_BYTES
        )
        for at in range(n_blocks - 2, n_blocks)
    )
    shard = Shard(
        name="train-00000",
        n_tokens=n_bytes // itemsize,
        n_documents=len(documents),
        n_bytes=n_bytes,
        block_sha256=(
            *[zeros] * (n_blocks - 2),
            *(hashlib.sha256(block).hexdigest() for block in last),
        ),
        idx_sha256=hashlib.sha256(ours).hexdigest(),
        documents_sha256="",
    )
    windows_of = reader.SequenceReader(uri, manifest_of((shard,), dtype=dtype), "train", 4)
    flat = [token for ids in tail for token in ids]
    first = before // 4
    windows = windows_of.read(np.arange(first, windows_of.n_sequences)).reshape(-1).tolist()
    assert before % 4 == 0 and windows == flat[: len(windows)] and len(flat) - len(windows) < 4
    assert windows_of.read(np.array([0, first - 1])).tolist() == [[0] * 4] * 2


@settings(max_examples=100, deadline=None)
@given(lengths=st.lists(st.integers(0, 2**31 - 1), max_size=20), dtype=dtypes_st)
def test_an_index_of_any_lengths_is_decoded_as_encoded(
    lengths: list[int], dtype: megatron_shards.TokenDtype
) -> None:
    index = megatron_shards.decode_index(
        megatron_shards.encode_index(np.array(lengths, np.int64), dtype), "x.idx"
    )
    assert (index.dtype, index.lengths.tolist()) == (dtype, lengths)


@pytest.mark.parametrize("flip", [0x80, 0x01])
def test_a_changed_index_is_refused_unless_it_is_still_valid(flip: int) -> None:
    whole = megatron_shards.encode_index(np.array([3, 0, 2]), "uint16")
    header = megatron_shards.HEADER.size
    # The last length can only be checked with the .bin file; other inner bounds make other
    # documents of the same sequences.
    last_length = range(header + 8, header + 12)
    inner_bounds = range(len(whole) - 24, len(whole) - 8)
    for at in range(len(whole)):
        content = bytearray(whole)
        content[at] ^= flip
        try:
            index = megatron_shards.decode_index(bytes(content), "x.idx")
        except ArtefactCorrupt as error:
            assert "x.idx" in str(error)
        else:
            assert at in (*last_length, *inner_bounds) and (index.lengths >= 0).all(), at


def test_an_index_that_is_cut_off_is_refused() -> None:
    whole = megatron_shards.encode_index(np.array([3, 0, 2]), "uint16")
    for length in range(len(whole)):
        with pytest.raises(ArtefactCorrupt, match=r"x\.idx"):
            megatron_shards.decode_index(whole[:length], "x.idx")


def test_an_index_of_another_token_type_than_the_manifest_is_refused(tmp_path: Path) -> None:
    shard = write_with_ours(tmp_path, [[10, EOS]], "int32")
    with pytest.raises(ArtefactCorrupt, match="tokens are int32, the manifest says uint16"):
        reader.read_documents(
            str(tmp_path), replace(manifest_of((shard,), dtype="int32"), dtype="uint16"), "train", 1
        )
