from collections import Counter
from itertools import product
from typing import NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from data_prep.core.errors import ConfigurationError
from eval.model import generation
from eval.model.generation import Sampling
from eval.steering import intervention
from eval.steering.intervention import Shift

EOS = 0


SAMPLING = Sampling(max_new_tokens=10, decoding="nucleus", top_p=0.9, eos_id=EOS, n_ids=60)


def sampling(**changes):
    return SAMPLING._replace(**changes)


def keys(n, sample=0):
    return [generation.row_key(f"prompt {i}", sample, 0) for i in range(n)]


@pytest.mark.parametrize("decoding", ["greedy", "nucleus"])
def test_a_continuation_does_not_depend_on_its_batch(model, token_rows, decoding):
    together = generation.sample(model, token_rows, keys(9), sampling(decoding=decoding))
    alone = [
        generation.sample(model, [row], [key], sampling(decoding=decoding))[0]
        for row, key in zip(token_rows, keys(9), strict=True)
    ]
    backwards = generation.sample(
        model, token_rows[::-1], keys(9)[::-1], sampling(decoding=decoding)
    )
    assert together == alone == backwards[::-1]


def test_samples_of_one_prompt_differ_and_repeat(model, token_rows):
    first, second = (
        generation.sample(model, token_rows, keys(9, sample), sampling()) for sample in (0, 1)
    )
    assert first != second
    assert first == generation.sample(model, token_rows, keys(9), sampling())


def test_greedy_decoding_equals_decoding_without_a_cache(model, token_rows):
    continuation = generation.sample(
        model, token_rows[1:2], keys(1), sampling(decoding="greedy", max_new_tokens=5)
    )[0]
    row = list(token_rows[1])
    for _ in range(5):
        row.append(int(model(torch.tensor([row]))[0, -1, :60].argmax()))
    assert continuation == row[7:]


def test_steered_decoding_equals_steering_without_a_cache(model, token_rows):
    """Only the last position of each pass is shifted, so cached positions keep the shift they got
    when they were last. In the last layer the shift reaches no key or value, so a pass without a
    cache is the same.
    """
    shift_LD = torch.zeros(2, 32)
    shift_LD[1, :8] = 1.0
    shift = Shift(shift_LD)
    strengths = torch.tensor([0.0, 6.0])
    with intervention.steered(model, shift, strengths, "last"):
        continuations = generation.sample(
            model, [token_rows[1]] * 2, keys(2), sampling(decoding="greedy", max_new_tokens=6)
        )
    for continuation, strength in zip(continuations, strengths, strict=True):
        row = list(token_rows[1])
        with intervention.steered(model, shift, strength[None], "last"):
            for _ in continuation:
                row.append(int(model(torch.tensor([row]))[0, -1, :60].argmax()))
        assert continuation == row[7:]
    assert continuations[0] != continuations[1]


class Batch(NamedTuple):
    """Rows of some prompts at some strengths: every prompt twice at every strength."""

    prompts: list[list[int]]
    keys: list[int]
    strength_B: torch.Tensor


@pytest.fixture
def batch(token_rows):
    """Prompts of several lengths, one of a single token, at three strengths and two samples."""
    prompts = [*token_rows[:4], token_rows[4][:1]]
    draws = list(product(range(len(prompts)), range(2), (0.0, 2.0, 6.0)))
    return Batch(
        [prompts[prompt] for prompt, _, _ in draws],
        [generation.row_key(f"prompt {prompt}", sample, 0) for prompt, sample, _ in draws],
        torch.tensor([strength for _, _, strength in draws]),
    )


@pytest.fixture
def shift():
    return Shift(0.3 * torch.randn(2, 32, generator=torch.Generator().manual_seed(3)))


def continuations(model, batch, shift, positions, *, shared, **changes):
    with intervention.steered(model, shift, batch.strength_B, positions) as steering:
        return generation.sample(
            model, batch.prompts, batch.keys, sampling(**changes), steering if shared else None
        )


@pytest.mark.parametrize("decoding", ["greedy", "nucleus"])
@pytest.mark.parametrize("positions", ["last", "all"])
def test_a_shared_prompt_is_continued_as_if_read_by_each_row(
    model, batch, shift, positions, decoding
):
    shared, alone = (
        continuations(model, batch, shift, positions, shared=shared, decoding=decoding)
        for shared in (True, False)
    )
    assert shared == alone
    assert len(set(map(tuple, shared))) > 8


@pytest.mark.parametrize(("positions", "n_readings"), [("last", 5), ("all", 15)])
def test_a_prompt_is_read_once_for_its_strengths_and_samples(
    model, batch, shift, positions, n_readings
):
    shapes = []
    model.blocks[0].register_forward_pre_hook(lambda _, inputs: shapes.append(inputs[0].shape[:2]))
    continuations(model, batch, shift, positions, shared=True, eos_id=63)
    assert shapes == [(n_readings, 6)] + 10 * [(30, 1)]


