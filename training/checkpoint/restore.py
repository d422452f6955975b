"""read this rank's state from a checkpoint's files, each block verified

Every rank reads by itself: on the layout that was saved, its own files; on another layout, the
slices that it holds of every rank's files. Only the blocks that are needed are read, and no rank
holds more than a few blocks in addition to its state.
"""

from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from data_prep.core import storage
from data_prep.core.errors import ArtefactCorrupt
from training.engine.deepspeed_state import Fragment
from training.engine.state_layout import (
    CheckpointFile,
    Overlap,
    RankManifest,
    TensorSlice,
    element_ranges,
    overlap,
)

N_CONCURRENT_FILES = 4

FragmentTensors = list[tuple[Fragment, dict[str, Tensor]]]


class _Copy(NamedTuple):
    """Elements of a saved slice (a) that belong in a tensor (b) of this rank."""

    source: TensorSlice
    target: Tensor
    elements: Overlap


def saved_keys(manifests: list[RankManifest]) -> dict[str, set[str]]:
    """The tensors that were saved of each parameter: "parameter", "exp_avg", …"""
    keys: dict[str, set[str]] = defaultdict(set)
    for part in saved_slices(manifests):
        keys[part.name].add(part.key)
    return keys


def saved_slices(manifests: list[RankManifest]) -> Iterator[TensorSlice]:
    """Every slice that all ranks saved."""
    for manifest in manifests:
        for file in manifest.files:
            yield from file.slices


def read_tensors(folder: str, manifests: list[RankManifest], wanted: FragmentTensors) -> None:
    """Read every element of the `wanted` tensors into them.

    Raises ArtefactCorrupt, ArtefactMissing or StorageError if that is not possible.
    """
    missing = {(fragment.name, key): fragment.n for fragment, tensors in wanted for key in tensors}
    reads: list[tuple[CheckpointFile, list[_Copy]]] = []
    for file in (file for manifest in manifests for file in manifest.files):
        _check_file(folder, file)
        copies = [copy for copy in _copies(file, wanted) if copy.elements.counts.size]
        for copy in copies:
            missing[copy.source.name, copy.source.key] -= int(copy.elements.counts.sum())
        if copies:
            reads.append((file, copies))
    wrong = [f"{key} of {name} by {n:,}" for (name, key), n in missing.items() if n]
    if wrong:
        raise ArtefactCorrupt(
            f"{folder}: holds too few or too many elements, {', '.join(wrong[:3])}; "
            "delete this checkpoint"
        )
    with ThreadPoolExecutor(N_CONCURRENT_FILES, "restore") as pool:
        for _ in pool.map(lambda read: _read_file(folder, *read), reads):
            pass


def _check_file(folder: str, file: CheckpointFile) -> None:
    """Raise ArtefactCorrupt unless the description of a file fits itself."""
    n_blocks = -(-file.n_bytes // storage.BLOCK_BYTES)
    fault = ""
    if len(file.block_sha256) != n_blocks:
        fault = f"has {len(file.block_sha256)} checksums for {n_blocks} blocks"
    for part in file.slices:
        end = part.offset + 4 * part.count
        partition = part.partition
        if min(part.first, part.count, part.offset) < 0 or end > file.n_bytes:
            fault = f"has {part.key} of {part.name} at bytes {part.offset:,} to {end:,}"
        elif partition and not 0 <= partition.dim < len(partition.shape):
            fault = f"has {part.name} cut along dimension {partition.dim} of {partition.shape}"
    if fault:
        raise ArtefactCorrupt(
            f"{storage.join(folder, file.name)} of {file.n_bytes:,} bytes {fault}, by its "
            "checkpoint's manifest, which is damaged; delete this checkpoint"
        )


def _copies(file: CheckpointFile, wanted: FragmentTensors) -> list[_Copy]:
    by_name = {fragment.name: (fragment, tensors) for fragment, tensors in wanted}
    copies = []
    for saved in file.slices:
        fragment, tensors = by_name.get(saved.name, (None, {}))
        if fragment and saved.key in tensors:
            elements = overlap(
                element_ranges(saved.partition, saved.first, saved.count),
                element_ranges(fragment.partition, fragment.first, fragment.n),
            )
            copies.append(_Copy(saved, tensors[saved.key], elements))
    return copies


def _read_file(folder: str, file: CheckpointFile, copies: list[_Copy]) -> None:
    """Read each block that a copy touches, verify it, and copy its elements."""
    uri = storage.join(folder, file.name)
    block_bytes = storage.BLOCK_BYTES
    copies_of_block: dict[int, list[_Copy]] = defaultdict(list)
    for copy in copies:
        starts, counts = copy.elements.starts_a, copy.elements.counts
        first_byte = copy.source.offset + 4 * int(starts[0])
        last_byte = copy.source.offset + 4 * int(starts[-1] + counts[-1]) - 1
        for block in range(first_byte // block_bytes, last_byte // block_bytes + 1):
            copies_of_block[block].append(copy)
    for block, touching in sorted(copies_of_block.items()):
        start = block * block_bytes
        content = storage.read(uri, start, min(start + block_bytes, file.n_bytes))
        storage.verify_block(content, file.block_sha256[block], uri, block)
        for copy in touching:
            _copy_from_block(content, start, copy)


def _copy_from_block(content: bytes, start: int, copy: _Copy) -> None:
    """Copy the elements of `copy` that lie in `content`, the file's bytes from `start` on."""
    starts_a, starts_b, counts = copy.elements
    # the block's range, in elements of the slice
    block_first = (start - copy.source.offset) // 4
    block_end = (start + len(content) - copy.source.offset) // 4
    low = np.maximum(starts_a, block_first)
    high = np.minimum(starts_a + counts, block_end)
    for i in np.flatnonzero(low < high):
        n = int(high[i] - low[i])
        at = 4 * (low[i] - block_first)
        values = torch.frombuffer(bytearray(content[at : at + 4 * n]), dtype=torch.float32)
        target_start = int(starts_b[i] + low[i] - starts_a[i])
        copy.target[target_start : target_start + n].copy_(values)
