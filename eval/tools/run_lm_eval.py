"""ENTRY: one run, or any Hugging Face OLMo → lm-evaluation-harness's tasks at each strength, as
JSON

    python eval/tools/run_lm_eval.py --out s3://bucket/study --run ID --eval eval-1f3c9a20 --tasks
    arc_easy piqa --strengths 0 4 8 python eval/tools/run_lm_eval.py --out out --model OLMo-1B-hf
    --tasks arc_easy piqa

Needs the extra `harness`; tasks come from the harness, and their data from the hub, unless
--include_path names others. Only an evaluation (eval/evaluate_run.py) knows the heads to steer, and
its settings hold here, too.
"""

import argparse
import json
import sys

import torch

from data_prep.core import storage, telemetry
from data_prep.core.errors import ConfigurationError, HormesisError
from eval.config import EvalConfig
from eval.model import model_source


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n\n")[0])
    model_source.add_arguments(parser)
    parser.add_argument(
        "--eval",
        metavar="NAME",
        help="its evaluation that found the heads, e.g. eval-1f3c9a20; none: unsteered",
    )
    parser.add_argument(
        "--tasks",
        required=True,
        nargs="+",
        metavar="TASK",
        help="of lm-evaluation-harness, e.g. arc_easy mmlu",
    )
    parser.add_argument(
        "--strengths",
        nargs="+",
        type=float,
        default=[0.0],
        metavar="ALPHA",
        help="α of the shift; 0 is none",
    )
    parser.add_argument("--limit", type=int, metavar="N", help="at most so many rows of each task")
    parser.add_argument("--include_path", metavar="FOLDER", help="where else to look for tasks")
    asked = parser.parse_args()
    telemetry.configure()
    try:
        for uri in _run(asked):
            print(uri)
    except (HormesisError, FileNotFoundError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def _run(asked: argparse.Namespace) -> list[str]:
    """Measure and write harness-<strength>.json for each strength: beside the report, or without
    one in the model's folder.
    """
    if any(asked.strengths) and not asked.eval:
        raise ConfigurationError(
            f"--strengths {' '.join(f'{one:g}' for one in asked.strengths)}: no evaluation says which heads to steer; name one "
            "of this model with --eval (eval/evaluate_run.py makes it), or leave --strengths out"
        )
    try:
        from eval.tools import lm_eval_adapter
    except ModuleNotFoundError as error:
        raise ConfigurationError(
            f"{error.name} is not installed; install hormesis[harness]"
        ) from error
    model = model_source.named(asked)
    of = model_source.load_found(model, asked.eval) if asked.eval else None
    config, folder = (of.report.config, of.uri) if of else (EvalConfig(), model.home)
    subject = model.load(config)
    sizes = subject.model.config
    shift_LD = (of.shift_LD if of else torch.zeros(sizes.n_layers, sizes.d_model)).to(
        subject.model.embedding.weight.device
    )
    written = []
    for strength in asked.strengths:
        results = lm_eval_adapter.run(
            subject,
            asked.tasks,
            shift_LD,
            strength,
            config,
            limit=asked.limit,
            include_path=asked.include_path,
        )
        uri = storage.join(folder, f"harness-{strength:g}.json")
        content = {
            "model": model.home,
            "evaluation": asked.eval,
            "strength": strength,
            "limit": asked.limit,
            "results": results,
        }
        storage.write(uri, json.dumps(content, indent=1, default=str).encode())
        written.append(uri)
    return written


if __name__ == "__main__":
    sys.exit(main())
