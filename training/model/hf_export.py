"""convert a model to and from Hugging Face's OlmoForCausalLM, in safetensors

Our state keeps query, key and value in one matrix, and gate and up in another; Hugging Face keeps
them separate. Stacking and splitting rows moves numbers without changing any, so a round trip is
the identity, bit for bit.

An export is what `AutoModelForCausalLM.from_pretrained` and `AutoTokenizer.from_pretrained` expect;
transformers itself is not needed here, neither to write nor to read. It keeps the norm's ε, 1e-5,
in code and has no field for another.
"""

import json
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from torch import Tensor

from data_prep.core.errors import ArtefactCorrupt, ArtefactMissing, ConfigurationError
from data_prep.core.records import name_fault
from training.config import ModelConfig
from training.model.model_card import model_card
from training.model.olmo import OLMo

AnyOLMo = TypeVar("AnyOLMo", bound=OLMo)

ARCHITECTURE = "OlmoForCausalLM"
NORM_EPS = 1e-5
EMBEDDING = ("embedding.weight", "model.embed_tokens.weight")
BLOCK = {  # ours → theirs, stacked row-wise in this order
    "attention.qkv": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "attention.out": ("self_attn.o_proj",),
    "mlp.gate_up": ("mlp.gate_proj", "mlp.up_proj"),
    "mlp.down": ("mlp.down_proj",),
}
SUPPORTED_VALUES = {  # a config field → the values with which it changes nothing
    "clip_qkv": (None,),
    "attention_bias": (False, None),
    "attention_dropout": (0, None),
    "hidden_act": ("silu",),
    "tie_word_embeddings": (True,),
    "rope_scaling": (None,),
}


def to_hugging_face(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Our tensors under Hugging Face's names, those that are split as views.

    The output matrix is tied to the embedding and not repeated.
    """
    ours, theirs = EMBEDDING
    renamed = {theirs: state[ours]}
    for layer in range(_n_layers(state, "blocks.")):
        for whole, parts in BLOCK.items():
            rows = state[f"blocks.{layer}.{whole}.weight"].chunk(len(parts))
            renamed |= {
                f"model.layers.{layer}.{part}.weight": tensor
                for part, tensor in zip(parts, rows, strict=True)
            }
    return renamed


def from_hugging_face(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Hugging Face's tensors under our names, fused, without a repeated output matrix."""
    ours, theirs = EMBEDDING
    renamed = {ours: state[theirs]}
    for layer in range(_n_layers(state, "model.layers.")):
        for whole, parts in BLOCK.items():
            rows = [state[f"model.layers.{layer}.{part}.weight"] for part in parts]
            fused = torch.cat(rows) if len(rows) > 1 else rows[0]
            renamed[f"blocks.{layer}.{whole}.weight"] = fused
    return renamed


def hugging_face_config(config: ModelConfig, eos_id: int, dtype: str) -> dict[str, Any]:
    """The content of config.json, for transformers 4 and 5."""
    return {
        "architectures": [ARCHITECTURE],
        "model_type": "olmo",
        "vocab_size": config.vocab_size,
        "hidden_size": config.d_model,
        "intermediate_size": config.d_mlp,
        "num_hidden_layers": config.n_layers,
        "num_attention_heads": config.n_heads,
        "num_key_value_heads": config.n_heads,
        "max_position_embeddings": config.max_sequence_length,
        "rope_theta": config.rope_theta,  # read by transformers 4
        "rope_parameters": {"rope_type": "default", "rope_theta": config.rope_theta},  # and by 5
        "hidden_act": "silu",
        "attention_bias": False,
        "attention_dropout": 0.0,
        "clip_qkv": None,
        "tie_word_embeddings": True,
        "bos_token_id": None,
        "eos_token_id": eos_id,
        # with an id here fine-tuning would not train that row of the embedding
        "pad_token_id": None,
        "dtype": dtype,
    }


def write_export(
    model_state: dict[str, Tensor],
    config: ModelConfig,
    tokenizer_json: str,
    eos_id: int,
    folder: Path,
    facts: dict[str, Any],
) -> None:
    """Write a model in its own dtype, its tokenizer and its card to a local folder.

    facts: for the card. Raises ConfigurationError for a config or an eos_id that Hugging Face
    cannot express.
    """
    if config.norm_eps != NORM_EPS:
        raise ConfigurationError(
            f"train.model.norm_eps is {config.norm_eps}; {ARCHITECTURE} always uses {NORM_EPS}, "
            "so this model cannot be exported"
        )
    eos = _token(tokenizer_json, eos_id)
    state = to_hugging_face(model_state)
    _check_tensors(state, config, "the model's state")
    dtype = str(model_state[EMBEDDING[0]].dtype).removeprefix("torch.")
    folder.mkdir(parents=True, exist_ok=True)
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    _write_json(folder / "config.json", hugging_face_config(config, eos_id, dtype))
    _write_json(folder / "generation_config.json", {"eos_token_id": eos_id, "pad_token_id": eos_id})
    (folder / "tokenizer.json").write_text(tokenizer_json, encoding="utf-8")
    tokenizer_config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": eos,
        "pad_token": eos,
        "padding_side": "left",
        "model_max_length": config.max_sequence_length,
        "clean_up_tokenization_spaces": False,
    }
    _write_json(folder / "tokenizer_config.json", tokenizer_config)
    (folder / "README.md").write_text(model_card(facts), encoding="utf-8")


