"""the OLMo model in plain PyTorch: modules and initialisation

A decoder with non-parametric LayerNorm, rotary positions, SwiGLU, no biases, and one matrix for
embedding and output (OLMo, arXiv:2402.00838, §2.1). Query, key and value share one matrix, gate and
up another: four tensors per block, so the 1B has 65 and an optimizer step launches few kernels.
hf_export.py converts to and from OlmoForCausalLM, which the tests compare with.

It is plain PyTorch in a file of our own so that evaluation can read and steer it:
`model.blocks[i].attention.out` is a Linear whose input is the heads' outputs side by side,
[B, T, N·H]. Counts of parameters and FLOPs are ModelConfig's.

Shapes: B batch, T position, S key position, D model, N head, H head dim, F MLP, V vocab, L layer.
"""

import math
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from data_prep.core.errors import ConfigurationError
from training.config import ModelConfig
from training.model.attention import Mask, PackedDocuments, attend, causal_mask, document_mask
from training.model.kv_cache import KVCache
from training.model.rotary_positions import Rotation, rotary, rotate


class OLMo(nn.Module):
    """The whole model; its parameters are uninitialised until `initialise` or a checkpoint."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.embedding = nn.Embedding(config.vocab_size, config.d_model)
        blocks = nn.ModuleList(Block(config, layer) for layer in range(config.n_layers))
        self.blocks = cast(Sequence[Block], blocks)
        self.norm = LayerNorm(config.norm_eps)
        # called with (layer, residual stream) after each block
        self.observe: Callable[[int, Tensor], None] | None = None

    def forward(
        self, tokens_BT: Tensor, *, cache: KVCache | None = None, padding_B: Tensor | None = None
    ) -> Tensor:
        """Next-token logits, [B, T, V].

        cache: holds the positions before these, and stores these; start with an empty one.
        padding_B: number of padding tokens at the left of each row; positions count from the first
        real token. With a cache, pass the same numbers in every call.
        """
        return self.unembed(self.hidden(tokens_BT, cache=cache, padding_B=padding_B))

    def hidden(
        self,
        tokens_BT: Tensor,
        *,
        cache: KVCache | None = None,
        padding_B: Tensor | None = None,
        starts_K: Tensor | None = None,
    ) -> Tensor:
        """`forward` without the output matrix: normed hidden states, [B, T, D].

        V is large, so unembed only what is needed. starts_K: where documents begin (attention.py),
        none of which then sees another; without a cache or padding.
        """
        start, T = cache.length if cache else 0, tokens_BT.shape[1]
        if cache and start + T > cache.max_length:
            raise ConfigurationError(
                f"the KV cache has room for {cache.max_length} positions, {start} are in use, and "
                f"{T} more do not fit; create it with a larger max_length"
            )
        positions_BT = torch.arange(start, start + T, device=tokens_BT.device)[None]
        mask_BTS: Mask = None
        if starts_K is not None:
            documents = PackedDocuments(starts_K, *tokens_BT.shape)
            positions_BT = documents.positions()
            mask_BTS = document_mask(documents, self.embedding.weight.dtype)
        if padding_B is not None:
            positions_BT = (positions_BT - padding_B[:, None]).clamp(min=0)
            mask_BTS = causal_mask(T, start + T, padding_B=padding_B)
        rotation = rotary(positions_BT, self.config.d_head, self.config.rope_theta)
        x_BTD = self.embedding(tokens_BT)
        for layer, block in enumerate(self.blocks):
            x_BTD = block(x_BTD, rotation, mask_BTS, cache)
            if self.observe:
                self.observe(layer, x_BTD.detach())
        if cache:
            cache.length += T
        return self.norm(x_BTD)

    def unembed(self, x_BTD: Tensor) -> Tensor:
        """Logits of normed hidden states, by the embedding's own matrix."""
        return linear(x_BTD, self.embedding.weight)

    @torch.no_grad()
    def initialise(self, seed: int) -> None:
        """Draw every parameter from `seed`: the same numbers on any device, dtype and world size.

        OLMo-1B's own init ("mitchell" in allenai/OLMo: configs/official/OLMo-1B.yaml,
        olmo/initialization.py): a normal truncated at 3σ, σ = 1/√fan_in (1/√D for the embedding),
        divided by √(2·(layer + 1)) for the two matrices that write to the residual stream.

        Drawn on the CPU in fp32, about 15 s for the 1B. Call it before DeepSpeed wraps the model: a
        parameter that ZeRO-3 has partitioned has no shape to fill.
        """
        generator = torch.Generator().manual_seed(seed)
        _draw_truncated_normal(self.embedding.weight, self.config.d_model**-0.5, generator)
        for block in self.blocks:
            block.initialise(generator)


class Block(nn.Module):
    """A transformer block: attention and MLP, each on the normed residual stream."""

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        self.layer = layer
        self.attention_norm = LayerNorm(config.norm_eps)
        self.attention = Attention(config, layer)
        self.mlp_norm = LayerNorm(config.norm_eps)
        self.mlp = MLP(config)

    def forward(
        self, x_BTD: Tensor, rotation: Rotation, mask_BTS: Mask, cache: KVCache | None
    ) -> Tensor:
        x_BTD = x_BTD + self.attention(self.attention_norm(x_BTD), rotation, mask_BTS, cache)
        return x_BTD + self.mlp(self.mlp_norm(x_BTD))

    def initialise(self, generator: torch.Generator) -> None:
        """Draw the block's matrices, in an order that must not change."""
        depth = math.sqrt(2 * (self.layer + 1))
        for module in (self.attention.qkv, self.mlp.gate_up):
            _draw_truncated_normal(module.weight, module.in_features**-0.5, generator)
        for module in (self.attention.out, self.mlp.down):
            _draw_truncated_normal(module.weight, module.in_features**-0.5 / depth, generator)


