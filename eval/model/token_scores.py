"""log-probabilities of given tokens, in fp32, in chunks of positions without whole logits

The logits of 128 windows of 2,048 positions over 50,304 tokens take 52 GB in fp32. Only one number
per position is wanted, so the output matrix is applied to a chunk of positions at a time.

Shapes: N positions, D model, V vocab, C positions of a chunk.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from eval.model.subject.subject_model import SubjectModel
from training.model.loss import chunk_rows

# of a chunk's fp32 logits; its log-probabilities take as many again
LOGIT_BYTES = {"cpu": 256 << 20, "cuda": 1 << 30}


class TokenScores(NamedTuple):
    """logprob_N: log-probability of each target, in nats, fp32. is_greedy_N: whether the target was
    the likeliest token.
    """

    logprob_N: Tensor
    is_greedy_N: Tensor


@torch.inference_mode()
def score_tokens(model: SubjectModel, hidden_ND: Tensor, targets_N: Tensor) -> TokenScores:
    """The scores of each position's target. hidden_ND: of SubjectModel.hidden."""
    n_logits = LOGIT_BYTES["cuda" if hidden_ND.is_cuda else "cpu"] // 4
    step = chunk_rows(len(hidden_ND), model.shape.vocab_size, n_logits)
    logprobs = []
    are_greedy = []
    for start in range(0, len(hidden_ND), step):
        targets_C = targets_N[start : start + step]
        logits_CV = model.unembed(hidden_ND[start : start + step])
        logprob_CV = torch.log_softmax(logits_CV, dim=-1, dtype=torch.float32)
        logprobs.append(logprob_CV.gather(1, targets_C[:, None])[:, 0])
        are_greedy.append(logprob_CV.argmax(-1) == targets_C)
    return TokenScores(torch.cat(logprobs), torch.cat(are_greedy))
