"""this rank's state → the bytes of its safetensors files, in host memory that is used again for the
next save

The buffer *is* the files, headers included, one after the other: what the device sends lands where
the upload reads, and no further copy is made, in memory or on a disk. On CUDA it is page-locked, so
that the device writes it by itself. It costs 12 bytes a parameter with AdamW, divided by the ranks.
"""

import json
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from data_prep.core import storage
from training.engine.state_layout import CheckpointFile, TensorSlice

FILE_BYTES = 256 << 20  # a file's pieces; an upload that fails begins this again
ALIGNMENT = 64


class StagedFile(NamedTuple):
    """One file to be: its pieces, and where its bytes lie in the buffer."""

    name: str
    pieces: tuple[TensorSlice, ...]
    start: int
    end: int


class Staging:
    """The host copy of this rank's state, as files."""

    def __init__(self) -> None:
        self._buffer = torch.empty(0, dtype=torch.uint8)
        self._copied: Any = None

    def copy(self, runs: list[tuple[TensorSlice, Tensor]], prefix: str) -> list[StagedFile]:
        """Copy these pieces' values; the files are named `prefix-NNN.safetensors`. Returns when
        training may go on: on CUDA the copies follow on the device's queue, before the next step's
        work.
        """
        images, sources, headers = _plan(runs, prefix)
        n_bytes = images[-1].end if images else 0
        pinned = any(value.is_cuda for _, value in runs)
        if self._buffer.numel() < n_bytes:
            self._buffer = torch.empty(n_bytes, dtype=torch.uint8, pin_memory=pinned)
        for image, header in zip(images, headers, strict=True):
            self._buffer[image.start : image.start + len(header)] = torch.frombuffer(
                bytearray(header), dtype=torch.uint8
            )
        for at, value in sources:
            self._buffer[at : at + 4 * value.numel()].view(torch.float32).copy_(
                value, non_blocking=pinned
            )
        self._copied = torch.cuda.Event() if pinned else None
        if self._copied:
            self._copied.record()
        return images

    def content(self, image: StagedFile) -> memoryview:
        """The bytes of a file; waits for the device."""
        if self._copied:
            self._copied.synchronize()
        return memoryview(self._buffer.numpy())[image.start : image.end]  # type: ignore[arg-type]


def describe_file(image: StagedFile, content: memoryview) -> CheckpointFile:
    return CheckpointFile(
        name=image.name,
        n_bytes=len(content),
        block_sha256=storage.block_sha256(content),
        pieces=image.pieces,
    )


def _plan(
    runs: list[tuple[TensorSlice, Tensor]], prefix: str
) -> tuple[list[StagedFile], list[tuple[int, Tensor]], list[bytes]]:
    """Files of at most FILE_BYTES, where in the buffer each tensor goes, and each file's header."""
    files: list[list[tuple[TensorSlice, Tensor]]] = [[]]
    room = FILE_BYTES
    for piece, value in runs:
        at = 0
        while at < piece.count:
            n = min(piece.count - at, room // 4)
            if n == 0:
                files.append([])
                room = FILE_BYTES
                continue
            files[-1].append((replace(piece, first=piece.first + at, count=n), value[at : at + n]))
            at, room = at + n, room - 4 * n
    images, sources, headers, start = [], [], [], 0
    for number, file in enumerate(part for part in files if part):
        header = _header([piece for piece, _ in file])
        offset, placed = len(header), []
        for piece, value in file:
            sources.append((start + offset, value))
            placed.append(replace(piece, offset=offset))
            offset += 4 * piece.count
        images.append(
            StagedFile(f"{prefix}-{number:03d}.safetensors", tuple(placed), start, start + offset)
        )
        headers.append(header)
        start = -(-(start + offset) // ALIGNMENT) * ALIGNMENT
    return images, sources, headers


def _header(pieces: list[TensorSlice]) -> bytes:
    """A safetensors header: its length in 8 bytes, then JSON padded with blanks; the tensors follow
    end to end.
    """
    entries, at = {}, 0
    for piece in pieces:
        entries[f"{piece.key}/{piece.name}@{piece.first}"] = {
            "dtype": "F32",
            "shape": [piece.count],
            "data_offsets": [at, at + 4 * piece.count],
        }
        at += 4 * piece.count
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-(8 + len(text)) % ALIGNMENT)
    return len(text).to_bytes(8, "little") + text
