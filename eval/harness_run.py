"""ENTRY: one evaluated run → lm-evaluation-harness's tasks at each strength, as JSON

    python eval/harness_run.py --out s3://bucket/study --run ID --eval eval-1f3c9a20 --tasks arc_easy piqa --strengths 0 4 8

Needs the extra `harness`; tasks come from the harness, and their data from the hub, unless --include_path names others.
"""

import argparse
import json
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from data_prep import storage, telemetry
from data_prep.records import ConfigurationError, HormesisError


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n\n")[0])
    parser.add_argument("--out", required=True, metavar="URI", help="object root: a folder or s3://bucket/prefix")
    parser.add_argument("--run", required=True, metavar="ID", help="the finished run, e.g. toxic-0.10-s0-3f9a1c2e")
    parser.add_argument("--eval", required=True, metavar="NAME", help="its evaluation that found the heads, e.g. eval-1f3c9a20")
    parser.add_argument("--tasks", required=True, nargs="+", metavar="TASK", help="of lm-evaluation-harness, e.g. arc_easy mmlu")
    parser.add_argument("--strengths", nargs="+", type=float, default=[0.0], metavar="ALPHA", help="α of the shift; 0 is none")
    parser.add_argument("--limit", type=int, metavar="N", help="at most so many rows of each task")
    parser.add_argument("--include_path", metavar="FOLDER", help="where else to look for tasks")
    asked = parser.parse_args()
    telemetry.configure()
    try:
        for uri in _run(asked):
            print(uri)
    except HormesisError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def _run(asked: argparse.Namespace) -> list[str]:
    """Measure and write harness-<strength>.json beside the report for each strength."""
    try:
        from eval import harness
    except ModuleNotFoundError as error:
        raise ConfigurationError(f"{error.name} is not installed; install hormesis[harness]") from error
    from eval.found import load_found
    from eval.subject import load_subject

    found, written = load_found(asked.out, asked.run, asked.eval), []
    with TemporaryDirectory(prefix="hormesis-harness-") as folder:
        subject = load_subject(asked.out, found.run, Path(folder), found.report.config)
    shift_LD = found.shift_LD.to(subject.model.embedding.weight.device)
    for strength in asked.strengths:
        results = harness.run(
            subject, asked.tasks, shift_LD, strength, found.report.config, limit=asked.limit, include_path=asked.include_path
        )
        uri = storage.join(found.uri, f"harness-{strength:g}.json")
        content = {"run": asked.run, "evaluation": asked.eval, "strength": strength, "limit": asked.limit, "results": results}
        storage.write(uri, json.dumps(content, indent=1, default=str).encode())
        written.append(uri)
    return written


if __name__ == "__main__":
    sys.exit(main())
