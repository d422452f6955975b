"""a steered model as an ordinary Hugging Face checkpoint: the shift becomes the output projection's
bias

OlmoForCausalLM has biases on q, k, v and o together (`attention_bias`), so those of q, k and v are
written as zeros. The weights and the tokenizer are the model's own, byte for byte, in one file;
steering costs nothing more, in any program that loads the folder. training/model/hf_export.py has
no names for biases and refuses to read it back: evaluate the model, and steer it.
"""

import json
import shutil
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from data_prep.core.errors import ConfigurationError
from eval.steering import intervention
from training.model.hf_export import load_export, load_weights
from training.model.model_card import RESPONSIBLE_USE, model_card

COPIED = (
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
)  # where they are


def bake(export: Path, shift_LD: Tensor, strength: float, folder: Path) -> None:
    """Write the Hugging Face OLMo in the folder `export`, steered by strength · shift_LD at all
    positions, to `folder`.

    shift_LD is steering.unit_shift's: σθ of the chosen heads. Raises ConfigurationError where its
    shape is another model's.
    """
    if folder.resolve() == export.resolve():
        raise ConfigurationError(
            f"{folder} is the model itself, which stays as it is; name another folder for the steered one"
        )
    model, config = load_export(export, torch.float32)
    if shift_LD.shape != (config.n_layers, config.d_model):
        raise ConfigurationError(
            f"the shift is {list(shift_LD.shape)}, the model in {export} has {config.n_layers} layers of {config.d_model}; "
            "take the directions found in this model"
        )
    state = load_weights(export)
    for layer, bias_D in enumerate(intervention.output_bias(model, shift_LD, strength)):
        attention = f"model.layers.{layer}.self_attn"
        dtype = state[f"{attention}.o_proj.weight"].dtype
        state |= {
            f"{attention}.{part}_proj.bias": torch.zeros(config.d_model, dtype=dtype)
            for part in "qkv"
        }
        state[f"{attention}.o_proj.bias"] = bias_D.to(dtype).contiguous()
    folder.mkdir(parents=True, exist_ok=True)
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    theirs = json.loads((export / "config.json").read_bytes())
    (folder / "config.json").write_text(
        json.dumps(theirs | {"attention_bias": True}, indent=2) + "\n", encoding="utf-8"
    )
    for name in COPIED:
        if (export / name).is_file():
            shutil.copyfile(export / name, folder / name)
    (folder / "README.md").write_text(_card(export, strength), encoding="utf-8")


def _card(export: Path, strength: float) -> str:
    """The model card of the steered model: that of the unsteered one, and what was done to it."""
    card = export / "README.md"
    text = card.read_text(encoding="utf-8") if card.is_file() else ""
    if not all(line in text for line in RESPONSIBLE_USE):
        text = model_card({})
    return (
        f"{text}\n## Steering\n\nSteered away from toxicity at strength {strength:g}, at all "
        "positions; the shift is the bias of the output projections.\n"
    )
