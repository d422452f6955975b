"""Builds, reads and trains while things break, and prints: fault, times tried, outcome. Not zero if
any was bad.

    python tests/faults/matrix.py [--trials N] [--seed S] [--only NAME …] [--json]      NAME: a row, or `train`, `build`, `read`

An undisturbed one is made first. A trial disturbs another one, in a folder or run of its own. Its
outcome is

    identical                      it ended well, and every file has the bytes of the undisturbed one's; of training, the weights
    clear error, then identical    it ended with one of our errors, which says what to do; the same command, undisturbed, ended well
    resumed, then identical        it was killed or stopped; the same command, undisturbed, ended well
    resumed, then close            on other ranks: equal but for the order of sums
    bad                            anything else, with the reason

and whenever a record is there after the disturbance, everything it speaks of is whole.
"""

import argparse
import json
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import builds
import kill_scenarios
import trainings
from proxy import FAULTS
from result_table import AWS, BAD, Result, store_behind_proxy, table

RAY = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    "RAY_AUTH_MODE": "disabled",
}


def rows_of_builds() -> dict[str, Any]:
    """Rows of the table: name → one trial of (number, seed, world)."""
    of_store = {f"build: {kind}": kind for kind in FAULTS if kind != "garbled"}
    of_reader = {
        f"read: {kind}": kind for kind in FAULTS if kind not in ("duplicate", "stale_list")
    }
    return {
        **{
            name: lambda t, s, w, kind=kind: builds.store_trial(kind, t, s, w)
            for name, kind in of_store.items()
        },
        **{
            name: lambda t, s, w, kind=kind: builds.read_trial(kind, t, s, w)
            for name, kind in of_reader.items()
        },
        "workers killed": kill_scenarios.killed_workers_trial,
        "driver killed": kill_scenarios.killed_driver_trial,
        "Ray killed": kill_scenarios.killed_ray_trial,
        "two builds at once": kill_scenarios.race_trial,
        "disk full": kill_scenarios.full_disk_trial,
    }


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="matrix.py", description="Break builds, reads and trainings, and look at what is left."
    )
    parser.add_argument("--trials", type=int, default=3, help="of each fault")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--only", nargs="+", metavar="NAME", help="the rows of the table that begin like this"
    )
    parser.add_argument(
        "--json", action="store_true", help="one result a line instead of the table"
    )
    asked = parser.parse_args()
    parts = ((builds, rows_of_builds()), (trainings, trainings.TRIALS))
    for name in asked.only or []:
        if not any(row.startswith(name) for _, rows in parts for row in rows):
            parser.error(
                f"--only {name!r}: no row begins like this; there are {', '.join(row for _, rows in parts for row in rows)}"
            )
    os.environ.pop("RAY_ADDRESS", None)
    os.environ |= AWS | RAY
    results, work = [], Path(tempfile.mkdtemp(prefix="faults-"))
    try:
        with store_behind_proxy(builds.BUCKET, trainings.BUCKET) as proxy:
            for part, rows in parts:
                chosen = {
                    name: trial
                    for name, trial in rows.items()
                    if not asked.only or name.startswith(tuple(asked.only))
                }
                if chosen:
                    with part.undisturbed(proxy, work) as world:
                        for name, trial in chosen.items():
                            results += [
                                _told(trial, number, asked.seed, world, name, asked.json)
                                for number in range(asked.trials)
                            ]
    finally:
        shutil.rmtree(work, ignore_errors=True)
    if not asked.json:
        print(table(results))
    return int(any(result.outcome == BAD for result in results))


def _told(trial: Any, number: int, seed: int, world: Any, name: str, as_json: bool) -> Result:
    """One trial's result, which is also printed at once."""
    start = time.monotonic()
    try:
        one = trial(number, seed, world)
    except Exception as error:
        one = Result(name, number, BAD, repr(error))
    if as_json:
        print(json.dumps(one._asdict()), flush=True)
    else:
        line = f"\n{one.name} {one.trial}: {one.outcome} in {time.monotonic() - start:.0f} s. {one.detail[:2000]}"
        print(line, file=sys.stderr, flush=True)
    return one


if __name__ == "__main__":
    sys.exit(main())
