from collections import Counter
from itertools import product
from typing import NamedTuple

import numpy as np
import pytest
import torch

from data_prep.core import keyed_random
from data_prep.core.errors import ConfigurationError
from eval.config import Positions
from eval.model import generation
from eval.model.generation import Sampling, Slots
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


@pytest.fixture
def passes(model):
    """The rows and tokens of each pass."""
    shapes = []
    model.blocks[0].register_forward_pre_hook(
        lambda _, inputs: shapes.append(tuple(inputs[0].shape[:2]))
    )
    return shapes


def continuations(model, batch, shift, positions: Positions = "last", slots=None, **changes):
    with intervention.steered(model, shift, batch.strength_B, positions) as steering:
        return generation.sample(
            model, batch.prompts, batch.keys, sampling(**changes), steering, slots
        )


def one_by_one(model, batch, shift, positions, decoding):
    """A plain reference: each row alone, its prompt whole, steered as ITI is."""
    rows = []
    for tokens, key, strength in zip(batch.prompts, batch.keys, batch.strength_B, strict=True):
        u_S = keyed_random.uniforms(np.array([key], dtype=np.uint64)[:, None], np.arange(10))[0]
        cache = model.empty_cache(1, len(tokens) + 10)
        continuation = []
        with intervention.steered(model, shift, strength[None], positions):
            for u in u_S:
                read = tokens if not continuation else continuation[-1:]
                hidden = model.hidden(torch.tensor([read]), cache=cache)
                logits = model.unembed(hidden)[0, -1, :60]
                continuation.append(drawn(logits.double(), u, decoding))
        rows.append(
            continuation[: continuation.index(EOS)] if EOS in continuation else continuation
        )
    return rows


def drawn(logits_V, u, decoding):
    """The likeliest id, or the one at quantile u of the smallest set that holds 0.9, by id."""
    if decoding == "greedy":
        return int(logits_V.argmax())
    p_V = torch.softmax(logits_V, -1)
    order = p_V.argsort(descending=True).tolist()
    held = list(np.cumsum(p_V.numpy()[order]))
    kept = sorted(order[: 1 + next(i for i, mass in enumerate(held) if mass >= 0.9)])
    cumulative = np.cumsum(p_V.numpy()[kept])
    return kept[int((cumulative <= u * cumulative[-1]).sum())]


@pytest.mark.parametrize("decoding", ["greedy", "nucleus"])
@pytest.mark.parametrize("positions", ["last", "all"])
@pytest.mark.parametrize("n_slots", [30, 4])
def test_rows_are_continued_as_one_by_one(model, batch, shift, positions, decoding, n_slots):
    rows = continuations(model, batch, shift, positions, Slots(n_slots), decoding=decoding)
    assert rows == one_by_one(model, batch, shift, positions, decoding)
    assert len(set(map(tuple, rows))) > 8


@pytest.mark.parametrize(("positions", "n_readings"), [("last", 5), ("all", 15)])
def test_a_prompt_is_read_once_for_its_strengths_and_samples(
    model, batch, shift, passes, positions, n_readings
):
    continuations(model, batch, shift, positions, eos_id=63)
    assert passes == [(n_readings, 6)] + 10 * [(30, 1)]


def test_a_prompt_with_more_rows_than_slots_is_read_once(model, batch, shift, passes):
    continuations(model, batch, shift, slots=Slots(4), eos_id=63)
    assert sum(n_rows for n_rows, n_tokens in passes if n_tokens > 1) == 4


def test_a_row_with_strength_zero_continues_as_the_unsteered_model(model, batch, shift):
    steered, unsteered = (
        continuations(model, batch, applied) for applied in (shift, Shift(torch.zeros(2, 32)))
    )
    of_zero = [i for i, strength in enumerate(batch.strength_B.tolist()) if not strength]
    assert [steered[i] for i in of_zero] == [unsteered[i] for i in of_zero]
    assert steered != unsteered


@pytest.fixture
def early_ends(model, batch, shift):
    """An id that ends many rows early, one at its first token, and what then is expected."""
    endless = continuations(model, batch, shift, eos_id=63)
    eos = Counter(id_ for row in endless for id_ in set(row[:5])).most_common(1)[0][0]
    eos = next(id_ for id_ in (eos, endless[0][0]) if any(row[0] == id_ for row in endless))
    expected = [row[: row.index(eos)] if eos in row else row for row in endless]
    assert [] in expected and any(len(row) == 10 for row in expected)
    return eos, expected


