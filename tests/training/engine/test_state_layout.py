"""Pieces of whole tensors: where they lie, what two have in common, and that any ranks read what any others wrote."""

import itertools
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open

from data_prep.core import storage
from data_prep.core.errors import ArtefactCorrupt
from training.checkpoint import restore, staging
from training.engine.deepspeed_state import Fragment
from training.engine.state_layout import (
    ElementRanges,
    RankManifest,
    TensorPartition,
    TensorSlice,
    element_ranges,
    overlap,
)


@st.composite
def cuts(draw: st.DrawFn, shape: tuple[int, ...]) -> TensorPartition | None:
    """A cut of a whole of this shape, or none of it cut away."""
    dim = draw(st.sampled_from([None, *range(len(shape))]))
    if dim is None:
        return None
    edges = sorted(draw(st.sets(st.integers(0, shape[dim]), min_size=2, max_size=4)))
    ranges = tuple((edges[i], edges[i + 1]) for i in range(0, len(edges) - 1, 2))
    return TensorPartition(shape=shape, dim=dim, ranges=ranges)


shapes = st.lists(st.integers(1, 7), min_size=1, max_size=3).map(tuple)


@st.composite
def parts(draw: st.DrawFn, shape: tuple[int, ...]) -> tuple[TensorPartition | None, int, int]:
    """A cut, the first element of what it leaves, and how many."""
    cut = draw(cuts(shape))
    left = elements(shape, cut).size
    first = draw(st.integers(0, left))
    return cut, first, draw(st.integers(0, left - first))


def elements(shape: tuple[int, ...], cut: TensorPartition | None) -> np.ndarray:
    """The numbers that a whole's elements have, of those that the cut leaves, in order: what `runs`
    says in fewer words.
    """
    whole = np.arange(np.prod(shape)).reshape(shape)
    return (
        whole
        if cut is None
        else np.concatenate([whole.take(range(a, b), cut.dim) for a, b in cut.ranges], cut.dim)
    ).ravel()


def expanded(found: ElementRanges) -> np.ndarray:
    return np.concatenate(
        [[], *(np.arange(start, start + n) for start, n in zip(*found, strict=True))]
    ).astype(int)


@given(shapes.flatmap(lambda shape: st.tuples(st.just(shape), parts(shape))))
def test_runs_are_the_elements_that_a_cut_leaves(of: Any):
    shape, (cut, first, n) = of
    assert (
        expanded(element_ranges(cut, first, n)).tolist()
        == elements(shape, cut)[first : first + n].tolist()
    )


@given(shapes.flatmap(lambda shape: st.tuples(st.just(shape), parts(shape), parts(shape))))
def test_an_overlap_is_what_two_parts_have_in_common_in_runs_that_do_not_touch(of: Any):
    shape, a, b = of
    in_a, in_b = (elements(shape, cut)[first : first + n] for cut, first, n in (a, b))
    common = list(zip(*overlap(element_ranges(*a), element_ranges(*b)), strict=True))
    pairs = [(in_a[i + k], in_b[j + k]) for i, j, n in common for k in range(n)]
    assert all(x == y for x, y in pairs)
    assert sorted(x for x, _ in pairs) == sorted(set(in_a) & set(in_b))
    assert not any(
        i + n == i2 and j + n == j2 for (i, j, n), (i2, j2, _) in itertools.pairwise(common)
    )


def test_a_fused_matrix_cut_in_two_is_read_whole_and_a_whole_one_is_read_in_two():
    halves = [
        TensorPartition(shape=(8, 3), dim=0, ranges=((r, r + 2), (4 + r, 6 + r))) for r in (0, 2)
    ]
    whole = torch.arange(24.0)
    parts = [whole[elements((8, 3), cut)] for cut in halves]
    assert parts[1].tolist() == [*range(6, 12), *range(18, 24)]
    assert moved([(None, whole)], [(cut, 0, 12) for cut in halves]) == [
        part.tolist() for part in parts
    ]
    assert moved(list(zip(halves, parts, strict=True)), [(None, 0, 24)]) == [whole.tolist()]


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_ranks_of_any_layout_read_what_ranks_of_another_wrote(data: st.DataObject):
    shape = data.draw(shapes)
    dim, n_cuts = data.draw(st.integers(0, len(shape) - 1)), data.draw(st.integers(1, 3))
    edges = [shape[dim] * i // n_cuts for i in range(n_cuts + 1)]
    writers: list[TensorPartition] = [
        TensorPartition(shape=shape, dim=dim, ranges=((a, b),))
        for a, b in itertools.pairwise(edges)
        if a < b
    ]
    whole = torch.randn(int(np.prod(shape)))
    readers = data.draw(st.lists(parts(shape), min_size=1, max_size=3))
    written = [(cut, whole[elements(shape, cut)]) for cut in writers]
    got = moved(written, readers, n_ranks=data.draw(st.integers(1, 3)))
    assert got == [
        whole[elements(shape, cut)][first : first + n].tolist() for cut, first, n in readers
    ]


def test_a_file_is_an_ordinary_safetensors_file(tmp_path: Path):
    (file,) = write(str(tmp_path), [(None, torch.arange(5.0))], n_ranks=1)[0].files
    with safe_open(tmp_path / file.name, framework="pt") as found:
        assert {name: found.get_tensor(name).tolist() for name in found.keys()} == {
            "parameter/w@0": [0, 1, 2, 3, 4]
        }  # noqa: SIM118


@pytest.mark.parametrize("harm", ["a piece twice", "a piece left out"])
def test_elements_that_are_there_twice_or_not_at_all_are_refused(tmp_path: Path, harm: str):
    (share,) = write(str(tmp_path), [(None, torch.arange(5.0))], n_ranks=1)
    (file,) = share.files
    pieces = file.pieces * 2 if harm == "a piece twice" else ()
    with pytest.raises(ArtefactCorrupt, match="too few elements or too many, parameter of w by"):
        read(str(tmp_path), [replace(share, files=(replace(file, pieces=pieces),))], (None, 0, 5))


def moved(written: Any, readers: Any, n_ranks: int = 1) -> list[list[float]]:
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(storage, "BLOCK_BYTES", 64)  # so that pieces lie across blocks and files
        patch.setattr(staging, "FILE_BYTES", 100)
        shares = write(folder, written, n_ranks)
        return [read(folder, shares, part) for part in readers]


def write(
    folder: str, written: list[tuple[TensorPartition | None, torch.Tensor]], n_ranks: int
) -> list[RankManifest]:
    """Each part of `w` shared out over `n_ranks`."""
    shares = []
    for cut, values in written:
        for rank in range(n_ranks):
            first, end = (values.numel() * r // n_ranks for r in (rank, rank + 1))
            piece = TensorSlice(
                name="w", key="parameter", first=first, count=end - first, offset=0, cut=cut
            )
            stage = staging.Staging()
            files = []
            for image in stage.copy(
                [(piece, values[first:end])] if end > first else [], f"a-{len(shares)}"
            ):
                files.append(staging.describe_file(image, stage.content(image)))
                storage.write(f"{folder}/{image.name}", stage.content(image))
            shares.append(RankManifest(rank=len(shares), files=tuple(files)))
    return shares


def read(
    folder: str, shares: list[RankManifest], part: tuple[TensorPartition | None, int, int]
) -> list[float]:
    cut, first, n = part
    into = torch.full((n,), torch.nan)
    restore.read_tensors(
        folder, shares, [(Fragment("w", first, n, (0, n), cut, into, 0), {"parameter": into})]
    )
    return into.tolist()
