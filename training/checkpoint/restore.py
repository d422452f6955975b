"""a checkpoint's files → this rank's state: only the blocks it needs, each verified, a few at a
time

Every rank reads by itself: on the layout that was saved, its own files; on another, the runs it
holds of everybody's. No rank ever holds more than a few blocks beside its state.
"""

from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from data_prep.core import storage
from data_prep.core.errors import ArtefactCorrupt
from training.engine.deepspeed_state import Fragment
from training.engine.state_layout import (
    CheckpointFile,
    RankManifest,
    TensorSlice,
    element_ranges,
    overlap,
)

FILES_AT_ONCE = 4


class ElementCopy(NamedTuple):
    """Elements of a piece that go to elements of a tensor: places in both, and how many."""

    piece: TensorSlice
    to: Tensor
    at_piece: NDArray[np.int64]
    at_tensor: NDArray[np.int64]
    counts: NDArray[np.int64]


def saved_keys(shares: list[RankManifest]) -> dict[str, set[str]]:
    """What was saved of each parameter: "parameter", "exp_avg", …"""
    found: dict[str, set[str]] = defaultdict(set)
    for piece in (piece for share in shares for file in share.files for piece in file.pieces):
        found[piece.name].add(piece.key)
    return found


def read_tensors(
    folder: str, shares: list[RankManifest], wanted: list[tuple[Fragment, dict[str, Tensor]]]
) -> None:
    """Read every element of the `wanted` tensors, or raise ArtefactCorrupt, ArtefactMissing or
    StorageError.
    """
    missing = {(fragment.name, key): fragment.n for fragment, tensors in wanted for key in tensors}
    plans = []
    for file in (file for share in shares for file in share.files):
        copies = [copy for copy in _copies(file, wanted) if copy.counts.size]
        for copy in copies:
            missing[copy.piece.name, copy.piece.key] -= int(copy.counts.sum())
        if copies:
            plans.append((file, copies))
    short = [f"{key} of {name} by {n:,}" for (name, key), n in missing.items() if n]
    if short:
        raise ArtefactCorrupt(
            f"{folder}: holds too few elements or too many, {', '.join(short[:3])}; delete this checkpoint"
        )
    with ThreadPoolExecutor(FILES_AT_ONCE, "restore") as pool:
        for _ in pool.map(lambda plan: _read(folder, *plan), plans):
            pass


def _copies(
    file: CheckpointFile, wanted: list[tuple[Fragment, dict[str, Tensor]]]
) -> list[ElementCopy]:
    by_name = {fragment.name: (fragment, tensors) for fragment, tensors in wanted}
    found = []
    for piece in file.pieces:
        fragment, tensors = by_name.get(piece.name, (None, {}))
        if fragment and piece.key in tensors:
            there, here = (
                element_ranges(piece.cut, piece.first, piece.count),
                element_ranges(fragment.cut, fragment.first, fragment.n),
            )
            found.append(ElementCopy(piece, tensors[piece.key], *overlap(there, here)))
    return found


def _read(folder: str, file: CheckpointFile, copies: list[ElementCopy]) -> None:
    """Bring each block that a copy touches, verify it, and hand out its elements."""
    uri, size = storage.join(folder, file.name), storage.BLOCK_BYTES
    blocks: dict[int, list[ElementCopy]] = defaultdict(list)
    for copy in copies:
        first = copy.piece.offset + 4 * int(copy.at_piece[0])
        last = copy.piece.offset + 4 * int(copy.at_piece[-1] + copy.counts[-1]) - 1
        for block in range(first // size, last // size + 1):
            blocks[block].append(copy)
    for block, touching in sorted(blocks.items()):
        start = block * size
        content = storage.read(uri, start, min(start + size, file.n_bytes))
        storage.verify_block(content, file.block_sha256[block], uri, block)
        for copy in touching:
            _hand_out(content, start, copy)


def _hand_out(content: bytes, start: int, copy: ElementCopy) -> None:
    """ElementCopy what `content`, the file's bytes from `start` on, holds of `copy`."""
    begin, end = (
        (start - copy.piece.offset) // 4,
        (start + len(content) - copy.piece.offset) // 4,
    )  # the block, in elements of the piece
    low = np.maximum(copy.at_piece, begin)
    high = np.minimum(copy.at_piece + copy.counts, end)
    for i in np.flatnonzero(low < high):
        n, to = int(high[i] - low[i]), int(copy.at_tensor[i] + low[i] - copy.at_piece[i])
        values = torch.frombuffer(
            bytearray(content[4 * (low[i] - begin) : 4 * (low[i] - begin + n)]), dtype=torch.float32
        )
        copy.to[to : to + n].copy_(values)
