from itertools import count, pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_manifest import manifest_of

from data_prep.build import dedup, merge_shards, segments
from data_prep.config import DataConfig, TokenizerConfig
from data_prep.core import storage
from data_prep.token_stream import megatron_shards, reader

EOS = 9
NAMES = ("alpha", "beta")
EXAMPLES = count()  # a folder each, in memory


def config_of(shard_tokens: int) -> DataConfig:
    words = TokenizerConfig(source="train", vocab_size=260)
    return DataConfig(
        clean=("c",), toxic=("t",), tokenizer=words, held_out_ratio=0.25, shard_tokens=shard_tokens
    )


def write(uri: str, documents: list[tuple[int, int, int]]) -> None:
    """A segment of (key, row, tokens) documents whose tokens are their row's number."""
    keys = np.array([key for key, _, _ in documents], np.uint64)
    rows, lengths = (
        np.array(values, np.int64) for values in list(zip(*documents, strict=True))[1:]
    )
    nothing = pa.nulls(len(documents), pa.string())
    table = pa.table(
        {
            "key": pa.array(keys),
            "row": pa.array(rows),
            "part": pa.array(np.zeros(len(rows), np.int32)),
            "id": nothing,
            "n_tokens": pa.array(lengths),
            "n_bytes": pa.array(lengths),
            "label": nothing,
            "scores": pa.nulls(len(documents), pa.map_(pa.string(), pa.float32())),
            "masked": np.zeros(len(rows), bool),
            "annotated": np.zeros(len(rows), bool),
        }
    )
    tokens = np.concatenate(
        [
            np.append(np.full(n - 1, 10 + row, "<u2"), EOS)
            for row, n in zip(rows, lengths, strict=True)
        ]
    )
    made = segments.Segment(
        engine="tokenizers",
        last_row=int(rows[-1]),
        last_part=0,
        n_documents=len(rows),
        n_tokens=len(tokens),
        n_text_bytes=0,
        n_hashes=0,
        drops={},
        samples=(),
        n_annotated=0,
    )
    segments.write(uri, segments.Documents(table, tokens.astype("<u2")), None, made)


@settings(max_examples=30, deadline=None)
@given(
    documents=st.lists(
        st.tuples(
            st.one_of(st.integers(0, 40), st.integers(0, 2**63 - 1)),
            st.integers(1, 30),
            st.booleans(),
        ),
        min_size=1,
        max_size=30,
    ),
    segment_cuts=st.sets(st.integers(1, 29), max_size=4),
    file_cut=st.integers(0, 30),
    shard_tokens=st.integers(3, 120),
    n_buckets=st.integers(1, 40),
)
def test_shards_laid_end_to_end_are_the_sorted_stream_for_any_lengths_segments_buckets_and_size(
    documents: list[tuple[int, int, bool]],
    segment_cuts: set[int],
    file_cut: int,
    shard_tokens: int,
    n_buckets: int,
) -> None:
    root, config = f"memory://cuts/{next(EXAMPLES)}", config_of(shard_tokens)
    rows = [(2 * key, row, n) for row, (key, n, _) in enumerate(documents)]
    bounds = sorted({0, len(rows), *(cut for cut in segment_cuts | {file_cut} if cut < len(rows))})
    runs, buckets = [], {split: np.zeros(n_buckets, np.int64) for split in merge_shards.SPLITS}
    for number, (a, b) in enumerate(pairwise(bounds)):
        uri = storage.join(root, f"segment-{number:05}")
        write(uri, rows[a:b])
        goes = [
            (key, row - a)
            for (key, row, _), (_, _, lost) in zip(rows[a:b], documents[a:b], strict=True)
            if lost
        ]
        table = segments.read(uri, 0, 2**64, "uint16").table
        at = np.flatnonzero(np.isin(table["row"].to_numpy() - a, [row for _, row in goes]))
        lost = pa.table(
            {
                "segment": pa.array(np.zeros(len(at), np.int32)),
                "key": table["key"].take(pa.array(at)),
                "at": pa.array(at, pa.int32()),
            }
        )
        dedup.publish(lost, uri, 0, "losers")
        runs.append(merge_shards.Run(uri, NAMES[a >= file_cut], "losers" if goes else None))
        stays = ~np.isin(np.arange(table.num_rows), at)
        for split, counts in buckets.items():
            keys, n_tokens = table["key"].to_numpy()[stays], table["n_tokens"].to_numpy()[stays]
            counts += merge_shards.histogram(keys, n_tokens, split, n_buckets, config)

    staying = sorted(
        (key, row, n)
        for (key, row, n), (_, _, lost) in zip(rows, documents, strict=True)
        if not lost
    )
    bound = 2**64 // 4
    of_split = {
        "held_out": [d for d in staying if d[0] < bound],
        "train": [d for d in staying if d[0] >= bound],
    }
    for split in merge_shards.SPLITS:
        wanted = list(merge_shards.of_split(buckets[split], split, config))
        merged = [merge_shards.merged(cut, runs, "uint16") for cut in wanted]
        expected = [[10 + row] * (n - 1) + [EOS] for _, row, n in of_split[split]]
        flat = [token for tokens in expected for token in tokens]
        assert [one.tokens.tolist() for one in merged] == [
            flat[i : i + shard_tokens] for i in range(0, len(flat), shard_tokens)
        ]
        made = tuple(
            megatron_shards.write_shard(root, cut.name, *one)
            for cut, one in zip(wanted, merged, strict=True)
        )
        known = manifest_of(made)
        megatron_shards.verify(root, known)
        assert [[*ids, EOS] for ids in reader.read_documents(root, known, "train", 100)] == expected
        listed = [
            row
            for one in merged
            for row in one.documents.select(["key", "row", "n_tokens", "uri"]).to_pylist()
        ]
        assert [tuple(row.values()) for row in listed] == [
            (*d, NAMES[d[1] >= file_cut]) for d in of_split[split]
        ]


def test_a_shard_reads_at_most_two_buckets_more_than_it_writes(tmp_path: Path) -> None:
    config = config_of(1000)
    keys = np.random.default_rng(0).integers(2**62, 2**64, 4000, dtype=np.uint64)
    n = merge_shards.n_buckets(40_000, config)
    buckets = merge_shards.histogram(keys, np.full(4000, 10), "train", n, config)
    assert (n, buckets.sum()) == (64 * 40, 40_000)
    for cut in merge_shards.of_split(buckets, "train", config):
        read = 10 * np.count_nonzero(
            (keys >= np.uint64(cut.low)) & (keys < np.uint64(min(cut.high, 2**64 - 1)))
        )
        assert (
            cut.n_tokens == 1000
            and cut.n_skipped + cut.n_tokens <= read <= 1000 + 2 * buckets.max()
        )
