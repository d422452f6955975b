"""ENTRY: one RunRecord → one EvalReport"""

import argparse
import sys
from pathlib import Path

from data_prep import telemetry
from data_prep.records import HormesisError, from_json, to_json
from eval.config import EvalConfig
from eval.evaluation import evaluate


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", required=True, metavar="URI", help="object root: a folder or s3://bucket/prefix")
    parser.add_argument("--run", required=True, metavar="ID", help="the finished run, e.g. toxic-0.10-s0-3f9a1c2e")
    parser.add_argument(
        "--config", type=Path, metavar="JSON", help="an EvalConfig; without it, held-out text and the offline scorer"
    )
    arguments = parser.parse_args()
    telemetry.configure()
    config = EvalConfig(probes="held_out", prompts="held_out", scorer="profanity")
    try:
        if arguments.config:
            config = from_json(EvalConfig, arguments.config.read_bytes(), str(arguments.config))
        report = evaluate(arguments.out, arguments.run, config)
    except (HormesisError, FileNotFoundError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(to_json(report), end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
