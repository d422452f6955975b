"""ENTRY: pretrain one planned run, on one rank per process

    deepspeed --num_gpus 2 training/pretrain.py --out s3://bucket/study --run toxic-0.10-s0-3f9a1c2e
    torchrun --nproc-per-node 2 -- training/pretrain.py …
    srun python training/pretrain.py …
    python training/pretrain.py …

(Without the `--`, torchrun reads --run as an abbreviation of its own --run-path.)

launch/sweep.py plans the run and writes its settings to runs/<run>/run.json. `--set` changes
operational settings only (train.micro_batch=8, train.parallel.zero_stage=3), which are not part of
the run's identity; any other change would train another run under this run's id, and is refused.

A finished run is left alone, an interrupted one is resumed. Exit status 0: the record exists. 2:
refused, with the reason. 70: a rank hung (watchdog.py). 75: stopped by SIGTERM after a checkpoint;
the same command resumes. (A launcher that itself received the signal may exit with 1.)
"""

import argparse
import json
import os
import sys
from collections.abc import Callable
from typing import Any

from data_prep.core import storage, telemetry
from data_prep.core.command import REFUSED, entry_command
from data_prep.core.errors import (
    ArtefactCorrupt,
    ConfigurationError,
    HormesisError,
    Interrupted,
    StorageError,
)
from data_prep.core.records import digest, refuse_doubled_keys
from data_prep.core.settings import parse_overrides
from training.config import RunConfig
from training.engine import rank_env
from training.run_record import RunRecord, load_config, run_uri

INTERRUPTED = 75  # EX_TEMPFAIL of sysexits.h: try again later


@entry_command
def main() -> int:
    args = _parse(sys.argv[1:])
    telemetry.configure()
    try:
        os.environ.update(rank_env.torch_variables(os.environ))
        root = storage.object_root(args.out)
        run = _with_overrides(load_config(root, args.run), args.set)
        overlay = _read_overlay(args.deepspeed_config)

        # imported here only, since they import torch: --help and a wrong flag answer at once
        from training.engine import process_group
        from training.trainer import loop, preemption

        preemption.install()
        status = _train(root, lambda: loop.train(root, run, deepspeed_overlay=overlay))
        process_group.leave()
    except HormesisError as error:
        _print_error(error)
        return REFUSED
    return status


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
        help="id of a planned run; launch/sweep.py --plan lists them",
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="PATH=VALUE",
        help="change an operational setting, e.g. train.micro_batch=8",
    )
    parser.add_argument(
        "--deepspeed_config",
        metavar="FILE",
        help="JSON merged into DeepSpeed's settings, e.g. to tune overlap or offload",
    )
    parser.add_argument(
        "--local_rank",
        type=int,
        help="passed by the deepspeed launcher; not used, since LOCAL_RANK says the same",
    )
    return parser.parse_args(argv)


def _with_overrides(planned: RunConfig, overrides: list[str]) -> RunConfig:
    run = parse_overrides(planned, overrides)
    if digest(run) != digest(planned):
        raise ConfigurationError(
            f"--set {' '.join(overrides)} changes what is trained, so it would be another run than "
            f"{planned.run_id}; plan that run with launch/sweep.py --set, which gives it its own id"
        )
    return run


def _read_overlay(file: str | None) -> dict[str, Any] | None:
    if file is None:
        return None
    try:
        text = storage.read_text(file)
        refuse_doubled_keys(text, file)
        overlay = json.loads(text)
    except (HormesisError, ValueError) as error:
        raise ConfigurationError(
            f"--deepspeed_config {file}: {error}; expected a readable JSON file"
        ) from error
    if not isinstance(overlay, dict):
        raise ConfigurationError(
            f"--deepspeed_config {file}: holds {type(overlay).__name__}, expected a JSON object"
        )
    return overlay


def _train(root: str, train: Callable[[], RunRecord]) -> int:
    """Train, and log the result on rank 0; the exit status."""
    is_rank0 = os.environ.get("RANK", "0") == "0"
    try:
        record = train()
    except Interrupted as interruption:
        if is_rank0:
            telemetry.logger.warning("%s", interruption)
        return INTERRUPTED
    if is_rank0:
        _log_result(root, record)
    return 0


def _log_result(root: str, record: RunRecord) -> None:
    held_out = ", ".join(f"{part.stream} {part.loss:.3f}" for part in record.held_out)
    telemetry.logger.info(
        "run %s is trained: loss %.3f, held-out loss %s (nats per token); %s tokens per second at "
        "%.3g FLOPs per token (%s): MFU %.2f of %s, %.2f of a measured matmul; see %s",
        record.config.run_id,
        record.final_train_loss,
        held_out,
        f"{record.tokens_per_second:,.0f}",
        record.flops_per_token,
        record.flops_convention,
        record.mfu_ratio,
        record.device,
        record.matmul_ratio,
        run_uri(root, record.config.run_id),
    )


def _print_error(error: HormesisError) -> None:
    """One line on stderr: from rank 0, and from other ranks for errors that they may meet alone."""
    rank, _ = rank_env.rank_and_world_size()
    if rank == 0 or isinstance(error, ArtefactCorrupt | StorageError):
        print(f"error: {f'rank {rank}: ' if rank else ''}{error}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
