"""what keeps a bad step out: NaN, infinity and spikes skip the optimizer, and too many in a row go
back to a checkpoint

A step is bad if its loss or gradient norm is not finite, or lies `spike_sigma` standard deviations
above the mean of the last accepted ones. The verdict stays on the device: torch's fused AdamW takes
it as `found_inf`, with which a step leaves weights, averages and its own count as they were, and
takes the clipping as `grad_scale`; so a step needs no host sync. Both quantities are sums over all
ranks, so all ranks decide alike.

DeepSpeed looks at the norm itself, at the price of a sync, and returns before AdamW where it is not
finite, in: fp32, stage 3, and stage 1 with bf16 and several micro-batches (BF16_Optimizer). Such a
step counts as bad like any other. In stages 1 and 2 with bf16 and one micro-batch its check is off
(deepspeed_engine.py), and a step has no sync at all.

    step        … c ……… f ×××××× e …          c checkpoint, f first of max_bad_steps bad steps in a row, e the step after them
    after that  … c             e …           weights and averages of c; batches [c, e) change nothing

A run of bad steps is noticed at the next logged step, but [c, e) knows nothing of when. Skipping
alone would not help there: what was learnt shortly before may be at fault, so it is left out, too.
No checkpoint is saved while steps are bad. Going back is bounded, and depends on the cadence of
checkpoints; both are recorded. A resumed run has the window, and decides the same.
"""

import math
from typing import Any

import torch
from torch import Tensor

from data_prep.core import telemetry
from data_prep.core.errors import ConfigurationError
from training.config import RunConfig
from training.engine import deepspeed_engine, process_group
from training.run.batches import Batch
from training.run.run_context import Job

WINDOW_STEPS = 128
WARMUP_STEPS = 32  # accepted before spikes are looked for
LEAST_SIGMA_RATIO = 1e-3  # of the mean: rounding is no spike
MAX_REWINDS = 3


class Rewind(Exception):
    """Training goes back to its newest checkpoint and on at step `end`."""

    def __init__(self, end: int) -> None:
        super().__init__(end)
        self.end = end


