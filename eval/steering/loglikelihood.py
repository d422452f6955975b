"""the log-likelihood of texts' ends, in batches of equal length: what multiple choice and the
harness are made of

Nothing is padded, so no batch changes what a row gets. Shapes: B batch, T position, V vocab.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from eval.config import Site
from eval.model.batching import BatchSize
from eval.probing.activations import group_by_length
from eval.steering import intervention
from training.model.olmo import OLMo


class Row(NamedTuple):
    """Ids of a text whose last `n_end` are scored, and the strength of the shift that the model
    reads it with.
    """

    tokens: list[int]
    n_end: int
    strength: float = 0.0


class Likelihood(NamedTuple):
    """Of an end: the sum of its tokens' log-probabilities, in nats, and whether each was the
    likeliest.
    """

    log: float
    is_greedy: bool


def row(context: Sequence[int], end: Sequence[int], model: OLMo, strength: float = 0.0) -> Row:
    """The end after its context, which loses its beginning where the model has too few positions
    for both.
    """
    room = model.config.max_sequence_length
    return Row([*context, *end][-room - 1 :], min(len(end), room), strength)


def likelihoods(
    model: OLMo,
    rows: Sequence[Row],
    shift_LD: Tensor,
    site: Site,
    batch: BatchSize,
    advance: Callable[[int], object],
) -> list[Likelihood]:
    """Of every row, in their order, with the shift at all positions; advance is told how many rows
    are done.
    """
    found: dict[int, Likelihood] = {}

    def work(members: Sequence[int]) -> None:
        strength_B = torch.tensor([rows[i].strength for i in members])
        with intervention.steered(model, shift_LD, strength_B, "all", site):
            found.update(zip(members, _of_batch(model, [rows[i] for i in members]), strict=True))
        advance(len(members))

    for members in reversed(
        group_by_length([row.tokens for row in rows])
    ):  # the longest first: memory fails at once or never
        batch.each(members, work)
    return [found[i] for i in range(len(rows))]


@torch.inference_mode()
def _of_batch(model: OLMo, batch: list[Row]) -> list[Likelihood]:
    tokens_BT = torch.tensor([row.tokens for row in batch]).to(model.embedding.weight.device)
    longest = max(row.n_end for row in batch)
    hidden_BTD, wanted_BT = model.hidden(tokens_BT[:, :-1])[:, -longest:], tokens_BT[:, -longest:]
    logs_BTV = model.unembed(hidden_BTD).float().log_softmax(-1)
    logs_BT = logs_BTV.gather(2, wanted_BT[..., None])[..., 0]
    greedy_BT = logs_BTV.argmax(-1) == wanted_BT
    return [
        Likelihood(float(logs_T[-row.n_end :].double().sum()), bool(greedy_T[-row.n_end :].all()))
        for row, logs_T, greedy_T in zip(batch, logs_BT, greedy_BT, strict=True)
    ]
