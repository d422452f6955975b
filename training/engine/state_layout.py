"""the canonical layout of a checkpoint: pieces of whole tensors, whoever wrote them and whoever
reads them

A piece is a run of a flattened parameter, or of one of its optimizer averages, as one rank holds
it. Its elements are known by their place in the *whole* tensor, so ranks of another number, another
ZeRO stage or another tensor-parallel size find what they need by intersecting runs, and nothing is
ever converted.

    two ranks of ZeRO-1 wrote      |-------- 0 -------|-------- 1 -------|
    three ranks read               |---- 0 ----|---- 1 ----|---- 2 ----|      rank 1 reads the end of one piece, the head of another

With tensor parallelism a parameter is a part of the whole: a TensorPartition says which. `parameter.cut =
TensorPartition(…)` on a module's parameter is all that a tensor-parallel layer has to say; a parameter without
one is the whole. The second of two ranks, D wide in, F wide out:

    column-parallel [F, D]            TensorPartition(shape=(F, D), dim=0, ranges=((F/2, F),))
    fused gate and up [2F, D]         TensorPartition(shape=(2F, D), dim=0, ranges=((F/2, F), (3F/2, 2F)))    half of each, in this order
    row-parallel [D, F]               TensorPartition(shape=(D, F), dim=1, ranges=((F/2, F),))                 every row's second half
"""

from math import prod
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from data_prep.core.records import record


@record
class TensorPartition:
    """The part of a whole tensor of `shape` that is left when `dim` keeps only its `ranges` [from,
    to), in ascending order.
    """

    shape: tuple[int, ...]
    dim: int
    ranges: tuple[tuple[int, int], ...]

    @property
    def n_elements(self) -> int:
        return prod(self.shape)


@record
class TensorSlice:
    """`count` elements of a parameter's `key` ("parameter", "exp_avg", …), in fp32, from `first` on
    of what its `cut` leaves.
    """

    name: str
    key: str
    first: int
    count: int
    offset: int
    cut: TensorPartition | None = None


@record
class CheckpointFile:
    """One safetensors file of pieces; a piece's `offset` is that of its first byte in the file."""

    name: str
    n_bytes: int
    block_sha256: tuple[str, ...]
    pieces: tuple[TensorSlice, ...]


@record
class RankManifest:
    """What one rank wrote for one checkpoint."""

    rank: int
    files: tuple[CheckpointFile, ...]


class ElementRanges(NamedTuple):
    """Consecutive elements of a piece, as runs of the whole tensor: element numbers there,
    ascending, and how many each.
    """

    starts: NDArray[np.int64]
    counts: NDArray[np.int64]


def element_ranges(cut: TensorPartition | None, first: int, count: int) -> ElementRanges:
    """Where `count` elements, from `first` on of what `cut` leaves, lie in the whole tensor."""
    if cut is None or count == 0:
        return ElementRanges(
            np.array([first], np.int64)[: bool(count)], np.array([count], np.int64)[: bool(count)]
        )
    width = prod(cut.shape[cut.dim + 1 :])
    starts_1, ends_1 = (
        np.array(cut.ranges, np.int64) * width
    ).T  # of one step of the dimensions before `dim`
    counts_1 = ends_1 - starts_1
    left, whole = int(counts_1.sum()), cut.shape[cut.dim] * width
    outer = np.arange(first // left, (first + count - 1) // left + 1)
    starts = (outer[:, None] * whole + starts_1).ravel()
    counts = np.tile(counts_1, len(outer))
    here = np.cumsum(counts) - counts + outer[0] * left  # where each run begins in what is left
    skip = np.clip(first - here, 0, counts)
    counts = np.clip(first + count - here, 0, counts) - skip
    some = counts > 0
    return ElementRanges((starts + skip)[some], counts[some])


def overlap(
    a: ElementRanges, b: ElementRanges
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """What two pieces have in common: (elements of a, elements of b, how many each), in as few
    copies as it takes.
    """
    at_a, at_b = (np.cumsum(each.counts) - each.counts for each in (a, b))
    low = np.searchsorted(b.starts + b.counts, a.starts, side="right")
    high = np.searchsorted(b.starts, a.starts + a.counts, side="left")
    n = np.maximum(high - low, 0)
    i = np.repeat(np.arange(len(n)), n)
    j = np.arange(n.sum()) - np.repeat(np.cumsum(n) - n, n) + np.repeat(low, n)
    starts = np.maximum(a.starts[i], b.starts[j])
    counts = np.minimum(a.starts[i] + a.counts[i], b.starts[j] + b.counts[j]) - starts
    in_a, in_b = at_a[i] + starts - a.starts[i], at_b[j] + starts - b.starts[j]
    if len(counts) == 0:
        return in_a, in_b, counts
    breaks = (in_a[1:] != in_a[:-1] + counts[:-1]) | (in_b[1:] != in_b[:-1] + counts[:-1])
    heads = np.flatnonzero(np.concatenate([[True], breaks]))
    return in_a[heads], in_b[heads], np.add.reduceat(counts, heads)
