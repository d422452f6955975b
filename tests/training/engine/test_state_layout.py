"""Slices of whole tensors: which elements they hold, and which two slices share."""

import itertools

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from partition_strategies import Shape, Slice, kept_elements, shapes, slices

from training.engine.state_layout import ElementRanges, element_ranges, overlap


def expand(ranges: ElementRanges) -> list[int]:
    return [
        element
        for start, count in zip(*ranges, strict=True)
        for element in range(start, start + count)
    ]


@given(shapes.flatmap(lambda shape: st.tuples(st.just(shape), slices(shape))))
def test_element_ranges_are_the_elements_a_partition_keeps(case: tuple[Shape, Slice]):
    shape, (partition, first, n) = case
    expected = kept_elements(shape, partition)[first : first + n].tolist()
    assert expand(element_ranges(partition, first, n)) == expected


@given(shapes.flatmap(lambda shape: st.tuples(st.just(shape), slices(shape), slices(shape))))
def test_overlap_holds_the_common_elements_in_the_fewest_runs(case: tuple[Shape, Slice, Slice]):
    shape, a, b = case
    elements_a, elements_b = (
        kept_elements(shape, partition)[first : first + n] for partition, first, n in (a, b)
    )
    runs = list(zip(*overlap(element_ranges(*a), element_ranges(*b)), strict=True))
    pairs = [(elements_a[i + k], elements_b[j + k]) for i, j, n in runs for k in range(n)]
    assert all(x == y for x, y in pairs)
    assert sorted(x for x, _ in pairs) == np.intersect1d(elements_a, elements_b).tolist()
    assert not any(
        i + n == next_i and j + n == next_j
        for (i, j, n), (next_i, next_j, _) in itertools.pairwise(runs)
    )
