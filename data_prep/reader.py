"""token stream → sequences: windows over the shards, through verified blocks

Training reads windows of T tokens from the shards laid end to end; documents cross windows, windows never overlap:

    tokens    |  train-00000   |  train-00001   |  …        blocks of 8 MiB are fetched by range and checked against
    windows   |  0  |  1  |  2  |  3  |  4  |               the manifest before a token of theirs is used
"""

from collections import OrderedDict
from collections.abc import Iterator

import numpy as np

from data_prep import shards, storage
from data_prep.manifest import Manifest, Split

CACHED_BLOCKS = 4  # a batch is read in stream order, so each block is needed once or in a row


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
    for shard in manifest.shards(split):
        for length in shards.read_index(stream_uri, shard, manifest).lengths:
            if len(documents) == limit:
                return documents
            ids = np.empty(int(length), dtype=np.int64)
            tokens.copy(start, ids)
            documents.append(ids[:-1])
            start += int(length)
    return documents


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
            content = shards.read_block(uri, shard, block)
            while len(self._blocks) >= self._capacity:
                self._blocks.popitem(last=False)
            self._blocks[key] = np.frombuffer(content, self._dtype)
        self._blocks.move_to_end(key)
        return self._blocks[key]
