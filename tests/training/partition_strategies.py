"""Hypothesis strategies for partitions of a tensor, and the elements that they keep."""

import numpy as np
from hypothesis import strategies as st

from training.engine.state_layout import TensorPartition

Slice = tuple[TensorPartition | None, int, int]  # partition, first element, number of elements
Shape = tuple[int, ...]

shapes = st.lists(st.integers(1, 7), min_size=1, max_size=3).map(tuple)


@st.composite
def partitions(draw: st.DrawFn, shape: Shape) -> TensorPartition | None:
    """A partition of a tensor of this shape, or None for the whole."""
    dim = draw(st.sampled_from([None, *range(len(shape))]))
    if dim is None:
        return None
    edges = sorted(draw(st.sets(st.integers(0, shape[dim]), min_size=2, max_size=4)))
    ranges = tuple((edges[i], edges[i + 1]) for i in range(0, len(edges) - 1, 2))
    return TensorPartition(shape=shape, dim=dim, ranges=ranges)


@st.composite
def slices(draw: st.DrawFn, shape: Shape) -> Slice:
    partition = draw(partitions(shape))
    n_kept = kept_elements(shape, partition).size
    first = draw(st.integers(0, n_kept))
    return partition, first, draw(st.integers(0, n_kept - first))


def kept_elements(shape: Shape, partition: TensorPartition | None) -> np.ndarray:
    """The numbers of the elements that a partition keeps, in order, element by element."""
    whole = np.arange(np.prod(shape)).reshape(shape)
    if partition is None:
        return whole.ravel()
    dim = partition.dim
    kept = [whole.take(range(start, end), dim) for start, end in partition.ranges]
    return np.concatenate(kept, dim).ravel()
