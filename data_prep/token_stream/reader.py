"""read a token stream as windows of T tokens, in blocks that are verified and prefetched

Training reads windows of T tokens from the shards laid end to end. Documents cross windows; windows
do not overlap:

    tokens    |  train-00000   |  train-00001   |  …        blocks of 8 MiB are fetched by range and
    windows   |  0  |  1  |  2  |  3  |  4  |               verified before a token of them is used

A mixture reads each stream from first to last, so the next blocks are known. While the reader
reads on, the next `ahead` blocks are being fetched, one thread each; after a jump it waits for a
second block in a row. A rank that reads r bytes per second from a store with latency l needs
⌈r·l / 8 MiB⌉ + 1 blocks ahead: 2 at 400k tokens per second and 100 ms. AHEAD_BLOCKS also hides a
store that does not respond for half a minute, and costs 8 MiB of memory per block.

The sha256 of each block is verified once per process, in the thread that fetches it, whatever its
origin: the store, a local disk or the node's cache (block_cache.py). Local files are read, not
memory-mapped: a map of a file that shrinks kills the process, and verified bytes could change.
"""

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from functools import partial
from itertools import islice
from typing import Any, NamedTuple

import numpy as np

from data_prep.core import storage
from data_prep.core.background_thread import in_background
from data_prep.token_stream import megatron_shards
from data_prep.token_stream.block_cache import BlockCache
from data_prep.token_stream.manifest import Manifest, Shard, Split

AHEAD_BLOCKS = 4
# Blocks kept behind the current one: windows cross into the next block, and the rows of a batch are
# read in stream order.
BEHIND_BLOCKS = 2


class SequenceReader:
    """Windows of `sequence_length` tokens of one split; window i is tokens [i·T, (i+1)·T) of its
    shards laid end to end.

    It can be pickled and forked: another process fetches its own blocks, with its own client.
    """

    def __init__(
        self,
        stream_uri: str,
        manifest: Manifest,
        split: Split,
        sequence_length: int,
        *,
        ahead: int = 0,
        cache: BlockCache | None = None,
    ) -> None:
        """ahead: blocks to prefetch. cache: shared by the processes of a node; used for a remote
        stream only.
        """
        self._blocks = _Blocks(stream_uri, manifest, split, ahead, cache)
        self.sequence_length = sequence_length
        self.dtype = self._blocks.dtype
        self.n_sequences = self._blocks.n_tokens // sequence_length

    def read(self, indices: np.ndarray, dtype: Any = np.int64) -> np.ndarray:
        """The windows `indices` [n] as [n, T], in the order given; each block is fetched once, in
        stream order.
        """
        length = self.sequence_length
        assert not len(indices) or (indices.min() >= 0 and indices.max() < self.n_sequences), (
            indices,
            self.n_sequences,
        )
        # Gathered in the stored type and widened at once, which is 2.5 times as fast.
        windows = np.empty((len(indices), length), self._blocks.dtype)
        order = np.argsort(indices, kind="stable")
        ascending = indices[order]
        row = 0
        while row < len(order):
            first_token = int(ascending[row]) * length
            block, offset = self._blocks.locate(first_token)
            n_whole = (len(block) - offset) // length
            if n_whole:  # all windows that lie within this block at once
                n = int(np.searchsorted(ascending, ascending[row] + n_whole)) - row
                in_block = block[offset : offset + n_whole * length].reshape(n_whole, -1)
                windows[order[row : row + n]] = in_block[ascending[row : row + n] - ascending[row]]
                row += n
            else:
                self._blocks.copy(first_token, windows[order[row]])
                row += 1
        return windows.astype(dtype, copy=False)


def read_documents(
    stream_uri: str, manifest: Manifest, split: Split, limit: int
) -> list[np.ndarray]:
    """The ids (int64, without eos) of the first `limit` documents of a split, in stream order."""
    blocks = _Blocks(stream_uri, manifest, split, ahead=0, cache=None)
    documents = []
    start = 0
    for length in islice(megatron_shards.document_lengths(stream_uri, manifest, split), limit):
        ids = np.empty(length, dtype=np.int64)
        blocks.copy(start, ids)
        documents.append(ids[:-1])
        start += length
    return documents


