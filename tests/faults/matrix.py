"""disturb builds, reads and trainings, and print the outcomes; exit status 1 if any is bad

    python tests/faults/matrix.py [--trials N] [--seed S] [--only NAME …] [--json]

NAME is the beginning of a row's name, such as `train`, `build` or `read`. An undisturbed build or
run is made first. Each trial disturbs another one, in a folder or run of its own. Its outcome is

    identical                     it succeeded, and all files (of a training: the weights) have the
                                  bytes of the undisturbed one
    clear error, then identical   it ended with one of our errors, which states a remedy; the same
                                  command succeeded without the disturbance
    resumed, then identical       it was killed or preempted; the same command succeeded without the
                                  disturbance
    resumed, then close           on other ranks: equal except for the order of sums
    bad                           anything else, with the reason

If a record exists after the disturbance, everything that it refers to must be whole.
"""

import argparse
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import build_faults
import build_kills
import training_faults
from proxy import FAULTS
from result_table import AWS, BAD, TrialResult, store_behind_proxy, table

RAY = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    "RAY_AUTH_MODE": "disabled",
}
NOT_OF_BUILDS = ("garbled",)
NOT_OF_READS = ("duplicate", "stale_list")

Trial = Callable[[int, int, Any], TrialResult]
"""A trial of (trial number, seed, setup)."""


def build_trials() -> dict[str, Trial]:
    """Trials of builds and reads, per row of the table."""

    def in_store(kind: str) -> Trial:
        return lambda number, seed, setup: build_faults.store_trial(kind, number, seed, setup)

    def in_reads(kind: str) -> Trial:
        return lambda number, seed, setup: build_faults.read_trial(kind, number, seed, setup)

    return {
        **{f"build: {kind}": in_store(kind) for kind in FAULTS if kind not in NOT_OF_BUILDS},
        **{f"read: {kind}": in_reads(kind) for kind in FAULTS if kind not in NOT_OF_READS},
        "workers killed": build_kills.killed_workers_trial,
        "driver killed": build_kills.killed_driver_trial,
        "Ray killed": build_kills.killed_ray_trial,
        "two builds at once": build_kills.race_trial,
        "disk full": build_kills.full_disk_trial,
    }


def main() -> int:
    parser = argument_parser()
    arguments = parser.parse_args()
    parts = ((build_faults, build_trials()), (training_faults, training_faults.TRIALS))
    rows = [row for _, trials in parts for row in trials]
    for name in arguments.only or []:
        if not any(row.startswith(name) for row in rows):
            parser.error(f"--only {name!r}: no row starts with it; the rows are {', '.join(rows)}")
    os.environ.pop("RAY_ADDRESS", None)
    os.environ |= AWS | RAY
    results = []
    work = Path(tempfile.mkdtemp(prefix="faults-"))
    try:
        with store_behind_proxy(build_faults.BUCKET, training_faults.BUCKET) as proxy:
            for part, trials in parts:
                chosen = {
                    row: trial
                    for row, trial in trials.items()
                    if not arguments.only or row.startswith(tuple(arguments.only))
                }
                if not chosen:
                    continue
                with part.undisturbed(proxy, work) as setup:
                    for row, trial in chosen.items():
                        for number in range(arguments.trials):
                            start = time.monotonic()
                            result = run_trial(row, trial, number, arguments.seed, setup)
                            show(result, time.monotonic() - start, arguments.json)
                            results.append(result)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    if not arguments.json:
        print(table(results))
    return int(any(result.outcome == BAD for result in results))


def argument_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="matrix.py", description="Disturb builds, reads and trainings, and judge the results."
    )
    parser.add_argument("--trials", type=int, default=3, help="number of trials per row")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="+", metavar="NAME", help="rows that start with NAME")
    parser.add_argument("--json", action="store_true", help="one JSON result per line, no table")
    return parser


def run_trial(name: str, trial: Trial, number: int, seed: int, setup: Any) -> TrialResult:
    try:
        return trial(number, seed, setup)
    except Exception as error:
        return TrialResult(name, number, BAD, repr(error))


def show(result: TrialResult, seconds: float, as_json: bool) -> None:
    if as_json:
        print(json.dumps(result._asdict()), flush=True)
        return
    line = f"\n{result.name} {result.trial}: {result.outcome} in {seconds:.0f} s."
    print(line, result.detail[:2000], file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
