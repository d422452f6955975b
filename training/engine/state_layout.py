"""canonical layout of training state: slices of whole tensors, independent of ranks

A slice is a run of elements of a flattened parameter, or of a tensor of its optimizer state, as one
rank holds it. Its elements are known by their positions in the *whole* tensor, so that a different
number of ranks, ZeRO stage or tensor-parallel size finds what it needs by intersecting slices;
checkpoints are never converted.

    two ranks of ZeRO-1 wrote      |-------- 0 -------|-------- 1 -------|
    three ranks read               |---- 0 ----|---- 1 ----|---- 2 ----|

    rank 1 of the three reads the end of the first slice and the beginning of the second

With tensor parallelism a rank holds a partition of each parameter: `parameter.tensor_partition =
TensorPartition(…)` is all that a tensor-parallel layer has to declare; a parameter without one is
whole. The second of two ranks, D wide in, F wide out:

    column-parallel [F, D]         TensorPartition(shape=(F, D), dim=0, ranges=((F/2, F),))
    fused gate and up [2F, D]      TensorPartition(shape=(2F, D), dim=0,
                                                   ranges=((F/2, F), (3F/2, 2F)))    half of each
    row-parallel [D, F]            TensorPartition(shape=(D, F), dim=1, ranges=((F/2, F),))
"""

from math import prod
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from data_prep.core.records import FileName, Sha256, record


@record
class TensorPartition:
    """The part of a whole tensor of `shape` where `dim` is within `ranges`.

    ranges: [start, end) each, in ascending order.
    """

    shape: tuple[int, ...]
    dim: int
    ranges: tuple[tuple[int, int], ...]

    @property
    def n_elements(self) -> int:
        """Elements of the whole tensor."""
        return prod(self.shape)


@record
class TensorSlice:
    """`count` fp32 elements of one tensor of a parameter's state, from element `first` on.

    key: which tensor: "parameter", "exp_avg", … first: counted in the flattened `partition`, or in
    the whole tensor if there is none. offset: of the slice's first byte in its file.
    """

    name: str
    key: str
    first: int
    count: int
    offset: int
    partition: TensorPartition | None = None


@record
class CheckpointFile:
    """One safetensors file of slices."""

    name: FileName
    n_bytes: int
    block_sha256: tuple[Sha256, ...]
    slices: tuple[TensorSlice, ...]


@record
class RankManifest:
    """The files that one rank wrote for one checkpoint."""

    rank: int
    files: tuple[CheckpointFile, ...]


class ElementRanges(NamedTuple):
    """Runs of consecutive elements of a whole tensor: ascending starts, and lengths."""

    starts: NDArray[np.int64]
    counts: NDArray[np.int64]


class Overlap(NamedTuple):
    """Elements that two slices share, as runs: starts in either slice, and lengths."""

    starts_a: NDArray[np.int64]
    starts_b: NDArray[np.int64]
    counts: NDArray[np.int64]


def element_ranges(partition: TensorPartition | None, first: int, count: int) -> ElementRanges:
    """Where `count` elements of a partition, from `first` on, lie in the whole tensor."""
    if partition is None or count == 0:
        n_runs = int(count > 0)
        return ElementRanges(np.full(n_runs, first, np.int64), np.full(n_runs, count, np.int64))
    # Elements of one index of `dim`, and the runs within one index of the dimensions before it.
    inner = prod(partition.shape[partition.dim + 1 :])
    run_starts, run_ends = (np.array(partition.ranges, np.int64) * inner).T
    run_counts = run_ends - run_starts
    n_kept = int(run_counts.sum())
    n_whole = partition.shape[partition.dim] * inner

    outer = np.arange(first // n_kept, (first + count - 1) // n_kept + 1)
    starts = (outer[:, None] * n_whole + run_starts).ravel()
    counts = np.tile(run_counts, len(outer))
    # Cut the first and the last run to the slice.
    starts_in_partition = np.cumsum(counts) - counts + outer[0] * n_kept
    skipped = np.clip(first - starts_in_partition, 0, counts)
    counts = np.clip(first + count - starts_in_partition, 0, counts) - skipped
    is_kept = counts > 0
    return ElementRanges((starts + skipped)[is_kept], counts[is_kept])


def overlap(a: ElementRanges, b: ElementRanges) -> Overlap:
    """The elements that two slices share, in as few runs as possible."""
    offsets_a, offsets_b = (np.cumsum(each.counts) - each.counts for each in (a, b))
    # Run i of a meets the runs [low[i], high[i]) of b.
    low = np.searchsorted(b.starts + b.counts, a.starts, side="right")
    high = np.searchsorted(b.starts, a.starts + a.counts, side="left")
    n_met = np.maximum(high - low, 0)
    i = np.repeat(np.arange(len(n_met)), n_met)
    j = np.arange(n_met.sum()) - np.repeat(np.cumsum(n_met) - n_met, n_met) + np.repeat(low, n_met)
    starts = np.maximum(a.starts[i], b.starts[j])
    counts = np.minimum(a.starts[i] + a.counts[i], b.starts[j] + b.counts[j]) - starts
    starts_a = offsets_a[i] + starts - a.starts[i]
    starts_b = offsets_b[j] + starts - b.starts[j]
    if len(counts) == 0:
        return Overlap(starts_a, starts_b, counts)
    # Merge runs that are adjacent in both slices.
    is_break_a = starts_a[1:] != starts_a[:-1] + counts[:-1]
    is_break_b = starts_b[1:] != starts_b[:-1] + counts[:-1]
    heads = np.flatnonzero(np.concatenate([[True], is_break_a | is_break_b]))
    return Overlap(starts_a[heads], starts_b[heads], np.add.reduceat(counts, heads))