class Guard:
    """The guard of one run: its state is on the device, the same on each rank.

    window_2N: accepted losses and norms, a ring. last_2: those of the newest accepted step.
    counts_3: accepted steps in the window so far, bad ones in a row, and the step after the first
    max_bad_steps bad ones in a row (-1: there were none).
    skipped_K: which steps changed nothing.
    """

    def __init__(self, job: Job, engine: Any) -> None:
        self._job, self._engine, device = job, engine, job.world.device
        n_steps = job.run.mixture.n_steps
        self.window_2N = torch.zeros(2, WINDOW_STEPS, dtype=torch.float64, device=device)
        self.last_2 = torch.full((2,), torch.nan, dtype=torch.float64, device=device)
        self.counts_3 = torch.tensor([0, 0, -1], device=device)
        self.skipped_K = torch.zeros(n_steps, dtype=torch.bool, device=device)
        self.n_rewinds = 0
        self._step, self._loss_S, self._n_predictions = 0, self.last_2, 1
        self._loss: Tensor | None = None
        self._ok: Tensor | None = None
        deepspeed_engine.register_pre_step_hook(engine, self._before)

    def state(self) -> dict[str, Tensor]:
        """What a checkpoint keeps."""
        names = ("window_2N", "last_2", "counts_3", "skipped_K")
        return {f"guard.{name}": getattr(self, name) for name in names} | {
            "guard.n_rewinds": torch.tensor(self.n_rewinds)
        }

    def restore(self, state: dict[str, Tensor]) -> None:
        for name, value in state.items():
            if name == "guard.n_rewinds":
                self.n_rewinds = int(value)
            elif name == "guard.skipped_K":  # a trunk has more steps than its branch
                n = min(len(value), len(self.skipped_K))
                self.skipped_K[:n] = value[:n]
            else:
                getattr(self, name.removeprefix("guard.")).copy_(value)

    def leave_out(self, first: int, ends: list[int]) -> int:
        """The step to go on from after going back to `first` because of bad steps before each of
        `ends`.
        """
        for end in (end for end in ends if end > first):
            self.n_rewinds += 1
            telemetry.logger.warning(
                "run %s: %d bad steps in a row before step %d: back to step %d, whose weights go on from step %d (%d of %d times)",
                *(
                    self._job.run.run_id,
                    self._job.run.train.guard.max_bad_steps,
                    end,
                    first,
                    end,
                    self.n_rewinds,
                    MAX_REWINDS,
                ),
            )
            self.skipped_K[first:end] = True
            if self.n_rewinds > MAX_REWINDS or end >= len(self.skipped_K):
                raise diverged(self._job.run, end)
        left = (~self.skipped_K[first:]).nonzero()
        return first + int(left[0]) if len(left) else len(self.skipped_K)

    def expect(self, batch: Batch, loss_S: Tensor) -> None:
        """The step of `batch` begins; before the optimizer runs `loss_S` will hold this rank's
        summed losses, by source.
        """
        self._step, self._loss_S, self._loss, self._ok = batch.step, loss_S, None, None
        self._n_predictions = batch.n_valid * (self._job.run.train.sequence_length - 1)

    def settle(self) -> Tensor:
        """Whether the step that was expected has been taken, 1 or 0, on the device; `loss_S` is
        summed over ranks by now.
        """
        n, n_bad, end = self.counts_3
        ok = self._ok if self._ok is not None else torch.zeros_like(self.skipped_K[0])
        now_2 = self._now()
        learns = ok & self._is_whole()
        slot_N = torch.arange(WINDOW_STEPS, device=ok.device) == n % WINDOW_STEPS
        self.window_2N = torch.where(slot_N & learns, now_2[:, None], self.window_2N)
        self.last_2 = torch.where(ok, now_2, self.last_2)
        n_bad = torch.where(ok, 0, n_bad + 1)
        tripped = (end < 0) & (n_bad == self._job.run.train.guard.max_bad_steps)
        self.counts_3 = torch.stack([n + learns, n_bad, torch.where(tripped, self._step + 1, end)])
        self.skipped_K[self._step] = ~ok
        return ok.double()

    def seen(self) -> list[Tensor]:
        """For a logged step: [loss, norm] of the newest accepted step, steps skipped so far, bad
        ones in a row, the end or -1.
        """
        return [*self.last_2, self.skipped_K.sum(), *self.counts_3[1:]]

    def judge(self, step: int, loss: float, end: int) -> None:
        """At a logged step, what `seen` told the host: raise Rewind if there were too many bad
        steps in a row.
        """
        if end >= 0:
            raise Rewind(end)
        if step == len(self.skipped_K) and not math.isfinite(loss):  # none was ever accepted
            raise diverged(self._job.run, step)

    def skipped(self) -> tuple[tuple[int, int], ...]:
        """The steps that changed nothing, as [first, end)."""
        marked = torch.nn.functional.pad(self.skipped_K.int().cpu(), (1, 1)).diff()
        firsts, ends = ((marked == edge).nonzero().flatten().tolist() for edge in (1, -1))
        return tuple(zip(firsts, ends, strict=True))

    def _before(self, optimizer: torch.optim.Optimizer) -> None:
        """Tell AdamW how far to clip, and whether to stay where it is; called once for each group
        of a step.
        """
        now_2 = self._now()
        if self._ok is None:
            self._ok = self._accepts(now_2)
        optimizer.found_inf = (~self._ok).float()  # type: ignore[attr-defined]
        if clip := self._job.run.train.optimizer.gradient_clip:
            optimizer.grad_scale = ((now_2[1] + 1e-6) / clip).clamp(min=1).float()  # type: ignore[attr-defined]

    def _now(self) -> Tensor:
        """[the global batch's mean loss, its gradient's norm]; the ranks' losses are added up right
        after DeepSpeed's norms.
        """
        if self._loss is None:
            process_group.all_reduce_sum(self._loss_S, self._job.world.data_group)
            self._loss = self._loss_S.sum() / self._n_predictions
        return torch.stack([self._loss, deepspeed_engine.grad_norm(self._engine).to(self._loss)])

    def _accepts(self, now_2: Tensor) -> Tensor:
        finite, sigma = torch.isfinite(now_2).all(), self._job.run.train.guard.spike_sigma
        if not sigma or not self._is_whole():
            return finite
        n = self.counts_3[0]
        known_N = torch.arange(WINDOW_STEPS, device=n.device) < n
        n_known = n.clamp(1, WINDOW_STEPS)
        mean_2 = (self.window_2N * known_N).sum(1) / n_known
        square_2 = ((self.window_2N - mean_2[:, None]) ** 2 * known_N).sum(1) / (n_known - 1).clamp(
            min=1
        )
        spread_2 = torch.maximum(square_2.sqrt(), LEAST_SIGMA_RATIO * mean_2)
        return finite & ((n < WARMUP_STEPS) | (now_2 <= mean_2 + sigma * spread_2).all())

    def _is_whole(self) -> bool:
        """The last batch may be a few rows, whose loss and gradient are those of no other step."""
        return self._step < self._job.run.mixture.n_steps - 1


def diverged(run: RunConfig, step: int) -> ConfigurationError:
    return ConfigurationError(
        f"run {run.run_id}: losses or gradients are not finite, or spike, around step {step} of {run.mixture.n_steps}, also after "
        f"going back: training has diverged; lower train.optimizer.learning_rate (now {run.train.optimizer.learning_rate:g}), warm up longer, lower "
        f"train.optimizer.gradient_clip (now {run.train.optimizer.gradient_clip:g}), or allow larger spikes with train.guard.spike_sigma"
    )
