"""batched sampling with a KV cache; a row's tokens do not depend on its batch

Each row draws from its own keyed stream (prompt, sample, seed), one number per step. So a
continuation depends neither on the other rows nor on the batch size, and every steering strength of
a prompt meets the same random numbers: strengths differ by steering alone. Rows are padded at the
left, so that the last position is the prompt's end.

A prompt without its last token is read once for all samples and strengths that it is read alike
for: where steering shifts the last position of a pass, nothing before the prompt's end differs.

Shapes: B batch, K rows of it that have not ended, G prompts that rows share, T position, V vocab,
S decoding step.
"""

from collections.abc import Sequence
from typing import Literal, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from data_prep.core import keyed_random
from data_prep.core.errors import ConfigurationError
from eval.model import numerics
from eval.model.subject.subject_model import DecodingCache, SubjectModel

TOKENS_PER_LOOK = 8  # decoded between looks at which rows have ended: a look waits for the device
CPU_LOGITS = 1 << 19  # sampled from at once: twice as fast as rows that leave a CPU's cache
LEAVING_SHARE = 0.25  # of the rows must have ended to leave: the others' keys and values are copied


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


class RowSteering(Protocol):
    """Steering of a batch that is being decoded (steering/intervention.py)."""

    @property
    def prefix_strengths(self) -> Sequence[float]:
        """The strength that a row's prompt is read with, all but its last token."""
        ...

    def select(self, rows_K: Tensor) -> None:
        """From now on, only these rows of the batch go through the model."""
        ...

    def select_prefixes(self, rows_K: Tensor) -> None:
        """As `select`, for passes over prompts without their last token."""
        ...


class _Decoding(NamedTuple):
    """Rows under way: the tokens that the model reads next, what it has read, and its padding."""

    tokens_BT: Tensor
    cache: DecodingCache
    padding_B: Tensor | None


@torch.inference_mode()
def sample(
    model: SubjectModel,
    prompts: Sequence[Sequence[int]],
    keys: Sequence[int],
    sampling: Sampling,
    steering: RowSteering | None = None,
) -> list[list[int]]:
    """One continuation per prompt: at most max_new_tokens new ids, without the end-of-document id
    that may have ended it.

    With `steering`, rows with the same prompt and prefix strength share the pass over all but its
    last token, and rows that have ended leave the batch.
    """
    device = model.device
    rows = [_fit(prompt, model, sampling) for prompt in prompts]
    # random numbers of all steps at once: a copy to a GPU waits for it
    u_SB = torch.from_numpy(
        keyed_random.uniforms(
            np.array(keys, dtype=np.uint64), np.arange(sampling.max_new_tokens)[:, None]
        )
    ).to(device)
    with numerics.short_pass_attention(device):
        if steering:
            decoding = _read_shared_prefixes(model, rows, sampling, steering)
        else:
            decoding = _whole_prompts(model, rows, sampling)
        ids_BS = _decode(model, decoding, u_SB, sampling, steering)
    continuations = ids_BS.tolist()
    eos = sampling.eos_id
    return [row[: row.index(eos)] if eos in row else row for row in continuations]


def _whole_prompts(
    model: SubjectModel, rows: Sequence[Sequence[int]], sampling: Sampling
) -> _Decoding:
    """The prompts, of which nothing is read yet."""
    device = model.device
    tokens_BT, padding_B = left_padded(rows, sampling.eos_id)
    cache = model.empty_cache(len(rows), tokens_BT.shape[1] + sampling.max_new_tokens)
    return _Decoding(tokens_BT.to(device), cache, padding_B.to(device) if padding_B.any() else None)


def _read_shared_prefixes(
    model: SubjectModel, rows: Sequence[Sequence[int]], sampling: Sampling, steering: RowSteering
) -> _Decoding:
    """Read the prompts without their last tokens, each once, and give every row its copy."""
    device = model.device
    groups: dict[tuple[float, tuple[int, ...]], list[int]] = {}
    for row, (strength, tokens) in enumerate(zip(steering.prefix_strengths, rows, strict=True)):
        groups.setdefault((strength, tuple(tokens[:-1])), []).append(row)
    first_rows = torch.tensor([members[0] for members in groups.values()])
    group_of_row = torch.empty(len(rows), dtype=torch.long)
    for group, members in enumerate(groups.values()):
        group_of_row[members] = group
    prefix_GT, padding_G = left_padded([prefix for _, prefix in groups], sampling.eos_id)
    n_read = prefix_GT.shape[1]
    n_positions = n_read + 1 + sampling.max_new_tokens
    last_B1 = torch.tensor([[row[-1]] for row in rows]).to(device)
    padding_B = padding_G[group_of_row].to(device) if padding_G.any() else None
    if n_read:
        of_groups = model.empty_cache(len(groups), n_read)
        steering.select_prefixes(first_rows.to(device))
        model.hidden(
            prefix_GT.to(device),
            cache=of_groups,
            padding_B=padding_G.to(device) if padding_G.any() else None,
        )
        cache = of_groups.select(group_of_row.to(device), n_positions)
    else:
        cache = model.empty_cache(len(rows), n_positions)
    steering.select(torch.arange(len(rows), device=device))
    return _Decoding(last_B1, cache, padding_B)


