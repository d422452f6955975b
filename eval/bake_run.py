"""ENTRY: one evaluated run → its steered model as a Hugging Face folder"""

import argparse
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from data_prep import telemetry
from data_prep.records import ConfigurationError, HormesisError
from eval import baking
from eval.found import load_found
from eval.subject import fetch_export


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", required=True, metavar="URI", help="object root: a folder or s3://bucket/prefix")
    parser.add_argument("--run", required=True, metavar="ID", help="the finished run, e.g. toxic-0.10-s0-3f9a1c2e")
    parser.add_argument("--eval", required=True, metavar="NAME", help="its evaluation that found the heads, e.g. eval-1f3c9a20")
    parser.add_argument("--strength", required=True, type=float, metavar="ALPHA", help="α of the shift α·σ·θ at all positions")
    parser.add_argument("--to", required=True, type=Path, metavar="FOLDER", help="where the model goes; made if absent")
    arguments = parser.parse_args()
    telemetry.configure()
    try:
        _bake(arguments.out, arguments.run, arguments.eval, arguments.strength, arguments.to)
    except (HormesisError, FileNotFoundError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(arguments.to)
    return 0


def _bake(root: str, run_id: str, evaluation: str, strength: float, to: Path) -> None:
    found = load_found(root, run_id, evaluation)
    if found.report.config.site != "heads":
        raise ConfigurationError(
            f"{found.uri}: it steers {found.report.config.site}; only a shift of heads is a bias, evaluate with site heads"
        )
    with TemporaryDirectory(prefix="hormesis-bake-") as scratch:
        fetch_export(root, found.run, Path(scratch))
        baking.bake(Path(scratch), found.shift_LD, strength, to)


if __name__ == "__main__":
    sys.exit(main())
