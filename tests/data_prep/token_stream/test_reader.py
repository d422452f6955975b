"""Windows are read exactly, from any store, with as few requests as possible."""

import multiprocessing
import os
import pickle
import subprocess
import sys
import threading
import time
from concurrent.futures import wait
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from proxy import Fault, Proxy
from tiny_manifest import manifest_of

from data_prep.core import storage
from data_prep.core.errors import ArtefactCorrupt, ArtefactMissing
from data_prep.token_stream import megatron_shards, reader
from data_prep.token_stream.block_cache import BlockCache
from data_prep.token_stream.manifest import Manifest, Shard
from data_prep.token_stream.reader import SequenceReader

BLOCK_BYTES = 64
T = 4


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage, "BLOCK_BYTES", BLOCK_BYTES)


def write_stream(uri: str, n_tokens: tuple[int, ...]) -> Manifest:
    """A stream of the numbers 0, 1, 2, …, in shards of these lengths."""
    starts = np.concatenate([[0], np.cumsum(n_tokens)])
    table = pa.table({"row": [0]})
    train = tuple(
        megatron_shards.write_shard(
            uri,
            f"train-{n:05}",
            np.arange(starts[n], starts[n] + length, dtype=np.uint16),
            np.array([length]),
            table,
        )
        for n, length in enumerate(n_tokens)
    )
    return manifest_of(train, eos_id=0)


def windows_at(indices: np.ndarray, length: int = T) -> np.ndarray:
    return indices[:, None] * length + np.arange(length)