def _decode(
    model: SubjectModel,
    decoding: _Decoding,
    u_SB: Tensor,
    sampling: Sampling,
    steering: RowSteering | None,
) -> Tensor:
    """New ids, [B, S]; those behind an end-of-document id mean nothing."""
    n_steps, n_rows = u_SB.shape
    ids_BS = torch.full((n_rows, n_steps), sampling.eos_id, device=u_SB.device)
    rows_K = torch.arange(n_rows, device=u_SB.device)  # those in the batch
    has_ended_K = torch.zeros(n_rows, dtype=torch.bool, device=u_SB.device)
    tokens_KT, cache, padding_K = decoding
    n_positions = cache.length + tokens_KT.shape[1] + n_steps
    for step, u_B in enumerate(u_SB):
        hidden_KTD = model.hidden(tokens_KT, cache=cache, padding_B=padding_K)
        logits_KV = model.unembed(hidden_KTD[:, -1]).float()[:, : sampling.n_ids]
        next_K = _next_ids(logits_KV, u_B[rows_K], sampling)
        ids_BS[rows_K, step] = next_K
        has_ended_K |= next_K == sampling.eos_id
        tokens_KT = next_K[:, None]
        if (step + 1) % TOKENS_PER_LOOK or step + 1 == n_steps:
            continue
        n_ended = int(has_ended_K.sum())
        if n_ended == len(rows_K):
            break
        if steering and n_ended >= LEAVING_SHARE * len(rows_K):
            going_on = (~has_ended_K).nonzero()[:, 0]
            rows_K, tokens_KT = rows_K[going_on], tokens_KT[going_on]
            has_ended_K = has_ended_K[going_on]
            padding_K = None if padding_K is None else padding_K[going_on]
            cache = cache.select(going_on, n_positions)
            steering.select(rows_K)
    return ids_BS


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
    falling_BV = _falling(p_BV)
    n_kept_B = (falling_BV.cumsum(-1) - falling_BV < top_p).sum(-1)
    is_kept_BV = p_BV >= falling_BV.gather(-1, n_kept_B[:, None].clamp(min=1) - 1)
    cumulative_BV = torch.where(is_kept_BV, p_BV, 0.0).double().cumsum(-1)
    ids_B1 = torch.searchsorted(cumulative_BV, u_B[:, None] * cumulative_BV[:, -1:], right=True)
    return ids_B1[:, 0].clamp(max=p_BV.shape[1] - 1)


def _falling(p_BV: Tensor) -> Tensor:
    """Each row, largest first. On a CPU numpy sorts the same values in a twentieth of the time."""
    if p_BV.is_cuda:
        return p_BV.sort(dim=-1, descending=True).values
    return torch.from_numpy(-np.sort(-p_BV.numpy(), axis=-1))


def _next_ids(logits_BV: Tensor, u_B: Tensor, sampling: Sampling) -> Tensor:
    if sampling.decoding == "greedy":
        return logits_BV.argmax(dim=-1)
    n_rows, n_ids = logits_BV.shape
    step = n_rows if logits_BV.is_cuda else max(1, CPU_LOGITS // n_ids)
    parts = zip(logits_BV.split(step), u_B.split(step), strict=True)
    return torch.cat([nucleus(logits, sampling.top_p, u) for logits, u in parts])


def _fit(prompt: Sequence[int], model: SubjectModel, sampling: Sampling) -> Sequence[int]:
    """The end of the prompt that leaves room for the new tokens."""
    n_positions = model.shape.max_sequence_length
    room = n_positions - sampling.max_new_tokens
    if room < 1 or not prompt:
        raise ConfigurationError(
            f"a prompt of {len(prompt)} tokens and {sampling.max_new_tokens} new tokens: the model "
            f"has {n_positions} positions and needs a prompt of at least 1 token; lower "
            "eval.generation.max_new_tokens, or remove empty prompts"
        )
    return prompt[-room:]
