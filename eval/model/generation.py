"""batched sampling with KV cache, deterministic per row whatever the batch

Each row draws from its own keyed stream (prompt, sample, seed), one number per step, so a
continuation depends neither on its neighbours nor on the batch size, and every steering strength of
a prompt meets the same random numbers: differences between strengths are the steering's. Rows are
padded at the left, so that the last position is the prompt's end.

Shapes: B batch, T position, V vocab.
"""

from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from data_prep.core import keyed_random
from data_prep.core.errors import ConfigurationError
from training.model.olmo import KVCache, OLMo


class Sampling(NamedTuple):
    """How tokens are drawn, at temperature 1. n_ids: ids of the tokenizer; rows of the embedding
    beyond it are padding.
    """

    max_new_tokens: int
    decoding: Literal["greedy", "nucleus"]
    top_p: float
    eos_id: int
    n_ids: int


def row_key(prompt_id: str, sample: int, seed: int) -> int:
    """The name of a row's random numbers; the strength is not in it."""
    return keyed_random.key("generation", prompt_id, sample, seed)


@torch.inference_mode()
def sample(
    model: OLMo, prompts: Sequence[Sequence[int]], keys: Sequence[int], sampling: Sampling
) -> list[list[int]]:
    """One continuation a prompt: new ids up to max_new_tokens, without the end-of-document id that
    may have stopped it.
    """
    keys_B = np.array(keys, dtype=np.uint64)
    tokens_BT, padding_B = left_padded(
        [_fit(prompt, model, sampling) for prompt in prompts], sampling.eos_id
    )
    weight = model.embedding.weight
    tokens_BT = tokens_BT.to(weight.device)
    padding_B = padding_B.to(weight.device) if padding_B.any() else None
    max_length = tokens_BT.shape[1] + sampling.max_new_tokens
    cache = KVCache(
        model.config, len(prompts), max_length, dtype=weight.dtype, device=weight.device
    )
    ended_B = torch.zeros(len(prompts), dtype=torch.bool, device=weight.device)
    drawn = []
    for step in range(sampling.max_new_tokens):
        hidden_BTD = model.hidden(tokens_BT, cache=cache, padding_B=padding_B)
        logits_BV = model.unembed(hidden_BTD[:, -1]).float()[:, : sampling.n_ids]
        next_B = _draw(logits_BV, keyed_random.uniforms(keys_B, step), sampling)
        drawn.append(next_B)
        ended_B |= next_B == sampling.eos_id
        if ended_B.all():
            break
        tokens_BT = next_B[:, None]
    rows = torch.stack(drawn, dim=1).tolist()
    return [row[: row.index(sampling.eos_id)] if sampling.eos_id in row else row for row in rows]


def left_padded(rows: Sequence[Sequence[int]], fill: int) -> tuple[Tensor, Tensor]:
    """Rows of any lengths as [B, T], their ends aligned, and how many fillers each got, [B]."""
    longest = max(map(len, rows))
    padding = [longest - len(row) for row in rows]
    return torch.tensor(
        [[fill] * n + list(row) for n, row in zip(padding, rows, strict=True)]
    ), torch.tensor(padding)


def nucleus(logits_BV: Tensor, top_p: float, u_B: Tensor) -> Tensor:
    """The id at quantile u of the smallest set of likeliest ids that holds top_p (Holtzman et al.
    2020; ties all in), [B].

    The quantile runs over the set in order of id, not of probability: rounding, which differs from
    batch to batch, swaps near ties, and would swap the ids drawn with them.
    """
    p_BV = torch.softmax(logits_BV, dim=-1)
    falling_BV = p_BV.sort(dim=-1, descending=True).values
    n_kept_B = (falling_BV.cumsum(-1) - falling_BV < top_p).sum(-1)
    kept_BV = p_BV >= falling_BV.gather(-1, n_kept_B[:, None].clamp(min=1) - 1)
    cumulative_BV = torch.where(kept_BV, p_BV, 0.0).double().cumsum(-1)
    drawn_B1 = torch.searchsorted(cumulative_BV, u_B[:, None] * cumulative_BV[:, -1:], right=True)
    return drawn_B1[:, 0].clamp(max=p_BV.shape[1] - 1)


def _draw(logits_BV: Tensor, u_B: np.ndarray, sampling: Sampling) -> Tensor:
    if sampling.decoding == "greedy":
        return logits_BV.argmax(dim=-1)
    return nucleus(logits_BV, sampling.top_p, torch.from_numpy(u_B).to(logits_BV.device))


def _fit(prompt: Sequence[int], model: OLMo, sampling: Sampling) -> Sequence[int]:
    """The prompt's end, as much as the model's positions leave room for."""
    room = model.config.max_sequence_length - sampling.max_new_tokens
    if room < 1 or not prompt:
        raise ConfigurationError(
            f"a prompt of {len(prompt)} tokens and {sampling.max_new_tokens} new ones: the model has "
            f"{model.config.max_sequence_length} positions and needs a prompt of at least 1; lower eval.generation.max_new_tokens"
        )
    return prompt[-room:]
