"""ENTRY: `deepspeed training/pretrain.py …`: one planned run → one trained model and its RunRecord

    deepspeed --num_gpus 2 training/pretrain.py --out s3://bucket/study --run toxic-0.10-s0-3f9a1c2e
    torchrun --nproc-per-node 2 -- training/pretrain.py …   srun python training/pretrain.py …      python training/pretrain.py …

(After `--`, torchrun does not take our --run for the beginning of its --run-path.)

The run was planned by launch/sweep.py, which wrote what is asked to runs/<run>/run.json. `--set`
may change how the work is done (train.micro_batch=8, train.parallel.zero_stage=3): those settings are not
part of the run's identity. Anything else would train another run under this one's name, and is
refused.

A run that is done is left alone, one that was interrupted goes on. Exit status 0: its record
exists; 2: refused, with the reason;
75: SIGTERM came, and it stopped with a checkpoint: the same command goes on. (A launcher that got
the signal itself may say 1.)
"""

import argparse
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from data_prep.core import telemetry
from data_prep.core.errors import (
    ArtefactCorrupt,
    ConfigurationError,
    HormesisError,
    Interrupted,
    StorageError,
)
from data_prep.core.records import digest
from data_prep.core.settings import parse_overrides
from training.config import RunConfig
from training.engine import rank_env
from training.run_record import RunRecord, load_config, run_uri

INTERRUPTED = 75  # EX_TEMPFAIL: try again later


def main() -> int:
    args = _parse(sys.argv[1:])
    telemetry.configure()
    try:
        os.environ.update(rank_env.torch_variables(os.environ))
        run = _with_overrides(load_config(args.out, args.run), args.set)
        overlay = _overlay(args.deepspeed_config)

        # imported only now, for they import torch: --help and a bad flag answer at once
        from training.engine import process_group
        from training.trainer import loop, preemption

        preemption.install()
        status = _train(args.out, lambda: loop.train(args.out, run, deepspeed_overlay=overlay))
        process_group.leave()
    except HormesisError as error:
        return _refuse(error)
    return status


def _train(root: str, train: Callable[[], RunRecord]) -> int:
    """Train and say on rank 0 what came of it; the exit status."""
    is_first = os.environ.get("RANK", "0") == "0"
    try:
        made = train()
    except Interrupted as stop:
        if is_first:
            telemetry.logger.warning("%s", stop)
        return INTERRUPTED
    if is_first:
        _report(root, made)
    return 0


def _parse(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").partition("\n\n")[0], allow_abbrev=False
    )
    parser.add_argument(
        "--out", required=True, metavar="URI", help="object root: a folder or s3://bucket/prefix"
    )
    parser.add_argument(
        "--run",
        required=True,
        metavar="ID",
        help="a planned run; launch/sweep.py --plan lists them",
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="PATH=VALUE",
        help="an operational setting, e.g. train.micro_batch=8",
    )
    parser.add_argument(
        "--deepspeed_config",
        metavar="FILE",
        help="JSON merged into DeepSpeed's settings, e.g. for overlap or offload",
    )
    parser.add_argument(
        "--local_rank",
        type=int,
        help="given by the deepspeed launcher; the environment says it, too",
    )
    return parser.parse_args(argv)


def _with_overrides(planned: RunConfig, settings: list[str]) -> RunConfig:
    run = parse_overrides(planned, settings)
    if digest(run) != digest(planned):
        raise ConfigurationError(
            f"--set {' '.join(settings)}: this changes what is trained, so it would be another run "
            f"than {planned.run_id}; plan it with launch/sweep.py --set, which gives it its own id"
        )
    return run


def _overlay(file: str | None) -> dict[str, Any] | None:
    if file is None:
        return None
    try:
        overlay = json.loads(Path(file).read_text())
    except (OSError, ValueError) as error:
        raise ConfigurationError(
            f"--deepspeed_config {file}: {error}; expected a readable JSON file"
        ) from error
    if not isinstance(overlay, dict):
        raise ConfigurationError(
            f"--deepspeed_config {file}: holds {type(overlay).__name__}, expected a JSON object"
        )
    return overlay


def _report(root: str, made: RunRecord) -> None:
    held_out = ", ".join(f"{part.stream} {part.loss:.3f}" for part in made.held_out)
    telemetry.logger.info(
        "%s is trained: loss %.3f, held out %s, %s tokens/s of %.3g FLOPs (%s): MFU %.2f of %s, %.2f of a measured product; see %s",
        made.config.run_id,
        made.final_train_loss,
        held_out,
        f"{made.tokens_per_second:,.0f}",
        made.flops_per_token,
        made.flops_convention,
        made.mfu_ratio,
        made.device,
        made.matmul_ratio,
        run_uri(root, made.config.run_id),
    )


def _refuse(error: HormesisError) -> int:
    """One line: from rank 0, and from another rank for what it may have met alone."""
    rank, _ = rank_env.rank_and_world_size()
    if rank == 0 or isinstance(error, ArtefactCorrupt | StorageError):
        print(f"error: {f'rank {rank}: ' if rank else ''}{error}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
