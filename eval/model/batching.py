"""how many rows go through the model together: as many as asked for, and half of that where memory
runs out

No row depends on the others of its batch, so a smaller batch is slower and changes nothing.
"""

from collections.abc import Callable, Sequence
from typing import TypeVar

import torch

from data_prep.core import telemetry

T = TypeVar("T")


class BatchSize:
    """The number of rows, for a whole evaluation: what did not fit once is not tried again."""

    def __init__(self, rows: int) -> None:
        self.rows = rows

    def each(self, items: Sequence[T], work: Callable[[Sequence[T]], object]) -> None:
        """`work` on all items, a batch at a time. One that ran out of memory is begun again: work
        keeps nothing till its end.
        """
        at = 0
        while at < len(items):
            batch = items[at : at + self.rows]
            if self._fits(batch, work):
                at += len(batch)
            elif torch.cuda.is_available():
                torch.cuda.empty_cache()

    def _fits(self, batch: Sequence[T], work: Callable[[Sequence[T]], object]) -> bool:
        try:
            work(batch)
        except torch.OutOfMemoryError as error:
            if len(batch) == 1:
                error.add_note(
                    "one row alone does not fit; take another device, eval.compute.precision=bf16, or shorter texts"
                )
                raise
            self.rows = len(batch) // 2
            telemetry.logger.warning(
                "out of memory with %d rows together: going on with %d", len(batch), self.rows
            )
            return False
        return True
