"""log-likelihood of the ends of texts, steered or not, in batches of equal length

Multiple choice, perplexity and lm-evaluation-harness are built on it. Nothing is padded, so the
batch does not change a row's result. The host reads one tensor per batch.

Shapes: B batch, T position, D model.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch

from eval.model import batch_size, numerics, token_scores
from eval.model.loaded_model import LoadedModel
from eval.model.subject.subject_model import SubjectModel
from eval.probing.activations import group_by_length
from eval.steering import intervention
from eval.steering.intervention import Shift


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
    context: Sequence[int], end: Sequence[int], model: SubjectModel, strength: float = 0.0
) -> ScoredEnd:
    """The end after its context, which loses its beginning if both do not fit into the model's
    positions.
    """
    max_length = model.shape.max_sequence_length
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
        loaded.batch_size.for_each_batch(
            members,
            score_batch,
            bytes_per_item=batch_size.pass_bytes(
                loaded.model.shape, len(ends[members[0]].tokens), loaded.dtype
            ),
        )
    return [results[i] for i in range(len(ends))]


@torch.inference_mode()
def _score(model: SubjectModel, ends: list[ScoredEnd]) -> list[LogLikelihood]:
    """Texts of one length."""
    device = model.device
    tokens_BT = torch.tensor([end.tokens for end in ends]).to(device)
    n_end_B = torch.tensor([end.n_end for end in ends])
    longest = max(end.n_end for end in ends)
    is_end_BT = (torch.arange(longest) >= longest - n_end_B[:, None]).to(device)
    with numerics.short_pass_attention(device):
        hidden_BTD = model.hidden(tokens_BT[:, :-1])[:, -longest:]
    scores = token_scores.score_tokens(
        model, hidden_BTD.flatten(0, 1), tokens_BT[:, -longest:].flatten()
    )
    logprob_BT = scores.logprob_N.view_as(is_end_BT).double()
    nats_B = torch.where(is_end_BT, logprob_BT, 0.0).sum(1)
    is_greedy_B = (scores.is_greedy_N.view_as(is_end_BT) | ~is_end_BT).all(1)
    pairs = torch.stack([nats_B, is_greedy_B.double()], dim=1).tolist()
    return [LogLikelihood(nats, bool(is_greedy)) for nats, is_greedy in pairs]
