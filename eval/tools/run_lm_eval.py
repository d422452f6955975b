"""ENTRY: run lm-evaluation-harness tasks on a model at each steering strength

    python eval/tools/run_lm_eval.py --out s3://bucket/study --run ID --eval eval-1f3c9a20 \\
        --tasks arc_easy piqa --strengths 0 4 8
    python eval/tools/run_lm_eval.py --out out --model OLMo-1B-hf --tasks arc_easy piqa

The model is a run or a Hugging Face model. The extra `harness` must be installed; tasks come from
the harness, and their data from the hub, unless --include_path names others. The heads to steer and
all settings come from an evaluation of the model (eval/evaluate_run.py). Results are JSON files,
one per strength.
"""

import argparse
import json
import sys

from data_prep.core import storage, telemetry
from data_prep.core.command import entry_command
from data_prep.core.errors import ConfigurationError
from eval.config import EvalConfig
from eval.model import model_source
from eval.steering import intervention
from eval.steering.intervention import Shift
from eval.tools.saved_direction import load_saved_direction


@entry_command
def main() -> int:
    arguments = _parse_arguments()
    telemetry.configure()
    for uri in _measure(arguments):
        print(uri)
    return 0


def _measure(arguments: argparse.Namespace) -> list[str]:
    """Write harness-<strength>.json for each strength, beside the evaluation's report, or without
    an evaluation in the model's folder.
    """
    if any(arguments.strengths) and not arguments.eval:
        strengths = " ".join(f"{strength:g}" for strength in arguments.strengths)
        raise ConfigurationError(
            f"--strengths {strengths}: no evaluation says which heads to steer; name an evaluation "
            "of this model with --eval (eval/evaluate_run.py makes one), or omit --strengths"
        )
    try:
        from eval.tools import lm_eval_adapter
    except ModuleNotFoundError as error:
        raise ConfigurationError(
            f"{error.name} is not installed; install hormesis[harness]"
        ) from error
    model = model_source.from_arguments(arguments)
    config = EvalConfig()
    folder = model.home
    shift_LD = None
    if arguments.eval:
        saved = load_saved_direction(model, arguments.eval)
        config = saved.report.config
        folder = saved.uri
        shift_LD = saved.shift_LD
    loaded = model.load(config.compute)
    shift = intervention.no_shift(loaded.model.shape)
    if shift_LD is not None:
        shift = Shift(shift_LD.to(loaded.device), config.probing.site)
    written = []
    for strength in arguments.strengths:
        results = lm_eval_adapter.run(
            lm_eval_adapter.SteeredLM(loaded, shift, strength),
            arguments.tasks,
            seed=config.seed,
            limit=arguments.limit,
            include_path=arguments.include_path,
        )
        content = {
            "model": model.home,
            "evaluation": arguments.eval,
            "strength": strength,
            "limit": arguments.limit,
            "results": results,
        }
        uri = storage.join(folder, f"harness-{strength:g}.json")
        storage.write(uri, json.dumps(content, indent=1, default=str).encode())
        written.append(uri)
    return written


def _parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n\n")[0])
    model_source.add_arguments(parser)
    parser.add_argument(
        "--eval",
        metavar="NAME",
        help="the evaluation of this model that selected the heads, e.g. eval-1f3c9a20; without "
        "it the model is not steered",
    )
    parser.add_argument(
        "--tasks",
        required=True,
        nargs="+",
        metavar="TASK",
        help="tasks of lm-evaluation-harness, e.g. arc_easy mmlu",
    )
    parser.add_argument(
        "--strengths",
        nargs="+",
        type=float,
        default=[0.0],
        metavar="ALPHA",
        help="α of the shift; 0 is unsteered (default 0)",
    )
    parser.add_argument("--limit", type=int, metavar="N", help="rows per task, at most")
    parser.add_argument("--include_path", metavar="FOLDER", help="a folder with more tasks")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
