"""how long a checkpoint of OLMo-1B stalls training, how long it is written, and restored"""

import shutil
from statistics import median

import checkpoint_costs

from data_prep.core.settings import evolve
from gpu_check_parts import one_billion
from gpu_check_parts.recorder import Recorder

BAR = 1.0  # of a step of 64 sequences
N_SAVES = 1
GIB = 1 << 30


def run(recorder: Recorder) -> None:
    bench = one_billion.prepare(recorder, n_passes=1)
    train = evolve(bench.train, {"checkpoint.keep_last": 1})
    n_bytes = 2 * 12 * train.model.n_parameters  # the old one and the new one
    free = shutil.disk_usage(recorder.work).free
    recorder.check(
        "there is room for two checkpoints",
        free > n_bytes,
        f"{free / GIB:.0f} GiB free, {n_bytes / GIB:.1f} needed; TMPDIR chooses another disk",
    )
    n_steps = 2 if recorder.is_tiny else 5
    costs = checkpoint_costs.measure(
        train,
        str(recorder.work),
        n_steps,
        N_SAVES,
        on_seconds=lambda name, seconds: recorder.number(f"as it went: {name}", seconds, "s"),
    )
    step = median(costs.step)
    gib = costs.state_bytes / GIB
    recorder.number("state of a checkpoint", gib, "GiB")
    recorder.number("step of one micro-batch", step, "s")
    recorder.number("step beside the upload", median(costs.step_beside_upload), "s")
    note = "in the background, after the first step"
    recorder.number("page-locking of the buffer", costs.locking, "s", note)
    recorder.number("stall of the first save", costs.first_stall, "s")
    recorder.number("call of the first save", costs.first_saving, "s")
    recorder.number("call of a later save", median(costs.saving), "s")
    recorder.number(
        "stall of a later save", costs.stall, "s", "a save and the step after it, less a step"
    )
    recorder.goal(
        "stall in steps of four micro-batches", costs.stall / (4 * step), "share", bar=BAR
    )
    for name, seconds in (("written", median(costs.published)), ("restored", costs.restore)):
        recorder.number(name, seconds, "s", f"{gib / seconds:.2f} GiB/s, local disk")
