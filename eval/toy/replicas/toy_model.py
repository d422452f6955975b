"""the toy transformer of many replicas at once: parameters as one tensor, forward pass

Pre-LN blocks with causal attention and a GELU MLP, learned positions and untied embeddings. The
LayerNorms have no gain and bias of their own, as in OLMo; every map that follows one has both.

Shapes: as in replica_ops.py; P parameters of one replica.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import gelu

from eval.stats import resampling
from eval.toy.config import ToyConfig
from eval.toy.replicas.replica_ops import CausalAttention, ReplicaLayerNorm, ReplicaLinear


class ToyActivations(NamedTuple):
    """streams: the residual stream after the embedding and after each block, [D, M, R] each."""

    streams: list[Tensor]
    logits_VMR: Tensor


def shapes(config: ToyConfig) -> dict[str, tuple[int, ...]]:
    """The shape of each parameter of one replica, maps as [in, out]."""
    d, d_mlp = config.model.d_model, config.model.d_mlp
    n_states = config.chains.n_states
    found: dict[str, tuple[int, ...]] = {
        "embedding": (d, n_states),
        "position": (d, config.chains.length_tokens),
    }
    for layer in range(config.model.n_layers):
        maps = {"qkv": (d, 3 * d), "out": (d, d), "up": (d, d_mlp), "down": (d_mlp, d)}
        for name, shape in maps.items():
            found[f"{layer}.{name}"] = shape
            found[f"{layer}.{name}.bias"] = shape[1:]
    return found | {"unembedding": (d, n_states), "unembedding.bias": (n_states,)}


def initial(config: ToyConfig, seeds: Sequence[int]) -> Tensor:
    """The parameters of one replica per seed, [P, R]: maps with deviation 1/√inputs, embeddings
    with 1/√width, biases 0.
    """
    replicas = []
    for seed in seeds:
        parts = []
        for name, shape in shapes(config).items():
            if name.endswith("bias"):
                parts.append(np.zeros(shape))
            else:  # the first axis is the width or the number of inputs
                draws = resampling.normals(shape, "toy parameters", seed, name)
                parts.append(draws / math.sqrt(shape[0]))
        replicas.append(np.concatenate([part.ravel() for part in parts]))
    return torch.from_numpy(np.stack(replicas, axis=1)).float()


def parameters(config: ToyConfig, flat_PR: Tensor) -> dict[str, Tensor]:
    """The named parameters in `flat_PR`, each with a last axis of replicas."""
    wanted = shapes(config)
    parts = flat_PR.split([math.prod(shape) for shape in wanted.values()])
    return {
        name: part.view(*shape, -1)
        for part, (name, shape) in zip(parts, wanted.items(), strict=True)
    }


def forward(config: ToyConfig, flat_PR: Tensor, tokens_NT: Tensor) -> ToyActivations:
    """What the replicas compute on all sequences; token n·T + t is position t of sequence n."""
    p = parameters(config, flat_PR)
    n, n_positions = tokens_NT.shape
    embedded = p["embedding"][:, tokens_NT] + p["position"][:, None]
    x_DMR = embedded.flatten(1, 2)
    streams = [x_DMR]
    heads = (config.model.n_heads, config.model.d_model // config.model.n_heads)
    for layer in range(config.model.n_layers):

        def apply(x: Tensor, name: str, layer: int = layer) -> Tensor:
            return ReplicaLinear.apply(x, p[f"{layer}.{name}"], p[f"{layer}.{name}.bias"])  # type: ignore[return-value]

        qkv = apply(ReplicaLayerNorm.apply(x_DMR), "qkv")  # type: ignore[arg-type]
        q, k, v = (part.view(*heads, n, n_positions, -1) for part in qkv.chunk(3))
        mixed: Tensor = CausalAttention.apply(q, k, v)  # type: ignore[assignment]
        x_DMR = x_DMR + apply(mixed.reshape_as(x_DMR), "out")
        x_DMR = x_DMR + apply(gelu(apply(ReplicaLayerNorm.apply(x_DMR), "up")), "down")  # type: ignore[arg-type]
        streams.append(x_DMR)
    logits = ReplicaLinear.apply(
        ReplicaLayerNorm.apply(x_DMR), p["unembedding"], p["unembedding.bias"]
    )
    return ToyActivations(streams, logits)  # type: ignore[arg-type]
