"""time that training waits for a checkpoint into a slow store, published beside it or not

    python tests/benchmarks/bench_checkpoint.py [--width D] [--layers L] [--rows B]
        [--latency SECONDS] [--folder] [--steps N] [--saves N]

A model of some million parameters trains in this process and saves checkpoints into an S3 server
on loopback whose responses are delayed, or with --folder into a folder. Printed are a step without
a checkpoint, the time that a checkpoint adds to its step ("stall"), and the time until it is
published, which is what a synchronous checkpoint costs. Then an engine restores the checkpoint.
"""

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import torch

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "faults")]

from proxy import Fault
from result_table import AWS, store_behind_proxy

from training.checkpoint.commit_and_prune import RunIdentity
from training.checkpoint.manager import CheckpointManager
from training.config import ModelConfig, OptimizerConfig, TrainConfig
from training.engine import deepspeed_engine, deepspeed_state, process_group
from training.model.loss import OLMoForTraining

BUCKET = "s3://bench"
SEQUENCE_LENGTH = 256
VOCABULARY = 8192


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n\n")[0])
    parser.add_argument("--width", type=int, default=512, help="d_model")
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--rows", type=int, default=4, help="sequences per batch")
    parser.add_argument("--steps", type=int, default=8, help="timed steps without a checkpoint")
    parser.add_argument("--saves", type=int, default=3, help="timed checkpoints after the first")
    parser.add_argument(
        "--latency", type=float, default=0.2, help="delay of each response, in seconds"
    )
    parser.add_argument("--folder", action="store_true", help="save into a folder instead")
    arguments = parser.parse_args()
    os.environ |= AWS
    torch.set_num_threads(2)
    with tempfile.TemporaryDirectory() as folder, store_behind_proxy(BUCKET) as proxy:
        proxy.inject(Fault("latency", rate=1.0, seconds=arguments.latency))
        measure(arguments, folder if arguments.folder else BUCKET)


class Costs(NamedTuple):
    """Seconds of what a checkpoint takes; several values where it was repeated."""

    state_bytes: int
    step: list[float]
    step_beside_upload: list[float]
    first_stall: float
    stall: list[float]
    published: list[float]
    restore: float


def measure(arguments: argparse.Namespace, store: str) -> None:
    train = train_config(arguments)
    world = process_group.join()
    engine = new_engine(train)

    def new_manager() -> CheckpointManager:
        identity = RunIdentity("bench", "bench")
        return CheckpointManager(f"{store}/checkpoints", identity, world, "bench", train.checkpoint)

    checkpoints = new_manager()
    tokens_BT = torch.randint(0, VOCABULARY, (arguments.rows, SEQUENCE_LENGTH))

    def step_seconds() -> float:
        return seconds_of(lambda: step(engine, tokens_BT))

    def save_seconds(number: int) -> float:
        return seconds_of(lambda: checkpoints.save(engine, number, 0.0, {}))

    step_seconds()  # the first step also allocates
    plain = [step_seconds() for _ in range(arguments.steps)]
    first_stall = save_seconds(1)
    beside_upload = [step_seconds()]
    checkpoints.finish()
    stalls = []
    published = []
    for number in range(2, 2 + arguments.saves):
        start = time.perf_counter()
        stalls.append(save_seconds(number))
        beside_upload.append(step_seconds())
        checkpoints.finish()
        published.append(time.perf_counter() - start)
    other_engine = new_engine(train)
    costs = Costs(
        state_bytes=sum(4 * piece.count for piece, _ in deepspeed_state.local_slices(engine)),
        step=plain,
        step_beside_upload=beside_upload,
        first_stall=first_stall,
        stall=stalls,
        published=published,
        restore=seconds_of(lambda: new_manager().restore(other_engine)),
    )
    print_costs(costs, train)


def train_config(arguments: argparse.Namespace) -> TrainConfig:
    return TrainConfig(
        model=ModelConfig(
            d_model=arguments.width,
            n_layers=arguments.layers,
            n_heads=8,
            d_mlp=4 * arguments.width,
            vocab_size=VOCABULARY,
            max_sequence_length=SEQUENCE_LENGTH,
        ),
        sequence_length=SEQUENCE_LENGTH,
        global_batch=arguments.rows,
        optimizer=OptimizerConfig(learning_rate=1e-4),
    )


def print_costs(costs: Costs, train: TrainConfig) -> None:
    mib = costs.state_bytes / 2**20
    step_seconds = median(costs.step)
    print(
        f"state                {mib:9.0f} MiB, {train.model.n_parameters / 1e6:.0f} M parameters, "
        f"{torch.get_num_threads()} threads"
    )
    print(f"step                 {step_seconds:9.3f} s")
    print(f"step beside upload   {median(costs.step_beside_upload):9.3f} s")
    for name, seconds in (
        ("stall, first save", costs.first_stall),  # its buffer is new
        ("stall", median(costs.stall)),
        ("published", median(costs.published)),
        ("restored", costs.restore),
    ):
        print(
            f"{name:<20} {seconds:9.3f} s {seconds / step_seconds:7.2f} steps, "
            f"{mib / seconds:.0f} MiB/s"
        )


def new_engine(train: TrainConfig) -> Any:
    model = OLMoForTraining(train.model)
    model.initialise(0)
    return deepspeed_engine.initialise(model, deepspeed_engine.deepspeed_settings(train, 1))


def step(engine: Any, tokens_BT: torch.Tensor) -> None:
    objective, _ = engine(tokens_BT, torch.full((len(tokens_BT),), 1e-3))
    deepspeed_engine.backward_and_step(engine, objective, last=True)


def seconds_of(work: Callable[[], Any]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
