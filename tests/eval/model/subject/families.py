"""a tiny random model of each family that can be evaluated, as a Hugging Face folder

Each has what its family may have: grouped queries, heads whose sizes do not add up to the model's
width, untied output matrices, sliding windows shorter than a text.
"""

from typing import Any

import torch

EOS = 0
N_IDS = 60  # of the tokenizer; the embedding has 64 rows

COMMON = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": 128,
    "bos_token_id": None,
    "eos_token_id": EOS,
    "pad_token_id": None,
}
GROUPED = {"num_key_value_heads": 2}
WINDOW = {"sliding_window": 5}

FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "olmo": ("OlmoConfig", COMMON | {"tie_word_embeddings": True}),
    "olmo-untied-clipped": ("OlmoConfig", COMMON | GROUPED | {"clip_qkv": 0.5}),
    "olmo2": ("Olmo2Config", COMMON | GROUPED),
    "olmo3": (
        "Olmo3Config",
        COMMON
        | WINDOW
        | {"layer_types": ["sliding_attention", "full_attention", "sliding_attention"]},
    ),
    "llama": ("LlamaConfig", COMMON | GROUPED),
    "llama-biased": ("LlamaConfig", COMMON | {"attention_bias": True, "head_dim": 12}),
    "mistral": ("MistralConfig", COMMON | GROUPED | {"sliding_window": None}),
    "mistral-window": ("MistralConfig", COMMON | GROUPED | WINDOW),
    "qwen2": ("Qwen2Config", COMMON | GROUPED | {"tie_word_embeddings": True}),
    "qwen3": ("Qwen3Config", COMMON | GROUPED | {"head_dim": 16}),
    "gpt-neox": ("GPTNeoXConfig", COMMON),
    "gpt-neox-serial": (
        "GPTNeoXConfig",
        COMMON | {"use_parallel_residual": False, "attention_bias": False},
    ),
    "gpt2": ("GPT2Config", COMMON | {"n_inner": 48}),
}


def build(name: str) -> Any:
    """A model of transformers with weights larger than at initialisation, so that heads matter, and
    norms and biases that are not 1 and 0.
    """
    import transformers

    config_class, settings = FAMILIES[name]
    settings = dict(settings)
    if config_class == "GPT2Config":
        settings.pop("intermediate_size")
    generator = torch.Generator().manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(
        getattr(transformers, config_class)(**settings), attn_implementation="sdpa"
    )
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if parameter.ndim == 1:
                parameter.add_(0.2 * noise)
            else:
                parameter.copy_(noise * 2 / parameter.shape[-1] ** 0.5)
    return model.eval().requires_grad_(False)
