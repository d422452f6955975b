"""training speed against peers, the loop's overhead, time to the first step, and a profile

    make bench-train                                    6M parameters, fp32, one CPU thread, 2 min
    make bench-train ARGS="--peers PYTHON"              that interpreter has litgpt and OLMo-core
    make bench-train ARGS="--set compute.compile=on"    compiled by inductor's C++ backend

On one H100 or H200 with the project installed, with OLMo-1B, bf16 and compilation; the first
command should take less than 10 minutes, the others 3 each. None of this has run on a GPU yet;
`make gpu-check` measures the same and more, each part in a process with its own time limit.

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
from dataclasses import asdict
from itertools import chain
from pathlib import Path

os.environ.update(HF_HUB_OFFLINE="1", RAY_USAGE_STATS_ENABLED="0")

import fp8_parity
import psutil
import random_run
import torch
import train_contenders
import train_loop
import train_peers as peers
import train_profile
from train_peers import Shape, StepCost

from data_prep.core import settings
from data_prep.core.settings import evolve
from training.config import SIZES, TrainConfig
from training.engine import process_group, throughput
from training.model import compilation

PEER_SECONDS = 600


def main() -> None:
    import_seconds = time.time() - psutil.Process().create_time()
    arguments = _argument_parser().parse_args()
    torch.set_num_threads(1)
    train = settings.parse_overrides(train_contenders.settings_of(arguments.shape), arguments.set)
    shape = train_contenders.shape_of(train, arguments.steps)
    peak = _print_setting(train, shape)
    names = arguments.only or [
        name
        for name in (*train_contenders.builders(train), "loop", *peers.SEPARATE_PEERS, "profile")
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
        print(train_profile.profile_step(train, shape, arguments.trace))


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


def _compare_steps(
    train: TrainConfig,
    shape: Shape,
    names: list[str],
    peers_python: str | None,
    peak: throughput.PeakFlops,
) -> None:
    contenders = train_contenders.builders(train)
    builders = {name: build for name, build in contenders.items() if name in names}
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
    parser.add_argument(
        "--trace",
        type=Path,
        metavar="FILE",
        help="file for the trace of `profile`, compressed if its name ends in .gz",
    )
    return parser


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
    batches = fp8_parity.cyclic_batches(
        fp8_parity.N_STEPS, shape.micro, shape.length, random_run.N_IDS
    )
    train = evolve(train, {"optimizer.learning_rate": fp8_parity.LEARNING_RATE})
    parity = fp8_parity.fp8_parity(train, batches, torch.device(shape.device))
    verdict = "holds" if parity.holds else "does NOT hold"
    print(
        f"FP8 parity {verdict}: relative gap {parity.gap:.4f}, "
        f"at most {fp8_parity.MAX_RELATIVE_GAP} allowed; losses of step {fp8_parity.N_STEPS}: "
        f"{parity.reference[-1]:.4f} without and {parity.fp8[-1]:.4f} nats/token with FP8"
    )


if __name__ == "__main__":
    sys.exit(main())
