"""rows that go through the model together: as many as memory holds, half if it runs out

The bytes of a row follow from the model's shape: temporaries of one block at every position, keys
and values of decoding, and logits where whole rows of them exist.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Literal, TypeVar

import torch

from data_prep.core import telemetry
from eval.model import numerics
from eval.model.numerics import Format
from eval.model.subject.subject_model import ModelShape

T = TypeVar("T")

MOST_ROWS = {"cpu": 128, "cuda": 1024}  # more are no faster
CPU_BYTES = 2 << 30  # of the temporaries of a pass: larger ones leave the caches anyway
GPU_SHARE = 0.8  # of what is free: the allocator loses some to fragmentation
# logits, probabilities, their sort, sums in fp32 and fp64, and what a sort needs beside
SAMPLING_BYTES = 48  # per token of the vocabulary and row


def pass_bytes(shape: ModelShape, n_positions: int, dtype: torch.dtype) -> int:
    """Bytes that one row of a forward pass needs at its peak, without logits.

    Attention holds the residual stream, its norm, queries, keys and values beside fp32 copies for
    their rotation; an MLP holds gate, up, SiLU and product, and its norm in fp32. A padded row has
    a mask of positions × positions as well.
    """
    attention = (8 * dtype.itemsize + 5 * 4) * max(shape.d_model, shape.n_heads * shape.d_head)
    mlp = 4 * dtype.itemsize * (shape.d_model + shape.d_mlp) + 4 * shape.d_model
    return n_positions * max(attention, mlp) + (4 + dtype.itemsize) * n_positions**2


def cache_bytes(shape: ModelShape, n_positions: int, dtype: torch.dtype) -> int:
    """Bytes of the keys and values of one row."""
    return 2 * shape.n_layers * shape.n_kv_heads * shape.d_head * dtype.itemsize * n_positions


def decoding_bytes(
    shape: ModelShape, n_prompt: int, max_new_tokens: int, dtype: torch.dtype
) -> int:
    """Bytes that one row of a decoding needs at its peak: keys and values of all positions and of
    the steps before they are moved to the front, those of the prompt twice; the pass over its
    prompt, and the sampling of one token.
    """
    cached = cache_bytes(shape, 2 * n_prompt + 2 * max_new_tokens, dtype)
    sampling = SAMPLING_BYTES * shape.vocab_size
    return cached + max(pass_bytes(shape, n_prompt, dtype), sampling)


def rows_that_fit(bytes_per_row: int, available_bytes: int, most: int) -> int:
    """At most `most` rows, of `bytes_per_row` each; at least one. Where memory is the limit it is a
    power of two, which stays the same when a little less is free: on a GPU rounding depends on it.
    """
    n_rows = max(1, available_bytes // max(1, bytes_per_row))
    return most if n_rows >= most else 1 << (n_rows.bit_length() - 1)


class BatchSize:
    """How many rows go through the model together: at most `rows`, and as many as memory holds.

    No row depends on the others of its batch, so a smaller batch is slower and changes results by
    rounding at most; in bf16 that may turn a sampled token into another. The estimate of a row's
    bytes is meant to suffice. Where memory runs out all the same, the batch is halved, for the
    whole evaluation: a size that did not fit is not tried again.
    """

    def __init__(
        self,
        rows: int,
        available_bytes: Callable[[], int] | None = None,
        products: Callable[[], AbstractContextManager[object]] = nullcontext,
    ) -> None:
        """available_bytes: memory for temporaries at this moment; None is without a limit.
        products: the context that the model's matrix products run in.
        """
        self.rows = rows
        self._available_bytes = available_bytes
        self._products = products

    @classmethod
    def on(
        cls, device: torch.device, setting: int | Literal["auto"], number_format: Format
    ) -> "BatchSize":
        """The batch size that eval.compute.batch_size means on this device."""
        return cls(
            MOST_ROWS[device.type] if setting == "auto" else setting,
            partial(_available_bytes, device),
            partial(numerics.fp32_products, device, number_format),
        )

    def for_each_batch(
        self,
        items: Sequence[T],
        work: Callable[[Sequence[T]], object],
        *,
        bytes_per_item: int = 0,
    ) -> None:
        """Call `work` on all items, one batch at a time. A batch that runs out of memory is started
        again, so `work` must store nothing before its last step.
        """
        fitting = self._fitting(bytes_per_item)
        start = 0
        while start < len(items):
            batch = items[start : start + min(self.rows, fitting)]
            if self._try(len(batch), partial(work, batch)):
                start += len(batch)

    def with_rows(self, most: int, work: Callable[[int], object], *, bytes_per_row: int) -> None:
        """Call `work` with a number of rows that fit together, `most` at most. If it runs out of
        memory it is called again with half, so it must store nothing before its last step.
        """
        n_rows = min(most, self._fitting(bytes_per_row))
        while not self._try(n_rows, partial(work, n_rows)):
            n_rows = self.rows

    def _fitting(self, bytes_per_row: int) -> int:
        if self._available_bytes and bytes_per_row:
            return rows_that_fit(bytes_per_row, self._available_bytes(), self.rows)
        return self.rows

    def _try(self, n_rows: int, work: Callable[[], object]) -> bool:
        """Whether the work, on so many rows together, had enough memory."""
        try:
            with self._products():
                work()
        except torch.OutOfMemoryError as error:
            if n_rows == 1:
                error.add_note(
                    "a single row does not fit; use another device, eval.compute.precision=bf16, "
                    "or shorter texts"
                )
                raise
            self.rows = n_rows // 2
            telemetry.logger.warning(
                "out of memory with %d rows per batch: continuing with %d", n_rows, self.rows
            )
        else:
            return True
        # not above: the error holds what the work had in memory
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        return False


def _available_bytes(device: torch.device) -> int:
    """Bytes that temporaries of a forward pass may take now."""
    if device.type != "cuda":
        return CPU_BYTES
    free, _ = torch.cuda.mem_get_info(device)
    unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return int(GPU_SHARE * (free + unused))