def load_export(
    folder: Path, dtype: torch.dtype, model_class: type[AnyOLMo] = OLMo
) -> tuple[AnyOLMo, ModelConfig]:
    """Load a Hugging Face OLMo that `read_model_config` accepts, in evaluation mode, on the CPU.

    Weights are in safetensors, in one file or sharded. model_class: OLMo, or a class of its kind.
    """
    config = read_model_config(folder)
    state = load_weights(folder)
    state.pop("lm_head.weight", None)  # tied: the embedding again
    _check_tensors(state, config, str(folder))
    with torch.device("meta"):
        model = model_class(config)
    ours = {name: tensor.to(dtype) for name, tensor in from_hugging_face(state).items()}
    model.load_state_dict(ours, assign=True)
    return model.eval(), config


def read_model_config(folder: Path) -> ModelConfig:
    """The config of a Hugging Face OLMo folder as ours; ConfigurationError for other models."""
    path = folder / "config.json"
    if not path.is_file():
        raise ArtefactMissing(
            f"{path}: no such file; name a folder that holds a Hugging Face {ARCHITECTURE}"
        )
    return _model_config(_read_json(path), path)


def load_weights(folder: Path) -> dict[str, Tensor]:
    """The tensors of a Hugging Face folder, under its names."""
    index = folder / "model.safetensors.index.json"
    names = ["model.safetensors"]
    if index.is_file():
        names = _names_in_index(index)
    state: dict[str, Tensor] = {}
    for path in (folder / name for name in names):
        if not path.is_file():
            raise ArtefactMissing(
                f"{path}: no such file; the weights must be safetensors, in one file or with an "
                "index"
            )
        try:
            state |= load_file(path)
        except SafetensorError as error:
            raise ArtefactCorrupt(
                f"{path} is not a complete safetensors file: {error}; get it again"
            ) from error
    return state


def _names_in_index(index: Path) -> list[str]:
    """The weights files that an index names; ArtefactCorrupt unless they lie in its folder."""
    by_tensor = _read_json(index).get("weight_map")
    if not isinstance(by_tensor, dict) or not by_tensor:
        raise ArtefactCorrupt(f"{index}: has no weight_map of tensors; get the file again")
    for tensor, name in by_tensor.items():
        fault = name_fault(name) if isinstance(name, str) else "should be a file name"
        if fault:
            raise ArtefactCorrupt(
                f"{index}: weight_map.{tensor} is {name!r} and {fault}; get the file again from a "
                "source that you trust"
            )
    return sorted(set(by_tensor.values()))


