"""this rank's state as the bytes of its safetensors files, in a reused host buffer

The buffer *is* the files, headers included, one after the other: the device copies to where the
upload reads, and no further copy is made, in memory or on a disk. On CUDA the buffer is
page-locked, so that the device copies without the CPU. It takes 12 bytes per parameter with AdamW,
divided by the number of ranks.
"""

import json
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from data_prep.core import storage
from training.engine.state_layout import CheckpointFile, TensorSlice

MAX_FILE_BYTES = 256 << 20  # of slices; a failed upload is retried for a whole file
ALIGNMENT = 64


class StagedFile(NamedTuple):
    """A file in the buffer: its slices, and the range of its bytes."""

    name: str
    slices: tuple[TensorSlice, ...]
    start: int
    end: int


class _Layout(NamedTuple):
    """Where files lie in the buffer: their headers, and each tensor with its start."""

    files: list[StagedFile]
    headers: list[bytes]
    tensors: list[tuple[int, Tensor]]


class Staging:
    """The host copy of this rank's state, as files."""

    def __init__(self) -> None:
        self._buffer = torch.empty(0, dtype=torch.uint8)
        self._copied: Any = None

    def copy(self, state: list[tuple[TensorSlice, Tensor]], prefix: str) -> list[StagedFile]:
        """Copy the slices' values into files named `prefix-NNN.safetensors`.

        Training may continue when it returns: on CUDA the copies are queued on the device, before
        the work of the next step.
        """
        layout = _lay_out(state, prefix)
        n_bytes = layout.files[-1].end if layout.files else 0
        pinned = any(value.is_cuda for _, value in state)
        if self._buffer.numel() < n_bytes:
            self._buffer = torch.empty(n_bytes, dtype=torch.uint8, pin_memory=pinned)
        for file, header in zip(layout.files, layout.headers, strict=True):
            content = torch.frombuffer(bytearray(header), dtype=torch.uint8)
            self._buffer[file.start : file.start + len(header)] = content
        for start, value in layout.tensors:
            target = self._buffer[start : start + 4 * value.numel()].view(torch.float32)
            target.copy_(value, non_blocking=pinned)
        self._copied = torch.cuda.Event() if pinned else None
        if self._copied:
            self._copied.record()
        return layout.files

    def content(self, file: StagedFile) -> memoryview:
        """The bytes of a file; waits for the device."""
        if self._copied:
            self._copied.synchronize()
        return memoryview(self._buffer.numpy())[file.start : file.end]  # type: ignore[arg-type]


def describe_file(file: StagedFile, content: memoryview) -> CheckpointFile:
    """The file's entry in the rank manifest, with its checksums."""
    return CheckpointFile(
        name=file.name,
        n_bytes=len(content),
        block_sha256=storage.block_sha256(content),
        slices=file.slices,
    )


def _lay_out(state: list[tuple[TensorSlice, Tensor]], prefix: str) -> _Layout:
    files: list[StagedFile] = []
    headers: list[bytes] = []
    tensors: list[tuple[int, Tensor]] = []
    start = 0
    for number, group in enumerate(_split_into_files(state)):
        header = _header([part for part, _ in group])
        slices, offset = [], len(header)
        for part, value in group:
            tensors.append((start + offset, value))
            slices.append(replace(part, offset=offset))
            offset += 4 * part.count
        name = f"{prefix}-{number:03d}.safetensors"
        files.append(StagedFile(name, tuple(slices), start, start + offset))
        headers.append(header)
        start = -(-(start + offset) // ALIGNMENT) * ALIGNMENT
    return _Layout(files, headers, tensors)


def _split_into_files(
    state: list[tuple[TensorSlice, Tensor]],
) -> list[list[tuple[TensorSlice, Tensor]]]:
    """Group slices, in order, into files of at most MAX_FILE_BYTES, splitting them as needed."""
    groups: list[list[tuple[TensorSlice, Tensor]]] = [[]]
    room = MAX_FILE_BYTES
    for whole, value in state:
        done = 0
        while done < whole.count:
            n = min(whole.count - done, room // 4)
            if n == 0:
                groups.append([])
                room = MAX_FILE_BYTES
                continue
            part = replace(whole, first=whole.first + done, count=n)
            groups[-1].append((part, value[done : done + n]))
            done += n
            room -= 4 * n
    return [group for group in groups if group]


def _header(slices: list[TensorSlice]) -> bytes:
    """A safetensors header: its length in 8 bytes, then JSON padded with spaces.

    The tensors follow the header back to back.
    """
    entries, start = {}, 0
    for part in slices:
        end = start + 4 * part.count
        entries[f"{part.key}/{part.name}@{part.first}"] = {
            "dtype": "F32",
            "shape": [part.count],
            "data_offsets": [start, end],
        }
        start = end
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-(8 + len(text)) % ALIGNMENT)
    return len(text).to_bytes(8, "little") + text
