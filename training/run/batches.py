"""batches of one rank: mixture and step to tokens, prefetched by a thread

The mixture says which sequences are in global batch k, in an order that does not depend on ranks or
workers; data rank r of W takes rows [r·B/W, (r+1)·B/W). So nothing here is state: a run resumes by
reading from another first step, on any number of ranks.

    batch k, B = 8     c c t c c c t c        t: toxic row; the mixture permutes the rows, so that
    W = 2              └ rank 0 ┘└ rank 1 ┘   no rank gets all of them

A thread prefetches a few steps, for a GPU into pinned memory, which is copied asynchronously. The
time that the loop still waits is logged, since a run that its store slows down looks healthy
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
from training.engine.process_group import World

JOIN_SECONDS = 5.0  # a thread that is retrying a read ends with the process
# Tokens of a step are few bytes (int64), and some steps hide a hiccup of the store.
PREFETCH_STEPS = 4


class TrainBatch(NamedTuple):
    """This rank's rows of a global batch.

    A row is a sequence of one stream: it may cross documents, never streams, so the row's source is
    that of each of its tokens. n_valid and n_toxic count rows of the whole global batch, without
    padding.
    """

    step: int
    tokens: Tensor  # [rows, T] int64; padding rows are zeros
    valid: Tensor  # [rows] bool
    toxic: Tensor  # [rows] bool; False for padding rows
    n_valid: int
    n_toxic: int


class BatchReader:
    """The batches of one data-parallel rank, in host memory; pinned where the device is a GPU."""

    def __init__(
        self, mixture: Mixture, clean: SequenceSource, toxic: SequenceSource, world: World
    ) -> None:
        assert mixture.batch_size % world.n_data_ranks == 0, (mixture, world)
        self._mixture = mixture
        self._clean = clean
        self._toxic = toxic
        self._world = world
        self._cuda = world.device if world.device.type == "cuda" else None

    def read(self, step: int) -> TrainBatch:
        """This rank's rows of global batch `step`, in order."""
        rows = self._mixture.rows(step)
        n_toxic = int(rows.toxic.sum())
        per_rank = len(rows.sequence) // self._world.n_data_ranks
        own = slice(self._world.data_rank * per_rank, (self._world.data_rank + 1) * per_rank)
        rows = BatchRows(rows.toxic[own], rows.sequence[own])
        tokens = mixtures.read_rows(rows, self._clean, self._toxic)
        return TrainBatch(
            step,
            self._hosted(torch.from_numpy(tokens)),
            self._hosted(torch.from_numpy(rows.sequence != PADDING)),
            self._hosted(torch.from_numpy(rows.toxic)),
            self._mixture.n_valid(step),
            n_toxic,
        )

    def _hosted(self, values: Tensor) -> Tensor:
        return values.pin_memory() if self._cuda else values

    def prefetch(self, first: int, last: int) -> Iterator[tuple[TrainBatch, float]]:
        """Batches [first, last), each with the seconds that the caller waited for it.

        A thread reads them; its errors are raised here.
        """
        ready: queue.Queue[TrainBatch | BaseException] = queue.Queue(maxsize=PREFETCH_STEPS)
        stopped = threading.Event()

        def put(item: TrainBatch | BaseException) -> None:
            while not stopped.is_set():
                try:
                    return ready.put(item, timeout=0.2)
                except queue.Full:
                    continue

        def read_all() -> None:
            try:
                if self._cuda:  # a new thread is on device 0, and pinning would initialise that one
                    torch.cuda.set_device(self._cuda)
                for step in range(first, last):
                    if stopped.is_set():
                        return
                    put(self.read(step))
            except BaseException as error:
                put(error)

        thread = threading.Thread(target=read_all, name="batches", daemon=True)
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
            thread.join(JOIN_SECONDS)
