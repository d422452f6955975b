"""sorted segments → shards of exactly S tokens: count by key, plan the shards, merge

Shard k of a split is tokens [k·S, (k+1)·S) of its stream, S = data.shard_tokens; the last one is
shorter. A document may continue in the next shard. Which keys a shard needs follows from a
histogram of the split: its keys in equal buckets, and the tokens in each.

    tokens before a bucket   0      40     95     …      S = 64: shard 1 (64 … 128) needs the keys
    buckets                  |  0   |  1   |  2   |      from bucket 1 on, sorts their documents,
                                                         and skips 24 tokens

The number of buckets changes how much more is read than a shard needs, never a byte of it.
"""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from data_prep.build import dedup, sorted_segments, tokenize_file
from data_prep.build.sorted_segments import column
from data_prep.build.tokenize_file import BuildInput
from data_prep.cleaning.dropped_samples import DropCounter, DroppedDocument
from data_prep.config import MAX_SHARDS, DataConfig, too_many_shards
from data_prep.core import storage
from data_prep.core.records import digest
from data_prep.token_stream import megatron_shards, shuffle_key
from data_prep.token_stream.manifest import Shard, Split
from data_prep.token_stream.megatron_shards import TokenDtype

if TYPE_CHECKING:
    import pyarrow

SPLITS: tuple[Split, ...] = ("train", "held_out")
BUCKETS_PER_SHARD = 64  # a shard's task reads up to two buckets more than it writes
MAX_BUCKETS = 1 << 16


