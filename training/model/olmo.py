"""OLMo: modules and init

A decoder with non-parametric LayerNorm, rotary positions, SwiGLU, no biases and one matrix for
reading and writing tokens (OLMo, arXiv:2402.00838, §2.1). Query, key and value share one matrix,
gate and up another: four tensors a block, so the 1B has 65 and an optimizer step launches few
kernels. training/model/hf_export.py maps them to and from OlmoForCausalLM, our oracle.

It is plain PyTorch and our own file so that evaluation can read and steer it:
`model.blocks[i].attention.out` is a Linear whose input is the heads' outputs side by side, [B, T,
N·H]. Counts of parameters and FLOPs are ModelConfig's.

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


class KVCache:
    """Keys and values of the positions read so far, for decoding: a buffer [B, S_max, N, H] a
    layer, filled to `length`.
    """

    def __init__(
        self,
        config: ModelConfig,
        batch_size: int,
        max_length: int,
        *,
        dtype: torch.dtype,
        device: torch.device | str,
    ) -> None:
        shape = (batch_size, max_length, config.n_heads, config.d_head)
        self.keys = [torch.empty(shape, dtype=dtype, device=device) for _ in range(config.n_layers)]
        self.values = [
            torch.empty(shape, dtype=dtype, device=device) for _ in range(config.n_layers)
        ]
        self.max_length = max_length
        self.length = 0

    def append(self, layer: int, k_BTNH: Tensor, v_BTNH: Tensor) -> tuple[Tensor, Tensor]:
        """Write T positions after `length`; return all so far, [B, length + T, N, H]. The model
        moves `length`, once a pass.
        """
        end = self.length + k_BTNH.shape[1]
        self.keys[layer][:, self.length : end] = k_BTNH
        self.values[layer][:, self.length : end] = v_BTNH
        return self.keys[layer][:, :end], self.values[layer][:, :end]


class OLMo(nn.Module):
    """The whole model; its parameters are uninitialised until `initialise` or a checkpoint fills
    them.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.embedding = nn.Embedding(config.vocab_size, config.d_model)
        self.blocks = cast(
            Sequence[Block], nn.ModuleList(Block(config, layer) for layer in range(config.n_layers))
        )
        self.norm = LayerNorm(config.norm_eps)
        self.observe: Callable[[int, Tensor], None] | None = (
            None  # is shown the residual stream after each block
        )

    def forward(
        self, tokens_BT: Tensor, *, cache: KVCache | None = None, padding_B: Tensor | None = None
    ) -> Tensor:
        """Next-token logits, [B, T, V].

        cache: holds the positions before these, and takes these in place; start with an empty one.
        padding_B: how many tokens at the left of each row are padding; positions count from the
        first real token. With a cache, give the same numbers at every call.
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
        """`forward` without the last product: normed hidden states, [B, T, D]. V is large; unembed
        only what is needed.

        starts_K: where documents begin (attention.py), none of which then sees another; without a
        cache or padding.
        """
        start, T = cache.length if cache else 0, tokens_BT.shape[1]
        if cache and start + T > cache.max_length:
            raise ConfigurationError(
                f"the KV cache holds {cache.max_length} positions, {start} are taken, {T} more do not fit"
            )
        positions_BT = torch.arange(start, start + T, device=tokens_BT.device)[None]
        mask_BTS: Mask = None
        if starts_K is not None:
            documents = PackedDocuments(starts_K, *tokens_BT.shape)
            positions_BT, mask_BTS = (
                documents.positions(),
                document_mask(documents, self.embedding.weight.dtype),
            )
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
        """Logits of normed hidden states, through the embedding's own matrix."""
        return linear(x_BTD, self.embedding.weight)

    @torch.no_grad()
    def initialise(self, seed: int) -> None:
        """Draw every parameter from `seed` alone: the same numbers on any device, dtype and number
        of ranks.

        OLMo-1B's own init ("mitchell" in allenai/OLMo: configs/official/OLMo-1B.yaml,
        olmo/initialization.py): a normal cut at 3σ, σ = 1/√fan_in (1/√D for the embedding), over
        √(2·(layer + 1)) for the two that write to the residual stream.

        Drawn on the CPU in fp32, about 15 s for the 1B. Call it before DeepSpeed wraps the model: a
        parameter that ZeRO-3 has partitioned has no shape to fill.
        """
        generator = torch.Generator().manual_seed(seed)
        _draw(self.embedding.weight, self.config.d_model**-0.5, generator)
        for block in self.blocks:
            block.initialise(generator)


