"""architectures that can be evaluated: where each keeps what is read and steered

A new family is one entry here, and one line in the table of tests/eval/model_families.py,
which checks every law of the others on it.
"""

from typing import NamedTuple


class BiasOption(NamedTuple):
    """How a folder says that its output projections have a bias.

    setting: field of config.json that gives them one; "" where they always have it. siblings: the
    other projections that the same field gives one.
    """

    setting: str = ""
    siblings: tuple[str, ...] = ()


class Architecture(NamedTuple):
    """Names of modules: `body` in the whole model; `blocks` and `final_norm` in the body; the
    others in a block.

    mlp: the module whose output is what the MLP adds to the residual stream.
    norm_after_attention: a norm between the output projection and the residual stream, or "".
    centres: whether the final norm subtracts the mean. is_transposed: whether the projection keeps
    its weight as [in, out]. bias: None if no config gives the output projection a bias.
    is_llama_without_window: whether, without a sliding window, LlamaForCausalLM computes the same
    from the same tensors.
    """

    family: str
    body: str = "model"
    blocks: str = "layers"
    final_norm: str = "norm"
    output_projection: str = "self_attn.o_proj"
    mlp: str = "mlp"
    norm_after_attention: str = ""
    centres: bool = False
    is_transposed: bool = False
    bias: BiasOption | None = None
    is_llama_without_window: bool = False


TABLE = "eval/model/subject/architectures.py"  # for messages

ATTENTION_BIAS = BiasOption(
    "attention_bias", ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")
)

ARCHITECTURES = {
    "OlmoForCausalLM": Architecture("OLMo", centres=True, bias=ATTENTION_BIAS),
    "Olmo2ForCausalLM": Architecture(
        "OLMo-2",
        mlp="post_feedforward_layernorm",
        norm_after_attention="post_attention_layernorm",
        bias=ATTENTION_BIAS,
    ),
    "Olmo3ForCausalLM": Architecture(
        "OLMo-3",
        mlp="post_feedforward_layernorm",
        norm_after_attention="post_attention_layernorm",
        bias=ATTENTION_BIAS,
    ),
    "LlamaForCausalLM": Architecture("Llama", bias=ATTENTION_BIAS),
    "MistralForCausalLM": Architecture("Mistral", is_llama_without_window=True),
    "Qwen2ForCausalLM": Architecture("Qwen2", is_llama_without_window=True),
    "Qwen3ForCausalLM": Architecture("Qwen3", bias=ATTENTION_BIAS),
    "GPTNeoXForCausalLM": Architecture(
        "GPT-NeoX",
        body="gpt_neox",
        final_norm="final_layer_norm",
        output_projection="attention.dense",
        centres=True,
        bias=BiasOption("attention_bias", ("attention.query_key_value",)),
    ),
    "GPT2LMHeadModel": Architecture(
        "GPT-2",
        body="transformer",
        blocks="h",
        final_norm="ln_f",
        output_projection="attn.c_proj",
        centres=True,
        is_transposed=True,
        bias=BiasOption(),
    ),
}


def supported() -> str:
    """The architectures in words, for messages."""
    return ", ".join(ARCHITECTURES)
