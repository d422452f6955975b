"""step guard: skip steps with NaN, infinity or spikes; roll back after too many

A step is bad if its loss or gradient norm is not finite, or is `spike_sigma` standard deviations
above the mean of the last accepted steps. The verdict stays on the device: torch's fused AdamW
reads it as `found_inf`, with which a step leaves weights, optimizer state and its own step count as
they were, and reads the clipping as `grad_scale`. So a step needs no host sync. Both quantities are
sums over all ranks, so every rank reaches the same verdict.

DeepSpeed checks the norm itself, at the cost of a sync, and returns before AdamW where the norm is
not finite, in: fp32, stage 3, and stage 1 with bf16 and several micro-batches (BF16_Optimizer).
Such a step counts as bad like any other. Elsewhere its check is off (deepspeed_engine.py), and a
step has no sync at all; an offloaded optimizer waits for its gradients in any case.

    first pass   … c ……… f ×××××× e …     c: checkpoint, f: first of max_bad_steps bad steps in a
                                          row, e: the step after them
    after that   … c             e …      weights and optimizer state of c; the batches [c, e)
                                          change nothing

The host learns of bad steps in a row at the next logged step, but [c, e) does not depend on when.
Skipping the bad steps alone would not help: what was learned shortly before may be the cause, so it
is left out as well. No checkpoint is saved while steps are bad. The number of rollbacks is bounded,
and where they lead depends on the cadence of checkpoints; both are recorded. A checkpoint holds the
guard's state, so a resumed run reaches the same verdicts.
"""

import math
from typing import Any

import torch
from torch import Tensor

from data_prep.core import telemetry
from data_prep.core.errors import ConfigurationError
from training.config import RunConfig
from training.engine import deepspeed_engine, process_group
from training.engine.process_group import World

WINDOW_STEPS = 128
WARMUP_STEPS = 32  # accepted steps before the first check for spikes
MIN_SIGMA_RATIO = 1e-3  # of the mean: differences by rounding are not spikes
MAX_ROLLBACKS = 3
STATE_KEYS = ("window_2N", "last_2", "counts_3", "skipped_K")


class Rollback(Exception):
    """Training goes back to its newest checkpoint, and continues from there with step `end`."""

    def __init__(self, end: int) -> None:
        super().__init__(end)
        self.end = end


