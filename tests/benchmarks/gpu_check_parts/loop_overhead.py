"""what the training loop adds to an optimizer step of OLMo-1B: data, guard, logs, watchdog

Blocks of the loop's steps alternate with blocks of bare steps on the same engine (train_loop.py).
"""

from statistics import median
from unittest.mock import patch

import train_loop
from torch import nn

from gpu_check_parts import one_billion
from gpu_check_parts.recorder import Recorder
from training.engine import deepspeed_engine
from training.model.olmo import OLMo
from training.trainer import finish

BAR = 0.02  # of a step
N_PAIRS = 2


def run(recorder: Recorder) -> None:
    bench = one_billion.prepare(recorder, n_passes=2)
    n_pairs = 1 if recorder.is_tiny else N_PAIRS
    with (
        # the CPU would draw the weights of the 1B for 15 s, and the export would write 5 GB
        patch.object(OLMo, "initialise", _initialise_quickly),
        patch.object(
            finish, "publish", lambda session, _: deepspeed_engine.release(session.engine)
        ),
    ):
        overhead = train_loop.measure_overhead(
            bench.train,
            bench.shape,
            n_pairs,
            on_pair=lambda ratio: recorder.number("pair of blocks", ratio - 1, "share"),
        )
    ratios = [ratio - 1 for ratio in overhead.ratios]
    recorder.goal(
        "the loop's steps over bare steps",
        median(ratios),
        "share",
        bar=BAR,
        note=f"{len(ratios)} pairs of {train_loop.BLOCK_STEPS} steps, from {min(ratios):+.2%} to "
        f"{max(ratios):+.2%}",
    )
    n_tokens = bench.shape.rows * bench.shape.length
    recorder.number(
        "step in the loop",
        overhead.step_seconds,
        "s",
        f"{n_tokens / overhead.step_seconds:,.0f} tokens/s",
    )
    recorder.number("first step", overhead.first_seconds, "s", "from the call of loop.train")
    for part, seconds in overhead.parts.items():
        recorder.number(f"host: {part}", 1e3 * seconds.by_clock, "ms", "per step, by the clock")


def _initialise_quickly(model: OLMo, seed: int) -> None:
    """Keep torch's initial values, and give the embedding those of a small model."""
    nn.init.normal_(model.embedding.weight, std=0.02)