class KeyBuckets(NamedTuple):
    """The keys of a split in `n` equal ranges."""

    split: Split
    held_out_ratio: float
    n: int

    def edges(self) -> list[int]:
        """The n + 1 bounds of the buckets."""
        low, high = shuffle_key.key_range(self.split, self.held_out_ratio)
        return [low + i * (high - low) // self.n for i in range(self.n + 1)]

    def histogram(self, keys: np.ndarray, n_tokens: np.ndarray) -> np.ndarray:
        """Tokens per bucket, [n] int64, of the documents that are in the split."""
        edges = self.edges()
        if self.split == "held_out":
            inside = keys < np.uint64(edges[-1])
        else:
            inside = keys >= np.uint64(edges[0])
        bucket = np.searchsorted(np.array(edges[1:-1], np.uint64), keys[inside], side="right")
        counts = np.bincount(bucket, weights=n_tokens[inside], minlength=self.n)
        return counts.astype(np.int64)  # floats are exact below 2^53


class FileDuplicates(NamedTuple):
    """Where the duplicates of a build are: the files of dedup.find_duplicates, and the name of the
    lists beside the segments.
    """

    uris: tuple[str, ...]
    name: str


class KeptDocuments(NamedTuple):
    """What is kept of the input file `uri` when its duplicates are dropped."""

    uri: str
    n_documents: int
    n_tokens: int
    n_text_bytes: int
    drops: dict[str, int]
    samples: tuple[DroppedDocument, ...]
    segments_with_duplicates: tuple[int, ...]
    tokens_per_bucket: dict[Split, np.ndarray]


class ShardPlan(NamedTuple):
    """A shard to write: of the documents with keys in [low, high), in order, tokens [n_skipped,
    n_skipped + n_tokens).
    """

    name: str
    split: Split
    low: int
    high: int
    n_skipped: int
    n_tokens: int


class SegmentInput(NamedTuple):
    """A segment to merge, and the URI of its input file; `duplicates` is the name of the list of
    documents to leave out, if there are any.
    """

    uri: str
    source_uri: str
    duplicates: str | None
    n_hashes: int = 0


class MergedShard(NamedTuple):
    """The arguments of megatron_shards.write_shard."""

    tokens: np.ndarray
    lengths: np.ndarray
    documents: "pyarrow.Table"
    n_continued_tokens: int


def buckets_for(inputs: Sequence[BuildInput], config: DataConfig) -> list[KeyBuckets]:
    """The buckets of each split, BUCKETS_PER_SHARD if nothing were dropped as a duplicate."""
    n_tokens = sum(file.tokenized.n_tokens for file in inputs)
    n_shards = -(-max(n_tokens, 1) // config.shard_tokens)
    if n_shards > MAX_SHARDS:
        raise too_many_shards(n_tokens, config.shard_tokens)
    n = min(MAX_BUCKETS, BUCKETS_PER_SHARD * n_shards)
    return [KeyBuckets(split, config.held_out_ratio, n) for split in SPLITS]


def segments_to_merge(
    inputs: Sequence[BuildInput], duplicates: FileDuplicates, kept: Sequence[KeptDocuments]
) -> list[SegmentInput]:
    """The segments that have documents, in the order of tokenize_file.by_content."""
    with_duplicates = {counts.uri: counts.segments_with_duplicates for counts in kept}
    return [
        SegmentInput(
            sorted_segments.uri_of(file.tokenized_uri, number),
            file.uri,
            duplicates.name if number in with_duplicates[file.uri] else None,
            segment.n_hashes,
        )
        for file in tokenize_file.by_content(inputs)
        for number, segment in enumerate(file.tokenized.segments)
        if segment.n_documents
    ]


def count_kept(
    file: BuildInput, number: int, duplicates: FileDuplicates, buckets: Sequence[KeyBuckets]
) -> KeptDocuments:
    """Count what is kept of file `number`; publish the list of duplicates beside each segment that
    has any.
    """
    file_duplicates = dedup.of_file(duplicates.uris, number) if duplicates.uris else None
    drops = DropCounter()
    with_duplicates = list[int]()
    n_documents = n_tokens = n_text_bytes = 0
    tokens_per_bucket: dict[Split, np.ndarray] = {
        split_buckets.split: np.zeros(split_buckets.n, np.int64) for split_buckets in buckets
    }
    for i, segment in enumerate(file.tokenized.segments):
        if not segment.n_documents:
            continue
        uri = sorted_segments.uri_of(file.tokenized_uri, i)
        names = ["position", "row", "part", "n_tokens", "n_bytes"]
        everything = (0, shuffle_key.KEY_SPACE)
        table = sorted_segments.read_range(f"{uri}.documents.parquet", *everything, names)
        is_kept = np.ones(table.num_rows, bool)
        if file_duplicates is not None and (column(file_duplicates, "segment") == i).any():
            dedup.write_of_segment(file_duplicates, uri, i, duplicates.name)
            with_duplicates.append(i)
            for drop in _duplicates_of_segment(file_duplicates, i, table):
                is_kept[drop.position] = False
                drops.add(drop.reason, drop.row, drop.part, "")
        keys = column(table, "key")[is_kept]
        lengths = column(table, "n_tokens")[is_kept]
        n_documents += len(keys)
        n_tokens += int(lengths.sum())
        n_text_bytes += int(column(table, "n_bytes")[is_kept].sum())
        for split_buckets in buckets:
            tokens_per_bucket[split_buckets.split] += split_buckets.histogram(keys, lengths)
    return KeptDocuments(
        file.uri,
        n_documents,
        n_tokens,
        n_text_bytes,
        dict(drops.counts),
        tuple(drops.samples),
        tuple(with_duplicates),
        tokens_per_bucket,
    )


class _Duplicate(NamedTuple):
    row: int
    part: int
    reason: str
    position: int  # in its segment


def _duplicates_of_segment(
    file_duplicates: "pyarrow.Table", number: int, table: "pyarrow.Table"
) -> list[_Duplicate]:
    """The duplicates in segment `number`, in the order of the input file.

    file_duplicates: those of the whole file (dedup.of_file). table: the documents of the segment.
    """
    of_segment = np.flatnonzero(column(file_duplicates, "segment") == number)
    positions = column(file_duplicates, "position")[of_segment]
    columns = (
        column(table, "row")[positions],
        column(table, "part")[positions],
        np.array(dedup.REASONS)[column(file_duplicates, "reason")[of_segment]],
        positions,
    )
    return sorted(map(_Duplicate._make, zip(*(c.tolist() for c in columns), strict=True)))


def plan_shards(
    buckets: KeyBuckets, tokens_per_bucket: np.ndarray, shard_tokens: int
) -> Iterator[ShardPlan]:
    """The shards of a split: `shard_tokens` each, the last one shorter."""
    edges = buckets.edges()
    n_before = np.concatenate([[0], np.cumsum(tokens_per_bucket)])
    n_tokens = int(n_before[-1])
    for number, start in enumerate(range(0, n_tokens, shard_tokens)):
        end = min(start + shard_tokens, n_tokens)
        first = int(np.searchsorted(n_before, start, side="right")) - 1
        last = int(np.searchsorted(n_before, end, side="left"))
        yield ShardPlan(
            f"{buckets.split}-{number:05}",
            buckets.split,
            edges[first],
            edges[last],
            start - int(n_before[first]),
            end - start,
        )


def write_shard(
    plan: ShardPlan,
    inputs: Sequence[SegmentInput],
    inputs_digest: str,
    dtype: TokenDtype,
    stream_uri: str,
    records_uri: str,
) -> Shard:
    """Publish one shard, unless its record in the folder `records_uri` says that it is done."""
    name = f"{plan.name}-{digest(inputs_digest, plan.low, plan.high, plan.n_skipped)}.json"
    return megatron_shards.write_once(
        stream_uri,
        storage.join(records_uri, name),
        lambda: megatron_shards.write_shard(stream_uri, plan.name, *merge(plan, inputs, dtype)),
    )


def merge(plan: ShardPlan, inputs: Sequence[SegmentInput], dtype: TokenDtype) -> MergedShard:
    """The documents of the shard from all segments, cut down to its tokens.

    They are in order of (key, order of the segments, position). Memory: the tokens of the keys that
    are read, twice, and the provenance of their documents.
    """
    import pyarrow as pa

    table, tokens, is_kept = _read_segments(plan, inputs, dtype)
    lengths = column(table, "n_tokens")
    order = np.argsort(column(table, "key"), kind="stable")
    order = order[is_kept[order]]
    # The shard is tokens [low, high) of the documents in this order; a document is in it if its
    # tokens [start, end) overlap.
    low, high = plan.n_skipped, plan.n_skipped + plan.n_tokens
    ends = np.cumsum(lengths[order])
    inside = (ends > low) & (ends - lengths[order] < high)
    order = order[inside]
    ends = ends[inside]
    starts = ends - lengths[order]
    tokens = sorted_segments.permute_documents(tokens, lengths, order)[
        low - starts[0] : high - starts[0]
    ]
    lengths_inside = np.minimum(ends, high) - np.maximum(starts, low)
    assert lengths_inside.sum() == len(tokens) == plan.n_tokens, (plan, len(tokens))
    begins_here = starts >= low
    return MergedShard(
        tokens,
        lengths_inside,
        table.take(pa.array(order[begins_here])).combine_chunks(),
        0 if begins_here[0] else int(lengths_inside[0]),
    )


class _SegmentRows(NamedTuple):
    table: "pyarrow.Table"
    tokens: np.ndarray
    is_kept: np.ndarray  # [documents] bool: not a duplicate


def _read_segments(
    plan: ShardPlan, inputs: Sequence[SegmentInput], dtype: TokenDtype
) -> _SegmentRows:
    """The documents of all segments with keys in the plan's range, segment after segment."""
    import pyarrow as pa

    tables = []
    tokens = []
    is_kept = []
    for segment in inputs:
        documents = sorted_segments.read(segment.uri, plan.low, plan.high, dtype)
        zeros = pa.array(np.zeros(documents.table.num_rows, np.int64))
        uris = pa.array([segment.source_uri], pa.string()).take(zeros)
        tables.append(documents.table.select(sorted_segments.PROVENANCE).add_column(1, "uri", uris))
        tokens.append(documents.tokens)
        positions = column(documents.table, "position")
        if segment.duplicates:
            dropped = dedup.read_of_segment(segment.uri, segment.duplicates, plan.low, plan.high)
            is_kept.append(~np.isin(positions, dropped))
        else:
            is_kept.append(np.ones(len(positions), bool))
    joined_tokens = np.concatenate(tokens).astype(dtype, copy=False)
    return _SegmentRows(pa.concat_tables(tables), joined_tokens, np.concatenate(is_kept))
