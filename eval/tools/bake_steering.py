"""ENTRY: write a steered model as an ordinary Hugging Face folder

    python eval/tools/bake_steering.py --out s3://bucket/study --run ID --eval eval-1f3c9a20 \\
        --strength 8 --to FOLDER
    python eval/tools/bake_steering.py --out out --model OLMo-1B-hf --eval eval-1f3c9a20 \\
        --strength 8 --to FOLDER

An evaluation of the model (eval/evaluate_run.py) has selected the heads to steer. A shift of heads
at all positions equals a bias of the output projection; output_biases.py says how each family
carries it. The weights and the tokenizer are the model's own, byte for byte, in one file; steering
costs no extra time, in any program that loads the folder. It can be evaluated like any other.
"""

import argparse
import json
import shutil
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from data_prep.core import telemetry
from data_prep.core.command import entry_command
from data_prep.core.errors import ConfigurationError
from eval.model import model_source
from eval.model.subject import load_subject, model_folder
from eval.steering import intervention
from eval.tools import output_biases
from eval.tools.saved_direction import load_saved_direction
from training.model.hf_export import load_weights
from training.model.model_card import RESPONSIBLE_USE

COPIED_IF_PRESENT = (
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
)


@entry_command
def main() -> int:
    arguments = _parse_arguments()
    telemetry.configure()
    model = model_source.from_arguments(arguments)
    saved = load_saved_direction(model, arguments.eval)
    site = saved.report.config.probing.site
    if site != "heads":
        raise ConfigurationError(
            f"{saved.uri} steers {site}, but only a shift of heads is a bias; evaluate the "
            "model with eval.probing.site=heads"
        )
    measured = saved.report.config.steering.strengths
    if arguments.strength not in measured:
        telemetry.logger.warning(
            "strength %g was not measured in %s (%s were): toxicity and cost of this model are "
            "unknown",
            arguments.strength,
            arguments.eval,
            ", ".join(f"{strength:g}" for strength in measured) or "none",
        )
    with model.local_files() as export:
        bake(export, saved.shift_LD, arguments.strength, arguments.to)
    print(arguments.to)
    return 0


def bake(export: Path, shift_LD: Tensor, strength: float, folder: Path) -> None:
    """Write the model in the folder `export`, steered by strength · shift_LD at all positions, to
    `folder`.

    shift_LD: σθ of the steered heads (directions.unit_shift). Raises ConfigurationError if its
    shape is that of another model, or if no config of the model's family can carry the shift.
    """
    if folder.resolve() == export.resolve():
        raise ConfigurationError(
            f"{folder} is the model itself, which must not change; name another folder for the "
            "steered model"
        )
    looked_at = model_folder.read(export)
    model = load_subject.load(looked_at, torch.float32, torch.device("cpu"))
    expected = (model.shape.n_layers, model.shape.n_heads * model.shape.d_head)
    if shift_LD.shape != expected:
        raise ConfigurationError(
            f"the shift is {list(shift_LD.shape)}, but the model in {export} has {expected[0]} "
            f"layers of {expected[1]}; use directions that were estimated in this model"
        )
    biases_LD = intervention.output_bias(model, shift_LD, strength)
    biased = output_biases.with_biases(looked_at, load_weights(export), biases_LD)
    folder.mkdir(parents=True, exist_ok=True)
    save_file(biased.weights, folder / "model.safetensors", metadata={"format": "pt"})
    content = json.dumps(biased.settings, indent=2) + "\n"
    (folder / "config.json").write_text(content, encoding="utf-8")
    for name in COPIED_IF_PRESENT:
        if (export / name).is_file():
            shutil.copyfile(export / name, folder / name)
    (folder / "README.md").write_text(_card(export, strength), encoding="utf-8")


def _card(export: Path, strength: float) -> str:
    """The unsteered model's card, if it has one, and a section on steering."""
    card = export / "README.md"
    text = card.read_text(encoding="utf-8") if card.is_file() else ""
    return (
        f"{text}\n## Steering\n\nSteered away from toxicity at strength {strength:g}, at all "
        f"positions; the shift is the bias of the output projections. {RESPONSIBLE_USE[-1]}\n"
    )


def _parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n\n")[0])
    model_source.add_arguments(parser)
    parser.add_argument(
        "--eval",
        required=True,
        metavar="NAME",
        help="the evaluation of this model that selected the heads, e.g. eval-1f3c9a20",
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
        help="folder for the steered model; created if absent",
    )
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
