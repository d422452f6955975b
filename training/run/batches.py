"""mixture + step → this rank's tokens: prefetch, checksums; state is a step

The mixture says which sequences are in global batch k, in an order that no rank or worker knows
about; rank r of W takes rows [r·B/W, (r+1)·B/W). So nothing here is state: a run resumes by asking
for another first step, on any number of ranks.

    batch k, B = 8     c c t c c c t c        t toxic row, permuted by the mixture, so that no rank gets them all
    W = 2              └ rank 0 ┘└ rank 1 ┘

A thread reads a few steps ahead, for a GPU into pinned memory, from which a copy need not be waited
for; the time the loop still waits is reported, for a run starved by its store looks healthy
otherwise.
"""

import queue
import threading
import time
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from data_prep.token_stream import mixture as mixtures
from data_prep.token_stream.mixture import PADDING, BatchRows, Mixture, SequenceSource

LEAVE_SECONDS = 5.0  # a thread in the middle of a read that is tried again ends with the process
AHEAD_STEPS = (
    4  # a step's tokens are small (int64: 8 bytes each); a store's hiccup of a few steps is hidden
)


class Batch(NamedTuple):
    """This rank's share of a global batch. n_valid and n_toxic count rows of the whole global
    batch, without padding.

    A row is a window of one stream: it may cross documents, never streams, so a row's label is that
    of each of its tokens.
    """

    step: int
    tokens: Tensor  # [rows, T] int64; padding rows are zeros
    valid: Tensor  # [rows] bool
    toxic: Tensor  # [rows] bool: the source of the row's tokens; padding rows have none
    n_valid: int
    n_toxic: int


class Batches:
    """The batches of one rank, in host memory; of a CUDA `device`, in memory pinned for it."""

    def __init__(
        self,
        mixture: Mixture,
        clean: SequenceSource,
        toxic: SequenceSource,
        rank: int,
        world_size: int,
        device: torch.device | None = None,
    ) -> None:
        assert mixture.batch_size % world_size == 0, (mixture, world_size)
        self._mixture, self._clean, self._toxic = mixture, clean, toxic
        self._rank, self._world_size, self._cuda = (
            rank,
            world_size,
            device if device and device.type == "cuda" else None,
        )

    def read(self, step: int) -> Batch:
        """Rows of global batch `step` that are this rank's, in order."""
        rows = self._mixture.rows(step)
        per_rank = len(rows.sequence) // self._world_size
        here = slice(self._rank * per_rank, (self._rank + 1) * per_rank)
        mine = BatchRows(rows.toxic[here], rows.sequence[here])
        arrays = (
            mixtures.read_rows(mine, self._clean, self._toxic),
            mine.sequence != PADDING,
            mine.toxic,
        )
        tokens, valid, toxic = (self._hosted(torch.from_numpy(array)) for array in arrays)
        return Batch(step, tokens, valid, toxic, self._mixture.n_valid(step), int(rows.toxic.sum()))

    def _hosted(self, values: Tensor) -> Tensor:
        return values.pin_memory() if self._cuda else values

    def ahead(self, first: int, last: int) -> Iterator[tuple[Batch, float]]:
        """Batches [first, last) read ahead by a thread, each with the seconds it was waited for;
        errors come out here.
        """
        ready: queue.Queue[Batch | BaseException] = queue.Queue(maxsize=AHEAD_STEPS)
        stopped = threading.Event()

        def put(item: Batch | BaseException) -> None:
            while not stopped.is_set():
                try:
                    return ready.put(item, timeout=0.2)
                except queue.Full:
                    continue

        def work() -> None:
            try:
                if self._cuda:
                    torch.cuda.set_device(
                        self._cuda
                    )  # a thread begins at device 0, and pinning would wake that one
                for step in range(first, last):
                    if stopped.is_set():
                        return
                    put(self.read(step))
            except BaseException as error:
                put(error)

        thread = threading.Thread(target=work, name="batches", daemon=True)
        thread.start()
        try:
            for _ in range(first, last):
                start = time.perf_counter()
                item = ready.get()
                if isinstance(item, BaseException):
                    raise item
                yield item, time.perf_counter() - start
        finally:
            stopped.set()
            thread.join(LEAVE_SECONDS)
