"""how directions lie: to those of other attributes, and to the vocabulary

Entanglement of a direction (Li et al. 2025, §2) is E_i = max over j ≠ i of |cos(v_i, v_j)|. N
directions in H dimensions cannot all have less than Welch's bound (1974), and random ones have more
than that: both lines belong beside any measured value.

The logit lens asks which tokens a direction writes: heads' θ go through the output projection into
the residual stream, lose their mean as the final norm would take it, and meet the unembedding. What
a share of listed words among the top tokens is worth shows only beside random directions through
the same heads.

Shapes: A attributes, L layer, N head, H head dim, D = N·H, P problems, B draws, V vocab, G groups.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from eval.probing.directions import Directions
from eval.stats import resampling
from training.model.olmo import OLMo

TOP_TOKENS = 50


class Seen(NamedTuple):
    """What one direction writes: token ids by falling alignment towards toxic and towards benign,
    the share of listed tokens among each, and that share for each random direction through the same
    heads.
    """

    toxic_ids: list[int]
    benign_ids: list[int]
    toxic_share: float
    benign_share: float
    random_shares_B: np.ndarray


def cosines(theta_LNH: Tensor, others: Sequence[Tensor]) -> Tensor:
    """|cos| of each head's direction with that of every other attribute in the same head: [A, L,
    N]. Unit vectors, or 0.
    """
    return torch.stack([(theta_LNH * other).sum(-1).abs() for other in others])


def entanglement(vectors_AH: Tensor) -> Tensor:
    """E_i = max over j ≠ i of |v_i·v_j| of unit vectors: [A]."""
    gram_AA = (vectors_AH @ vectors_AH.T).abs()
    return gram_AA.fill_diagonal_(0.0).max(dim=1).values


def welch_bound(n: int, size: int) -> float:
    """The least that max_i E_i of n directions in `size` dimensions can be (Welch 1974, eq. 6 with
    k = 1).
    """
    return math.sqrt((n - size) / ((n - 1) * size)) if n > size else 0.0


def random_entanglement(n: int, size: int, n_draws: int, seed: int) -> np.ndarray:
    """E of one direction among n random ones in `size` dimensions: [n_draws]. By symmetry the first
    is the first axis.
    """
    others = resampling.normals((n_draws, n - 1, size), "random entanglement", seed, n, size)
    return np.abs(others[..., 0] / np.linalg.norm(others, axis=-1)).max(axis=1)


@torch.no_grad()
def written(model: OLMo, shift_LD: Tensor) -> Tensor:
    """What each layer's shift of its heads writes into the residual stream, W_O·shift, without its
    mean: [L, D], float32.
    """
    weights_LDD = torch.stack([block.attention.out.weight.float() for block in model.blocks])
    written_LD = torch.einsum("lod,ld->lo", weights_LDD, shift_LD.to(weights_LDD))
    return written_LD - written_LD.mean(dim=-1, keepdim=True)


@torch.no_grad()
def lens(
    model: OLMo,
    directions: Directions,
    heads: Sequence[tuple[int, int]],
    listed_V: np.ndarray,
    *,
    n_random: int,
    seed: int,
    top: int = TOP_TOKENS,
) -> Seen:
    """The tokens that these heads' directions write together, each weighted by its σ. θ points to
    benign: +θ gives benign tokens, −θ toxic ones. listed_V: which ids of the tokenizer are words of
    the list; ids beyond it do not count.
    """
    listed, n_ids = torch.from_numpy(listed_V), len(listed_V)
    unembedding_VD = model.embedding.weight[:n_ids].float()
    n_heads, size = directions.theta_LNH.shape[1:]
    theta_BKH = torch.from_numpy(
        resampling.normals((n_random, len(heads), size), "lens", seed, *sum(heads, ()))
    ).float()
    theta_BKH = torch.nn.functional.normalize(theta_BKH, dim=-1)
    own_1KH = torch.stack([directions.theta_LNH[at] for at in heads])[None].cpu()
    theta_BKH = torch.cat([own_1KH, theta_BKH])
    out_BD = torch.zeros(len(theta_BKH), n_heads * size)
    for k, (layer, head) in enumerate(heads):
        columns = (
            model.blocks[layer]
            .attention.out.weight[:, head * size : (head + 1) * size]
            .float()
            .cpu()
        )
        out_BD += float(directions.sigma_LN[layer, head]) * theta_BKH[:, k] @ columns.T
    logits_BV = (out_BD - out_BD.mean(-1, keepdim=True)) @ unembedding_VD.cpu().T
    toxic_BK, benign_BK = ((sign * logits_BV).topk(min(top, n_ids)).indices for sign in (-1, 1))
    shares_B = listed[toxic_BK].double().mean(-1).numpy()
    return Seen(
        toxic_BK[0].tolist(),
        benign_BK[0].tolist(),
        float(shares_B[0]),
        float(listed[benign_BK[0]].double().mean()),
        shares_B[1:],
    )
