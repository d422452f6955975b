"""a shift of heads as biases of the output projections: what carries it in a folder

How each family does it:

OLMo, OLMo-2, OLMo-3, Llama, Qwen3, GPT-NeoX   config.json gives the projections biases; the
                                               other projections' are zeros
GPT-2                                          has the biases; the shift is added to them
Mistral, Qwen2                                 no setting gives the output projection a bias, but
                                               without a sliding window they compute what Llama
                                               computes, and are written as Llama
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from data_prep.core.errors import ArtefactCorrupt, ConfigurationError
from eval.model.subject.architectures import ARCHITECTURES, TABLE, Architecture, BiasOption
from eval.model.subject.model_folder import ModelFolder

# settings of a config that say nothing about Llama
NOT_OF_LLAMA = ("sliding_window", "use_sliding_window", "max_window_layers", "layer_types")


class BiasedModel(NamedTuple):
    """The content of a steered folder: tensors by name, and config.json."""

    weights: dict[str, Tensor]
    settings: dict[str, Any]


def with_biases(folder: ModelFolder, weights: dict[str, Tensor], biases_LD: Tensor) -> BiasedModel:
    """The model of a folder, whose tensors are `weights`, with `biases_LD` added to its output
    projections' biases. Raises ConfigurationError if no config can carry them.
    """
    architecture = folder.architecture
    settings, bias = folder.settings, architecture.bias
    if bias is None:
        settings = _as_llama(folder)
        bias = ARCHITECTURES["LlamaForCausalLM"].bias
        assert bias is not None
    weights = dict(weights)
    for layer, bias_D in enumerate(biases_LD):
        _add_bias(weights, f"{architecture.blocks}.{layer}", architecture, bias, bias_D)
    if bias.setting:
        settings = settings | {bias.setting: True}
    return BiasedModel(weights, settings)


def _as_llama(folder: ModelFolder) -> dict[str, Any]:
    """The config of the same model as a Llama, with every default spelled out: they differ."""
    # transformers takes seconds to import
    from eval.model.subject.transformers_subject import full_settings

    settings = full_settings(folder)
    family, window = folder.architecture.family, settings.get("sliding_window")
    if not folder.architecture.is_llama_without_window or window is not None:
        reason = f" and a sliding window of {window} tokens, which Llama has not" if window else ""
        raise ConfigurationError(
            f"{folder.path}: {family} has no bias on its output projection{reason}, so no config "
            "can carry the shift; steer the model itself (evaluate_run.py, run_lm_eval.py)"
        )
    kept = {name: value for name, value in settings.items() if name not in NOT_OF_LLAMA}
    return kept | {"architectures": ["LlamaForCausalLM"], "model_type": "llama"}


def _add_bias(
    weights: dict[str, Tensor],
    block: str,
    architecture: Architecture,
    option: BiasOption,
    bias_D: Tensor,
) -> None:
    """Add one layer's bias, and zeros for the projections that must have one as well."""
    weight = _name_in_file(weights, f"{block}.{architecture.output_projection}.weight")
    name = weight.removesuffix("weight") + "bias"
    dtype = weights[weight].dtype
    before_D = weights.get(name, torch.zeros_like(bias_D)).float()
    weights[name] = (before_D + bias_D).to(dtype).contiguous()
    for sibling in option.siblings:
        weight = _name_in_file(weights, f"{block}.{sibling}.weight")
        zeros = torch.zeros(len(weights[weight]), dtype=dtype)
        weights.setdefault(weight.removesuffix("weight") + "bias", zeros)


def _name_in_file(weights: dict[str, Tensor], name: str) -> str:
    """The full name of a tensor: files of some models leave out the name of the body."""
    found = [full for full in weights if full == name or full.endswith(f".{name}")]
    if len(found) != 1:
        raise ArtefactCorrupt(
            f"{len(found)} tensors are called {name}, expected one; the table of names is {TABLE}"
        )
    return found[0]
