"""the next id of each row: greedy, or sampled from a nucleus

On a CPU with bf16 instructions greedy decoding reads the output matrix in bf16, a quarter of the
time, and computes exact logits of those ids alone that its rounding leaves in question.

Shapes: B batch, D model, V vocab, C candidates, G and J blocks of the vocabulary.
"""

from collections.abc import Callable
from typing import Literal, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from eval.model.subject.subject_model import SubjectModel
from training.model.olmo import OLMo, cpu_has_bf16_matmul

CPU_LOGITS = 1 << 19  # sampled from at once: twice as fast as rows that leave a CPU's cache
LIKELY_SHARE = 1 / 16  # of the ids, the likeliest: a trained model's nucleus is mostly among them
N_BLOCKS = 64  # that an output matrix is split into, to look for the few ids that matter

# of a product of two rows rounded to bf16, and itself rounded, as a share of their norms: each of
# the three roundings is off by 2^-9 at most
BF16_ERROR = 4 * 2**-9

Chooser = Callable[[Tensor, Tensor], Tensor]


class Sampling(NamedTuple):
    """How tokens are sampled, at temperature 1. n_ids: ids of the tokenizer; rows of the embedding
    beyond it are padding.
    """

    max_new_tokens: int
    decoding: Literal["greedy", "nucleus"]
    top_p: float
    eos_id: int
    n_ids: int


def chooser(model: SubjectModel, sampling: Sampling) -> Chooser:
    """The function that chooses next ids, [B], from hidden states [B, D] and a random number from 0
    to 1 for each row.
    """
    is_exact = model.device.type == "cpu" and model.dtype is torch.float32
    if (
        sampling.decoding == "greedy"
        and is_exact
        and cpu_has_bf16_matmul()
        and isinstance(model, OLMo)
    ):
        return ScreenedArgmax(model.embedding.weight[: sampling.n_ids])

    def choose(hidden_BD: Tensor, u_B: Tensor) -> Tensor:
        logits_BV = model.unembed(hidden_BD).float()[:, : sampling.n_ids]
        if sampling.decoding == "greedy":
            return logits_BV.argmax(dim=-1)
        return sampled(logits_BV, sampling.top_p, u_B)

    return choose


class ScreenedArgmax:
    """The id whose row of an output matrix has the largest product with a hidden state; the lowest
    of equal ones.

    The products are computed in bf16. Those that lie further below the largest than its rounding
    can have moved both are none; the others are computed again in fp32.
    """

    def __init__(self, weight_VD: Tensor) -> None:
        n_ids = len(weight_VD)
        padded = F.pad(weight_VD, (0, 0, 0, -n_ids % N_BLOCKS))
        self._rough_VD = padded.bfloat16()
        self._weight_VD = weight_VD
        self._n_ids = n_ids
        self._largest_norm = weight_VD.norm(dim=-1).max()

    def __call__(self, hidden_BD: Tensor, u_B: Tensor) -> Tensor:
        rough_BV = F.linear(hidden_BD.bfloat16(), self._rough_VD)
        rough_BV[:, self._n_ids :] = -torch.inf
        error_B = BF16_ERROR * hidden_BD.norm(dim=-1) * self._largest_norm
        # the largest of every J-th id first: it is much faster than looking at all
        rough_BGJ = rough_BV.unflatten(-1, (N_BLOCKS, -1))
        largest_BJ = rough_BGJ.amax(dim=1).float()
        floor_B = largest_BJ.amax(dim=-1) - 2 * error_B
        row_C, j_C = (largest_BJ >= floor_B[:, None]).nonzero(as_tuple=True)
        is_likely_CG = rough_BGJ[row_C, :, j_C] >= floor_B[row_C, None]
        c_C, g_C = is_likely_CG.nonzero(as_tuple=True)
        row_C, id_C = row_C[c_C], g_C * rough_BGJ.shape[-1] + j_C[c_C]
        logit_C = (hidden_BD[row_C] * self._weight_VD[id_C]).sum(-1)
        best_B = torch.full_like(floor_B, -torch.inf).scatter_reduce(0, row_C, logit_C, "amax")
        ids_B = torch.full(best_B.shape, self._n_ids)
        of_best_C = torch.where(logit_C == best_B[row_C], id_C, self._n_ids)
        ids_B = ids_B.scatter_reduce(0, row_C, of_best_C, "amin")
        return ids_B.clamp(max=self._n_ids - 1)  # a row of NaN has no candidates


