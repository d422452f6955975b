"""run ⇄ Hugging Face OlmoForCausalLM, safetensors

Our state keeps query, key and value in one matrix, and gate and up in another; Hugging Face keeps
each apart. Stacking and splitting rows moves numbers and changes none, so there and back is the
identity, bit for bit.

The folder is what `AutoModelForCausalLM.from_pretrained` and `AutoTokenizer.from_pretrained`
expect; transformers itself is not needed here, neither to write nor to read. It keeps the norm's ε,
1e-5, in code and has no field for another.
"""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from torch import Tensor

from data_prep.core.errors import ArtefactCorrupt, ArtefactMissing, ConfigurationError
from training.config import ModelConfig
from training.model.model_card import model_card
from training.model.olmo import OLMo

ARCHITECTURE = "OlmoForCausalLM"
NORM_EPS = 1e-5
EMBEDDING = ("embedding.weight", "model.embed_tokens.weight")
BLOCK = {  # ours → theirs, stacked row-wise in this order
    "attention.qkv": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "attention.out": ("self_attn.o_proj",),
    "mlp.gate_up": ("mlp.gate_proj", "mlp.up_proj"),
    "mlp.down": ("mlp.down_proj",),
}
UNSUPPORTED = {  # a config field → the values under which it changes nothing
    "clip_qkv": (None,),
    "attention_bias": (False, None),
    "attention_dropout": (0, None),
    "hidden_act": ("silu",),
    "tie_word_embeddings": (True,),
    "rope_scaling": (None,),
}


def to_hugging_face(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Our tensors under Hugging Face's names; the split ones are views. The tied head is not
    repeated.
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
    """Hugging Face's tensors under our names, fused; a repeated tied head is left out."""
    ours, theirs = EMBEDDING
    renamed = {ours: state[theirs]}
    for layer in range(_n_layers(state, "model.layers.")):
        for whole, parts in BLOCK.items():
            rows = [state[f"model.layers.{layer}.{part}.weight"] for part in parts]
            renamed[f"blocks.{layer}.{whole}.weight"] = (
                torch.cat(rows) if len(rows) > 1 else rows[0]
            )
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
        "pad_token_id": None,  # an id here would stop that row of the embedding from learning in fine-tuning
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
    """Write the model in its own dtype, its tokenizer and a card with the table of `facts` to a
    local folder.

    Raises ConfigurationError for a config or an eos_id that Hugging Face cannot express.
    """
    if config.norm_eps != NORM_EPS:
        raise ConfigurationError(
            f"model.norm_eps is {config.norm_eps}; {ARCHITECTURE} always uses {NORM_EPS}, so this cannot be exported"
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
    _write_json(
        folder / "tokenizer_config.json",
        {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "eos_token": eos,
            "pad_token": eos,
            "padding_side": "left",
            "model_max_length": config.max_sequence_length,
            "clean_up_tokenization_spaces": False,
        },
    )
    (folder / "README.md").write_text(model_card(facts), encoding="utf-8")


def load_export(folder: Path, dtype: torch.dtype) -> tuple[OLMo, ModelConfig]:
    """The model in any Hugging Face OLMo folder, in evaluation mode, on the CPU; safetensors, whole
    or in shards.
    """
    path = folder / "config.json"
    if not path.is_file():
        raise ArtefactMissing(
            f"{path}: no such file; name a folder that holds a Hugging Face {ARCHITECTURE}"
        )
    config = _our_config(_read_json(path), path)
    state = load_weights(folder)
    state.pop("lm_head.weight", None)  # tied: the embedding again
    _check_tensors(state, config, str(folder))
    with torch.device("meta"):
        model = OLMo(config)
    ours = {name: tensor.to(dtype) for name, tensor in from_hugging_face(state).items()}
    model.load_state_dict(ours, assign=True)
    return model.eval(), config


def _n_layers(state: dict[str, Tensor], prefix: str) -> int:
    return len(
        {name.removeprefix(prefix).split(".")[0] for name in state if name.startswith(prefix)}
    )


def _check_tensors(state: dict[str, Tensor], config: ModelConfig, where: str) -> None:
    """Raise ArtefactCorrupt unless the tensors, under Hugging Face's names, are those the config
    asks for.
    """
    with torch.device("meta"):
        expected = {
            name: list(tensor.shape)
            for name, tensor in to_hugging_face(OLMo(config).state_dict()).items()
        }
    got = {name: list(tensor.shape) for name, tensor in state.items()}
    for name in sorted(expected.keys() | got.keys()):
        if got.get(name) != expected.get(name):
            raise ArtefactCorrupt(
                f"{where}: tensor {name} has shape {got.get(name, 'none, for it is missing')}; the config asks for "
                f"{expected.get(name, 'no such tensor')}; use the config and the weights of one model"
            )


def load_weights(folder: Path) -> dict[str, Tensor]:
    """The tensors of a Hugging Face folder, under its names."""
    index = folder / "model.safetensors.index.json"
    names = (
        sorted(set(_read_json(index)["weight_map"].values()))
        if index.is_file()
        else ["model.safetensors"]
    )
    state: dict[str, Tensor] = {}
    for path in (folder / name for name in names):
        if not path.is_file():
            raise ArtefactMissing(
                f"{path}: no such file; the weights must be safetensors, whole or with their index"
            )
        try:
            state |= load_file(path)
        except SafetensorError as error:
            raise ArtefactCorrupt(
                f"{path} is not a whole safetensors file: {error}; get it again"
            ) from error
    return state


def _our_config(theirs: dict[str, Any], path: Path) -> ModelConfig:
    """A Hugging Face config as ours, or ConfigurationError if it asks for what this model does not
    compute.
    """
    if ARCHITECTURE not in (theirs.get("architectures") or ()):
        raise ConfigurationError(
            f"{path}: the architecture is {theirs.get('architectures')}, expected {ARCHITECTURE}"
        )
    for field, harmless in UNSUPPORTED.items():
        default = False if field == "tie_word_embeddings" else harmless[0]
        if theirs.get(field, default) not in harmless:
            raise ConfigurationError(
                f"{path}: {field} {theirs.get(field, default)!r} is not supported, only {harmless[0]!r} is"
            )
    rope = theirs.get("rope_parameters") or {}
    if rope.get("rope_type", "default") != "default":
        raise ConfigurationError(
            f"{path}: rope_type {rope['rope_type']!r} is not supported, only 'default' is"
        )
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
            f"{path}: num_key_value_heads {theirs['num_key_value_heads']} differs from num_attention_heads {config.n_heads}; "
            "grouped queries are not supported"
        )
    return config


def _token(tokenizer_json: str, token_id: int) -> str:
    """The text of one id of a tokenizers JSON file."""
    tokenizer = Tokenizer.from_str(tokenizer_json)
    token = tokenizer.id_to_token(token_id)
    if token is None:
        raise ConfigurationError(
            f"the tokenizer has {tokenizer.get_vocab_size()} tokens and none with eos_id {token_id}; "
            "give the tokenizer and the eos_id the streams were built with"
        )
    return token


def _read_json(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_bytes())
    except ValueError as error:
        raise ArtefactCorrupt(f"{path} is not JSON: {error}; get the file again") from error


def _write_json(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
