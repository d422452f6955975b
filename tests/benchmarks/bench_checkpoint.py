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
from pathlib import Path
from statistics import median

import torch

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "faults")]

import checkpoint_costs
from checkpoint_costs import CheckpointCosts
from proxy import Fault
from result_table import AWS, store_behind_proxy

from training.config import ModelConfig, OptimizerConfig, TrainConfig

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
        store = folder if arguments.folder else BUCKET
        train = train_config(arguments)
        print_costs(checkpoint_costs.measure(train, store, arguments.steps, arguments.saves), train)


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


def print_costs(costs: CheckpointCosts, train: TrainConfig) -> None:
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
        ("stall", costs.stall),
        ("call of save", median(costs.saving)),
        ("published", median(costs.published)),
        ("restored", costs.restore),
    ):
        rate = f", {mib / seconds:.0f} MiB/s" if seconds else ""
        print(f"{name:<20} {seconds:9.3f} s {seconds / step_seconds:7.2f} steps{rate}")


if __name__ == "__main__":
    main()
