"""batched sampling with a KV cache; a row's tokens do not depend on its batch

Each row draws from its own keyed stream (prompt, sample, seed), one number per step. So a
continuation depends neither on the other rows nor on the batch size, and every steering strength of
a prompt meets the same random numbers: strengths differ by steering alone. Rows are padded at the
left, so that the last position is the prompt's end.

Shapes: B batch, T position, V vocab.
"""

from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from data_prep.core import keyed_random
from data_prep.core.errors import ConfigurationError
from eval.model import numerics
from training.model.kv_cache import KVCache
from training.model.olmo import OLMo

TOKENS_PER_LOOK = 8  # decoded between looks at which rows have ended: a look waits for the device


class Sampling(NamedTuple):
    """How tokens are sampled, at temperature 1. n_ids: ids of the tokenizer; rows of the embedding
    beyond it are padding.
    """

    max_new_tokens: int
    decoding: Literal["greedy", "nucleus"]
    top_p: float
    eos_id: int
    n_ids: int


def row_key(prompt_id: str, sample: int, seed: int) -> int:
    """The key of a row's random numbers; the strength is not part of it."""
    return keyed_random.key("generation", prompt_id, sample, seed)


@torch.inference_mode()
def sample(
    model: OLMo, prompts: Sequence[Sequence[int]], keys: Sequence[int], sampling: Sampling
) -> list[list[int]]:
    """One continuation per prompt: at most max_new_tokens new ids, without the end-of-document id
    that may have ended it.
    """
    keys_B = np.array(keys, dtype=np.uint64)
    weight = model.embedding.weight
    tokens_BT, padding_B = left_padded(
        [_fit(prompt, model, sampling) for prompt in prompts], sampling.eos_id
    )
    tokens_BT = tokens_BT.to(weight.device)
    padding_B = padding_B.to(weight.device) if padding_B.any() else None
    max_length = tokens_BT.shape[1] + sampling.max_new_tokens
    cache = KVCache(
        model.config, len(prompts), max_length, dtype=weight.dtype, device=weight.device
    )
    # of all steps at once: a copy to a GPU waits for it
    u_SB = torch.from_numpy(
        keyed_random.uniforms(keys_B, np.arange(sampling.max_new_tokens)[:, None])
    ).to(weight.device)
    has_ended_B = torch.zeros(len(prompts), dtype=torch.bool, device=weight.device)
    steps = []
    with numerics.short_pass_attention(weight.device):
        for u_B in u_SB:
            hidden_BTD = model.hidden(tokens_BT, cache=cache, padding_B=padding_B)
            logits_BV = model.unembed(hidden_BTD[:, -1]).float()[:, : sampling.n_ids]
            next_B = _next_ids(logits_BV, u_B, sampling)
            steps.append(next_B)
            has_ended_B |= next_B == sampling.eos_id
            if len(steps) % TOKENS_PER_LOOK == 0 and has_ended_B.all():
                break
            tokens_BT = next_B[:, None]
    rows = torch.stack(steps, dim=1).tolist()
    return [row[: row.index(sampling.eos_id)] if sampling.eos_id in row else row for row in rows]


def left_padded(rows: Sequence[Sequence[int]], fill: int) -> tuple[Tensor, Tensor]:
    """Rows of any lengths as [B, T], their ends aligned, and the number of fill ids in each row,
    [B].
    """
    longest = max(map(len, rows))
    padding = [longest - len(row) for row in rows]
    padded = [[fill] * n + list(row) for n, row in zip(padding, rows, strict=True)]
    return torch.tensor(padded), torch.tensor(padding)


def nucleus(logits_BV: Tensor, top_p: float, u_B: Tensor) -> Tensor:
    """The id at quantile u of the smallest set of likeliest ids that holds top_p (Holtzman et al.
    2020; ties all in), [B].

    The quantile runs over the set by id, not by probability: rounding differs from batch to batch
    and swaps near ties, and would swap the sampled ids with them.
    """
    p_BV = torch.softmax(logits_BV, dim=-1)
    falling_BV = p_BV.sort(dim=-1, descending=True).values
    n_kept_B = (falling_BV.cumsum(-1) - falling_BV < top_p).sum(-1)
    is_kept_BV = p_BV >= falling_BV.gather(-1, n_kept_B[:, None].clamp(min=1) - 1)
    cumulative_BV = torch.where(is_kept_BV, p_BV, 0.0).double().cumsum(-1)
    ids_B1 = torch.searchsorted(cumulative_BV, u_B[:, None] * cumulative_BV[:, -1:], right=True)
    return ids_B1[:, 0].clamp(max=p_BV.shape[1] - 1)


def _next_ids(logits_BV: Tensor, u_B: Tensor, sampling: Sampling) -> Tensor:
    if sampling.decoding == "greedy":
        return logits_BV.argmax(dim=-1)
    return nucleus(logits_BV, sampling.top_p, u_B)


def _fit(prompt: Sequence[int], model: OLMo, sampling: Sampling) -> Sequence[int]:
    """The end of the prompt that leaves room for the new tokens."""
    n_positions = model.config.max_sequence_length
    room = n_positions - sampling.max_new_tokens
    if room < 1 or not prompt:
        raise ConfigurationError(
            f"a prompt of {len(prompt)} tokens and {sampling.max_new_tokens} new tokens: the model "
            f"has {n_positions} positions and needs a prompt of at least 1 token; lower "
            "eval.generation.max_new_tokens, or remove empty prompts"
        )
    return prompt[-room:]
