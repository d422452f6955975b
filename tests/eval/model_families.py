"""a tiny random model of each family that can be evaluated, and its Hugging Face folder

Together they have what families differ in: grouped queries, heads whose sizes do not add up to the
model's width, output matrices of their own, biases, norms behind attention, parallel residuals,
transposed weights, learned positions, and windows shorter than a text.
"""

import json
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from data_prep.config import TokenizerConfig
from data_prep.sources import corpus_reader
from data_prep.token_stream import tokenizer
from data_prep.token_stream.tokenizer import Tokenizer

N_IDS = 300  # of the tokenizer; the embedding has more rows
COMMON: dict[str, Any] = {
    "vocab_size": 320,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": 128,
    "bos_token_id": None,
    "eos_token_id": 0,
    "pad_token_id": None,
}
GROUPED = {"num_key_value_heads": 2}
WINDOW = {"sliding_window": 5}
LAYER_TYPES = {"layer_types": ["sliding_attention", "full_attention", "sliding_attention"]}

FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "olmo": ("OlmoConfig", {"tie_word_embeddings": True}),
    "olmo untied clipped grouped": ("OlmoConfig", GROUPED | {"clip_qkv": 0.5}),
    "olmo2": ("Olmo2Config", GROUPED),
    "olmo3": ("Olmo3Config", WINDOW | LAYER_TYPES),
    "llama": ("LlamaConfig", GROUPED),
    "llama biased narrow": ("LlamaConfig", {"attention_bias": True, "head_dim": 6}),
    "mistral": ("MistralConfig", GROUPED | {"sliding_window": None}),
    "mistral window": ("MistralConfig", GROUPED | WINDOW),
    "qwen2": ("Qwen2Config", GROUPED | {"tie_word_embeddings": True}),
    "qwen3": ("Qwen3Config", GROUPED | {"head_dim": 16}),
    "gpt-neox": ("GPTNeoXConfig", {}),
    "gpt-neox serial unbiased": (
        "GPTNeoXConfig",
        {"use_parallel_residual": False, "attention_bias": False},
    ),
    "gpt2": ("GPT2Config", {"n_inner": 48}),
}


BOS: dict[str, Any] = {"id": 298, "content": "<s>", "special": True}
WITH_BOS = {
    "type": "TemplateProcessing",
    "single": [
        {"SpecialToken": {"id": "<s>", "type_id": 0}},
        {"Sequence": {"id": "A", "type_id": 0}},
    ],
    "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
    "special_tokens": {"<s>": {"id": "<s>", "ids": [298], "tokens": ["<s>"]}},
}


class Parts(NamedTuple):
    """Modules of one block, found by the names that families use."""

    block: nn.Module
    attention: Any
    projection: nn.Module
    norm_after_attention: nn.Module | None


@lru_cache
def build(name: str) -> Any:
    """A model of transformers with weights larger than at initialisation, so that heads matter, and
    norms and biases that are not 1 and 0.
    """
    import transformers

    config_class, settings = FAMILIES[name]
    settings = COMMON | settings
    if config_class == "GPT2Config":
        settings = {k: v for k, v in settings.items() if k != "intermediate_size"}
    config = getattr(transformers, config_class)(**settings)
    model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="sdpa")
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if parameter.ndim == 1:
                parameter.add_(0.2 * noise)
            else:
                parameter.copy_(1.5 * noise / parameter.shape[-1] ** 0.5)
    return model.eval().requires_grad_(False)


def parts(model: Any) -> list[Parts]:
    """The modules of every block, found without the product's table."""
    blocks = next(
        module
        for module in model.modules()
        if isinstance(module, nn.ModuleList) and len(module) == model.config.num_hidden_layers
    )
    found = []
    for block in blocks:
        modules = dict(block.named_modules())
        attention: Any = next(
            modules[name] for name in ("self_attn", "attention", "attn") if name in modules
        )
        projection = next(
            getattr(attention, name)
            for name in ("o_proj", "dense", "c_proj")
            if hasattr(attention, name)
        )
        is_norm_last = "Olmo2" in type(block).__name__ or "Olmo3" in type(block).__name__
        norm = modules["post_attention_layernorm"] if is_norm_last else None
        found.append(Parts(block, attention, projection, norm))
    return found


@lru_cache
def small_tokenizer() -> Tokenizer:
    """A byte-level tokenizer of N_IDS ids."""
    (source,) = corpus_reader.expand(["synthetic:clean?documents=60"])
    texts = [document.text for document in corpus_reader.read(source)]
    return tokenizer.train(iter(texts), TokenizerConfig(source="train", vocab_size=N_IDS))


def write_tokenizer(folder, *, template, **settings):
    """The small tokenizer with <s> as its id 298, put before a text by a template or not."""
    parsed = json.loads(small_tokenizer().json)
    token = next(token for token, i in parsed["model"]["vocab"].items() if i == 298)
    parsed["model"]["vocab"].pop(token)
    parsed["model"]["merges"] = [
        pair for pair in parsed["model"]["merges"] if "".join(pair) != token
    ]
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    parsed["added_tokens"].append(BOS | flags)
    parsed["post_processor"] = WITH_BOS if template else None
    (folder / "tokenizer.json").write_text(json.dumps(parsed))
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"eos_token": "<|endoftext|>", "bos_token": "<s>"} | settings)
    )
    return folder


def write_folder(name: str, folder: Path) -> Path:
    """The model and a tokenizer as a Hugging Face folder."""
    build(name).save_pretrained(folder)
    (folder / "tokenizer.json").write_text(small_tokenizer().json)
    eos = {"eos_token": "<|endoftext|>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(eos))
    return folder