@settings(max_examples=60, deadline=None)
@given(
    n_tokens=st.lists(st.integers(1, 150), min_size=1, max_size=4).map(tuple),
    length=st.integers(1, 70),
    ahead=st.integers(0, 5),
    data=st.data(),
)
def test_reading_ahead_gives_the_same_windows_in_any_order(
    n_tokens: tuple[int, ...],
    length: int,
    ahead: int,
    data: Any,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    uri = str(tmp_path_factory.mktemp("stream"))
    known = write_stream(uri, n_tokens)
    sequences = SequenceReader(uri, known, "train", length, ahead=ahead)
    n = sequences.n_sequences
    assert n == sum(n_tokens) // length
    for _ in range(3):
        indices = np.array(
            data.draw(st.lists(st.integers(0, n - 1), max_size=20) if n else st.just([])),
            dtype=np.int64,
        )
        windows = sequences.read(indices)
        assert windows.dtype == np.int64 and np.array_equal(windows, windows_at(indices, length))


def test_blocks_are_prefetched_while_reading_on_not_after_a_jump(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = write_stream(str(tmp_path), (32 * 20,))
    read = megatron_shards.read_block
    fetched = list[int]()
    monkeypatch.setattr(
        megatron_shards,
        "read_block",
        lambda uri, shard, block: (fetched.append(block), read(uri, shard, block))[1],
    )
    sequences = SequenceReader(str(tmp_path), known, "train", 32, ahead=3)

    def fetched_for(index: int) -> list[int]:
        fetched.clear()
        sequences.read(np.array([index]))
        wait(sequences._blocks._in_memory.values())
        return sorted(fetched)

    assert fetched_for(0) == [0, 1, 2, 3]
    assert fetched_for(1) == [4]
    assert fetched_for(1) == []
    assert fetched_for(10) == [10]
    assert fetched_for(11) == [11, 12, 13, 14]
    assert fetched_for(5) == [5]
    assert fetched_for(19) == [19]


def test_a_bounded_number_of_blocks_is_in_memory(tmp_path: Path) -> None:
    sequences = SequenceReader(
        str(tmp_path), write_stream(str(tmp_path), (32 * 30,)), "train", 32, ahead=3
    )
    for index in range(30):
        sequences.read(np.array([index]))
        assert len(sequences._blocks._in_memory) <= 1 + 3 + reader.BEHIND_BLOCKS


def test_an_error_is_raised_when_its_block_is_read_and_not_before(
    tmp_path: Path,
) -> None:
    known = write_stream(str(tmp_path), (32 * 3, 32 * 2))
    (tmp_path / "train-00001.bin").unlink()
    sequences = SequenceReader(str(tmp_path), known, "train", 32, ahead=4)
    assert np.array_equal(sequences.read(np.arange(3)), windows_at(np.arange(3), 32))
    for _ in range(2):
        with pytest.raises(ArtefactMissing, match=r"train-00001\.bin"):
            sequences.read(np.array([3]))


def test_a_block_that_failed_is_fetched_again_on_the_next_read(tmp_path: Path) -> None:
    known = write_stream(str(tmp_path), (64,))
    whole = (tmp_path / "train-00000.bin").read_bytes()
    (tmp_path / "train-00000.bin").write_bytes(whole[:100])
    sequences = SequenceReader(str(tmp_path), known, "train", 32, ahead=2)
    with pytest.raises(ArtefactCorrupt, match="block 1"):
        sequences.read(np.array([1]))
    (tmp_path / "train-00000.bin").write_bytes(whole)
    assert np.array_equal(sequences.read(np.array([1])), windows_at(np.array([1]), 32))


def test_a_damaged_block_is_fetched_once_more_before_it_is_corrupt(
    proxy: Proxy, s3_server: str, tmp_path: Path
) -> None:
    uri = f"{s3_server}/{tmp_path.name}"
    known = write_stream(uri, (64,))
    proxy.inject(Fault("garbled", rate=1.0, limit=1))
    assert np.array_equal(
        SequenceReader(uri, known, "train", 32).read(np.arange(2)), windows_at(np.arange(2), 32)
    )
    assert proxy.injected["garbled"] == 1
    proxy.inject(Fault("garbled", rate=1.0))
    with pytest.raises(ArtefactCorrupt, match=r"train-00000\.bin: block 0"):
        SequenceReader(uri, known, "train", 32).read(np.arange(2))


def test_one_get_request_is_sent_per_block(proxy: Proxy, s3_server: str, tmp_path: Path) -> None:
    uri = f"{s3_server}/{tmp_path.name}"
    known = write_stream(uri, (32 * 10, 32 * 5 + 1))
    before = proxy.counts["GET"]
    sequences = SequenceReader(uri, known, "train", T, ahead=3)
    for start in range(0, sequences.n_sequences, 10):
        indices = np.random.default_rng(start).permutation(
            np.arange(start, min(start + 10, sequences.n_sequences))
        )
        assert np.array_equal(sequences.read(indices), windows_at(indices))
    assert proxy.counts["GET"] - before == 16


def read_as_rank(uri: str, sequences: SequenceReader, rank: int, n_ranks: int) -> None:
    """Read every window of this rank, scattered in small batches as a mixture does."""
    storage.BLOCK_BYTES = BLOCK_BYTES
    for start in range(0, sequences.n_sequences, 20):
        indices = np.random.default_rng(start).permutation(np.arange(start, start + 20))[
            rank::n_ranks
        ]
        assert np.array_equal(sequences.read(indices), windows_at(indices))


@pytest.mark.slow
def test_four_ranks_of_a_node_together_send_one_get_per_block(
    proxy: Proxy, s3_server: str, tmp_path: Path
) -> None:
    uri = f"{s3_server}/{tmp_path.name}"
    known = write_stream(uri, (32 * 12, 32 * 8))
    cache = BlockCache(str(tmp_path / "cache"), 1 << 20)
    sequences = SequenceReader(uri, known, "train", T, ahead=2, cache=cache)
    sequences.read(np.array([0]))  # its threads and client are not pickled
    before = proxy.counts["GET"] - 3
    context = multiprocessing.get_context("spawn")
    ranks = [
        context.Process(target=read_as_rank, args=(uri, sequences, rank, 4)) for rank in range(4)
    ]
    for rank in ranks:
        rank.start()
    for rank in ranks:
        rank.join(60)
    assert [rank.exitcode for rank in ranks] == [0] * 4
    assert proxy.counts["GET"] - before == 20


def test_a_pickled_reader_reads_the_same(tmp_path: Path) -> None:
    sequences = SequenceReader(
        str(tmp_path), write_stream(str(tmp_path), (200,)), "train", T, ahead=2
    )
    sequences.read(np.arange(10))
    again = pickle.loads(pickle.dumps(sequences))
    assert np.array_equal(again.read(np.arange(50)), windows_at(np.arange(50)))


def test_a_forked_child_does_not_wait_for_its_parents_threads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = write_stream(str(tmp_path), (32 * 6,))
    read = megatron_shards.read_block
    released = threading.Event()

    def slow(uri: str, shard: Shard, block: int) -> bytes:
        if block and not released.wait(0.001 if os.getpid() != parent else 30):
            assert os.getpid() != parent
        return read(uri, shard, block)

    parent = os.getpid()
    monkeypatch.setattr(megatron_shards, "read_block", slow)
    sequences = SequenceReader(str(tmp_path), known, "train", 32, ahead=3)
    sequences.read(np.array([0]))  # blocks 1 to 3 are being fetched, in threads that a child lacks
    child = multiprocessing.get_context("fork").Process(target=lambda: sequences.read(np.arange(6)))
    child.start()
    child.join(30)
    released.set()
    assert child.exitcode == 0


def test_a_process_with_blocks_being_fetched_exits_at_once(tmp_path: Path) -> None:
    program = (
        "import threading; from data_prep.core import background_thread; "
        "background_thread.in_background(lambda: threading.Event().wait(600), 'block'); "
        "raise SystemExit(7)"
    )
    start = time.monotonic()
    assert subprocess.run([sys.executable, "-c", program], timeout=60).returncode == 7
    assert time.monotonic() - start < 60


@pytest.mark.parametrize("kind", ["slow_down", "reset", "reset_in_body", "truncated", "short"])
def test_a_store_that_fails_often_changes_no_token(
    proxy: Proxy, s3_server: str, tmp_path: Path, kind: str
) -> None:
    uri = f"{s3_server}/{tmp_path.name}"
    known = write_stream(uri, (32 * 20,))
    proxy.inject(Fault(kind, rate=1.0, limit=4))
    sequences = SequenceReader(uri, known, "train", 32, ahead=4)
    assert np.array_equal(sequences.read(np.arange(20)), windows_at(np.arange(20), 32))
    assert proxy.injected[kind] == 4
