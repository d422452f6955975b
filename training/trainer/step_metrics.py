"""what is added up between two logged steps, and the journal's line that comes of it

Losses are added up on the device, for each source apart, with the rows they are of; a skipped step
adds nothing. They travel with the guard's facts and the observer's in the one exchange and the one
host sync of a logged step.
"""

import torch
from torch import Tensor

from training.engine import process_group
from training.metrics.metrics_log import LoggedStep
from training.metrics.model_stats import ModelStats
from training.optim.step_guard import Guard
from training.run.batches import Batch
from training.run.run_context import Job


class Meter:
    """Of one run, from `first` on."""

    def __init__(
        self, job: Job, guard: Guard, observer: ModelStats, first: int, seconds: float
    ) -> None:
        self._observer = observer
        self._job, self._guard, self._step, self._seconds, self._waited = (
            job,
            guard,
            first,
            seconds,
            0.0,
        )
        self._n_toxic_before = self._n_toxic = job.run.mixture.toxic_before(
            job.run.mixture.rows_before(first)
        )
        self._loss_S, self._rows_S = torch.zeros(2, 2, dtype=torch.float64, device=job.world.device)

    def add(self, batch: Batch, waited: float, loss_S: Tensor, counts: Tensor) -> None:
        """A step, as take_step returns it."""
        self._n_toxic += batch.n_toxic
        self._waited += waited
        self._loss_S += torch.where(counts > 0, loss_S, 0)
        self._rows_S += torch.stack(
            [counts * (batch.n_valid - batch.n_toxic), counts * batch.n_toxic]
        )

    def read(self, step: int, seconds: float, learning_rate: float) -> LoggedStep:
        """What is to be said of the steps up to `step`, and begin anew; the guard may have training
        go back instead.
        """
        process_group.all_reduce_sum(self._observer.sums)
        common = torch.stack(
            [*self._loss_S, *self._rows_S, *(fact.double() for fact in self._guard.seen())]
        )
        values = torch.cat([common, self._observer.sums]).tolist()  # the one host sync
        losses, rows, (loss, grad_norm, n_skipped, n_bad, end), seen = (
            values[:2],
            values[2:4],
            values[4:9],
            values[9:],
        )
        self._guard.judge(step, loss, int(end))
        job, length, n_steps = self._job, self._job.run.train.sequence_length, step - self._step
        n_rows_before, n_toxic = (
            job.run.mixture.rows_before(step),
            self._n_toxic - self._n_toxic_before,
        )
        n_rows = n_rows_before - job.run.mixture.rows_before(self._step)
        tokens_per_second = n_rows * length / (seconds - self._seconds)
        line = {
            "step": step,
            "loss": loss,
            "learning_rate": learning_rate,
            "grad_norm": grad_norm,
            "source_loss": {
                name: total / (n * (length - 1))
                for name, total, n in zip(("clean", "toxic"), losses, rows, strict=True)
                if n
            },
            **self._observer.line(seen),
            "skipped_steps": int(n_skipped),
            "rewinds": self._guard.n_rewinds,
            "tokens_per_second": tokens_per_second,
            "mfu_ratio": job.mfu_ratio(tokens_per_second),
            "matmul_ratio": job.matmul_ratio(tokens_per_second),
            "data_wait_seconds": self._waited / n_steps,
            "batch_toxic_share_ratio": n_toxic / n_rows,
            "toxic_share_ratio": self._n_toxic / n_rows_before,
            "n_tokens": n_rows_before * length,
            "train_seconds": seconds,
        }
        self._step, self._seconds, self._waited, self._n_toxic_before = (
            step,
            seconds,
            0.0,
            self._n_toxic,
        )
        self._loss_S.zero_()
        self._rows_S.zero_()
        return LoggedStep(n_steps, line, int(n_bad))
