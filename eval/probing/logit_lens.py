"""logit lens: which tokens the directions of the steered heads write

Heads' θ go through the output projection into the residual stream, through the linear part of the
final norm (a LayerNorm removes their mean), and meet the unembedding. Whether a share of listed
words among the top tokens is high shows only beside random directions through the same heads.

Shapes: L layers, N heads, H head dim, D model, K heads of a group, B draws, V vocab.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from data_prep.scorers import load_scorer
from data_prep.scorers.load_scorer import Scorer
from data_prep.token_stream.tokenizer import Tokenizer
from eval.eval_report import TOXIC_SCORE, Lens
from eval.model.loaded_model import LoadedModel
from eval.model.subject.subject_model import SubjectModel
from eval.probing.directions import Directions
from eval.probing.probe_heads import ProbedHeads
from eval.stats import resampling

TOP_TOKENS = 50
N_RANDOM = 200  # random directions beside the measured one


class WrittenTokens(NamedTuple):
    """The tokens that one direction writes: ids by falling alignment towards toxic and towards
    benign, the share of listed tokens among each, and the share towards toxic of each random
    direction through the same heads.
    """

    toxic_ids: list[int]
    benign_ids: list[int]
    toxic_share: float
    benign_share: float
    random_shares_B: np.ndarray


def toxic_vocabulary(tokenizer: Tokenizer, scorer: Scorer) -> np.ndarray:
    """Which ids of the tokenizer are toxic on their own, [V] bool, by the scorer. A costly scorer
    is not called for 50,000 words; the profanity model takes its place.
    """
    word_scorer = load_scorer.load("profanity") if scorer.costly else scorer
    words = [tokenizer.decode([i]).strip() for i in range(tokenizer.n_ids)]
    scores = word_scorer.score(words)
    return np.array([(score or 0.0) >= TOXIC_SCORE for score in scores])


def read_lenses(
    loaded: LoadedModel, heads: ProbedHeads, listed_V: np.ndarray, seed: int
) -> tuple[Lens, ...]:
    """The tokens that the selected heads write, all together and layer by layer. listed_V: which
    ids of the tokenizer are toxic words.
    """
    groups = {"all steered heads": heads.selected}
    for layer in sorted({layer for layer, _ in heads.selected}):
        groups[f"layer {layer + 1}"] = [head for head in heads.selected if head[0] == layer]
    decode = loaded.tokenizer.decode
    lenses = []
    for name, group in groups.items():
        written = written_tokens(loaded.model, heads.directions, group, listed_V, seed=seed)
        lenses.append(
            Lens(
                group=name,
                toxic_tokens=tuple(decode([i]) for i in written.toxic_ids),
                benign_tokens=tuple(decode([i]) for i in written.benign_ids),
                toxic_share=written.toxic_share,
                benign_share=written.benign_share,
                random_share=float(written.random_shares_B.mean()),
                random_high=float(np.quantile(written.random_shares_B, 0.95)),
            )
        )
    return tuple(lenses)


@torch.no_grad()
def written_tokens(
    model: SubjectModel,
    directions: Directions,
    heads: Sequence[tuple[int, int]],
    listed_V: np.ndarray,
    *,
    seed: int,
    top: int = TOP_TOKENS,
) -> WrittenTokens:
    """The tokens that these heads' directions write together, each weighted by its σ. θ points to
    benign: +θ writes benign tokens, −θ toxic ones. listed_V: which ids of the tokenizer are listed
    words; ids beyond it do not count.
    """
    device = model.device
    listed = torch.from_numpy(listed_V)
    n_ids = len(listed_V)
    size = directions.theta_LNH.shape[-1]
    theta_BKH = _with_random_directions(directions, heads, seed).to(device)
    residual_BD = torch.zeros(len(theta_BKH), model.shape.d_model, device=device)
    for k, (layer, head) in enumerate(heads):
        own_DH = model.output_weight(layer)[:, head * size : (head + 1) * size]
        output_BD = float(directions.sigma_LN[layer, head]) * theta_BKH[:, k] @ own_DH.T
        residual_BD += model.to_residual(layer, output_BD)
    logits_BV = model.lens(residual_BD, n_ids)
    toxic_BK = (-logits_BV).topk(min(top, n_ids)).indices.cpu()
    benign_BK = logits_BV.topk(min(top, n_ids)).indices.cpu()
    shares_B = listed[toxic_BK].double().mean(-1).numpy()
    return WrittenTokens(
        toxic_ids=toxic_BK[0].tolist(),
        benign_ids=benign_BK[0].tolist(),
        toxic_share=float(shares_B[0]),
        benign_share=float(listed[benign_BK[0]].double().mean()),
        random_shares_B=shares_B[1:],
    )


def _with_random_directions(
    directions: Directions, heads: Sequence[tuple[int, int]], seed: int
) -> Tensor:
    """The heads' own unit directions and N_RANDOM random ones: [1 + B, K, H]."""
    size = directions.theta_LNH.shape[-1]
    head_numbers = [number for head in heads for number in head]
    random_BKH = torch.from_numpy(
        resampling.normals((N_RANDOM, len(heads), size), "lens", seed, *head_numbers)
    ).float()
    random_BKH = torch.nn.functional.normalize(random_BKH, dim=-1)
    own_1KH = torch.stack([directions.theta_LNH[head] for head in heads])[None].cpu()
    return torch.cat([own_1KH, random_BKH])