@pytest.mark.parametrize("n_slots", [1, 2, 7, 29, 30, 100])
@pytest.mark.parametrize("tokens_per_look", [1, 3, 8])
def test_slots_and_looks_change_no_row(
    model, batch, shift, early_ends, n_slots, tokens_per_look, monkeypatch
):
    eos, expected = early_ends
    monkeypatch.setitem(generation.TOKENS_PER_LOOK, "cpu", tokens_per_look)
    assert continuations(model, batch, shift, slots=Slots(n_slots), eos_id=eos) == expected


@pytest.mark.parametrize("seed", range(5))
def test_the_order_of_rows_changes_none(model, batch, shift, early_ends, seed):
    eos, expected = early_ends
    order = torch.randperm(30, generator=torch.Generator().manual_seed(seed)).tolist()
    shuffled = Batch(
        [batch.prompts[i] for i in order], [batch.keys[i] for i in order], batch.strength_B[order]
    )
    rows = continuations(model, shuffled, shift, slots=Slots(5), eos_id=eos)
    assert rows == [expected[i] for i in order]


def test_prompts_read_in_many_passes_change_no_row(model, batch, shift, early_ends, monkeypatch):
    eos, expected = early_ends
    monkeypatch.setitem(generation.PASS_TOKENS, "cpu", 1)
    assert continuations(model, batch, shift, slots=Slots(5), eos_id=eos) == expected


def test_a_row_that_ends_leaves_its_slot_to_the_next(
    model, batch, shift, early_ends, passes, monkeypatch
):
    eos, expected = early_ends
    monkeypatch.setitem(generation.TOKENS_PER_LOOK, "cpu", 1)
    n_ended = []
    passes.clear()
    continuations(model, batch, shift, slots=Slots(6, n_ended.append), eos_id=eos)
    decoding = [n_rows for n_rows, n_tokens in passes if n_tokens == 1]
    assert sum(decoding) == sum(min(10, len(row) + 1) for row in expected)
    assert decoding == sorted(decoding, reverse=True) and decoding[0] == 6
    assert sum(n_ended) == 30


def test_many_rows_pass_through_few_slots_with_a_small_cache(model, batch, shift, monkeypatch):
    caches = []
    empty_cache = model.empty_cache
    monkeypatch.setattr(
        model, "empty_cache", lambda *size: caches.append(empty_cache(*size)) or caches[-1]
    )
    continuations(model, batch, shift, slots=Slots(3))
    slots = caches[0]
    assert slots.max_length == 6 + 10 + 10  # of 30 rows, a tenth at a time


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


def test_a_long_prompt_keeps_its_end(model):
    row = torch.randint(1, 60, (300,), generator=torch.Generator().manual_seed(0)).tolist()
    end_alone = generation.sample(model, [row[-118:]], keys(1), sampling())
    assert generation.sample(model, [row], keys(1), sampling()) == end_alone


def test_long_prompts_keep_their_ends_beside_short_ones(model, token_rows):
    generator = torch.Generator().manual_seed(0)
    rows = [torch.randint(1, 60, (n,), generator=generator).tolist() for n in (300, 118, 119, 500)]
    rows = [*token_rows, *rows, *token_rows]
    together = generation.sample(model, rows, range(22), sampling(), slots=Slots(4))
    alone = [generation.sample(model, [row], [key], sampling())[0] for key, row in enumerate(rows)]
    assert together == alone


def test_no_new_tokens_and_no_prompts_are_no_work(model, token_rows, passes):
    assert generation.sample(model, token_rows, keys(9), sampling(max_new_tokens=0)) == [[]] * 9
    assert generation.sample(model, [], [], sampling()) == []
    assert passes == []


@pytest.mark.parametrize("prompt", [[5, 6], []])
def test_a_prompt_that_cannot_be_continued_is_refused(model, prompt):
    with pytest.raises(ConfigurationError, match="128 positions"):
        generation.sample(model, [prompt], keys(1), sampling(max_new_tokens=128))


def test_rows_are_padded_at_the_left():
    tokens, padding = generation.left_padded([[5], [6, 7, 8]], 0)
    assert tokens.tolist() == [[0, 0, 5], [6, 7, 8]]
    assert padding.tolist() == [2, 0]
