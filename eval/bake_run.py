"""ENTRY: one evaluated run → its steered model as a Hugging Face folder"""

import argparse
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from safetensors.torch import load

from data_prep import storage, telemetry
from data_prep.records import ArtefactMissing, ConfigurationError, HormesisError
from eval import baking, steering
from eval.directions import Directions
from eval.record import EvalReport
from eval.subject import fetch_export
from training import record


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
    run = record.find(root, run_id)
    if run is None:
        raise ArtefactMissing(f"{record.run_uri(root, run_id)}/record.json: the run is not finished; train it first")
    folder = storage.join(record.run_uri(root, run_id), evaluation)
    report = storage.load(EvalReport, storage.join(folder, "report.json"))
    if report.config.site != "heads":
        raise ConfigurationError(
            f"{folder}: it steers {report.config.site}; only a shift of heads is a bias, evaluate with site heads"
        )
    heads = load(storage.read(storage.join(folder, "heads.safetensors")))
    shift_LD = steering.unit_shift(Directions(heads["theta_LNH"], heads["sigma_LN"]), report.chosen_heads)
    with TemporaryDirectory(prefix="hormesis-bake-") as scratch:
        fetch_export(root, run, Path(scratch))
        baking.bake(Path(scratch), shift_LD, strength, to)


if __name__ == "__main__":
    sys.exit(main())
