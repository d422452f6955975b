"""what is added up between two logged steps, and the journal's line that comes of it

Losses are added up on the device, for each source apart; they travel with the step's loss in the one exchange and the one host
sync that a logged step has anyway.
"""

from typing import Any

import torch
from torch import Tensor

from training.batches import Batch
from training.job import Job


class Meter:
    """Of one run, from `first` on. loss_S: summed loss of this rank's clean and toxic rows, on the device."""

    def __init__(self, job: Job, first: int, seconds: float) -> None:
        self._job, self._step, self._seconds, self._waited = job, first, seconds, 0.0
        self._n_toxic_before = self._n_toxic = job.run.mixture.toxic_before(job.run.mixture.rows_before(first))
        self.loss_S = torch.zeros(2, dtype=torch.float64, device=job.place.device)

    def add(self, batch: Batch, waited: float, loss_S: Tensor) -> None:
        self._n_toxic += batch.n_toxic
        self._waited += waited
        self.loss_S += loss_S

    def line(self, step: int, seconds: float, source_sums: list[float], **seen: float) -> tuple[int, dict[str, Any]]:
        """(steps since the line before, the journal's line for `step`), and begin anew. source_sums: loss_S over all ranks."""
        job, length, n_steps = self._job, self._job.run.train.sequence_length, step - self._step
        n_rows_before, n_toxic = job.run.mixture.rows_before(step), self._n_toxic - self._n_toxic_before
        n_rows = n_rows_before - job.run.mixture.rows_before(self._step)
        n_predictions = {"clean": (n_rows - n_toxic) * (length - 1), "toxic": n_toxic * (length - 1)}
        tokens_per_second = n_rows * length / (seconds - self._seconds)
        line = {
            "step": step,
            **seen,
            "source_loss": {name: total / n for (name, n), total in zip(n_predictions.items(), source_sums, strict=True) if n},
            "tokens_per_second": tokens_per_second,
            "mfu_ratio": job.mfu_ratio(tokens_per_second),
            "data_wait_seconds": self._waited / n_steps,
            "batch_toxic_share_ratio": n_toxic / n_rows,
            "toxic_share_ratio": self._n_toxic / n_rows_before,
            "n_tokens": n_rows_before * length,
            "train_seconds": seconds,
        }
        self._step, self._seconds, self._waited, self._n_toxic_before = step, seconds, 0.0, self._n_toxic
        self.loss_S.zero_()
        return n_steps, line
