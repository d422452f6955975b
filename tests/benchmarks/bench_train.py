"""training speed against peers, the loop's overhead, time to the first step, and a profile

    make bench-train                                    6M parameters, fp32, one CPU thread, 2 min
    make bench-train ARGS="--peers PYTHON"              that interpreter has litgpt and OLMo-core
    make bench-train ARGS="--set compute.compile=on"    compiled by inductor's C++ backend

On one H100 or H200 with the project installed, with OLMo-1B, bf16 and compilation; the first
command should take less than 10 minutes, the others 3 each. None of this has run on a GPU yet.

    make bench-train ARGS="--shape olmo-1b --trace trace.json --only ours loop ours-fp8 \\
        hf-deepspeed hf-fsdp2 parity profile"
    make bench-train ARGS="--shape olmo-1b --only ours torch hf-ddp"
    make bench-train ARGS="--shape olmo-1b --only ours --set micro_batch=auto \\
        parallel.zero_stage=3 compute.activation_checkpointing=selective"
    make bench-train ARGS="--shape olmo-1b --only ours --peers PYTHON"

Contenders:

    ours               model, loss and engine of this project, on tokens already on the device
    loop               what `loop.train` adds to a step: data, guard, logs (train_loop.py)
    ours-fp8           `ours` with FP8 matmuls (extra fp8); `parity` trains 50 steps with and
                       without FP8 and compares the losses
    torch              our model and loss in plain PyTorch (DDP, autocast, AdamW), which shows the
                       cost of DeepSpeed
    hf-deepspeed       transformers' OlmoForCausalLM under the same DeepSpeed settings
    hf-ddp, hf-fsdp2   the same in plain PyTorch, compiled if ours is

On a CPU the contenders take turns, step by step, and are timed in CPU-seconds of one thread,
because the CPU may be shared. On a GPU they come one after the other, and one that runs out of
memory is repeated with half the sequences per pass.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any
from unittest.mock import patch

os.environ.update(HF_HUB_OFFLINE="1", RAY_USAGE_STATS_ENABLED="0")

import fp8_parity
import psutil
import torch
import train_loop
import train_peers as peers
from torch import Tensor, nn
from train_peers import Shape, Step, StepCost, synchronize

from data_prep.core import settings
from data_prep.core.settings import evolve
from training.config import (
    SIZES,
    GuardConfig,
    MetricsConfig,
    ModelConfig,
    OptimizerConfig,
    TrainComputeConfig,
    TrainConfig,
    ValidationConfig,
)
from training.engine import deepspeed_engine, process_group, throughput
from training.model import compilation, loss
from training.model.loss import OLMoForTraining

SMALL = ModelConfig(
    d_model=256, n_layers=4, n_heads=4, d_mlp=1024, vocab_size=8192, max_sequence_length=256
)
# Kinds of GPU kernels and CPU operations, by parts of their names; the first match counts.
KINDS = {
    "attention": ("flash", "attention", "fmha", "sdpa"),
    "matmul": ("gemm", "nvjet", "cutlass", "aten::mm", "aten::addmm", "aten::bmm", "xmma"),
    "optimizer": ("adam", "multi_tensor", "foreach"),
    "communication": ("nccl", "all_reduce", "c10d", "gloo"),
    "copies": ("memcpy", "memset", "copy_", "fill_", "zero_"),
}


LOSS_EVENT = "## loss"
OTHER_KIND = "elementwise and the rest"
N_PARITY_STEPS = 50
PARITY_LEARNING_RATE = 4e-4
N_PROFILED_STEPS = 2
PEER_SECONDS = 600


def main() -> None:
    import_seconds = time.time() - psutil.Process().create_time()
    arguments = _argument_parser().parse_args()
    torch.set_num_threads(1)
    has_gpu = torch.cuda.is_available()
    train = _settings(arguments, has_gpu)
    shape = _shape(train, has_gpu, arguments.steps)
    peak = _print_setting(train, shape)
    names = arguments.only or [
        name
        for name in (*_builders(train), "loop", *peers.SEPARATE_PEERS, "profile")
        if name != "ours-fp8"
    ]
    _compare_steps(train, shape, names, arguments.peers, peak)
    if "loop" in names:
        overhead = train_loop.measure_overhead(train, shape, arguments.pairs)
        print(overhead)
        print(
            f"time to the first step: {overhead.first_seconds:.1f} s from the call of loop.train, "
            f"after {import_seconds:.1f} s of imports"
        )
    if "parity" in names:
        _print_parity(train, shape)
    if "profile" in names:
        _profile(train, shape, arguments.trace)


def _print_setting(train: TrainConfig, shape: Shape) -> throughput.PeakFlops:
    world = process_group.join()
    peak = throughput.measure_peak(world, torch.bfloat16 if shape.bf16 else torch.float32)
    flops = train.model.flops_per_token(shape.length)
    choices = compilation.describe(train.compute, world.device)
    print(
        f"{train.model.n_parameters:,} parameters, {shape.rows} × {shape.length} tokens per step, "
        f"{train.compute.precision}, {peak.device}"
    )
    print(
        f"attention {choices['attention']}, compiled {choices['compiled']}; "
        f"{flops / 1e9:.3f} GFLOPs per token, 6N + 12·L·D·T"
    )
    print(
        f"peak {peak.flops_per_second / 1e12:.3g} TFLOP/s, "
        f"plain matmul {peak.matmul_flops_per_second / 1e12:.3g} TFLOP/s"
    )
    return peak


def _builders(train: TrainConfig) -> dict[str, Callable[[Shape], Step]]:
    """Contenders that run in this process."""
    return {
        "ours": partial(_ours, train),
        "ours-fp8": partial(_ours, evolve(train, {"compute.fp8": True})),
        "torch": partial(_ours_in_plain_pytorch, train),
        "hf-deepspeed": partial(_hf_deepspeed, train),
        "hf-ddp": peers.hugging_face_ddp,
        "hf-fsdp2": peers.hugging_face_fsdp2,
    }


def _compare_steps(
    train: TrainConfig,
    shape: Shape,
    names: list[str],
    peers_python: str | None,
    peak: throughput.PeakFlops,
) -> None:
    builders = {name: build for name, build in _builders(train).items() if name in names}
    in_this_process = peers.measure(builders, shape)
    separate = (
        (name, _measure_separately(peers_python, name, shape))
        for name in peers.SEPARATE_PEERS
        if peers_python and name in names
    )
    flops = train.model.flops_per_token(shape.length)
    our_seconds = 0.0
    for name, cost in chain(in_this_process, separate):
        if isinstance(cost, Exception):
            print(f"  {name:13} failed: {type(cost).__name__}: {str(cost)[:300]}", flush=True)
            continue
        if name == "ours":
            our_seconds = cost.seconds
        rate = shape.rows * shape.length / cost.seconds
        ratio = cost.seconds / our_seconds if our_seconds else 0.0
        print(
            f"  {name:13}{rate:10,.0f} tokens/s   ours is {ratio:.2f} times as fast   "
            f"MFU {rate * flops / peak.flops_per_second:.3f}, "
            f"of plain matmul {rate * flops / peak.matmul_flops_per_second:.3f}; "
            f"{cost.micro} sequences per pass, {cost.gib:.1f} GiB, "
            f"built and first step {cost.first_seconds:.1f} s",
            flush=True,
        )


def _argument_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n\n")[0])
    parser.add_argument(
        "--shape",
        default="small",
        choices=["small", *SIZES],
        help="a named size, with sequences of 2,048 tokens and 50,304 ids",
    )
    parser.add_argument("--steps", type=int, default=0, help="timed steps per contender")
    parser.add_argument("--pairs", type=int, default=10, help="pairs of blocks for `loop`")
    parser.add_argument(
        "--only",
        nargs="+",
        default=[],
        metavar="NAME",
        help="only these contenders, `loop`, `profile`, `parity`",
    )
    parser.add_argument(
        "--set", nargs="+", default=[], metavar="PATH=VALUE", help="settings of TrainConfig"
    )
    parser.add_argument(
        "--peers", metavar="PYTHON", help="an interpreter that has litgpt and ai2-olmo-core"
    )
    parser.add_argument("--trace", metavar="FILE", help="file for the trace of `profile`")
    return parser


def _settings(arguments: argparse.Namespace, has_gpu: bool) -> TrainConfig:
    small = arguments.shape == "small"
    model = SMALL if small else ModelConfig(**SIZES[arguments.shape]._asdict(), vocab_size=50_304)
    train = TrainConfig(
        model=model,
        sequence_length=model.max_sequence_length,
        global_batch=8 if small else 64,
        micro_batch=4 if small else 16,
        optimizer=OptimizerConfig(learning_rate=peers.LEARNING_RATE),
        compute=TrainComputeConfig(precision="bf16" if has_gpu else "fp32"),
        metrics=MetricsConfig(every_steps=10),
        validation=ValidationConfig(sequences=0),
        guard=GuardConfig(watchdog_seconds=0.0),
    )
    return settings.parse_overrides(train, arguments.set)


def _shape(train: TrainConfig, has_gpu: bool, n_steps: int) -> Shape:
    model = train.model
    micro, _ = train.passes(1)
    compiles = train.compute.compile == "on" or (train.compute.compile == "auto" and has_gpu)
    return Shape(
        d_model=model.d_model,
        n_layers=model.n_layers,
        n_heads=model.n_heads,
        d_mlp=model.d_mlp,
        vocab_size=model.vocab_size,
        length=train.sequence_length,
        rows=train.global_batch,
        micro=micro,
        bf16=train.compute.precision == "bf16",
        compile=compiles,
        n_steps=n_steps or 8,
        n_warm_up=2 if has_gpu else 1,
    )


def _build_model(train: TrainConfig, shape: Shape) -> OLMoForTraining:
    with torch.device(shape.device):
        model = OLMoForTraining(train.model)
    # torch's initial values would slow a CPU down with denormals; ours take 15 s for the 1B.
    nn.init.normal_(model.embedding.weight, std=0.02)
    compilation.prepare(model, train.compute, torch.device(shape.device))
    return model


def _ours(train: TrainConfig, shape: Shape) -> Step:
    engine = _engine(_build_model(train, shape), train, shape)
    n_predictions = shape.rows * (shape.length - 1)
    weight_B = torch.full((shape.micro,), 1 / n_predictions, device=shape.device)

    def step(tokens_BT: Tensor) -> None:
        passes = tokens_BT.split(shape.micro)
        for n, tokens in enumerate(passes, 1):
            loss = engine(tokens, weight_B).total
            deepspeed_engine.backward_and_step(engine, loss, last=n == len(passes))

    return step


def _engine(model: nn.Module, train: TrainConfig, shape: Shape) -> Any:
    train = replace(train, micro_batch=shape.micro)
    settings = deepspeed_engine.deepspeed_settings(train, 1)
    return deepspeed_engine.initialise(model, settings | {"gradient_clipping": peers.GRADIENT_CLIP})


def _ours_in_plain_pytorch(train: TrainConfig, shape: Shape) -> Step:
    model = nn.parallel.DistributedDataParallel(_build_model(train, shape).to(shape.device))
    n_predictions = shape.micro * (shape.length - 1)
    weight_B = torch.full((shape.micro,), 1 / n_predictions, device=shape.device)

    def loss_of(module: nn.Module, tokens_BT: Tensor) -> Tensor:
        return module(tokens_BT, weight_B).total

    return peers.plain_pytorch(model, loss_of, shape, autocast=True)


def _hf_deepspeed(train: TrainConfig, shape: Shape) -> Step:
    model = peers.hugging_face(shape)
    if shape.compile:
        for layer in model.model.layers:  # type: ignore[union-attr]
            layer.compile()
    engine = _engine(model, train, shape)

    def step(tokens_BT: Tensor) -> None:
        passes = tokens_BT.split(shape.micro)
        for n, tokens in enumerate(passes, 1):
            loss = peers.hugging_face_loss(engine, tokens) / len(passes)
            deepspeed_engine.backward_and_step(engine, loss, last=n == len(passes))

    return step


def _measure_separately(python: str | None, name: str, shape: Shape) -> StepCost | Exception:
    """What the interpreter `python` measures with train_peers.py."""
    assert python, name
    program = str(Path(__file__).with_name("train_peers.py"))
    done = subprocess.run(
        [python, program, name, json.dumps(asdict(shape))],
        capture_output=True,
        text=True,
        timeout=PEER_SECONDS,
    )
    if done.returncode:
        return RuntimeError(done.stderr.strip().splitlines()[-1])
    return StepCost(**json.loads(done.stdout.strip().splitlines()[-1]))


def _print_parity(train: TrainConfig, shape: Shape) -> None:
    """Train on cyclic text, which can be learned in few steps."""
    generator = torch.Generator().manual_seed(0)
    start = torch.randint(train_loop.N_IDS, (N_PARITY_STEPS, shape.micro, 1), generator=generator)
    batches = list((start + torch.arange(shape.length)) % train_loop.N_IDS)
    train = evolve(train, {"optimizer.learning_rate": PARITY_LEARNING_RATE})
    parity = fp8_parity.fp8_parity(train, batches, torch.device(shape.device))
    verdict = "holds" if parity.holds else "does NOT hold"
    print(
        f"FP8 parity {verdict}: relative gap {parity.gap:.4f}, "
        f"at most {fp8_parity.MAX_RELATIVE_GAP} allowed; losses of step {N_PARITY_STEPS}: "
        f"{parity.reference[-1]:.4f} without and {parity.fp8[-1]:.4f} nats/token with FP8"
    )


def _profile(train: TrainConfig, shape: Shape, file: str | None) -> None:
    """Print the time per kind of operation, and how often the host waited for the device."""
    from torch.profiler import ProfilerActivity, profile

    step = _ours(train, shape)
    tokens_BT = torch.randint(shape.vocab_size, (shape.rows, shape.length)).to(shape.device)
    on_gpu = shape.device == "cuda"
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]
    with _marked_loss():
        for _ in range(shape.n_warm_up):
            step(tokens_BT)
        synchronize()
        with profile(activities=activities) as profiler:
            start = time.perf_counter()
            for _ in range(N_PROFILED_STEPS):
                step(tokens_BT)
            synchronize()
            wall_seconds = time.perf_counter() - start
    _print_profile(profiler.key_averages(), wall_seconds, on_gpu)
    if file:
        profiler.export_chrome_trace(file)


@contextmanager
def _marked_loss() -> Iterator[None]:
    """Profile the loss as one event."""
    objective = loss.objective

    def marked(*args: Any, **kwargs: Any) -> Any:
        with torch.profiler.record_function(LOSS_EVENT):
            return objective(*args, **kwargs)

    with patch.object(loss, "objective", marked):
        yield


def _print_profile(events: Any, wall_seconds: float, on_gpu: bool) -> None:
    seconds = dict.fromkeys([*KINDS, OTHER_KIND], 0.0)
    loss_seconds = 0.0
    n_waits = 0
    for event in events:
        own_seconds = (event.self_device_time_total if on_gpu else event.self_cpu_time_total) / 1e6
        if event.key == LOSS_EVENT:
            total = event.device_time_total if on_gpu else event.cpu_time_total
            loss_seconds = max(loss_seconds, total / 1e6)
            own_seconds = 0.0 if on_gpu else own_seconds
        if on_gpu and event.key in ("cudaStreamSynchronize", "cudaDeviceSynchronize"):
            n_waits += event.count
        if on_gpu and str(event.device_type) != "DeviceType.CUDA":
            continue
        seconds[_kind(event.key)] += own_seconds
    seconds["host, or idle"] = max(0.0, wall_seconds - sum(seconds.values()))
    waits = f", {n_waits} waits of the host for the device" if on_gpu else ""
    print(f"profile of {N_PROFILED_STEPS} steps, {wall_seconds:.3f} s{waits}")
    for kind, own_seconds in (seconds | {"loss, within all of these": loss_seconds}).items():
        print(f"  {kind:26} {own_seconds:9.3f} s {own_seconds / wall_seconds:7.1%}")


def _kind(operation: str) -> str:
    for kind, parts in KINDS.items():
        if any(part in operation.lower() for part in parts):
            return kind
    return OTHER_KIND


if __name__ == "__main__":
    sys.exit(main())