def test_a_row_with_strength_zero_continues_as_the_unsteered_model(model, batch, shift):
    steered, unsteered = (
        continuations(model, batch, applied, "last", shared=True)
        for applied in (shift, Shift(torch.zeros(2, 32)))
    )
    of_zero = [i for i, strength in enumerate(batch.strength_B.tolist()) if not strength]
    assert [steered[i] for i in of_zero] == [unsteered[i] for i in of_zero]
    assert steered != unsteered


def test_rows_that_have_ended_leave_the_batch(model, batch, shift, monkeypatch):
    endless = continuations(model, batch, shift, "last", shared=True, eos_id=63)
    eos = Counter(id_ for row in endless for id_ in row[:5]).most_common(1)[0][0]
    expected = [row[: row.index(eos)] if eos in row else row for row in endless]
    monkeypatch.setattr(generation, "TOKENS_PER_LOOK", 2)
    monkeypatch.setattr(generation, "LEAVING_SHARE", 0.01)
    sizes = []
    model.blocks[0].register_forward_pre_hook(lambda _, inputs: sizes.append(len(inputs[0])))
    assert continuations(model, batch, shift, "last", shared=True, eos_id=eos) == expected
    assert sizes[1] == 30 and sizes[-1] < 25
    assert sizes[1:] == sorted(sizes[1:], reverse=True)


def test_the_end_of_document_stops_its_row_alone(model, token_rows):
    never_sampled = sampling(decoding="greedy", eos_id=63)
    endless = generation.sample(model, token_rows, keys(9), never_sampled)
    eos = endless[0][4]
    assert any(eos not in row for row in endless)
    stopped = generation.sample(model, token_rows, keys(9), sampling(decoding="greedy", eos_id=eos))
    assert stopped == [row[: row.index(eos)] if eos in row else row for row in endless]


def test_ids_that_the_tokenizer_lacks_are_never_sampled(model, token_rows):
    model.embedding.weight[60:] = 50 * model.embedding.weight[:4]
    rows = generation.sample(model, token_rows, keys(9), sampling(top_p=1.0))
    assert max(max(row, default=0) for row in rows) < 60


@given(seed=st.integers(0, 999), top_p=st.floats(0.05, 1.0))
def test_the_nucleus_is_the_smallest_set_that_holds_top_p(seed, top_p):
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(1, 20, generator=generator)
    p = torch.softmax(logits, -1)[0]
    u = torch.linspace(0, 1, 200, dtype=torch.float64)[:-1]
    sampled = set(generation.nucleus(logits.expand(len(u), -1), top_p, u).tolist())
    order = p.argsort(descending=True)
    # rounding may admit one more id of almost no probability
    size = int((p[order].cumsum(0) < top_p + 1e-6).sum()) + 1
    assert sampled <= set(order[:size].tolist())
    assert int(order[0]) in sampled


def test_nucleus_samples_have_the_renormalised_probabilities():
    logits = torch.log(torch.tensor([[0.1, 0.5, 0.05, 0.3, 0.05]])).expand(20_000, -1)
    u = torch.linspace(0, 1, 20_001, dtype=torch.float64)[:-1]
    shares = np.bincount(generation.nucleus(logits, 0.85, u), minlength=5) / 20_000
    assert shares.tolist() == pytest.approx([0.1 / 0.9, 0.5 / 0.9, 0, 0.3 / 0.9, 0], abs=1e-3)


def test_sampling_a_few_rows_at_a_time_samples_the_same_ids(monkeypatch):
    logits = 3 * torch.randn(50, 64, generator=torch.Generator().manual_seed(0))
    u = torch.rand(50, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    ids = generation.nucleus(logits, 0.9, u)
    monkeypatch.setattr(generation, "CPU_LOGITS", 3 * 64)
    assert torch.equal(generation._next_ids(logits, u, sampling(top_p=0.9)), ids)


def test_rounding_that_swaps_near_ties_swaps_no_samples():
    logits = torch.zeros(1, 50)
    u = torch.linspace(0, 1, 1000, dtype=torch.float64)[:-1]
    ties = generation.nucleus(logits.expand(len(u), -1), 1.0, u)
    noise = 1e-6 * torch.randn(1, 50, generator=torch.Generator().manual_seed(0))
    near_ties = generation.nucleus((logits + noise).expand(len(u), -1), 1.0, u)
    assert (ties == near_ties).double().mean() > 0.99


def test_a_long_prompt_keeps_its_end(model):
    row = torch.randint(1, 60, (300,), generator=torch.Generator().manual_seed(0)).tolist()
    end_alone = generation.sample(model, [row[-118:]], keys(1), sampling())
    assert generation.sample(model, [row], keys(1), sampling()) == end_alone


@pytest.mark.parametrize("prompt", [[5, 6], []])
def test_a_prompt_that_cannot_be_continued_is_refused(model, prompt):
    with pytest.raises(ConfigurationError, match="128 positions"):
        generation.sample(model, [prompt], keys(1), sampling(max_new_tokens=128))


def test_rows_are_padded_at_the_left():
    tokens, padding = generation.left_padded([[5], [6, 7, 8]], 0)
    assert tokens.tolist() == [[0, 0, 5], [6, 7, 8]]
    assert padding.tolist() == [2, 0]