class StepGuard:
    """The guard of one run; its state is on the device and the same on every rank.

    window_2N: losses and gradient norms of the last N accepted steps, as a ring buffer. last_2:
    those of the newest accepted step. counts_3: accepted steps in the window so far; bad steps in a
    row; the step after the first max_bad_steps bad ones in a row (-1: none yet). skipped_K: which
    of the run's K steps changed nothing.
    """

    def __init__(self, engine: Any, run: RunConfig, world: World) -> None:
        self._engine = engine
        self._run = run
        self._world = world
        device = world.device
        n_steps = run.mixture.n_steps
        self.window_2N = torch.zeros(2, WINDOW_STEPS, dtype=torch.float64, device=device)
        self.last_2 = torch.full((2,), torch.nan, dtype=torch.float64, device=device)
        self.counts_3 = torch.tensor([0, 0, -1], device=device)
        self.skipped_K = torch.zeros(n_steps, dtype=torch.bool, device=device)
        self.n_rollbacks = 0
        self._step = 0
        self._n_predictions = 1
        self._loss_S = self.last_2
        self._loss: Tensor | None = None  # of the current step, once summed over the ranks
        self._accepted: Tensor | None = None  # the verdict on the current step
        deepspeed_engine.register_pre_step_hook(engine, self._before_optimizer)

    def state_dict(self) -> dict[str, Tensor]:
        """The tensors that a checkpoint keeps."""
        state = {f"guard.{name}": getattr(self, name) for name in STATE_KEYS}
        return state | {"guard.n_rollbacks": torch.tensor(self.n_rollbacks)}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        for key, value in state.items():
            name = key.removeprefix("guard.")
            if name == "n_rollbacks":
                self.n_rollbacks = int(value)
            elif name == "skipped_K":  # the state of a trunk has more steps than its branch
                n = min(len(value), len(self.skipped_K))
                self.skipped_K[:n] = value[:n]
            else:
                getattr(self, name).copy_(value)

    def skip_after_rollback(self, checkpoint_step: int, ends: list[int]) -> int:
        """Skip [checkpoint_step, end) for each of the rollbacks' `ends`; the step to continue with.

        Raises ConfigurationError if there were too many rollbacks.
        """
        for end in (end for end in ends if end > checkpoint_step):
            self.n_rollbacks += 1
            telemetry.logger.warning(
                "run %s: %d bad steps in a row before step %d; rolling back to step %d and "
                "continuing with step %d (rollback %d of at most %d)",
                *(self._run.run_id, self._run.train.guard.max_bad_steps, end),
                *(checkpoint_step, end, self.n_rollbacks, MAX_ROLLBACKS),
            )
            self.skipped_K[checkpoint_step:end] = True
            if self.n_rollbacks > MAX_ROLLBACKS or end >= len(self.skipped_K):
                raise diverged(self._run, end)
        left = (~self.skipped_K[checkpoint_step:]).nonzero()
        return checkpoint_step + int(left[0]) if len(left) else len(self.skipped_K)

    def begin_step(self, step: int, n_valid: int, loss_S: Tensor) -> None:
        """Begin `step`, whose global batch has n_valid rows.

        Before the optimizer runs, `loss_S` holds this rank's summed losses, by source.
        """
        self._step = step
        self._loss_S = loss_S
        self._n_predictions = n_valid * (self._run.train.sequence_length - 1)
        self._loss = self._accepted = None

    def end_step(self) -> Tensor:
        """1 if the optimizer took the step, else 0, on the device.

        `loss_S` is now summed over the ranks.
        """
        n, n_bad, end = self.counts_3
        accepted = self._accepted
        if accepted is None:  # DeepSpeed returned before the optimizer
            accepted = torch.zeros_like(self.skipped_K[0])
        quantities_2 = self._loss_and_norm()
        is_added = accepted & self._is_full_batch()
        slot_N = torch.arange(WINDOW_STEPS, device=accepted.device) == n % WINDOW_STEPS
        self.window_2N = torch.where(slot_N & is_added, quantities_2[:, None], self.window_2N)
        self.last_2 = torch.where(accepted, quantities_2, self.last_2)
        n_bad = torch.where(accepted, 0, n_bad + 1)
        is_first_time = (end < 0) & (n_bad == self._run.train.guard.max_bad_steps)
        end = torch.where(is_first_time, self._step + 1, end)
        self.counts_3 = torch.stack([n + is_added, n_bad, end])
        self.skipped_K[self._step] = ~accepted
        return accepted.double()

    def logged_values(self) -> list[Tensor]:
        """For a logged step: loss and gradient norm of the newest accepted step, number of skipped
        steps, of bad steps in a row, and the end of a rollback or -1.
        """
        return [*self.last_2, self.skipped_K.sum(), *self.counts_3[1:]]

    def check(self, step: int, loss: float, rollback_end: int) -> None:
        """Raise Rollback if there were too many bad steps in a row, given `logged_values`."""
        if rollback_end >= 0:
            raise Rollback(rollback_end)
        if step == len(self.skipped_K) and not math.isfinite(loss):  # no step was ever accepted
            raise diverged(self._run, step)

    def skipped_ranges(self) -> tuple[tuple[int, int], ...]:
        """The steps that changed nothing, as ranges [first, end)."""
        edges = torch.nn.functional.pad(self.skipped_K.int().cpu(), (1, 1)).diff()
        firsts, ends = ((edges == edge).nonzero().flatten().tolist() for edge in (1, -1))
        return tuple(zip(firsts, ends, strict=True))

    def _before_optimizer(self, optimizer: torch.optim.Optimizer) -> None:
        """Pass the verdict and the clipping to AdamW; called once per parameter group of a step."""
        quantities_2 = self._loss_and_norm()
        if self._accepted is None:
            self._accepted = self._is_accepted(quantities_2)
        # An offloaded AdamW would copy them to the CPU itself, and its kernel would not wait for
        # the copies. Stage 3 steps one group at a time, and empties the others meanwhile.
        weights = (weight for group in optimizer.param_groups for weight in group["params"])
        device = next(weights).device
        optimizer.found_inf = (~self._accepted).float().to(device)  # type: ignore[attr-defined]
        if max_norm := self._run.train.optimizer.gradient_clip:
            scale = ((quantities_2[1] + 1e-6) / max_norm).clamp(min=1).float()
            optimizer.grad_scale = scale.to(device)  # type: ignore[attr-defined]

    def _loss_and_norm(self) -> Tensor:
        """[mean loss of the global batch, norm of its gradient].

        The losses are summed over the ranks right after DeepSpeed's norms.
        """
        if self._loss is None:
            process_group.all_reduce_sum(self._loss_S, self._world.data_group)
            self._loss = self._loss_S.sum() / self._n_predictions
        return torch.stack([self._loss, deepspeed_engine.grad_norm(self._engine).to(self._loss)])

    def _is_accepted(self, quantities_2: Tensor) -> Tensor:
        is_finite = torch.isfinite(quantities_2).all()
        spike_sigma = self._run.train.guard.spike_sigma
        if not spike_sigma or not self._is_full_batch():
            return is_finite
        n = self.counts_3[0]
        is_filled_N = torch.arange(WINDOW_STEPS, device=n.device) < n
        n_filled = n.clamp(1, WINDOW_STEPS)
        mean_2 = (self.window_2N * is_filled_N).sum(1) / n_filled
        squares_2N = (self.window_2N - mean_2[:, None]) ** 2 * is_filled_N
        variance_2 = squares_2N.sum(1) / (n_filled - 1).clamp(min=1)
        sigma_2 = torch.maximum(variance_2.sqrt(), MIN_SIGMA_RATIO * mean_2)
        is_no_spike = (quantities_2 <= mean_2 + spike_sigma * sigma_2).all()
        return is_finite & ((n < WARMUP_STEPS) | is_no_spike)

    def _is_full_batch(self) -> bool:
        """Whether this is not the last batch, whose few rows have a loss and norm of their own."""
        return self._step < self._run.mixture.n_steps - 1


def diverged(run: RunConfig, step: int) -> ConfigurationError:
    """The error of a run that stays bad around `step`."""
    optimizer = run.train.optimizer
    return ConfigurationError(
        f"run {run.run_id}: losses or gradient norms around step {step} of {run.mixture.n_steps} "
        "are not finite, or spike, even after rolling back: training has diverged; lower "
        f"train.optimizer.learning_rate (now {optimizer.learning_rate:g}), warm up longer, lower "
        f"train.optimizer.gradient_clip (now {optimizer.gradient_clip:g}), or allow larger spikes "
        f"with train.guard.spike_sigma (now {run.train.guard.spike_sigma:g})"
    )
