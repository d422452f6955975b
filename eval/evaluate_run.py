"""ENTRY: one finished run, or any Hugging Face OLMo → one EvalReport

    python eval/evaluate_run.py --out s3://bucket/study --run toxic-0.10-s0-3f9a1c2e --config
    eval.json python eval/evaluate_run.py --out out --model OLMo-1B-hf --set
    'probes=toxigen.csv#label=toxic' prompts=prompts.jsonl \\
        'held_out=["openwebtext=owt.jsonl.gz"]'

Settings are those of eval/config.py. A model that is no run has no held-out streams: give it texts.
"""

import argparse
import sys
from pathlib import Path

from data_prep.core import telemetry
from data_prep.core.errors import HormesisError
from data_prep.core.records import from_json, to_json
from data_prep.core.settings import parse_overrides
from eval.config import EvalConfig
from eval.model import model_source
from eval.pipeline import evaluate, evaluate_folder


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n\n")[0])
    model_source.add_arguments(parser)
    parser.add_argument(
        "--toxic-ratio",
        type=float,
        default=0.0,
        metavar="SHARE",
        help="with --model: of its training text",
    )
    parser.add_argument(
        "--config",
        type=Path,
        metavar="JSON",
        help="an EvalConfig; without it, held-out text and the offline scorer",
    )
    parser.add_argument(
        "--set",
        nargs="+",
        default=[],
        metavar="NAME=VALUE",
        help="change any setting, e.g. n_probes=500",
    )
    arguments = parser.parse_args()
    telemetry.configure()
    config = EvalConfig()
    try:
        if arguments.config:
            config = from_json(EvalConfig, arguments.config.read_bytes(), str(arguments.config))
        config = parse_overrides(config, [word.removeprefix("eval.") for word in arguments.set])
        if arguments.model:
            report = evaluate_folder(
                arguments.out, arguments.model, config, toxic_ratio=arguments.toxic_ratio
            )
        else:
            report = evaluate(arguments.out, arguments.run, config)
    except (HormesisError, FileNotFoundError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(to_json(report), end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
