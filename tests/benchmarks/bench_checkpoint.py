"""How long training stands still for a checkpoint: saved beside training, and at once, into a slow
store.

    python tests/benchmarks/bench_checkpoint.py [--width D] [--layers L] [--rows B] [--latency
                                                 SECONDS] [--folder] [--steps N] [--saves N]

A model of some millions of parameters trains in this process, and saves into an S3 server on
loopback whose answers come late (or with --folder into a folder). Printed: a step without a save,
what a save adds to its step ("stall"), publishing, and the same save waited for, which is what a
synchronous one costs. Then the checkpoint is read into an engine again.
"""

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import torch

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "faults")]

from proxy import Fault  # noqa: E402
from result_table import AWS, store_behind_proxy  # noqa: E402

from training.checkpoint.manager import CheckpointManager, RunIdentity  # noqa: E402
from training.config import ModelConfig, OptimizerConfig, TrainConfig  # noqa: E402
from training.engine import deepspeed_engine, deepspeed_state, process_group  # noqa: E402
from training.model.loss import OLMoForTraining  # noqa: E402

BUCKET = "s3://bench"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n\n")[0])
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--rows", type=int, default=4, help="of 256 tokens, in a batch")
    parser.add_argument("--steps", type=int, default=8, help="timed without a save")
    parser.add_argument("--saves", type=int, default=3, help="timed after the first")
    parser.add_argument(
        "--latency",
        type=float,
        default=0.2,
        help="seconds that each answer of the store comes late",
    )
    parser.add_argument("--folder", action="store_true", help="save into a folder instead")
    asked = parser.parse_args()
    os.environ |= AWS
    torch.set_num_threads(2)
    with tempfile.TemporaryDirectory() as folder, store_behind_proxy(BUCKET) as proxy:
        proxy.inject(Fault("latency", rate=1.0, seconds=asked.latency))
        measure(asked, folder if asked.folder else BUCKET)


def measure(asked: argparse.Namespace, store: str) -> None:
    shape = ModelConfig(
        d_model=asked.width,
        n_layers=asked.layers,
        n_heads=8,
        d_mlp=4 * asked.width,
        vocab_size=8192,
        max_sequence_length=256,
    )
    train = TrainConfig(
        model=shape,
        sequence_length=256,
        global_batch=asked.rows,
        optimizer=OptimizerConfig(learning_rate=1e-4),
    )
    world = process_group.join()
    engine = made(train)
    checkpoints = CheckpointManager(
        f"{store}/checkpoints", RunIdentity("bench", "bench"), world, "bench", train.checkpoint
    )
    tokens_BT = torch.randint(0, 8192, (asked.rows, 256))
    step(engine, tokens_BT)
    n_bytes = sum(4 * piece.count for piece, _ in deepspeed_state.local_slices(engine))
    steps = [seconds_of(lambda: step(engine, tokens_BT)) for _ in range(asked.steps)]
    first = seconds_of(lambda: checkpoints.save(engine, 1, 0.0, {}))
    during = [seconds_of(lambda: step(engine, tokens_BT))]
    checkpoints.finish()
    stalls, publishings, after = [], [], []
    for number in range(asked.saves):
        start = time.perf_counter()
        stalls.append(
            seconds_of(lambda number=number: checkpoints.save(engine, 2 + number, 0.0, {}))
        )
        after.append(
            seconds_of(lambda: step(engine, tokens_BT))
        )  # shares the processor with the upload
        checkpoints.finish()
        publishings.append(time.perf_counter() - start)
    again, reader = (
        made(train),
        CheckpointManager(
            f"{store}/checkpoints", RunIdentity("bench", "bench"), world, "bench", train.checkpoint
        ),
    )
    restoring = seconds_of(lambda: reader.restore(again))
    mib, one, stall, waited = n_bytes / 2**20, median(steps), median(stalls), median(publishings)
    print(
        f"state                {mib:9.0f} MiB, {shape.n_parameters / 1e6:.0f} M parameters, {torch.get_num_threads()} threads"
    )
    print(f"step                 {one:9.3f} s")
    print(f"stall, first save    {first:9.3f} s {first / one:7.2f} steps (its buffer is new)")
    print(f"stall                {stall:9.3f} s {stall / one:7.2f} steps, {mib / stall:.0f} MiB/s")
    print(f"step beside it       {median([*during, *after]):9.3f} s")
    print(
        f"waited for           {waited:9.3f} s {waited / one:7.2f} steps, {mib / waited:.0f} MiB/s, {waited / stall:.0f} stalls"
    )
    print(f"restored             {restoring:9.3f} s               {mib / restoring:.0f} MiB/s")


def made(train: TrainConfig) -> Any:
    model = OLMoForTraining(train.model)
    model.initialise(0)
    return deepspeed_engine.initialise(model, deepspeed_engine.deepspeed_settings(train, 1))


def step(engine: Any, tokens_BT: torch.Tensor) -> None:
    objective, _ = engine(tokens_BT, torch.full((len(tokens_BT),), 1e-3))
    deepspeed_engine.backward_and_step(engine, objective, last=True)


def seconds_of(work: Any) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