class Block(nn.Module):
    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        self.layer = layer
        self.attention_norm = LayerNorm(config.norm_eps)
        self.attention = Attention(config, layer)
        self.mlp_norm = LayerNorm(config.norm_eps)
        self.mlp = MLP(config)

    def forward(
        self, x_BTD: Tensor, rotation: tuple[Tensor, Tensor], mask_BTS: Mask, cache: KVCache | None
    ) -> Tensor:
        x_BTD = x_BTD + self.attention(self.attention_norm(x_BTD), rotation, mask_BTS, cache)
        return x_BTD + self.mlp(self.mlp_norm(x_BTD))

    def initialise(self, generator: torch.Generator) -> None:
        depth = math.sqrt(2 * (self.layer + 1))
        for linear in (self.attention.qkv, self.mlp.gate_up):
            _draw(linear.weight, linear.in_features**-0.5, generator)
        for linear in (self.attention.out, self.mlp.down):
            _draw(linear.weight, linear.in_features**-0.5 / depth, generator)


class Attention(nn.Module):
    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        self.layer = layer
        self.n_heads = config.n_heads
        self.qkv = Linear(config.d_model, 3 * config.d_model)
        self.out = Linear(config.d_model, config.d_model)

    def forward(
        self, x_BTD: Tensor, rotation: tuple[Tensor, Tensor], mask_BTS: Mask, cache: KVCache | None
    ) -> Tensor:
        q_BTNH, k_BTNH, v_BTNH = self.heads(x_BTD, rotation)
        k_BSNH, v_BSNH = cache.append(self.layer, k_BTNH, v_BTNH) if cache else (k_BTNH, v_BTNH)
        return self.out(attend(q_BTNH, k_BSNH, v_BSNH, mask_BTS=mask_BTS).flatten(2))

    def heads(
        self, x_BTD: Tensor, rotation: tuple[Tensor, Tensor]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Each head's queries and keys, turned by their positions, and values."""
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
    """A matrix; it has a bias only where steering was baked into it."""

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__(in_features, out_features, bias=False)

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002  # nn.Linear's name for it
        output = linear(input, self.weight)
        return output if self.bias is None else output + self.bias


def linear(x: Tensor, weight: Tensor) -> Tensor:
    """x · weightᵀ, in the dtype of x."""
    dtype = matmul_dtype(x)
    return F.linear(x.to(dtype), weight.to(dtype)).to(x.dtype)


def matmul_dtype(x: Tensor) -> torch.dtype:
    """The dtype to multiply x in. A CPU without bf16 instructions takes 2.7 times as long for them
    as for fp32, so there the factors are widened and the product is rounded once, which is what the
    instructions do.
    """
    return (
        torch.float32
        if x.dtype is torch.bfloat16 and x.device.type == "cpu" and not cpu_has_bf16_matmul()
        else x.dtype
    )


class LayerNorm(nn.Module):
    """LayerNorm without weight or bias, computed in fp32."""

    def __init__(self, eps: float) -> None:
        super().__init__()
        self.eps = eps

    def forward(self, x_BTD: Tensor) -> Tensor:
        return F.layer_norm(x_BTD.float(), x_BTD.shape[-1:], eps=self.eps).to(x_BTD.dtype)


def rotary(positions_BT: Tensor, d_head: int, theta: float) -> tuple[Tensor, Tensor]:
    """cos and sin of position · θ^(−2i/H), each half-dimension twice: [B, T, 1, H], fp32.

    Made anew in each pass (a few small kernels) rather than kept in a buffer: `model.bfloat16()`
    casts buffers, and in bf16 the positions from 257 on are no longer distinct.
    """
    exponent = torch.arange(0, d_head, 2, dtype=torch.float32, device=positions_BT.device) / d_head
    angle_BTH = (positions_BT.float()[..., None] * (1.0 / theta**exponent)).repeat(1, 1, 2)
    return angle_BTH.cos()[:, :, None], angle_BTH.sin()[:, :, None]


def rotate(x_BTNH: Tensor, cos_BT1H: Tensor, sin_BT1H: Tensor) -> Tensor:
    """Turn the pairs (i, i + H/2) of each head by their angle, in fp32."""
    left, right = x_BTNH.chunk(2, dim=-1)
    return (x_BTNH * cos_BT1H + torch.cat((-right, left), dim=-1) * sin_BT1H).to(x_BTNH.dtype)


def cpu_has_bf16_matmul() -> bool:
    return _avx512_bf16()


@lru_cache
def _avx512_bf16() -> bool:
    return torch.cpu._is_avx512_bf16_supported()


def _draw(weight: Tensor, std: float, generator: torch.Generator) -> None:
    """Fill with a normal cut at 3σ by inverting its cumulative distribution: 5 times as fast as
    torch's `trunc_normal_`.
    """
    edge = math.erf(3 / math.sqrt(2))
    # A tensor-parallel rank draws the whole and keeps its partition.
    partition = getattr(weight, "tensor_partition", None)
    shape = partition.shape if partition else weight.shape
    value = torch.empty(shape, dtype=torch.float32, device="cpu")
    value.uniform_(-edge, edge, generator=generator).erfinv_().mul_(math.sqrt(2) * std).clamp_(
        -3 * std, 3 * std
    )
    if partition:
        dim = partition.dim
        kept = [value.narrow(dim, start, end - start) for start, end in partition.ranges]
        value = torch.cat(kept, dim)
    weight.copy_(value)
