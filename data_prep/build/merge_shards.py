"""sorted documents → shards of exactly S tokens: which keys a shard needs, how many tokens to skip,
and the merge

Shard k of a split is tokens [k·S, (k+1)·S) of its stream, S = shard_tokens, the last one short; a
document goes on in the next shard. Which keys it needs comes from a histogram: the key space of the
split in equal buckets, and the tokens in each.

    tokens before a bucket   0      40     95     …      S = 64: shard 1 (64 … 128) needs the keys from bucket 1 on,
    buckets                  |  0   |  1   |  2   |      sorts their documents, and skips 24 tokens

The number of buckets changes how much more than a shard is read, never a byte of it.
"""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from data_prep.build import dedup, segments, tokenize_file
from data_prep.build.segments import column
from data_prep.config import DataConfig
from data_prep.token_stream import megatron_shards
from data_prep.token_stream.manifest import Split

if TYPE_CHECKING:
    import pyarrow

SPLITS: tuple[Split, ...] = ("train", "held_out")
BUCKETS_PER_SHARD = 64  # a shard's task reads up to two buckets more than it writes
MAX_BUCKETS = 1 << 16


class Cut(NamedTuple):
    """A shard to be: of the documents with keys in [low, high), in order, tokens [n_skipped,
    n_skipped + n_tokens).
    """

    name: str
    split: Split
    low: int
    high: int
    n_skipped: int
    n_tokens: int


class Run(NamedTuple):
    """A segment with documents, and what its file is called; `losers` names the list of those that
    go, if any do.
    """

    uri: str
    source_uri: str
    losers: str | None


class Merged(NamedTuple):
    """What shards.write_shard takes."""

    tokens: np.ndarray
    lengths: np.ndarray
    documents: "pyarrow.Table"
    n_continued_tokens: int


def _span(split: Split, config: DataConfig) -> tuple[int, int]:
    """The keys of a split: from the first value to before the second."""
    bound = tokenize_file.held_out_bound(config.held_out_ratio)
    return (0, bound) if split == "held_out" else (bound, tokenize_file.KEY_SPACE)


def edges_of(split: Split, n_buckets: int, config: DataConfig) -> list[int]:
    low, high = _span(split, config)
    return [low + i * (high - low) // n_buckets for i in range(n_buckets + 1)]


def n_buckets(n_tokens: int, config: DataConfig) -> int:
    return min(MAX_BUCKETS, BUCKETS_PER_SHARD * -(-max(n_tokens, 1) // config.shard_tokens))


def histogram(
    keys: np.ndarray, n_tokens: np.ndarray, split: Split, n_buckets: int, config: DataConfig
) -> np.ndarray:
    """Tokens in each bucket of the split, [n_buckets] int64."""
    edges = edges_of(split, n_buckets, config)
    inside = keys < np.uint64(edges[-1]) if split == "held_out" else keys >= np.uint64(edges[0])
    bucket = np.searchsorted(np.array(edges[1:-1], np.uint64), keys[inside], side="right")
    return np.bincount(bucket, weights=n_tokens[inside], minlength=n_buckets).astype(
        np.int64
    )  # exact below 2^53


def of_split(buckets: np.ndarray, split: Split, config: DataConfig) -> Iterator[Cut]:
    """The split's shards: `shard_tokens` each, the last one short."""
    edges, before = edges_of(split, len(buckets), config), np.concatenate([[0], np.cumsum(buckets)])
    n_tokens = int(before[-1])
    for number, start in enumerate(range(0, n_tokens, config.shard_tokens)):
        end = min(start + config.shard_tokens, n_tokens)
        first = int(np.searchsorted(before, start, side="right")) - 1
        last = int(np.searchsorted(before, end, side="left"))
        yield Cut(
            f"{split}-{number:05}",
            split,
            edges[first],
            edges[last],
            start - int(before[first]),
            end - start,
        )


def merged(cut: Cut, runs: Sequence[Run], dtype: megatron_shards.TokenDtype) -> Merged:
    """The cut's documents of all runs, by (key, place of the run, place in it), down to its tokens.

    Memory: the tokens of the keys it reads, twice, and where they are from.
    """
    import pyarrow as pa

    tables, pieces, stay = [], [], []
    for run in runs:
        documents = segments.read(run.uri, cut.low, cut.high, dtype)
        uris = pa.array([run.source_uri], pa.string()).take(
            pa.array(np.zeros(documents.table.num_rows, np.int64))
        )
        tables.append(documents.table.select(segments.PROVENANCE).add_column(1, "uri", uris))
        pieces.append(documents.tokens)
        gone = (
            dedup.are_in(run.uri, run.losers, cut.low, cut.high)
            if run.losers
            else np.empty(0, np.int32)
        )
        stay.append(~np.isin(column(documents.table, "at"), gone))
    table, tokens = pa.concat_tables(tables), np.concatenate(pieces).astype(dtype, copy=False)
    del tables, pieces
    lengths = column(table, "n_tokens")
    order = np.argsort(column(table, "key"), kind="stable")
    order = order[np.concatenate(stay)[order]]
    low, high, ends = cut.n_skipped, cut.n_skipped + cut.n_tokens, np.cumsum(lengths[order])
    inside = (ends > low) & (ends - lengths[order] < high)
    order, ends = order[inside], ends[inside]
    starts = ends - lengths[order]
    tokens = segments.permuted(tokens, lengths, order)[low - starts[0] : high - starts[0]]
    pieces = np.minimum(ends, high) - np.maximum(starts, low)
    assert pieces.sum() == len(tokens) == cut.n_tokens, (cut, len(tokens))
    begun = starts >= low
    return Merged(
        tokens,
        pieces,
        table.take(pa.array(order[begun])).combine_chunks(),
        0 if begun[0] else int(pieces[0]),
    )