def _n_layers(state: dict[str, Tensor], prefix: str) -> int:
    in_blocks = [name for name in state if name.startswith(prefix)]
    return len({name.removeprefix(prefix).split(".")[0] for name in in_blocks})


def _check_tensors(state: dict[str, Tensor], config: ModelConfig, where: str) -> None:
    """Raise ArtefactCorrupt unless the tensors, under Hugging Face's names, fit the config."""
    with torch.device("meta"):
        required = to_hugging_face(OLMo(config).state_dict())
    expected = {name: list(tensor.shape) for name, tensor in required.items()}
    shapes = {name: list(tensor.shape) for name, tensor in state.items()}
    for name in sorted(expected.keys() | shapes.keys()):
        if shapes.get(name) != expected.get(name):
            raise ArtefactCorrupt(
                f"{where}: tensor {name} has shape {shapes.get(name, 'none: it is missing')}, the "
                f"config expects {expected.get(name, 'no such tensor')}; use the config and the "
                "weights of the same model"
            )


def _model_config(theirs: dict[str, Any], path: Path) -> ModelConfig:
    """A Hugging Face config as ours; ConfigurationError if this model does not compute it."""
    _check_supported(theirs, path)
    rope = theirs.get("rope_parameters") or {}
    try:
        config = ModelConfig(
            d_model=theirs["hidden_size"],
            n_layers=theirs["num_hidden_layers"],
            n_heads=theirs["num_attention_heads"],
            d_mlp=theirs["intermediate_size"],
            vocab_size=theirs["vocab_size"],
            max_sequence_length=theirs.get("max_position_embeddings", 2048),
            rope_theta=float(rope.get("rope_theta") or theirs.get("rope_theta") or 10_000.0),
            norm_eps=NORM_EPS,
        )
    except KeyError as error:
        raise ArtefactCorrupt(
            f"{path}: the field {error} is missing; get the file again"
        ) from error
    if theirs.get("num_key_value_heads") not in (None, config.n_heads):
        raise ConfigurationError(
            f"{path}: num_key_value_heads {theirs['num_key_value_heads']} differs from "
            f"num_attention_heads {config.n_heads}; grouped queries are not supported"
        )
    return config


def _check_supported(theirs: dict[str, Any], path: Path) -> None:
    if ARCHITECTURE not in (theirs.get("architectures") or ()):
        raise ConfigurationError(
            f"{path}: the architecture is {theirs.get('architectures')}, expected {ARCHITECTURE}"
        )
    for field, supported in SUPPORTED_VALUES.items():
        default = False if field == "tie_word_embeddings" else supported[0]
        value = theirs.get(field, default)
        if value not in supported:
            raise ConfigurationError(
                f"{path}: {field} {value!r} is not supported, only {supported[0]!r} is"
            )
    rope = theirs.get("rope_parameters") or {}
    if rope.get("rope_type", "default") != "default":
        raise ConfigurationError(
            f"{path}: rope_type {rope['rope_type']!r} is not supported, only 'default' is"
        )


def _token(tokenizer_json: str, token_id: int) -> str:
    """The text of one id of a tokenizers JSON file."""
    tokenizer = Tokenizer.from_str(tokenizer_json)
    token = tokenizer.id_to_token(token_id)
    if token is None:
        raise ConfigurationError(
            f"the tokenizer has {tokenizer.get_vocab_size()} tokens and none with eos_id "
            f"{token_id}; give the tokenizer and the eos_id that the streams were built with"
        )
    return token


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_bytes())
    except ValueError as error:
        raise ArtefactCorrupt(f"{path} is not JSON: {error}; get the file again") from error
    if not isinstance(content, dict):
        raise ArtefactCorrupt(f"{path} is no JSON object; get the file again")
    return content


def _write_json(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
