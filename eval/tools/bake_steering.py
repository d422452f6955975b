"""ENTRY: write a steered model as an ordinary Hugging Face folder

    python eval/tools/bake_steering.py --out s3://bucket/study --run ID --eval eval-1f3c9a20 \\
        --strength 8 --to FOLDER
    python eval/tools/bake_steering.py --out out --model OLMo-1B-hf --eval eval-1f3c9a20 \\
        --strength 8 --to FOLDER

An evaluation of the model (eval/evaluate_run.py) has selected the heads to steer. A shift of heads
at all positions equals a bias of the output projection. OlmoForCausalLM has biases on q, k, v and o
together (`attention_bias`), so those of q, k and v are written as zeros. The weights and the
tokenizer are the model's own, byte for byte, in one file; steering costs no extra time, in any
program that loads the folder. training/model/hf_export.py has no names for biases and refuses to
read the folder back: evaluate the model itself, with steering.
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
from eval.model.subject.olmo_subject import load_olmo
from eval.steering import intervention
from eval.tools.saved_direction import load_saved_direction
from training.model.hf_export import load_weights
from training.model.model_card import RESPONSIBLE_USE, model_card

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
    with model.local_files() as export:
        bake(export, saved.shift_LD, arguments.strength, arguments.to)
    print(arguments.to)
    return 0


def bake(export: Path, shift_LD: Tensor, strength: float, folder: Path) -> None:
    """Write the Hugging Face OLMo in the folder `export`, steered by strength · shift_LD at all
    positions, to `folder`.

    shift_LD: σθ of the steered heads (directions.unit_shift). Raises ConfigurationError if its
    shape is that of another model.
    """
    if folder.resolve() == export.resolve():
        raise ConfigurationError(
            f"{folder} is the model itself, which must not change; name another folder for the "
            "steered model"
        )
    model = load_olmo(export, torch.float32)
    config = model.config
    if shift_LD.shape != (config.n_layers, config.d_model):
        raise ConfigurationError(
            f"the shift is {list(shift_LD.shape)}, but the model in {export} has {config.n_layers} "
            f"layers of {config.d_model}; use directions that were estimated in this model"
        )
    weights = load_weights(export)
    for layer, bias_D in enumerate(intervention.output_bias(model, shift_LD, strength)):
        attention = f"model.layers.{layer}.self_attn"
        dtype = weights[f"{attention}.o_proj.weight"].dtype
        for letter in "qkv":
            weights[f"{attention}.{letter}_proj.bias"] = torch.zeros(config.d_model, dtype=dtype)
        weights[f"{attention}.o_proj.bias"] = bias_D.to(dtype).contiguous()
    folder.mkdir(parents=True, exist_ok=True)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    settings = json.loads((export / "config.json").read_bytes()) | {"attention_bias": True}
    (folder / "config.json").write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
    for name in COPIED_IF_PRESENT:
        if (export / name).is_file():
            shutil.copyfile(export / name, folder / name)
    (folder / "README.md").write_text(_card(export, strength), encoding="utf-8")


def _card(export: Path, strength: float) -> str:
    """The unsteered model's card and a section on steering."""
    card = export / "README.md"
    text = card.read_text(encoding="utf-8") if card.is_file() else ""
    if not all(line in text for line in RESPONSIBLE_USE):
        text = model_card({})
    return (
        f"{text}\n## Steering\n\nSteered away from toxicity at strength {strength:g}, at all "
        "positions; the shift is the bias of the output projections.\n"
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
