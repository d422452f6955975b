"""ENTRY: `python launch/status.py --out URI`: ratio × stage table from the records"""

import argparse
import sys

from data_prep.core import storage, telemetry
from data_prep.core.errors import HormesisError
from launch import experiment, run_states, status_tables


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--out",
        required=True,
        metavar="URI",
        help="the sweep's object root: a folder or s3://bucket/prefix",
    )
    arguments = parser.parse_args()
    try:
        root = storage.object_root(arguments.out)
        current = experiment.load(root)
        states = run_states.read(root, current)
    except HormesisError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    console = telemetry.console()
    console.print(status_tables.progress_table(root, current, states))
    if any(entry.report for entry in states):
        console.print(status_tables.result_table(current, states))
    return 0


if __name__ == "__main__":
    sys.exit(main())