class Attention(nn.Module):
    """Multi-head attention with rotary positions."""

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        self.layer = layer
        self.n_heads = config.n_heads
        self.qkv = Linear(config.d_model, 3 * config.d_model)
        self.out = Linear(config.d_model, config.d_model)

    def forward(
        self, x_BTD: Tensor, rotation: Rotation, mask_BTS: Mask, cache: KVCache | None
    ) -> Tensor:
        q_BTNH, k_BTNH, v_BTNH = self.heads(x_BTD, rotation)
        k_BSNH, v_BSNH = cache.append(self.layer, k_BTNH, v_BTNH) if cache else (k_BTNH, v_BTNH)
        return self.out(attend(q_BTNH, k_BSNH, v_BSNH, mask_BTS=mask_BTS).flatten(2))

    def heads(self, x_BTD: Tensor, rotation: Rotation) -> tuple[Tensor, Tensor, Tensor]:
        """Each head's queries and keys, rotated by their positions, and its values."""
        q_BTNH, k_BTNH, v_BTNH = (
            part.unflatten(-1, (self.n_heads, -1)) for part in self.qkv(x_BTD).chunk(3, dim=-1)
        )
        return rotate(q_BTNH, *rotation), rotate(k_BTNH, *rotation), v_BTNH


class MLP(nn.Module):
    """SwiGLU: down(silu(gate x) · up x)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.gate_up = Linear(config.d_model, 2 * config.d_mlp)
        self.down = Linear(config.d_mlp, config.d_model)

    def forward(self, x_BTD: Tensor) -> Tensor:
        gate_BTF, up_BTF = self.gate_up(x_BTD).chunk(2, dim=-1)
        return self.down(F.silu(gate_BTF) * up_BTF)


class Linear(nn.Linear):
    """A matrix; it has a bias only after steering was baked into it (eval/tools/)."""

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__(in_features, out_features, bias=False)

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002  # nn.Linear's name for it
        output = linear(input, self.weight)
        return output if self.bias is None else output + self.bias


def linear(x: Tensor, weight: Tensor) -> Tensor:
    """x · weightᵀ, in the dtype of x."""
    if _is_faster_with_onednn(x, weight):
        return torch.ops.mkldnn._linear_pointwise(x, weight, None, "none", [], "")
    dtype = matmul_dtype(x)
    return F.linear(x.to(dtype), weight.to(dtype)).to(x.dtype)


def _is_faster_with_onednn(x: Tensor, weight: Tensor) -> bool:
    """Whether torch's own choice for fp32 products on a CPU, MKL, is slower than oneDNN, through
    the op that torch.compile takes.

    MKL leaves AVX-512 unused on AMD's CPUs: 95 GFLOP/s per thread of a Zen 5, oneDNN 210 (Intel's
    CPUs were not measured). The op has no gradient, so training keeps torch's choice. oneDNN takes
    60 times as long for some layouts, so only contiguous ones go there.
    """
    if torch.compiler.is_compiling():  # which chooses by itself
        return False
    is_exact = x.dtype is torch.float32 and x.device.type == "cpu"
    is_usual = x.is_contiguous() and weight.is_contiguous() and weight.dtype is x.dtype
    return is_exact and is_usual and torch.is_inference_mode_enabled() and cpu_has_bf16_matmul()


def matmul_dtype(x: Tensor) -> torch.dtype:
    """The dtype of the factors of a matrix product with x.

    A CPU without bf16 instructions takes 2.7 times as long for bf16 products as for fp32. There the
    factors are converted to fp32 and the product is rounded once, as the instructions do.
    """
    is_slow = x.dtype is torch.bfloat16 and x.device.type == "cpu" and not cpu_has_bf16_matmul()
    return torch.float32 if is_slow else x.dtype


class LayerNorm(nn.Module):
    """LayerNorm without weight or bias, computed in fp32."""

    def __init__(self, eps: float) -> None:
        super().__init__()
        self.eps = eps

    def forward(self, x_BTD: Tensor) -> Tensor:
        return F.layer_norm(x_BTD.float(), x_BTD.shape[-1:], eps=self.eps).to(x_BTD.dtype)


def cpu_has_bf16_matmul() -> bool:
    """Whether the CPU multiplies bf16 matrices natively."""
    return _has_avx512_bf16()


@lru_cache
def _has_avx512_bf16() -> bool:
    return torch.cpu._is_avx512_bf16_supported()


def _draw_truncated_normal(weight: Tensor, std: float, generator: torch.Generator) -> None:
    """Fill with a normal truncated at 3σ, by inverting its cumulative distribution.

    5 times as fast as torch's `trunc_normal_`. A tensor-parallel rank draws the whole tensor and
    keeps its partition.
    """
    edge = math.erf(3 / math.sqrt(2))
    partition = getattr(weight, "tensor_partition", None)
    shape = partition.shape if partition else weight.shape
    value = torch.empty(shape, dtype=torch.float32, device="cpu")
    value.uniform_(-edge, edge, generator=generator).erfinv_().mul_(math.sqrt(2) * std)
    value.clamp_(-3 * std, 3 * std)
    if partition:
        dim = partition.dim
        kept = [value.narrow(dim, start, end - start) for start, end in partition.ranges]
        value = torch.cat(kept, dim)
    weight.copy_(value)