def documents_of_shard(
    stream_uri: str, manifest: Manifest, split: Split, number: int
) -> Iterator[np.ndarray]:
    """The ids (without eos) of each document that begins in shard `number`, in stream order; the
    last one is whole, even if it ends in another shard.
    """
    shards = manifest.shards(split)
    shard = shards[number]
    lengths = megatron_shards.read_index(stream_uri, shard, manifest).lengths.tolist()
    if shard.n_continued_tokens:
        del lengths[0]
    if lengths:
        lengths[-1] += _n_continued(shards[number + 1 :])
    blocks = _Blocks(stream_uri, manifest, split, ahead=1, cache=None)
    start = sum(before.n_tokens for before in shards[:number]) + shard.n_continued_tokens
    for length in lengths:
        ids = np.empty(length, dtype=blocks.dtype)
        blocks.copy(start, ids)
        yield ids[:-1]
        start += length


def _n_continued(following: Sequence[Shard]) -> int:
    """Tokens of the last document of a shard that lie in the shards behind it."""
    n = 0
    for shard in following:
        n += shard.n_continued_tokens
        if shard.n_continued_tokens < shard.n_tokens:
            break
    return n


class _Located(NamedTuple):
    """A verified block, as a view of its bytes, and the offset of a token in it."""

    block: np.ndarray
    offset: int


class _Blocks:
    """The blocks of a split, numbered across its shards: a few in memory, the next ones being
    fetched.
    """

    def __init__(
        self,
        stream_uri: str,
        manifest: Manifest,
        split: Split,
        ahead: int,
        cache: BlockCache | None,
    ) -> None:
        self._uri = stream_uri
        self._shards = manifest.shards(split)
        self._ahead = ahead
        self._cache = cache if storage.is_remote(stream_uri) else None
        self.dtype = np.dtype(manifest.dtype).newbyteorder("<")
        self._first_token = _running_sum([shard.n_tokens for shard in self._shards])
        self._first_block = _running_sum([len(shard.block_sha256) for shard in self._shards])
        self._in_memory: dict[int, Future[np.ndarray]] = {}
        self._pid = 0
        self._last = -1  # the last block that was read
        self.n_tokens = int(self._first_token[-1])

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_in_memory": {}, "_pid": 0}

    def copy(self, start: int, into: np.ndarray) -> None:
        """Fill `into` with the tokens from `start` on."""
        n_done = 0
        while n_done < len(into):
            block, offset = self.locate(start + n_done)
            piece = block[offset : offset + len(into) - n_done]
            into[n_done : n_done + len(piece)] = piece
            n_done += len(piece)

    def locate(self, token: int) -> _Located:
        """The block that holds `token`, and where in it."""
        shard = int(np.searchsorted(self._first_token, token, side="right")) - 1
        in_shard = token - int(self._first_token[shard])
        block, offset = divmod(in_shard, storage.BLOCK_BYTES // self.dtype.itemsize)
        return _Located(self._block(int(self._first_block[shard]) + block), offset)

    def _block(self, number: int) -> np.ndarray:
        if self._pid != os.getpid():  # after a fork the fetching threads exist in the parent only
            self._pid = os.getpid()
            self._last = -1
            self._in_memory.clear()
        if number != self._last:
            reads_on = self._last < 0 or 0 < number - self._last <= self._ahead + 1
            self._last = number
            self._prefetch(number, number + self._ahead if reads_on else number)
        try:
            return self._in_memory[number].result()
        except BaseException:
            del self._in_memory[number]  # so that the next call fetches it again
            self._last = -1
            raise

    def _prefetch(self, first: int, last: int) -> None:
        """Fetch blocks first … last in the background, as far as they exist, and release those that
        are not near.
        """
        near = range(first - BEHIND_BLOCKS, first + self._ahead + 1)
        self._in_memory = {
            number: block for number, block in self._in_memory.items() if number in near
        }
        for number in range(first, min(last + 1, int(self._first_block[-1]))):
            if number not in self._in_memory:
                self._in_memory[number] = in_background(partial(self._fetch, number), "block")

    def _fetch(self, number: int) -> np.ndarray:
        shard_number = int(np.searchsorted(self._first_block, number, side="right")) - 1
        shard = self._shards[shard_number]
        block = number - int(self._first_block[shard_number])
        uri = storage.join(self._uri, f"{shard.name}.bin")
        fetch = partial(megatron_shards.read_block, uri, shard, block)
        if self._cache is None:
            return np.frombuffer(fetch(), self.dtype)
        n_bytes = min(storage.BLOCK_BYTES, shard.n_bytes - block * storage.BLOCK_BYTES)
        content = self._cache.block(shard.block_sha256[block], n_bytes, fetch)
        return np.frombuffer(content, self.dtype)


def _running_sum(counts: list[int]) -> np.ndarray:
    return np.concatenate([[0], np.cumsum(counts, dtype=np.int64)])
