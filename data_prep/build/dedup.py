"""between the passes: which documents are copies of another, found by ranges of hashes in bounded
memory

    segments' hashes, each sorted   ──a range of hashes, a task──▶   losers-00000.parquet   unit, segment, at, key, near
                                    ──a unit, a task────────────▶   segment-00000.losers.parquet beside the segment

Of the documents that share a hash the first in the stream's order stays. A document is named by
unit, segment and place; the order of units is that of their input's sha256, so nothing depends on
who did what. Near duplicates share one of several hashes: whoever comes after another in any of
those groups goes, so a chain loses all but its first and what only a loser resembles; a global
search for whole groups would need all hashes in one memory.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from data_prep.build import duplicates, segments
from data_prep.build.segments import column
from data_prep.core import storage
from data_prep.token_stream import megatron_shards

if TYPE_CHECKING:
    import pyarrow

HASHES_PER_TASK = 8 << 20  # 30 bytes each, and as much again while they are sorted
HASH_SPACE = 1 << 64


class Place(NamedTuple):
    """Where a unit is, and how many segments it has."""

    uri: str
    n_segments: int


def ranges(n_hashes: int) -> list[tuple[int, int]]:
    """Equal ranges of hashes, so many that each holds about HASHES_PER_TASK."""
    n = max(1, -(-n_hashes // HASHES_PER_TASK))
    return [(i * HASH_SPACE // n, (i + 1) * HASH_SPACE // n) for i in range(n)]


def find(places: Sequence[Place], low: int, high: int, uri: str) -> None:
    """Publish at `uri` the documents that lose by a hash in [low, high); nothing to do if it is
    there.
    """
    import pyarrow as pa

    if storage.exists(uri):
        return
    found = []
    for unit, place in enumerate(places):
        for segment in range(place.n_segments):
            table = segments.rows(
                f"{segments.uri_of(place.uri, segment)}.hashes.parquet",
                low,
                high,
                ["key", "at", "near"],
            )
            for name, value in (("unit", unit), ("segment", segment)):
                table = table.append_column(
                    name, pa.array(np.full(table.num_rows, value, np.int32))
                )
            found.append(table)
    table = pa.concat_tables(found)
    del found
    order = np.empty(table.num_rows, np.int64)
    order[np.lexsort([column(table, name) for name in ("at", "segment", "unit", "key")])] = (
        np.arange(table.num_rows)
    )
    near, hashes = column(table, "near"), column(table, "hash")
    loses = np.zeros(table.num_rows, bool)
    for kind in (near, ~near):
        loses[kind] = duplicates.copies(order[kind], hashes[kind])
    lost = table.filter(pa.array(loses)).select(["unit", "segment", "at", "key", "near"])
    lost = lost.sort_by([(name, "ascending") for name in ("unit", "segment", "at", "near")])
    storage.write(uri, megatron_shards.parquet_bytes(lost, row_group_size=segments.ROW_GROUP))


def of_unit(uris: Sequence[str], unit: int) -> "pyarrow.Table":
    """The unit's documents that go, each once, by (segment, at); `near` where it is no exact copy."""
    import pyarrow as pa

    lost = pa.concat_tables(
        segments.rows(uri, unit, unit + 1, ["segment", "at", "key", "near"]) for uri in uris
    )
    lost = lost.sort_by([(name, "ascending") for name in ("segment", "at", "near")])
    segment, at = column(lost, "segment"), column(lost, "at")
    is_new = np.ones(lost.num_rows, bool)
    is_new[1:] = (segment[1:] != segment[:-1]) | (at[1:] != at[:-1])
    return lost.filter(pa.array(is_new))


def publish(lost: "pyarrow.Table", segment_uri: str, segment: int, name: str) -> None:
    """The places of a segment's losers, by key, for whoever reads a range of keys of it."""
    import pyarrow as pa

    of_segment = lost.filter(pa.array(column(lost, "segment") == segment)).select(["key", "at"])
    storage.write(
        f"{segment_uri}.{name}.parquet",
        megatron_shards.parquet_bytes(of_segment, row_group_size=segments.ROW_GROUP),
    )


def are_in(segment_uri: str, name: str, low: int, high: int) -> np.ndarray:
    """`at` of the segment's losers with keys in [low, high)."""
    return column(segments.rows(f"{segment_uri}.{name}.parquet", low, high, ["at"]), "at")
