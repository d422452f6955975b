"""overhead of the training loop over bare optimizer steps, by blocks and by parts

It is measured in two ways on one engine. Blocks of the loop's steps alternate with blocks of bare
steps; that includes everything, such as effects on caches, but steps on a shared CPU vary by 10 %,
and the goal is 2 %. The account by parts is exact: of a step, all but the engine's forward,
backward and optimizer is work of the loop, also where the engine calls it. On a GPU this is work
of the host, most of which overlaps with the device, so there the blocks are the better measure.
"""

import itertools
import math
import tempfile
import time
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from statistics import median
from typing import Any, NamedTuple
from unittest.mock import patch

import random_run
import torch
from train_peers import Shape, clock, synchronize

from data_prep.core.settings import evolve
from training.config import TrainConfig
from training.engine import deepspeed_engine
from training.metrics.metrics_log import MetricsLog
from training.metrics.model_stats import ModelStats
from training.optim.step_guard import StepGuard
from training.run.batches import BatchReader
from training.trainer import loop
from training.trainer.preemption import StopVote
from training.trainer.step_metrics import StepMetrics
from training.trainer.watchdog import Watchdog

BLOCK_STEPS = 5  # every second block ends with a logged step, as by default
CONFIDENCE = 0.95
GOAL = 0.02
ENGINE = "engine"
BARE = "bare"
REST = "copies, sums of losses"
# Functions per part of the loop's work. A function that another one calls counts as its own part.
PARTS = {
    "batch": [(BatchReader, "prefetch")],
    "guard": [(StepGuard, "begin_step"), (StepGuard, "end_step"), (StepGuard, "_before_optimizer")],
    "model statistics": [
        (ModelStats, "collect"),
        (ModelStats, "_add_residual"),
        (ModelStats, "_add_attention_logit"),
        (ModelStats, "_add_gradient"),
    ],
    "metrics": [(StepMetrics, "add"), (StepMetrics, "log")],
    "metrics log, sinks": [(MetricsLog, "log_step")],
    "learning rate, stop vote, watchdog": [
        (deepspeed_engine, "set_learning_rate"),
        (StopVote, "is_stopping"),
        (Watchdog, "begin"),
    ],
    ENGINE: [(deepspeed_engine, "backward_and_step")],
}


class PartSeconds(NamedTuple):
    """Seconds per step of one part."""

    on_thread: float
    by_clock: float


class Overhead(NamedTuple):
    """What the loop adds to its steps."""

    ratios: list[float]
    """Seconds of a block of the loop's steps / seconds of the bare block before it."""
    parts: dict[str, PartSeconds]
    step_seconds: float
    first_seconds: float
    """From the call of `loop.train` to the end of the first step."""

    def __str__(self) -> str:
        own = [seconds for part, seconds in self.parts.items() if part != ENGINE]
        engine = self.parts[ENGINE]
        on_thread = sum(part.on_thread for part in own) / engine.on_thread
        by_clock = sum(part.by_clock for part in own) / engine.by_clock
        low, high = _median_interval(self.ratios)
        lines = ["parts of the loop's step: milliseconds on its thread, and by the clock"]
        for name, part in self.parts.items():
            lines.append(f"  {name:30}{1e3 * part.on_thread:9.3f} {1e3 * part.by_clock:9.3f}")
        lines.append(
            f"work of the loop / work of the engine: {on_thread:.2%}, by the clock {by_clock:.2%} "
            f"(goal: at most {GOAL:.0%})"
        )
        lines.append(
            f"the loop's steps over bare steps: {median(self.ratios) - 1:+.2%}, "
            f"{CONFIDENCE:.0%} interval {low - 1:+.2%} to {high - 1:+.2%}, "
            f"{len(self.ratios)} pairs of {BLOCK_STEPS} steps; {self.step_seconds:.3f} s per step"
        )
        return "\n".join(lines)


def _median_interval(values: list[float]) -> tuple[float, float]:
    """An interval of the median that holds for any distribution, from order statistics."""
    n = len(values)
    n_outside = max(0, _binomial_quantile((1 - CONFIDENCE) / 2, n) - 1)
    inside = sorted(values)[n_outside : n - n_outside]
    return inside[0], inside[-1]


def _binomial_quantile(share: float, n: int) -> int:
    """The smallest number of heads that n coin flips do not exceed with this probability."""
    ways = itertools.accumulate(math.comb(n, k) for k in range(n + 1))
    return next(k for k, n_ways in enumerate(ways) if n_ways >= share * 2**n)


class PartTimer:
    """Seconds of this thread per part; time in a nested part does not count for the outer one."""

    def __init__(self) -> None:
        self.on_thread = defaultdict[str, float](float)
        self.by_clock = defaultdict[str, float](float)
        self._stack = [REST]
        self._last = self._now()

    def wrap(self, part: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*args: Any, **kwargs: Any) -> Any:
            with self.within(part):
                return function(*args, **kwargs)

        return timed

    def wrap_generator(
        self, part: str, generate: Callable[..., Iterator[Any]]
    ) -> Callable[..., Iterator[Any]]:
        def timed(*args: Any) -> Iterator[Any]:
            items = generate(*args)
            while True:
                with self.within(part):
                    item = next(items, None)
                if item is None:
                    return
                yield item

        return timed

    @contextmanager
    def within(self, part: str) -> Iterator[None]:
        self.update()
        self._stack.append(BARE if self._stack[-1] == BARE else part)
        try:
            yield
        finally:
            self.update()
            self._stack.pop()

    def update(self) -> None:
        """Add the time since the last update to the innermost part."""
        now = self._now()
        self.on_thread[self._stack[-1]] += now.on_thread - self._last.on_thread
        self.by_clock[self._stack[-1]] += now.by_clock - self._last.by_clock
        self._last = self._now()

    def reset(self) -> None:
        self.on_thread.clear()
        self.by_clock.clear()

    def _now(self) -> PartSeconds:
        return PartSeconds(time.thread_time(), time.perf_counter())


