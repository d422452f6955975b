"""ENTRY: `launch/status.py --out URI`: progress and results of a sweep, from its records"""

import argparse
import sys
from collections.abc import Sequence

from data_prep.core import storage, telemetry
from data_prep.core.command import entry_command
from launch import experiment, run_states, status_tables


@entry_command
def main(argv: Sequence[str] | None = None) -> int:
    """The exit status, as core/command.py lists them."""
    parser = argparse.ArgumentParser(
        prog="launch/status.py", description="Print which runs of a sweep are done, and results."
    )
    parser.add_argument(
        "--out",
        required=True,
        metavar="URI",
        help="object root of the sweep: a folder or s3://bucket/prefix",
    )
    arguments = parser.parse_args(argv)
    telemetry.configure()
    root = storage.object_root(arguments.out)
    sweep = experiment.load(root)
    states = run_states.read(root, sweep)
    progress = status_tables.progress_table(root, sweep, states)
    console = telemetry.console()
    console.print(progress)
    if any(state.report for state in states):
        console.print(status_tables.result_table(sweep, states))
    return 0


if __name__ == "__main__":
    sys.exit(main())
