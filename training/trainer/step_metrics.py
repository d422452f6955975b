"""metrics summed over steps on the device, and the line of a logged step

Losses are summed on the device, for each source apart, with the rows they belong to; a skipped step
adds nothing. At a logged step they travel together with the values of the guard and of the model
statistics, in one all-reduce and one host sync.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from training.engine import process_group
from training.metrics.metrics_log import LoggedStep
from training.metrics.model_stats import ModelStats
from training.optim.step_guard import StepGuard
from training.run.batches import TrainBatch
from training.run.run_context import RunContext


class StepResult(NamedTuple):
    """What a step leaves on the device.

    loss_S: summed loss of the global batch's clean and toxic rows, [2]. accepted: 1 if the step
    changed the weights, else 0.
    """

    loss_S: Tensor
    accepted: Tensor


class StepMetrics:
    """The metrics of one run from step `first` on; train_seconds: spent in steps so far."""

    def __init__(
        self,
        context: RunContext,
        guard: StepGuard,
        stats: ModelStats,
        first: int,
        train_seconds: float,
    ) -> None:
        self._context = context
        self._guard = guard
        self._stats = stats
        self._loss_S, self._rows_S = torch.zeros(
            2, 2, dtype=torch.float64, device=context.world.device
        )
        mixture = context.run.mixture
        self._n_toxic = mixture.toxic_before(mixture.rows_before(first))
        self._begin(first, train_seconds)

    def _begin(self, step: int, train_seconds: float) -> None:
        """Begin the steps between two logged ones."""
        self._first = step
        self._first_seconds = train_seconds
        self._first_n_toxic = self._n_toxic
        self._wait_seconds = 0.0
        self._loss_S.zero_()
        self._rows_S.zero_()

    def add(self, batch: TrainBatch, wait_seconds: float, result: StepResult) -> None:
        """Add a step, and the time that the loop waited for its batch."""
        self._n_toxic += batch.n_toxic
        self._wait_seconds += wait_seconds
        self._loss_S += torch.where(result.accepted > 0, result.loss_S, 0)
        rows = (batch.n_valid - batch.n_toxic, batch.n_toxic)
        self._rows_S += torch.stack([result.accepted * n for n in rows])

    def log(self, step: int, train_seconds: float, learning_rate: float) -> LoggedStep:
        """The metrics of the steps up to `step` (exclusive); later steps begin new ones.

        Raises Rollback if the guard asks for it.
        """
        loss_S, rows_S, guard_values, stats_values = self._read_device()
        loss, grad_norm, n_skipped, n_bad, rollback_end = guard_values
        self._guard.check(step, loss, int(rollback_end))
        n_steps = step - self._first
        line = {
            "step": step,
            "loss": loss,
            "learning_rate": learning_rate,
            "grad_norm": grad_norm,
            "source_loss": self._source_loss(loss_S, rows_S),
            **self._stats.line(stats_values),
            "skipped_steps": int(n_skipped),
            "rollbacks": self._guard.n_rollbacks,
            **self._throughput(step, train_seconds),
            "data_wait_seconds": self._wait_seconds / n_steps,
            **self._toxic_shares(step),
            "train_seconds": train_seconds,
        }
        self._begin(step, train_seconds)
        return LoggedStep(n_steps, line, int(n_bad))

    def _read_device(self) -> tuple[list[float], list[float], list[float], list[float]]:
        """(summed loss by source, rows by source, values of the guard, sums of the statistics)."""
        process_group.all_reduce_sum(self._stats.sums)
        guard_values = [value.double() for value in self._guard.logged_values()]
        common = torch.stack([*self._loss_S, *self._rows_S, *guard_values])
        values = torch.cat([common, self._stats.sums]).tolist()  # the one host sync
        n = len(common)
        return values[:2], values[2:4], values[4:n], values[n:]

    def _source_loss(self, loss_S: list[float], rows_S: list[float]) -> dict[str, float]:
        """Mean loss per token of each source that had rows."""
        n_predictions = self._context.run.train.sequence_length - 1
        return {
            name: loss / (n_rows * n_predictions)
            for name, loss, n_rows in zip(("clean", "toxic"), loss_S, rows_S, strict=True)
            if n_rows
        }

    def _throughput(self, step: int, train_seconds: float) -> dict[str, float]:
        mixture = self._context.run.mixture
        n_rows = mixture.rows_before(step) - mixture.rows_before(self._first)
        n_tokens = n_rows * self._context.run.train.sequence_length
        tokens_per_second = n_tokens / (train_seconds - self._first_seconds)
        return {
            "tokens_per_second": tokens_per_second,
            "mfu_ratio": self._context.mfu_ratio(tokens_per_second),
            "matmul_ratio": self._context.matmul_ratio(tokens_per_second),
        }

    def _toxic_shares(self, step: int) -> dict[str, Any]:
        """The share of toxic rows since the last logged step and since step 0; tokens so far."""
        mixture = self._context.run.mixture
        n_rows_before = mixture.rows_before(step)
        n_rows = n_rows_before - mixture.rows_before(self._first)
        return {
            "batch_toxic_share_ratio": (self._n_toxic - self._first_n_toxic) / n_rows,
            "toxic_share_ratio": self._n_toxic / n_rows_before,
            "n_tokens": n_rows_before * self._context.run.train.sequence_length,
        }