def sampled(logits_BV: Tensor, top_p: float, u_B: Tensor) -> Tensor:
    """`nucleus` of as many rows at a time as is fast."""
    step = rows_at_once(logits_BV)
    parts = zip(logits_BV.split(step), u_B.split(step), strict=True)
    return torch.cat([nucleus(logits, top_p, u) for logits, u in parts])


def rows_at_once(logits_BV: Tensor) -> int:
    """How many rows are sampled from at a time."""
    n_rows, n_ids = logits_BV.shape
    return n_rows if logits_BV.is_cuda else max(1, CPU_LOGITS // n_ids)


def nucleus(logits_BV: Tensor, top_p: float, u_B: Tensor) -> Tensor:
    """The id at quantile u of the smallest set of likeliest ids that holds top_p (Holtzman et al.
    2020; ties all in), [B].

    The quantile runs over the set by id, not by probability: rounding differs from batch to batch
    and swaps near ties, and would swap the sampled ids with them.
    """
    p_BV = torch.softmax(logits_BV, dim=-1)
    least_B1 = _least_likely(p_BV, top_p)[:, None]
    # 1.0 and 0.0: a product with booleans takes four times as long on a CPU
    is_kept_BV = torch.ge(p_BV, least_B1, out=torch.empty_like(p_BV))
    return at_quantile(p_BV * is_kept_BV, u_B)


def _least_likely(p_BV: Tensor, top_p: float) -> Tensor:
    """The smallest probability in each row's nucleus, [B]."""
    if p_BV.is_cuda:
        return _last_needed(p_BV.sort(dim=-1, descending=True).values, top_p)
    # on a CPU numpy partitions and sorts in a tenth of torch's time
    p = p_BV.numpy()
    n_likely = max(1, int(p.shape[1] * LIKELY_SHARE))
    likely_BL = _falling(np.partition(p, -n_likely, axis=-1)[:, -n_likely:])
    least_B = _last_needed(likely_BL, top_p)
    (is_short,) = np.nonzero(likely_BL.cumsum(-1)[:, -1].numpy() < top_p)
    if len(is_short):
        least_B[is_short] = _last_needed(_falling(p[is_short]), top_p)
    return least_B


def _falling(p_BV: np.ndarray) -> Tensor:
    return torch.from_numpy(-np.sort(-p_BV, axis=-1))


def _last_needed(falling_BV: Tensor, top_p: float) -> Tensor:
    """Of each row, largest first, the value with which the sum reaches top_p, or else the last."""
    sums_BV = falling_BV.cumsum(-1)
    target_B1 = torch.full_like(sums_BV[:, :1], top_p)
    last_B1 = torch.searchsorted(sums_BV, target_B1).clamp(max=falling_BV.shape[1] - 1)
    return falling_BV.gather(-1, last_B1)[:, 0]


def at_quantile(weight_BV: Tensor, u_B: Tensor) -> Tensor:
    """The first id up to which more than a share u of the row's weight lies, [B].

    Blocks of ids are summed first: a running sum over all ids takes ten times as long.
    """
    n_ids = weight_BV.shape[1]
    weight_BGJ = F.pad(weight_BV, (0, -n_ids % N_BLOCKS)).unflatten(-1, (N_BLOCKS, -1))
    sums_BG = weight_BGJ.sum(-1).double().cumsum(-1)
    target_B1 = u_B[:, None] * sums_BG[:, -1:]
    block_B1 = torch.searchsorted(sums_BG, target_B1, right=True).clamp(max=N_BLOCKS - 1)
    before_B1 = F.pad(sums_BG, (1, 0)).gather(-1, block_B1)
    within_BJ = weight_BGJ.take_along_dim(block_B1[:, None], dim=1)[:, 0].double().cumsum(-1)
    j_B1 = torch.searchsorted(within_BJ, target_B1 - before_B1, right=True)
    # the block's own sum was rounded: not behind its last id that has weight
    last_B1 = torch.searchsorted(within_BJ, within_BJ[:, -1:].contiguous())
    j_B1 = torch.minimum(j_B1, last_B1)
    return (block_B1 * within_BJ.shape[1] + j_B1)[:, 0]
