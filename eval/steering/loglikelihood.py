"""log-likelihood of the ends of texts, steered or not, in batches of equal length

Multiple choice, perplexity and lm-evaluation-harness are built on it. Nothing is padded, so the
batch does not change a row's result.

Shapes: B batch, T position, V vocab.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from eval.model.loaded_model import LoadedModel
from eval.probing.activations import group_by_length
from eval.steering import intervention
from eval.steering.intervention import Shift
from training.model.olmo import OLMo


class ScoredEnd(NamedTuple):
    """Ids of a text whose last `n_end` are scored, and the strength the model is steered with while
    it reads the text.
    """

    tokens: list[int]
    n_end: int
    strength: float = 0.0


class LogLikelihood(NamedTuple):
    """The sum of the log-probabilities of an end's tokens, in nats, and whether each token was the
    likeliest.
    """

    nats: float
    is_greedy: bool


def end_after_context(
    context: Sequence[int], end: Sequence[int], model: OLMo, strength: float = 0.0
) -> ScoredEnd:
    """The end after its context, which loses its beginning if both do not fit into the model's
    positions.
    """
    max_length = model.config.max_sequence_length
    return ScoredEnd([*context, *end][-max_length - 1 :], min(len(end), max_length), strength)


def loglikelihoods(
    loaded: LoadedModel,
    ends: Sequence[ScoredEnd],
    shift: Shift,
    advance: Callable[[int], object],
) -> list[LogLikelihood]:
    """The log-likelihood of every end, in order, with the shift at all positions. advance(n) is
    called after every n finished rows.
    """
    results: dict[int, LogLikelihood] = {}

    def score_batch(members: Sequence[int]) -> None:
        strength_B = torch.tensor([ends[i].strength for i in members])
        with intervention.steered(loaded.model, shift, strength_B, "all"):
            batch = _score(loaded.model, [ends[i] for i in members])
        results.update(zip(members, batch, strict=True))
        advance(len(members))

    # the longest first: memory runs out at once or never
    for members in reversed(group_by_length([end.tokens for end in ends])):
        loaded.batch_size.for_each_batch(members, score_batch)
    return [results[i] for i in range(len(ends))]


@torch.inference_mode()
def _score(model: OLMo, ends: list[ScoredEnd]) -> list[LogLikelihood]:
    """Texts of one length."""
    tokens_BT = torch.tensor([end.tokens for end in ends]).to(model.embedding.weight.device)
    longest = max(end.n_end for end in ends)
    hidden_BTD = model.hidden(tokens_BT[:, :-1])[:, -longest:]
    target_BT = tokens_BT[:, -longest:]
    logprob_BTV = model.unembed(hidden_BTD).float().log_softmax(-1)
    logprob_BT = logprob_BTV.gather(2, target_BT[..., None])[..., 0]
    greedy_BT = logprob_BTV.argmax(-1) == target_BT
    return [
        LogLikelihood(_sum(logprob_T[-end.n_end :]), bool(greedy_T[-end.n_end :].all()))
        for end, logprob_T, greedy_T in zip(ends, logprob_BT, greedy_BT, strict=True)
    ]


def _sum(logprob_T: Tensor) -> float:
    return float(logprob_T.double().sum())
