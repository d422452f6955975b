"""Shards laid end to end are the sorted stream, whatever the sizes of its pieces."""

from collections.abc import Sequence
from itertools import count, pairwise
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_manifest import manifest_of

from data_prep.build import dedup, merge_shards, sorted_segments
from data_prep.build.merge_shards import KeyBuckets, SegmentInput
from data_prep.core import storage
from data_prep.token_stream import megatron_shards, reader

EOS = 9
HELD_OUT_RATIO = 0.25
HELD_OUT_BOUND = 2**64 // 4
FILES = ("alpha", "beta")
EXAMPLES = count()  # a folder each, in memory


class TinyDocument(NamedTuple):
    """A document whose tokens are its row's number, with eos at the end."""

    key: int
    row: int
    n_tokens: int
    is_duplicate: bool = False

    def tokens(self) -> list[int]:
        return [10 + self.row] * (self.n_tokens - 1) + [EOS]


def write_segment(uri: str, documents: Sequence[TinyDocument]) -> None:
    lengths = pa.array([document.n_tokens for document in documents], pa.int64())
    absent = pa.nulls(len(documents), pa.string())
    zeros = np.zeros(len(documents), np.int32)
    table = pa.table(
        {
            "key": pa.array([document.key for document in documents], pa.uint64()),
            "row": pa.array([document.row for document in documents], pa.int64()),
            "part": pa.array(zeros),
            "id": absent,
            "n_tokens": lengths,
            "n_bytes": lengths,
            "label": absent,
            "scores": pa.nulls(len(documents), pa.map_(pa.string(), pa.float32())),
            "masked": zeros.astype(bool),
            "annotated": zeros.astype(bool),
            "language_uncertain": zeros.astype(bool),
        }
    )
    tokens = np.concatenate([document.tokens() for document in documents]).astype("<u2")
    segment = sorted_segments.Segment(
        engine="tokenizers",
        last_row=documents[-1].row,
        last_part=0,
        n_documents=len(documents),
        n_tokens=len(tokens),
        n_text_bytes=0,
        n_hashes=0,
        drops={},
        samples=(),
        n_annotated=0,
    )
    sorted_segments.write(uri, sorted_segments.TokenizedDocuments(table, tokens), None, segment)


def write_duplicates(uri: str, documents: Sequence[TinyDocument]) -> pa.Table:
    """Write the list of a segment's duplicates; return its documents that are kept."""
    table = sorted_segments.read(uri, 0, 2**64, "uint16").table
    duplicate_rows = [document.row for document in documents if document.is_duplicate]
    is_duplicate = np.isin(table["row"].to_numpy(), duplicate_rows)
    positions = np.flatnonzero(is_duplicate)
    duplicates = pa.table(
        {
            "segment": pa.array(np.zeros(len(positions), np.int32)),
            "key": table["key"].take(pa.array(positions)),
            "position": pa.array(positions, pa.int32()),
        }
    )
    dedup.write_of_segment(duplicates, uri, 0, "duplicates")
    return table.filter(pa.array(~is_duplicate))


class Segmented(NamedTuple):
    """Documents written as segments: what merge needs, and what each split keeps."""

    inputs: list[SegmentInput]
    tokens_per_bucket: dict[str, np.ndarray]
    file_of_row: dict[int, str]


def write_segments(
    root: str, documents: list[TinyDocument], cuts: set[int], file_cut: int, n_buckets: int
) -> Segmented:
    bounds = sorted({0, len(documents), *(cut for cut in cuts if cut < len(documents))})
    buckets = [KeyBuckets(split, HELD_OUT_RATIO, n_buckets) for split in merge_shards.SPLITS]
    written = Segmented([], {of.split: np.zeros(n_buckets, np.int64) for of in buckets}, {})
    for number, (first, end) in enumerate(pairwise(bounds)):
        uri = storage.join(root, f"segment-{number:05}")
        inside = documents[first:end]
        write_segment(uri, inside)
        kept = write_duplicates(uri, inside)
        has_duplicates = any(document.is_duplicate for document in inside)
        file = FILES[first >= file_cut]
        written.inputs.append(SegmentInput(uri, file, "duplicates" if has_duplicates else None))
        written.file_of_row.update(dict.fromkeys(range(first, end), file))
        for of in buckets:
            written.tokens_per_bucket[of.split] += of.histogram(
                kept["key"].to_numpy(), kept["n_tokens"].to_numpy()
            )
    return written


