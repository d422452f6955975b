"""Training beside its peers, on whatever device is here: tokens/s, the loop's overhead, time to
first step, where a step goes.

    make bench-train                                       a model of 6M in fp32 on one CPU thread: 2 minutes
    make bench-train ARGS="--peers PYTHON"                 and litgpt and OLMo-core, which that Python has
    make bench-train ARGS="--set compute.compile=on"               all compiled by inductor's C++

On one H100 or H200 with the project installed: OLMo-1B for each, bf16, compiled, a table and an
account of a step; the first is meant to take less than 10 minutes, the others 3 each. None of this
was run on a GPU yet.

    make bench-train ARGS="--shape olmo-1b --only ours loop ours-fp8 hf-deepspeed hf-fsdp2 parity
    profile --trace trace.json" make bench-train ARGS="--shape olmo-1b --only ours torch hf-ddp"
    make bench-train ARGS="--shape olmo-1b --only ours --set micro_batch=auto parallel.zero_stage=3
    compute.activation_checkpointing=selective" make bench-train ARGS="--shape olmo-1b --only ours --peers
    PYTHON"

ours            the model, loss and engine of this project, steps on tokens that are on the device already
loop            what `loop.train` adds to a step (reading, guard, observer, journal), in turns and by its parts (train_loop.py)
ours-fp8        `ours` with FP8 products (extra fp8); `parity` trains 50 steps both ways and says whether the loss stands it
torch           our model and loss under plain PyTorch: DDP, autocast, AdamW. What DeepSpeed costs
hf-deepspeed    transformers' OlmoForCausalLM under the same DeepSpeed settings
hf-ddp, -fsdp2  the same under plain PyTorch, compiled where ours is

On a CPU the contenders take turns, step by step, and are timed in CPU-seconds of one thread, for
others may work there; on a GPU they come one after the other, and one that runs out of memory tries
again with half the rows a pass.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

os.environ.update(HF_HUB_OFFLINE="1", RAY_USAGE_STATS_ENABLED="0")

import fp8_parity
import psutil
import torch
import train_loop
import train_peers as peers
from torch import Tensor, nn
from train_peers import Measured, Shape, Step, synchronize

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
KINDS = {  # of a GPU's kernels and a CPU's operations, by parts of their names; the first that fits
    "attention": ("flash", "attention", "fmha", "sdpa"),
    "products": ("gemm", "nvjet", "cutlass", "aten::mm", "aten::addmm", "aten::bmm", "xmma"),
    "optimizer": ("adam", "multi_tensor", "foreach"),
    "communication": ("nccl", "all_reduce", "c10d", "gloo"),
    "copies": ("memcpy", "memset", "copy_", "fill_", "zero_"),
}


def main() -> None:
    imported = time.time() - psutil.Process().create_time()
    args = _arguments()
    cuda = torch.cuda.is_available()
    torch.set_num_threads(1)
    train = _settings(args, cuda)
    shape = _shape(train, cuda, args.steps)
    world = process_group.join()
    peak = throughput.measure_peak(world, torch.bfloat16 if shape.bf16 else torch.float32)
    flops = train.model.flops_per_token(shape.length)
    how = compilation.describe(train.compute, world.device)
    print(
        f"{train.model.n_parameters:,} parameters, {shape.rows} × {shape.length} tokens a step, {train.compute.precision}, {peak.device}"
    )
    print(
        f"attention {how['attention']}, compiled {how['compiled']}; {flops / 1e9:.3f} GFLOPs a token, 6N + 12·L·D·T"
    )
    print(
        f"peak {peak.flops_per_second / 1e12:.3g} TFLOP/s, a product of matrices {peak.matmul_flops_per_second / 1e12:.3g}"
    )
    inside: dict[str, Callable[[Shape], Step]] = {
        "ours": partial(_ours, train),
        "ours-fp8": partial(_ours, evolve(train, {"compute.fp8": True})),
        "torch": partial(_ours_plain, train),
        "hf-deepspeed": partial(_hf_deepspeed, train),
        "hf-ddp": peers.hugging_face_ddp,
        "hf-fsdp2": peers.hugging_face_fsdp2,
    }
    asked = args.only or [
        name for name in [*inside, "loop", *peers.OUTSIDE, "profile"] if name != "ours-fp8"
    ]
    others = [name for name in peers.OUTSIDE if args.peers and name in asked]
    found: dict[str, Measured] = {}
    beside = ((name, _outside(args.peers, name, shape)) for name in others)
    for name, made in chain(
        peers.measure({name: build for name, build in inside.items() if name in asked}, shape),
        beside,
    ):
        if isinstance(made, Exception):
            print(f"  {name:13} failed: {type(made).__name__}: {str(made)[:300]}", flush=True)
            continue
        found[name] = made
        rate, ratio = (
            shape.rows * shape.length / made.seconds,
            made.seconds / found["ours"].seconds if "ours" in found else 0.0,
        )
        mfu, product = (
            rate * flops / most for most in (peak.flops_per_second, peak.matmul_flops_per_second)
        )
        print(f"  {name:13}{rate:10,.0f} tokens/s   ours is {ratio:.2f} times as fast   MFU {mfu:.3f}, of a product {product:.3f}; "
              f"{made.micro} rows a pass, {made.gib:.1f} GiB, built and first step {made.first:.1f} s", flush=True)  # fmt: skip
    if "loop" in asked:
        made = train_loop.overhead(train, shape, args.pairs)
        print(made)
        print(
            f"time to first step: {made.first_seconds:.1f} s from loop.train until it is done, imports {imported:.1f} s before"
        )
    if "parity" in asked:
        _parity(train, shape)
    if "profile" in asked:
        _profile(train, shape, args.trace)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n\n")[0])
    parser.add_argument(
        "--shape",
        default="small",
        choices=["small", *SIZES],
        help="a named size, 2,048 tokens a row, 50,304 ids",
    )
    parser.add_argument("--steps", type=int, default=0, help="timed steps a contender")
    parser.add_argument("--pairs", type=int, default=10, help="of blocks that `loop` compares")
    parser.add_argument(
        "--only",
        nargs="+",
        default=[],
        metavar="NAME",
        help="these contenders, `profile`, `parity`",
    )
    parser.add_argument(
        "--set", nargs="+", default=[], metavar="NAME=VALUE", help="settings of TrainConfig"
    )
    parser.add_argument(
        "--peers", metavar="PYTHON", help="an interpreter that has litgpt and ai2-olmo-core"
    )
    parser.add_argument("--trace", metavar="FILE", help="where `profile` writes its trace")
    return parser.parse_args()


def _settings(args: argparse.Namespace, cuda: bool) -> TrainConfig:
    small = args.shape == "small"
    model = SMALL if small else ModelConfig(**SIZES[args.shape]._asdict(), vocab_size=50_304)
    train = TrainConfig(
        model=model,
        sequence_length=model.max_sequence_length,
        global_batch=8 if small else 64,
        micro_batch=4 if small else 16,
        optimizer=OptimizerConfig(learning_rate=peers.LEARNING_RATE),
        compute=TrainComputeConfig(precision="bf16" if cuda else "fp32"),
        metrics=MetricsConfig(every_steps=10),
        validation=ValidationConfig(sequences=0),
        guard=GuardConfig(watchdog_seconds=0.0),
    )
    return settings.parse_overrides(train, args.set)


def _shape(train: TrainConfig, cuda: bool, n_steps: int) -> Shape:
    model, (micro, _) = train.model, train.passes(1)
    compiles = train.compute.compile == "on" or (train.compute.compile == "auto" and cuda)
    return Shape(
        d_model=model.d_model, n_layers=model.n_layers, n_heads=model.n_heads, d_mlp=model.d_mlp, vocab_size=model.vocab_size,
        length=train.sequence_length, rows=train.global_batch, micro=micro, bf16=train.compute.precision == "bf16", compile=compiles,
        n_steps=n_steps or 8, n_warm_up=2 if cuda else 1,
    )  # fmt: skip


def _prepared(train: TrainConfig, shape: Shape) -> OLMoForTraining:
    with torch.device(shape.device):
        model = OLMoForTraining(train.model)
    nn.init.normal_(
        model.embedding.weight, std=0.02
    )  # torch's own would fill a CPU with denormals; ours takes 15 s for the 1B
    compilation.prepare(model, train.compute, torch.device(shape.device))
    return model


def _ours(train: TrainConfig, shape: Shape) -> Step:
    train = replace(train, micro_batch=shape.micro)
    settings = deepspeed_engine.deepspeed_settings(train, 1) | {"gradient_clipping": peers.CLIP}
    engine = deepspeed_engine.initialise(_prepared(train, shape), settings)
    weight_B = torch.full(
        (shape.micro,), 1 / (shape.rows * (shape.length - 1)), device=shape.device
    )

    def step(tokens_BT: Tensor) -> None:
        passes = tokens_BT.split(shape.micro)
        for n, tokens in enumerate(passes, 1):
            deepspeed_engine.backward_and_step(
                engine, engine(tokens, weight_B).total, last=n == len(passes)
            )

    return step


def _ours_plain(train: TrainConfig, shape: Shape) -> Step:
    model = nn.parallel.DistributedDataParallel(_prepared(train, shape).to(shape.device))
    weight_B = torch.full(
        (shape.micro,), 1 / (shape.micro * (shape.length - 1)), device=shape.device
    )
    return peers.plain(
        model, lambda module, tokens: module(tokens, weight_B).total, shape, autocast=True
    )


def _hf_deepspeed(train: TrainConfig, shape: Shape) -> Step:
    model = peers.hugging_face(shape)
    if shape.compile:
        for layer in model.model.layers:  # type: ignore[union-attr]
            layer.compile()
    settings = deepspeed_engine.deepspeed_settings(replace(train, micro_batch=shape.micro), 1) | {
        "gradient_clipping": peers.CLIP
    }
    engine = deepspeed_engine.initialise(model, settings)

    def step(tokens_BT: Tensor) -> None:
        passes = tokens_BT.split(shape.micro)
        for n, tokens in enumerate(passes, 1):
            deepspeed_engine.backward_and_step(
                engine, peers.hugging_face_loss(engine, tokens) / len(passes), last=n == len(passes)
            )

    return step


def _outside(python: str, name: str, shape: Shape) -> Measured | Exception:
    command = [
        python,
        str(Path(__file__).with_name("train_peers.py")),
        name,
        json.dumps(asdict(shape)),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    if done.returncode:
        return RuntimeError(done.stderr.strip().splitlines()[-1])
    return Measured(**json.loads(done.stdout.strip().splitlines()[-1]))


def _parity(train: TrainConfig, shape: Shape) -> None:
    """On cyclic text, which can be learnt in so few steps."""
    start = torch.randint(
        train_loop.N_IDS, (50, shape.micro, 1), generator=torch.Generator().manual_seed(0)
    )
    batches = list((start + torch.arange(shape.length)) % train_loop.N_IDS)
    parity = fp8_parity.fp8_parity(
        evolve(train, {"optimizer.learning_rate": 4e-4}), batches, torch.device(shape.device)
    )
    verdict = "holds" if parity.holds else "does NOT hold"
    print(
        f"FP8 parity {verdict}: relative gap {parity.gap:.4f}, "
        f"at most {fp8_parity.MAX_RELATIVE_GAP} allowed; "
        f"last losses of 50 steps {parity.reference[-1]:.4f} and {parity.fp8[-1]:.4f} nats/token"
    )


def _profile(train: TrainConfig, shape: Shape, file: str | None) -> None:
    """Where two steps of ours go, and how often the host waited for the device in them."""
    from torch.profiler import ProfilerActivity, profile, record_function

    step = _ours(train, shape)
    objective = loss.objective

    def marked(*args: Any, **kwargs: Any) -> Any:
        with record_function("## loss"):
            return objective(*args, **kwargs)

    loss.objective = marked
    tokens_BT = torch.randint(shape.vocab_size, (shape.rows, shape.length)).to(shape.device)
    for _ in range(shape.n_warm_up):
        step(tokens_BT)
    cuda = shape.device == "cuda"
    synchronize()
    with profile(
        activities=[ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if cuda else [])]
    ) as profiler:
        start = time.perf_counter()
        for _ in range(2):
            step(tokens_BT)
        synchronize()
        wall = time.perf_counter() - start
    loss.objective = objective
    seconds, in_loss = dict.fromkeys([*KINDS, "elementwise and the rest"], 0.0), 0.0
    waits = 0
    for event in profiler.key_averages():
        own = (event.self_device_time_total if cuda else event.self_cpu_time_total) / 1e6
        if event.key == "## loss":
            in_loss = max(
                in_loss, (event.device_time_total if cuda else event.cpu_time_total) / 1e6
            )
            own = 0.0 if cuda else own
        waits += (
            event.count
            if cuda and event.key in ("cudaStreamSynchronize", "cudaDeviceSynchronize")
            else 0
        )
        if cuda and str(event.device_type) != "DeviceType.CUDA":
            continue
        kind = next(
            (
                kind
                for kind, parts in KINDS.items()
                if any(part in event.key.lower() for part in parts)
            ),
            None,
        )
        seconds[kind or "elementwise and the rest"] += own
    busy = sum(seconds.values())
    print(
        f"profile of two steps, {wall:.3f} s"
        + (f", {waits} waits of the host for the device" if cuda else "")
    )
    for kind, own in (seconds | {"host, or idle": max(0.0, wall - busy)}).items():
        print(f"  {kind:26} {own:9.3f} s {own / wall:7.1%}")
    print(f"  {'loss, of all these':26} {in_loss:9.3f} s {in_loss / wall:7.1%}")
    if file:
        profiler.export_chrome_trace(file)


if __name__ == "__main__":
    sys.exit(main())
