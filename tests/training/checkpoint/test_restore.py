"""Ranks of any layout read what ranks of any other layout wrote."""

import itertools
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from partition_strategies import Slice, kept_elements, shapes, slices
from safetensors import safe_open
from torch import Tensor

from data_prep.core import storage
from data_prep.core.errors import ArtefactCorrupt
from training.checkpoint import staging
from training.checkpoint.restore import read_tensors
from training.engine.deepspeed_state import Fragment
from training.engine.state_layout import RankManifest, TensorPartition, TensorSlice

WrittenPartition = tuple[TensorPartition | None, Tensor]


def write_parameter(
    folder: str, written: Sequence[WrittenPartition], n_ranks: int
) -> list[RankManifest]:
    """Write each partition of a parameter "w" from `n_ranks` ranks that hold equal parts of it."""
    manifests: list[RankManifest] = []
    for partition, values in written:
        for rank in range(n_ranks):
            first, end = (values.numel() * r // n_ranks for r in (rank, rank + 1))
            part = TensorSlice(
                name="w",
                key="parameter",
                first=first,
                count=end - first,
                offset=0,
                partition=partition,
            )
            state = [(part, values[first:end])] if end > first else []
            stage, files = staging.Staging(), []
            for file in stage.copy(state, f"a-{len(manifests)}"):
                files.append(staging.describe_file(file, stage.content(file)))
                storage.write(f"{folder}/{file.name}", stage.content(file))
            manifests.append(RankManifest(rank=len(manifests), files=tuple(files)))
    return manifests


def read_slice(folder: str, manifests: list[RankManifest], wanted: Slice) -> list[float]:
    partition, first, n = wanted
    values = torch.full((n,), torch.nan)
    fragment = Fragment("w", first, n, (0, n), partition, values, 0)
    read_tensors(folder, manifests, [(fragment, {"parameter": values})])
    return values.tolist()


def write_and_read(
    written: Sequence[WrittenPartition], wanted: Sequence[Slice], n_ranks: int = 1
) -> list[list[float]]:
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(storage, "BLOCK_BYTES", 64)  # so that slices span blocks and files
        patch.setattr(staging, "MAX_FILE_BYTES", 100)
        manifests = write_parameter(folder, written, n_ranks)
        return [read_slice(folder, manifests, part) for part in wanted]


def test_halves_of_a_fused_matrix_are_read_as_one_and_vice_versa():
    halves = [
        TensorPartition(shape=(8, 3), dim=0, ranges=((row, row + 2), (4 + row, 6 + row)))
        for row in (0, 2)
    ]
    whole = torch.arange(24.0)
    values = [whole[kept_elements((8, 3), half)] for half in halves]
    assert values[1].tolist() == [*range(6, 12), *range(18, 24)]
    read = write_and_read([(None, whole)], [(half, 0, 12) for half in halves])
    assert read == [value.tolist() for value in values]
    read = write_and_read(list(zip(halves, values, strict=True)), [(None, 0, 24)])
    assert read == [whole.tolist()]


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_ranks_of_any_layout_read_what_ranks_of_another_wrote(data: st.DataObject):
    shape = data.draw(shapes)
    dim = data.draw(st.integers(0, len(shape) - 1))
    n_partitions = data.draw(st.integers(1, 3))
    edges = [shape[dim] * i // n_partitions for i in range(n_partitions + 1)]
    partitions = [
        TensorPartition(shape=shape, dim=dim, ranges=((start, end),))
        for start, end in itertools.pairwise(edges)
        if start < end
    ]
    whole = torch.randn(int(np.prod(shape)))
    written = [(partition, whole[kept_elements(shape, partition)]) for partition in partitions]
    wanted = data.draw(st.lists(slices(shape), min_size=1, max_size=3))
    read = write_and_read(written, wanted, n_ranks=data.draw(st.integers(1, 3)))
    assert read == [
        whole[kept_elements(shape, partition)][first : first + n].tolist()
        for partition, first, n in wanted
    ]


def test_a_file_is_an_ordinary_safetensors_file(tmp_path: Path):
    (manifest,) = write_parameter(str(tmp_path), [(None, torch.arange(5.0))], n_ranks=1)
    (file,) = manifest.files
    with safe_open(tmp_path / file.name, framework="pt") as opened:
        names = list(opened.keys())
        assert names == ["parameter/w@0"]
        assert opened.get_tensor(names[0]).tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("fault", ["slice twice", "slice missing"])
def test_elements_that_are_there_twice_or_missing_are_refused(tmp_path: Path, fault: str):
    (manifest,) = write_parameter(str(tmp_path), [(None, torch.arange(5.0))], n_ranks=1)
    (file,) = manifest.files
    file = replace(file, slices=file.slices * 2 if fault == "slice twice" else ())
    with pytest.raises(ArtefactCorrupt, match="too few or too many elements, parameter of w by"):
        read_slice(str(tmp_path), [replace(manifest, files=(file,))], (None, 0, 5))


@pytest.mark.parametrize(
    "change",
    [
        {"block_sha256": ()},
        {"n_bytes": 1 << 30},
        {"n_bytes": 10},
        {"offset": -4},
        {"offset": 1 << 40},
        {"count": -1},
        {"first": -1},
        {"partition": TensorPartition(shape=(5,), dim=3, ranges=((0, 5),))},
    ],
)
def test_a_manifest_that_does_not_fit_its_file_is_corrupt(change: dict, tmp_path: Path):
    (manifest,) = write_parameter(str(tmp_path), [(None, torch.arange(5.0))], n_ranks=1)
    (file,) = manifest.files
    if next(iter(change)) in ("block_sha256", "n_bytes"):
        damaged = replace(file, **change)
    else:
        damaged = replace(file, slices=(replace(file.slices[0], **change),))
    with pytest.raises(ArtefactCorrupt, match="delete this checkpoint"):
        read_slice(str(tmp_path), [replace(manifest, files=(damaged,))], (None, 0, 5))
