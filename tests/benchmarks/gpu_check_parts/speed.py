"""OLMo-1B on one GPU: tokens per second, MFU, and a profile of the step by category"""

from functools import partial

import torch
import train_contenders
import train_profile

from gpu_check_parts import one_billion
from gpu_check_parts.recorder import Recorder
from training.model import compilation

BAR = 70_000.0  # tokens per second on an H200; 77,000 is the stretch goal
STRETCH = 77_000.0
TRACE = "trace.json.gz"


def run(recorder: Recorder) -> None:
    bench = one_billion.prepare(recorder)
    choices = compilation.describe(bench.train.compute, recorder.device)
    recorder.text("computed with", ", ".join(f"{k}: {v}" for k, v in choices.items()))
    recorder.number("parameters", bench.train.model.n_parameters, "")
    recorder.number(
        "peak of a plain matmul", bench.peak.matmul_flops_per_second / 1e12, "TFLOP/s", "8192³"
    )
    cost = one_billion.measure(recorder, bench, "ours", partial(train_contenders.ours, bench.train))
    if cost:
        rate = one_billion.tokens_per_second(bench, cost)
        recorder.goal(
            "ours against the bar", rate, "tokens/s", bar=BAR, note=f"stretch {STRETCH:,.0f}"
        )
    one_billion.release()
    with recorder.item("profile"):
        _record_profile(recorder, bench)


def _record_profile(recorder: Recorder, bench: one_billion.Bench) -> None:
    profiled = train_profile.profile_step(bench.train, bench.shape, recorder.results / TRACE)
    n_passes = bench.shape.rows // bench.shape.micro
    per_pass = 1e3 / (profiled.n_steps * n_passes)
    shares = {
        **profiled.kinds,
        "loss, within all of these": profiled.loss_seconds,
        "optimizer's step, likewise": profiled.optimizer_seconds,
    }
    recorder.number(
        "profiled step", profiled.wall_seconds / profiled.n_steps, "s", "slower: it is recorded"
    )
    for kind, seconds in shares.items():
        recorder.number(
            f"profile: {kind}",
            seconds * per_pass,
            "ms",
            f"per micro-batch; {seconds / profiled.wall_seconds:.1%} of the step",
        )
    if torch.cuda.is_available():
        waits = profiled.n_waits / profiled.n_steps
        recorder.number("waits of the host for the device", waits, "", "per step")
    size = (recorder.results / TRACE).stat().st_size / 2**20
    recorder.text("trace", f"{TRACE}, {size:.1f} MiB, for chrome://tracing or Perfetto")
