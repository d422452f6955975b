"""this rank's state as the bytes of its safetensors files, in a reused host buffer

The buffer *is* the files, headers included, one after the other: the device copies to where the
upload reads, and no further copy is made, in memory or on a disk. It takes 12 bytes per parameter
with AdamW, divided by the number of ranks.

On CUDA the buffer is page-locked, which takes seconds for the 14 GB of a 1B, so it is prepared in
the background. The device copies beside the next step's forward and backward pass, on a stream of
its own; only the optimizer, which changes the state, waits for the copy.
"""

import json
import weakref
from concurrent.futures import Future
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from data_prep.core import storage
from data_prep.core.background_thread import in_background
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
        self._preparing: Future[Tensor] | None = None
        self._stream: Any = None
        self._copied: Any = None  # on CUDA: the event after the last copy

    def prepare(self, state: list[tuple[TensorSlice, Tensor]]) -> Future[Tensor] | None:
        """Begin to page-lock memory for the copies of such a state, if a GPU holds it.

        The future ends with the memory; `copy` waits for it, so callers need not.
        """
        if device := _cuda_device(state):
            n_bytes = _lay_out(state, "").files[-1].end
            self._preparing = in_background(lambda: _page_locked(n_bytes, device), "page-lock")
        return self._preparing

    def copy(self, state: list[tuple[TensorSlice, Tensor]], prefix: str) -> list[StagedFile]:
        """Copy the slices' values into files named `prefix-NNN.safetensors`.

        Training may continue when it returns. On CUDA the copies are under way: call
        `wait_on_device` before anything changes the state.
        """
        layout, device = _lay_out(state, prefix), _cuda_device(state)
        self._make_room(layout.files[-1].end if layout.files else 0, device)
        for file, header in zip(layout.files, layout.headers, strict=True):
            content = torch.frombuffer(bytearray(header), dtype=torch.uint8)
            self._buffer[file.start : file.start + len(header)] = content
        if device is None:
            self._copy_values(layout)
            return layout.files
        self._stream = self._stream or torch.cuda.Stream(device)
        self._stream.wait_stream(torch.cuda.current_stream(device))
        with torch.cuda.stream(self._stream):
            self._copy_values(layout)
            self._copied = torch.cuda.Event()
            self._copied.record()
        return layout.files

    def wait_on_device(self) -> None:
        """Let the device do nothing further in the current stream until the copy has ended."""
        if self._copied:
            torch.cuda.current_stream().wait_event(self._copied)

    def wait(self) -> None:
        """Wait until the copy has ended."""
        if self._copied:
            self._copied.synchronize()

    def _make_room(self, n_bytes: int, device: torch.device | None) -> None:
        if self._preparing:
            self._buffer = self._preparing.result()
            self._preparing = None
        if self._buffer.numel() >= n_bytes:
            return
        if device is None:
            self._buffer = torch.empty(n_bytes, dtype=torch.uint8)
        else:
            self._buffer = _page_locked(n_bytes, device)

    def _copy_values(self, layout: _Layout) -> None:
        for start, value in layout.tensors:
            target = self._buffer[start : start + 4 * value.numel()].view(torch.float32)
            target.copy_(value, non_blocking=True)

    def content(self, file: StagedFile) -> memoryview:
        """The bytes of a file, after the copy has ended."""
        self.wait()
        return memoryview(self._buffer.numpy())[file.start : file.end]  # type: ignore[arg-type]


def _cuda_device(state: list[tuple[TensorSlice, Tensor]]) -> torch.device | None:
    """The GPU that holds the state, None if the host's memory does."""
    return next((value.device for _, value in state if value.is_cuda), None)


def _page_locked(n_bytes: int, device: torch.device) -> Tensor:
    """Host memory of exactly this size that the device reads without the CPU.

    torch's own allocator would round up to a power of two: 84 GB of a 7B's state to 128 GB.
    """
    buffer = torch.empty(n_bytes, dtype=torch.uint8)
    with torch.cuda.device(device):  # a thread begins with device 0
        runtime: Any = torch.cuda.cudart()
        torch.cuda.check_error(runtime.cudaHostRegister(buffer.data_ptr(), n_bytes, 0))
    unlock = weakref.finalize(buffer, runtime.cudaHostUnregister, buffer.data_ptr())
    unlock.atexit = False  # CUDA may be gone by then
    return buffer


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
