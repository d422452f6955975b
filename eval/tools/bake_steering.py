"""ENTRY: one evaluated run, or any Hugging Face OLMo → its steered model as a Hugging Face folder

    python eval/tools/bake_steering.py --out s3://bucket/study --run ID --eval eval-1f3c9a20
    --strength 8 --to FOLDER python eval/tools/bake_steering.py --out out --model OLMo-1B-hf --eval
    eval-1f3c9a20 --strength 8 --to FOLDER

The evaluation (eval/evaluate_run.py) has found the heads to steer; a shift of heads at all
positions is a bias (baking.py).
"""

import argparse
import sys
from pathlib import Path

from data_prep.core import telemetry
from data_prep.core.errors import ConfigurationError, HormesisError
from eval.model import model_source
from eval.tools import baking


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n\n")[0])
    model_source.add_arguments(parser)
    parser.add_argument(
        "--eval",
        required=True,
        metavar="NAME",
        help="its evaluation that found the heads, e.g. eval-1f3c9a20",
    )
    parser.add_argument(
        "--strength",
        required=True,
        type=float,
        metavar="ALPHA",
        help="α of the shift α·σ·θ at all positions",
    )
    parser.add_argument(
        "--to",
        required=True,
        type=Path,
        metavar="FOLDER",
        help="where the model goes; made if absent",
    )
    asked = parser.parse_args()
    telemetry.configure()
    try:
        _bake(model_source.named(asked), asked.eval, asked.strength, asked.to)
    except (HormesisError, FileNotFoundError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(asked.to)
    return 0


def _bake(model: model_source.Named, evaluation: str, strength: float, to: Path) -> None:
    of = model_source.load_found(model, evaluation)
    if of.report.config.probing.site != "heads":
        raise ConfigurationError(
            f"{of.uri}: it steers {of.report.config.probing.site}; only a shift of heads is a bias, evaluate with site heads"
        )
    with model.files() as folder:
        baking.bake(folder, of.shift_LD, strength, to)


if __name__ == "__main__":
    sys.exit(main())
