"""ENTRY: evaluate a finished run, or a Hugging Face causal LM, and print its EvalReport

    python eval/evaluate_run.py --out s3://bucket/study --run toxic-0.10-s0-3f9a1c2e \\
        --config eval.json
    python eval/evaluate_run.py --out out --model Qwen3-0.6B \\
        --set 'probes={"toxigen": "toxigen.csv#label=toxic"}' 'prompts={"rtp": "rtp.jsonl"}' \\
        'capability.held_out=["openwebtext=owt.jsonl.gz"]'

Settings are those of eval/config.py. A model that is not a run has no held-out streams: name texts
for it.
"""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from data_prep.core import storage, telemetry
from data_prep.core.command import entry_command
from data_prep.core.errors import ConfigurationError
from data_prep.core.records import from_json, to_json
from data_prep.core.settings import parse_overrides
from eval.config import EvalConfig
from eval.inputs import named_texts

if TYPE_CHECKING:
    from eval.model.model_source import ModelSource


@entry_command
def main() -> int:
    # imported here, since they import torch: Ctrl-C is one line from the first second on
    from eval.model import model_source
    from eval.pipeline.evaluate_model import evaluate_model

    arguments = _parse_arguments()
    telemetry.configure()
    config = EvalConfig()
    if arguments.config:
        text = storage.read_text(str(arguments.config))
        config = from_json(EvalConfig, text, str(arguments.config), is_written_by_user=True)
    config = parse_overrides(config, [word.removeprefix("eval.") for word in arguments.set])
    named_texts.check_hub_access({"eval": config})
    source = model_source.from_arguments(arguments)
    if arguments.model:
        telemetry.logger.info("overlap of the texts with the model's training text: unknown")
    _check_conditions(source, config)
    report = evaluate_model(source, config, toxic_ratio=arguments.toxic_ratio)
    print(to_json(report), end="")
    return 0


def _check_conditions(source: "ModelSource", config: EvalConfig) -> None:
    """Raise ConfigurationError for a condition that this model's arm does not have."""
    for name, condition in config.conditions.items():
        if condition.control_text and not source.control_text:
            raise ConfigurationError(
                f"condition {name} starts with the control text of a MEDA or INST model, and "
                f"{source.name} (arm {source.arm}) has none; leave it out of eval.conditions, or "
                "evaluate a run of these arms"
            )


def _parse_arguments() -> argparse.Namespace:
    from eval.model import model_source

    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n\n")[0])
    model_source.add_arguments(parser)
    parser.add_argument(
        "--toxic-ratio",
        type=float,
        default=0.0,
        metavar="SHARE",
        help="with --model: share of toxic text in its training data (default 0)",
    )
    parser.add_argument(
        "--config",
        type=Path,
        metavar="JSON",
        help="file with all settings (an EvalConfig); the default is held-out text and the offline "
        "scorer",
    )
    parser.add_argument(
        "--set",
        nargs="+",
        default=[],
        metavar="PATH=VALUE",
        help="override settings, e.g. probing.n_rows=500",
    )
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
