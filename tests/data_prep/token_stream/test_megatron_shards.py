"""Shards are read back exactly, damage is noticed, and Megatron opens them."""

import hashlib
from dataclasses import replace
from itertools import pairwise
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
from data_prep.token_stream.manifest import Shard
from data_prep.token_stream.reader import SequenceReader, read_documents

EOS = 9


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage, "BLOCK_BYTES", 16)


def write_documents(
    uri: str, documents: list[list[int]], name: str = "train-00000", dtype: str = "uint16"
) -> Shard:
    lengths = np.array([len(document) + 1 for document in documents], dtype=np.int64)
    tokens = np.array([token for document in documents for token in [*document, EOS]], dtype=dtype)
    return megatron_shards.write_shard(
        uri, name, tokens, lengths, pa.table({"row": list(range(len(documents)))})
    )


documents_st = st.lists(st.lists(st.integers(10, 59_999), max_size=12), min_size=1, max_size=12)


@settings(max_examples=40, deadline=None)
@given(
    documents=documents_st,
    cuts=st.sets(st.integers(1, 11)),
    length=st.integers(1, 9),
    dtype=st.sampled_from(["uint16", "int32"]),
)
def test_documents_are_read_back_whatever_their_lengths_and_shards(
    documents: list[list[int]],
    cuts: set[int],
    length: int,
    dtype: str,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    uri = str(tmp_path_factory.mktemp("stream"))
    edges = [0, *sorted(cut for cut in cuts if cut < len(documents)), len(documents)]
    written = tuple(
        write_documents(uri, documents[a:b], f"train-{i:05}", dtype)
        for i, (a, b) in enumerate(pairwise(edges))
    )
    manifest = manifest_of(written, dtype=dtype, vocab_size=70_000)
    flat = np.array([token for document in documents for token in [*document, EOS]])
    reader = SequenceReader(uri, manifest, "train", length)

    assert reader.n_sequences == len(flat) // length
    windows = reader.read(np.arange(reader.n_sequences)[::-1])
    assert windows.dtype == np.int64
    assert np.array_equal(windows[::-1].reshape(-1), flat[: reader.n_sequences * length])
    assert [ids.tolist() for ids in read_documents(uri, manifest, "train", 100)] == documents
    assert [ids.tolist() for ids in read_documents(uri, manifest, "train", 2)] == documents[:2]
    megatron_shards.verify(uri, manifest)


def write_pieces(uri: str, documents: list[list[int]], shard_tokens: int) -> tuple[Shard, ...]:
    """Write the documents in shards of exactly `shard_tokens`, which cut documents."""
    lengths = [len(document) + 1 for document in documents]
    flat = np.array([token for document in documents for token in [*document, EOS]], np.uint16)
    ends = np.cumsum(lengths)
    shards = []
    for number, start in enumerate(range(0, len(flat), shard_tokens)):
        end = min(start + shard_tokens, len(flat))
        bounds = [start, *ends[(ends > start) & (ends < end)].tolist(), end]
        begun = [
            row
            for row, (length, stop) in enumerate(zip(lengths, ends, strict=True))
            if start <= stop - length < end
        ]
        n_continued = 0 if start in [0, *ends] else bounds[1] - start
        table = pa.table({"row": pa.array(begun, pa.int64())})
        shards.append(
            megatron_shards.write_shard(
                uri, f"train-{number:05}", flat[start:end], np.diff(bounds), table, n_continued
            )
        )
    return tuple(shards)


@settings(max_examples=40, deadline=None)
@given(documents=documents_st, shard_tokens=st.integers(1, 40))
def test_documents_that_cross_shards_are_read_whole(
    documents: list[list[int]], shard_tokens: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    uri = str(tmp_path_factory.mktemp("stream"))
    manifest = manifest_of(write_pieces(uri, documents, shard_tokens))
    assert manifest.n_documents == len(documents)
    assert [ids.tolist() for ids in reader.read_documents(uri, manifest, "train", 100)] == documents
    assert [ids.tolist() for ids in reader.read_documents(uri, manifest, "train", 2)] == documents[
        :2
    ]
    megatron_shards.verify(uri, manifest)


def test_verify_knows_which_documents_continue_in_another_shard(tmp_path: Path) -> None:
    shards = write_pieces(str(tmp_path), [[10, 11, 12], [13, 14, 15]], 6)
    assert [(shard.n_documents, shard.n_continued_tokens) for shard in shards] == [(2, 0), (0, 2)]
    megatron_shards.verify(str(tmp_path), manifest_of(shards))
    with pytest.raises(
        ArtefactCorrupt,
        match=r"train-00000\.bin: 1 documents of block 0 ending with eos, expected 2",
    ):
        megatron_shards.verify(str(tmp_path), manifest_of(shards[:1]))
    wrong = replace(shards[1], n_continued_tokens=1)
    with pytest.raises(ArtefactCorrupt, match=r"train-00001\.idx: 2 continued tokens, expected 1"):
        megatron_shards.verify(str(tmp_path), manifest_of((shards[0], wrong)))
    with pytest.raises(ArtefactCorrupt, match=r"train-00001\.idx: 1 documents, expected 2"):
        megatron_shards.verify(
            str(tmp_path), manifest_of((shards[0], replace(shards[1], n_documents=1)))
        )


def test_megatron_reads_pieces_of_documents_as_sequences(tmp_path: Path) -> None:
    indexed = pytest.importorskip("megatron.core.datasets.indexed_dataset")
    write_pieces(str(tmp_path), [[10, 11, 12], [13, 14, 15]], 6)
    datasets = [indexed.IndexedDataset(str(tmp_path / f"train-0000{i}")) for i in range(2)]
    assert [dataset[i].tolist() for dataset in datasets for i in range(len(dataset))] == [
        [10, 11, 12, EOS],
        [13, 14],
        [15, EOS],
    ]


@pytest.mark.parametrize("suffix", [".bin", ".idx", ".documents.parquet"])
def test_a_flipped_byte_is_noticed_and_its_file_named(tmp_path: Path, suffix: str) -> None:
    manifest = manifest_of((write_documents(str(tmp_path), [list(range(10, 40))]),))
    path = tmp_path / f"train-00000{suffix}"
    content = bytearray(path.read_bytes())
    content[20] ^= 1
    path.write_bytes(content)
    with pytest.raises(ArtefactCorrupt, match=f"train-00000{suffix}"):
        megatron_shards.verify(str(tmp_path), manifest)


def test_only_windows_over_a_flipped_byte_are_refused(
    tmp_path: Path,
) -> None:
    manifest = manifest_of((write_documents(str(tmp_path), [list(range(10, 40))]),))
    path = tmp_path / "train-00000.bin"
    content = bytearray(path.read_bytes())
    content[20] ^= 1  # block 1 holds bytes 16 to 32, tokens 8 to 16
    path.write_bytes(content)
    reader = SequenceReader(str(tmp_path), manifest, "train", 4)
    assert reader.read(np.array([0, 1, 4])).tolist() == [
        [10, 11, 12, 13],
        [14, 15, 16, 17],
        [26, 27, 28, 29],
    ]
    with pytest.raises(ArtefactCorrupt, match=r"train-00000\.bin: block 1 \(bytes 16 to 32\)"):
        reader.read(np.array([2]))


def test_a_truncated_shard_is_corrupt(tmp_path: Path) -> None:
    manifest = manifest_of((write_documents(str(tmp_path), [list(range(10, 40))]),))
    path = tmp_path / "train-00000.bin"
    path.write_bytes(path.read_bytes()[:-2])
    with pytest.raises(ArtefactCorrupt, match="block 3"):
        SequenceReader(str(tmp_path), manifest, "train", 31).read(np.array([0]))
    with pytest.raises(ArtefactCorrupt, match="60 bytes, expected 62"):
        megatron_shards.verify(str(tmp_path), manifest)


def test_a_document_that_does_not_end_with_eos_is_noticed(tmp_path: Path) -> None:
    tokens = np.array([1, EOS, 2, 3], dtype=np.uint16)
    lengths = np.array([2, 2])
    shard = megatron_shards.write_shard(
        str(tmp_path), "train-00000", tokens, lengths, pa.table({"row": [0, 1]})
    )
    with pytest.raises(ArtefactCorrupt, match="1 documents of block 0 ending with eos, expected 2"):
        megatron_shards.verify(str(tmp_path), manifest_of((shard,)))


def test_each_block_is_fetched_once_for_a_batch_in_any_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = manifest_of((write_documents(str(tmp_path), [list(range(10, 200))]),))
    fetched = []
    whole_read = storage.read
    monkeypatch.setattr(
        storage,
        "read",
        lambda uri, start=None, end=None: fetched.append(start) or whole_read(uri, start, end),
    )
    reader = SequenceReader(str(tmp_path), manifest, "train", 4)
    reader.read(np.random.default_rng(0).permutation(reader.n_sequences))
    assert fetched == list(range(0, 2 * (reader.n_sequences * 4), 16))


@pytest.mark.parametrize("dtype", ["uint16", "int32"])
def test_megatron_opens_our_shards(tmp_path: Path, dtype: str) -> None:
    indexed = pytest.importorskip("megatron.core.datasets.indexed_dataset")
    documents = [[10, 11, 12], [], [13]]
    write_documents(str(tmp_path), documents, dtype=dtype)
    dataset = indexed.IndexedDataset(str(tmp_path / "train-00000"))
    assert dataset[0].dtype == dtype
    assert [dataset[i].tolist() for i in range(len(dataset))] == [
        [*document, EOS] for document in documents
    ]
    assert dataset.document_indices.tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("dtype", ["uint16", "int32"])
def test_we_open_megatrons_shards_and_write_the_same_bytes(tmp_path: Path, dtype: str) -> None:
    indexed = pytest.importorskip("megatron.core.datasets.indexed_dataset")
    torch = pytest.importorskip("torch")
    prefix = tmp_path / "theirs"
    builder = indexed.IndexedDatasetBuilder(f"{prefix}.bin", dtype=np.dtype(dtype).type)
    builder.add_document(torch.tensor([10, 11, EOS]), [3])
    builder.add_document(torch.tensor([EOS]), [1])
    builder.finalize(f"{prefix}.idx")
    content = Path(f"{prefix}.idx").read_bytes()
    index = megatron_shards.decode_index(content, "theirs.idx")
    assert (index.dtype, index.lengths.tolist()) == (dtype, [3, 1])

    write_documents(str(tmp_path), [[10, 11], []], "ours", dtype)
    assert (tmp_path / "ours.idx").read_bytes() == content
    assert (tmp_path / "ours.bin").read_bytes() == Path(f"{prefix}.bin").read_bytes()


def test_a_megatron_document_of_several_sequences_is_one_document(tmp_path: Path) -> None:
    indexed = pytest.importorskip("megatron.core.datasets.indexed_dataset")
    torch = pytest.importorskip("torch")
    builder = indexed.IndexedDatasetBuilder(str(tmp_path / "theirs.bin"), dtype=np.uint16)
    builder.add_document(torch.tensor([1, 2, 3, 4, 5]), [2, 3])
    builder.add_document(torch.tensor([6]), [1])
    builder.finalize(str(tmp_path / "theirs.idx"))
    assert megatron_shards.decode_index(
        (tmp_path / "theirs.idx").read_bytes(), "theirs.idx"
    ).lengths.tolist() == [5, 1]


def test_tokens_take_two_bytes_if_every_id_fits() -> None:
    assert [megatron_shards.dtype_for(n_ids) for n_ids in (257, 65_535, 65_536, 100_000)] == [
        "uint16",
        "uint16",
        "int32",
        "int32",
    ]


def test_a_file_that_is_not_an_index_is_named() -> None:
    with pytest.raises(ArtefactCorrupt, match=r"x\.idx: not a Megatron index"):
        megatron_shards.decode_index(b"not an index, but long enough to hold a header", "x.idx")
    with pytest.raises(ArtefactCorrupt, match=r"x\.idx: the file has 3 bytes"):
        megatron_shards.decode_index(b"abc", "x.idx")


def test_two_writes_of_the_same_documents_give_the_same_bytes(tmp_path: Path) -> None:
    first, second = (write_documents(str(tmp_path / name), [[10, 11], [12]]) for name in ("a", "b"))
    assert first == second
    digests = [
        {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in (tmp_path / name).iterdir()}
        for name in ("a", "b")
    ]
    assert digests[0] == digests[1] and len(digests[0]) == 3
