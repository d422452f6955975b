"""token stream → sequences: windows over the shards, through verified blocks fetched ahead

Training reads windows of T tokens from the shards laid end to end; documents cross windows, windows
never overlap:

    tokens    |  train-00000   |  train-00001   |  …        blocks of 8 MiB are fetched by range and checked against
    windows   |  0  |  1  |  2  |  3  |  4  |               the manifest before a token of theirs is used

A mixture reads either stream from first to last, so the blocks that come next are known: while
`ahead` is on, the next ones are under way, one thread each, as long as the reader reads on; after a
jump it waits for a second block in a row. A rank that uses r bytes per second of a store with
latency l needs ⌈r·l / 8 MiB⌉ + 1 ahead: one and one more at 400k tokens/s and 100 ms. We take
AHEAD_BLOCKS, which also hides a store that is silent for half a minute, and costs 8 MiB of memory
each.

Every block's sha256 is verified once in each process, in the thread that fetches it, wherever it
came from: store, local disk or the node's cache (block_cache.py). Local files are read, not mapped:
a map of a file that shrinks ends the process, and what was verified could change under it.
"""

import os
from concurrent.futures import Future
from functools import partial
from itertools import islice
from typing import Any

import numpy as np

from data_prep.core import storage
from data_prep.core.background import in_background
from data_prep.token_stream import megatron_shards
from data_prep.token_stream.block_cache import Cache
from data_prep.token_stream.manifest import Manifest, Split

AHEAD_BLOCKS = 4
BEHIND_BLOCKS = (
    2  # kept: windows cross into the next block, and rows of a batch are read in stream order
)


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
        cache: Cache | None = None,
    ) -> None:
        self._blocks = _Blocks(stream_uri, manifest, split, ahead, cache)
        self.sequence_length, self.dtype = sequence_length, self._blocks.dtype
        self.n_sequences = self._blocks.n_tokens // sequence_length

    def read(self, indices: np.ndarray, dtype: Any = np.int64) -> np.ndarray:
        """The windows `indices` [n] as [n, T], in the order asked; each block is fetched once, in
        stream order.
        """
        assert not len(indices) or (indices.min() >= 0 and indices.max() < self.n_sequences), (
            indices,
            self.n_sequences,
        )
        windows = np.empty(
            (len(indices), self.sequence_length), self._blocks.dtype
        )  # gathered narrow, widened at once: 2.5 × as fast
        order, row = np.argsort(indices, kind="stable"), 0
        ascending = indices[order]
        while row < len(order):
            block, first = self._blocks.at(int(ascending[row]) * self.sequence_length)
            n_whole = (len(block) - first) // self.sequence_length
            if n_whole:  # all windows that lie in this block at once
                n = int(np.searchsorted(ascending, ascending[row] + n_whole)) - row
                inside = block[first : first + n_whole * self.sequence_length].reshape(n_whole, -1)
                windows[order[row : row + n]] = inside[ascending[row : row + n] - ascending[row]]
                row += n
            else:
                self._blocks.copy(int(ascending[row]) * self.sequence_length, windows[order[row]])
                row += 1
        return windows.astype(dtype, copy=False)


def read_documents(
    stream_uri: str, manifest: Manifest, split: Split, limit: int
) -> list[np.ndarray]:
    """The ids (int64, without eos) of the first `limit` documents of a split, in stream order."""
    blocks, documents = _Blocks(stream_uri, manifest, split, ahead=0, cache=None), []
    start = 0
    for length in islice(megatron_shards.document_lengths(stream_uri, manifest, split), limit):
        ids = np.empty(length, dtype=np.int64)
        blocks.copy(start, ids)
        documents.append(ids[:-1])
        start += length
    return documents


class _Blocks:
    """The shards of a split laid end to end, block by block: numbered through, a few held, the next
    ones under way.
    """

    def __init__(
        self, stream_uri: str, manifest: Manifest, split: Split, ahead: int, cache: Cache | None
    ) -> None:
        self._uri, self._shards, self._ahead = stream_uri, manifest.shards(split), ahead
        self._cache = cache if storage.is_remote(stream_uri) else None
        self.dtype = np.dtype(manifest.dtype).newbyteorder("<")
        self._first_token = _running_sum([shard.n_tokens for shard in self._shards])
        self._first_block = _running_sum([len(shard.block_sha256) for shard in self._shards])
        self._held: dict[int, Future[np.ndarray]] = {}
        self._pid, self._last = 0, -1
        self.n_tokens = int(self._first_token[-1])

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_held": {}, "_pid": 0}

    def copy(self, start: int, into: np.ndarray) -> None:
        """Fill `into` with the tokens from `start` on."""
        done = 0
        while done < len(into):
            block, first = self.at(start + done)
            piece = block[first : first + len(into) - done]
            into[done : done + len(piece)] = piece
            done += len(piece)

    def at(self, token: int) -> tuple[np.ndarray, int]:
        """The verified block that holds `token`, a view of its bytes, and where in it."""
        shard = int(np.searchsorted(self._first_token, token, side="right")) - 1
        block, first = divmod(
            token - int(self._first_token[shard]), storage.BLOCK_BYTES // self.dtype.itemsize
        )
        return self._block(int(self._first_block[shard]) + block), first

    def _block(self, number: int) -> np.ndarray:
        if self._pid != os.getpid():  # forked: the threads that fetch stayed behind
            self._pid, self._last = os.getpid(), -1
            self._held.clear()
        if number != self._last:
            reads_on = self._last < 0 or 0 < number - self._last <= self._ahead + 1
            self._last = number
            self._start(number, number + self._ahead if reads_on else number)
        try:
            return self._held[number].result()
        except BaseException:
            del self._held[number]  # whoever asks again fetches again
            self._last = -1
            raise

    def _start(self, first: int, last: int) -> None:
        """Have these blocks under way, as far as there are any, and let go of all that are not
        near.
        """
        near = range(first - BEHIND_BLOCKS, first + self._ahead + 1)
        self._held = {number: block for number, block in self._held.items() if number in near}
        for number in range(first, min(last + 1, int(self._first_block[-1]))):
            if number not in self._held:
                self._held[number] = in_background(partial(self._fetch, number), "block")

    def _fetch(self, number: int) -> np.ndarray:
        which = int(np.searchsorted(self._first_block, number, side="right")) - 1
        shard, block = self._shards[which], number - int(self._first_block[which])
        uri = storage.join(self._uri, f"{shard.name}.bin")

        def fetch() -> bytes:
            return megatron_shards.read_block(uri, shard, block)

        n_bytes = min(storage.BLOCK_BYTES, shard.n_bytes - block * storage.BLOCK_BYTES)
        content = (
            self._cache.block(shard.block_sha256[block], n_bytes, fetch) if self._cache else fetch()
        )
        return np.frombuffer(content, self.dtype)


def _running_sum(counts: list[int]) -> np.ndarray:
    return np.concatenate([[0], np.cumsum(counts, dtype=np.int64)])