class _BlockTimer:
    """Replaces the loop's step: measures blocks of its steps, each after a block of bare steps."""

    def __init__(self, shape: Shape, on_pair: Callable[[float], object]) -> None:
        self.shape = shape
        self.on_pair = on_pair
        self.parts = PartTimer()
        self.bare_seconds: list[float] = []
        self.loop_seconds: list[float] = []
        self.totals: dict[str, PartSeconds] = {}
        self.first_step_ended = 0.0
        self._block_started = 0.0
        self._train_step = loop.train_step

    def train_step(self, context: Any, engine: Any, guard: Any, batch: Any) -> Any:
        if batch.step and batch.step % BLOCK_STEPS == 0:
            synchronize()
            if self.bare_seconds:
                self._end_block()
            else:
                engine.forward = self.parts.wrap(ENGINE, engine.forward)
            with self.parts.within(BARE):
                self.bare_seconds.append(_bare_block_seconds(context, engine, batch, self.shape))
            if not self.loop_seconds:
                self.parts.reset()
            self._block_started = clock(self.shape)
        result = self._train_step(context, engine, guard, batch)
        if batch.step == 0:
            synchronize()
            self.first_step_ended = clock(self.shape)
        return result

    def _end_block(self) -> None:
        self.loop_seconds.append(clock(self.shape) - self._block_started)
        self.on_pair(self.loop_seconds[-1] / self.bare_seconds[-1])
        self.parts.update()
        for name in (*PARTS, REST):
            self.totals[name] = PartSeconds(self.parts.on_thread[name], self.parts.by_clock[name])


def measure_overhead(
    train: TrainConfig,
    shape: Shape,
    n_pairs: int,
    on_pair: Callable[[float], object] = lambda ratio: None,
) -> Overhead:
    """Train a run with `loop.train` on random tokens, with a bare block before each of its blocks.

    A bare step is forward, backward and optimizer on tokens that are on the device already.
    on_pair: called with the ratio of each pair of blocks as soon as it is known.
    """
    timer = _BlockTimer(shape, on_pair)
    train = evolve(train, {"micro_batch": shape.micro, "metrics.every_steps": 2 * BLOCK_STEPS})
    with tempfile.TemporaryDirectory(prefix="hormesis-") as root, ExitStack() as patched:
        patched.enter_context(_same_determinism_afterwards())
        patched.enter_context(patch.object(loop, "train_step", timer.train_step))
        for part, functions in PARTS.items():
            for owner, name in functions:
                is_generator = name == "prefetch"
                wrap = timer.parts.wrap_generator if is_generator else timer.parts.wrap
                patched.enter_context(patch.object(owner, name, wrap(part, getattr(owner, name))))
        run = random_run.plan_run(root, train, (1 + (1 + n_pairs) * BLOCK_STEPS) * shape.rows)
        start = clock(shape)
        loop.train(root, run)
    n_steps = len(timer.loop_seconds) * BLOCK_STEPS
    pairs = zip(timer.loop_seconds, timer.bare_seconds, strict=False)
    return Overhead(
        ratios=[in_loop / bare for in_loop, bare in pairs],
        parts={
            name: PartSeconds(total.on_thread / n_steps, total.by_clock / n_steps)
            for name, total in timer.totals.items()
        },
        step_seconds=median(timer.loop_seconds) / BLOCK_STEPS,
        first_seconds=timer.first_step_ended - start,
    )


@contextmanager
def _same_determinism_afterwards() -> Iterator[None]:
    """Undo what `loop.train` sets in the process, so that what is measured next runs as before."""
    enabled = torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    fills = torch.utils.deterministic.fill_uninitialized_memory  # pyright: ignore[reportAttributeAccessIssue]
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(enabled, warn_only=warn_only)
        torch.utils.deterministic.fill_uninitialized_memory = fills  # pyright: ignore[reportAttributeAccessIssue]


def _bare_block_seconds(context: Any, engine: Any, batch: Any, shape: Shape) -> float:
    """Seconds of a block of bare steps, without the hooks of the optimizer and the guard."""
    optimizer = engine.basic_optimizer
    tokens_BT = batch.tokens.to(context.world.device)
    hooks = optimizer._optimizer_step_pre_hooks
    optimizer._optimizer_step_pre_hooks = OrderedDict()
    verdict = {
        name: optimizer.__dict__.pop(name)
        for name in ("found_inf", "grad_scale")
        if name in optimizer.__dict__
    }
    n_predictions = len(tokens_BT) * (tokens_BT.shape[1] - 1)
    weight_B = torch.full((context.micro_batch,), 1 / n_predictions, device=context.world.device)
    start = clock(shape)
    for _ in range(BLOCK_STEPS):
        passes = tokens_BT.split(context.micro_batch)
        for n, tokens in enumerate(passes, 1):
            loss = engine(tokens, weight_B).total
            deepspeed_engine.backward_and_step(engine, loss, last=n == len(passes))
    synchronize()
    seconds = clock(shape) - start
    optimizer._optimizer_step_pre_hooks = hooks
    optimizer.__dict__.update(verdict)
    return seconds
