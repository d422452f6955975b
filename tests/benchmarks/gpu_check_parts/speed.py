"""OLMo-1B on one GPU: tokens per second, MFU, and a profile of the step by category"""

from functools import partial

import torch
import train_contenders
import train_profile
from train_peers import Shape

from gpu_check_parts import one_billion
from gpu_check_parts.recorder import Recorder
from training.config import ModelConfig
from training.engine import roofline
from training.model import compilation

BAR = 70_000.0  # tokens per second on an H200; 77,000 is the stretch goal
STRETCH = 77_000.0
TRACE = "trace.json.gz"
LOSS_RANGE = "loss, within all of these"
OPTIMIZER_RANGE = "optimizer's step, likewise"
ROOFLINE_PARTS = {  # a kind of the profile, and the parts of the roofline that it consists of
    "GEMM": ("matrix products of the blocks", "matrix products of the loss"),
    "attention": ("attention",),
    train_profile.ELEMENTWISE: (
        "norms, rotation, SwiGLU",
        "loss",
        "embedding, last norm",
        "gradient sums",
    ),
    LOSS_RANGE: ("matrix products of the loss", "loss"),
    OPTIMIZER_RANGE: ("optimizer, per micro-batch",),
}


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
        LOSS_RANGE: profiled.loss_seconds,
        OPTIMIZER_RANGE: profiled.optimizer_seconds,
    }
    recorder.number(
        "profiled step", profiled.wall_seconds / profiled.n_steps, "s", "slower: it is recorded"
    )
    ceilings = ceilings_ms(bench.train.model, bench.shape, n_passes)
    for kind, seconds in shares.items():
        note = f"per micro-batch; {seconds / profiled.wall_seconds:.1%} of the step"
        if kind in ceilings and not recorder.is_tiny:
            note += f"; {ceilings[kind]:.1f} ms at the ceiling of an H200"
        recorder.number(f"profile: {kind}", seconds * per_pass, "ms", note)
    if not recorder.is_tiny:
        recorder.number("sum of the roofline", ceilings["all"], "ms", "per micro-batch, a bound")
    if torch.cuda.is_available():
        waits = profiled.n_waits / profiled.n_steps
        recorder.number("waits of the host for the device", waits, "", "per step")
    size = (recorder.results / TRACE).stat().st_size / 2**20
    recorder.text("trace", f"{TRACE}, {size:.1f} MiB, for chrome://tracing or Perfetto")


def ceilings_ms(model: ModelConfig, shape: Shape, n_passes: int) -> dict[str, float]:
    """Milliseconds of a micro-batch at an H200's ceilings, by kind (engine/roofline.py)."""
    parts = roofline.parts(model, shape.micro, shape.length, n_passes)
    seconds = {part.name: 1e3 * part.seconds for part in parts}
    return {
        kind: sum(seconds[name] for name in names) for kind, names in ROOFLINE_PARTS.items()
    } | {"all": sum(seconds.values())}
