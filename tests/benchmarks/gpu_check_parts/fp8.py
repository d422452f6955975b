"""FP8 matrix products: tokens per second of OLMo-1B, and the gate that the loss stays the same"""

from importlib.util import find_spec

import fp8_parity
import random_run
import train_contenders

from data_prep.core.settings import evolve
from gpu_check_parts import one_billion
from gpu_check_parts.recorder import Recorder

BAR = 82_000.0
N_GATE_STEPS = 30
GATE_SECONDS = 20.0


def run(recorder: Recorder) -> None:
    if not find_spec("torchao"):
        recorder.text("FP8", "not measured: torchao is not installed")
        return
    with recorder.item("speed"):
        bench = one_billion.prepare(recorder, n_steps=3)
        builder = train_contenders.builders(bench.train)["ours-fp8"]
        cost = one_billion.measure(recorder, bench, "ours-fp8", builder)
        if cost:
            rate = one_billion.tokens_per_second(bench, cost)
            recorder.goal("FP8 against the bar", rate, "tokens/s", bar=BAR)
    one_billion.release()
    if recorder.has_time(GATE_SECONDS, "gate"):
        with recorder.item("gate"):
            _check_gate(recorder)


def _check_gate(recorder: Recorder) -> None:
    """Train a 150M with and without FP8 on the same batches (fp8_parity.py)."""
    train = train_contenders.settings_of("small" if recorder.is_tiny else "olmo-150m")
    rows, n_steps = 8, N_GATE_STEPS
    if recorder.is_tiny:
        train = evolve(train, {"model": one_billion.TINY, "sequence_length": 32})
        rows, n_steps = 4, 12
    train = evolve(train, {"optimizer.learning_rate": fp8_parity.LEARNING_RATE})
    batches = fp8_parity.cyclic_batches(n_steps, rows, train.sequence_length, random_run.N_IDS)
    parity = fp8_parity.fp8_parity(train, batches, recorder.device)
    recorder.at_most(
        "gap of the mean loss, FP8 against bf16",
        parity.gap,
        fp8_parity.MAX_RELATIVE_GAP,
        f"{train.model.n_parameters:,} parameters; losses of step {n_steps}: {parity.fp8[-1]:.4f} "
        f"and {parity.reference[-1]:.4f} nats per token",
    )