keys = st.one_of(st.integers(0, 40), st.integers(0, 2**63 - 1)).map(lambda key: 2 * key)


@settings(max_examples=30, deadline=None)
@given(
    fields=st.lists(st.tuples(keys, st.integers(1, 30), st.booleans()), min_size=1, max_size=30),
    segment_cuts=st.sets(st.integers(1, 29), max_size=4),
    file_cut=st.integers(0, 30),
    shard_tokens=st.integers(3, 120),
    n_buckets=st.integers(1, 40),
)
def test_shards_laid_end_to_end_are_the_sorted_stream(
    fields: list[tuple[int, int, bool]],
    segment_cuts: set[int],
    file_cut: int,
    shard_tokens: int,
    n_buckets: int,
) -> None:
    root = f"memory://cuts/{next(EXAMPLES)}"
    documents = [TinyDocument(key, row, n, dup) for row, (key, n, dup) in enumerate(fields)]
    written = write_segments(root, documents, segment_cuts | {file_cut}, file_cut, n_buckets)
    kept = sorted(document for document in documents if not document.is_duplicate)
    for split in merge_shards.SPLITS:
        expected = [
            document
            for document in kept
            if (document.key < HELD_OUT_BOUND) == (split == "held_out")
        ]
        buckets = KeyBuckets(split, HELD_OUT_RATIO, n_buckets)
        plans = list(
            merge_shards.plan_shards(buckets, written.tokens_per_bucket[split], shard_tokens)
        )
        merged = [merge_shards.merge(plan, written.inputs, "uint16") for plan in plans]
        flat = [token for document in expected for token in document.tokens()]
        assert [shard.tokens.tolist() for shard in merged] == [
            flat[i : i + shard_tokens] for i in range(0, len(flat), shard_tokens)
        ]
        shards = tuple(
            megatron_shards.write_shard(root, plan.name, *shard)
            for plan, shard in zip(plans, merged, strict=True)
        )
        known = manifest_of(shards)
        megatron_shards.verify(root, known)
        assert [[*ids, EOS] for ids in reader.read_documents(root, known, "train", 100)] == [
            document.tokens() for document in expected
        ]
        provenance = [
            tuple(row.values())
            for shard in merged
            for row in shard.documents.select(["key", "row", "n_tokens", "uri"]).to_pylist()
        ]
        assert provenance == [
            (document.key, document.row, document.n_tokens, written.file_of_row[document.row])
            for document in expected
        ]


def test_a_shard_reads_at_most_two_buckets_more_than_it_writes() -> None:
    keys = np.random.default_rng(0).integers(2**62, 2**64, 4000, dtype=np.uint64)
    buckets = KeyBuckets("train", HELD_OUT_RATIO, 64 * 40)
    tokens_per_bucket = buckets.histogram(keys, np.full(4000, 10))
    assert tokens_per_bucket.sum() == 40_000
    for plan in merge_shards.plan_shards(buckets, tokens_per_bucket, 1000):
        is_read = (keys >= np.uint64(plan.low)) & (keys < np.uint64(min(plan.high, 2**64 - 1)))
        n_read = 10 * np.count_nonzero(is_read)
        assert plan.n_tokens == 1000
        assert plan.n_skipped + 1000 <= n_read <= 1000 + 2 * tokens_per_bucket.max()
