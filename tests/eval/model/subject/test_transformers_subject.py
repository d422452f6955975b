"""laws of every family that can be evaluated, against transformers and plain hooks on it"""

import os
from contextlib import contextmanager
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"

import pytest
import torch
from model_families import FAMILIES, N_IDS, build, parts
from tolerances import FP32_VALUE, assert_fp32_close
from torch import nn
from torch.autograd.functional import jvp

from eval.config import ProbingConfig
from eval.model import generation, hook_points, token_scores
from eval.model.batch_size import BatchSize
from eval.model.generation import Sampling, Slots
from eval.model.subject.architectures import ARCHITECTURES
from eval.model.subject.transformers_subject import TransformersSubject
from eval.probing import activations
from eval.steering import intervention
from eval.steering.intervention import Shift

pytest.importorskip("transformers", reason="the parity oracle is not installed")

STRENGTHS = torch.tensor([0.0, 2.0, -1.0, 4.0])
GREEDY = Sampling(max_new_tokens=8, decoding="greedy", top_p=1.0, eos_id=0, n_ids=N_IDS)


@pytest.fixture(scope="module", params=FAMILIES)
def theirs(request):
    return build(request.param)


@pytest.fixture(scope="module")
def subject(theirs):
    return TransformersSubject(theirs, ARCHITECTURES[type(theirs).__name__])


@pytest.fixture(scope="module")
def rows():
    """Four rows of different lengths, one longer than two windows."""
    generator = torch.Generator().manual_seed(1)
    return [torch.randint(1, N_IDS, (n,), generator=generator).tolist() for n in (12, 7, 1, 4)]


@pytest.fixture(scope="module")
def tokens():
    return torch.randint(1, N_IDS, (4, 11), generator=torch.Generator().manual_seed(2))


@pytest.fixture(scope="module")
def shift(subject):
    """Of two layers, the last one among them."""
    shape = subject.shape
    shift_LD = torch.randn(
        shape.n_layers, shape.n_heads * shape.d_head, generator=torch.Generator().manual_seed(3)
    )
    shift_LD[1] = 0
    return Shift(0.5 * shift_LD)


@contextmanager
def plain_steering(model, shift, strength_B, positions):
    """Inference-time intervention by hooks that know nothing of the product."""

    def hook_of(layer):
        def hook(_, inputs):
            x_BTD = inputs[0].clone()
            offset_BD = strength_B[:, None] * shift.values_LD[layer]
            if positions == "all":
                x_BTD += offset_BD[:, None]
            else:
                x_BTD[:, -1] += offset_BD
            return (x_BTD,)

        return hook

    handles = [
        part.projection.register_forward_pre_hook(hook_of(layer))
        for layer, part in enumerate(parts(model))
    ]
    yield
    for handle in handles:
        handle.remove()


def read(subject, rows, site):
    """[L, R, D] of the last tokens of rows."""
    values = activations.collect(
        subject,
        {str(i): row for i, row in enumerate(rows)},
        ProbingConfig(site=site),
        batch=BatchSize(9),
        advance=lambda n: None,
    )
    return values.values_LRNH.flatten(2)


def last_position(model, rows, module_of, is_input):
    """[L, R, D]: what modules get or give at the last token of each row, which goes alone."""
    seen = []

    def keep(x):
        seen.append((x[0] if isinstance(x, tuple) else x)[0, -1])

    handles = [
        module_of(part).register_forward_pre_hook(lambda _, inputs: keep(inputs))
        if is_input
        else module_of(part).register_forward_hook(lambda _, __, output: keep(output))
        for part in parts(model)
    ]
    for row in rows:
        model(torch.tensor([row]))
    for handle in handles:
        handle.remove()
    return torch.stack(seen).unflatten(0, (len(rows), -1)).transpose(0, 1)


def test_logits_and_cross_entropy_are_those_of_transformers(theirs, subject, tokens):
    expected = theirs(tokens, labels=tokens)
    hidden = subject.hidden(tokens)
    assert_fp32_close(subject.unembed(hidden), expected.logits)
    scores = token_scores.score_tokens(
        subject, hidden[:, :-1].flatten(0, 1), tokens[:, 1:].flatten()
    )
    assert float(-scores.logprob_N.mean()) == pytest.approx(float(expected.loss), rel=FP32_VALUE)


def test_the_shape_is_that_of_the_config(theirs, subject):
    config: Any = theirs.config
    shape = subject.shape
    projection: Any = parts(theirs)[0].projection
    assert shape.n_heads * shape.d_head == projection.weight.numel() // 32
    assert shape.d_head == (getattr(config, "head_dim", None) or 8)
    assert shape[:3] == (3, 4, getattr(config, "num_key_value_heads", 4))
    assert (shape.d_model, shape.d_mlp, shape.vocab_size) == (32, 48, 320)
    assert shape.max_sequence_length == 128


def test_heads_are_read_where_plain_hooks_read_them(theirs, subject, rows):
    expected = last_position(theirs, rows, lambda part: part.projection, True)
    assert_fp32_close(read(subject, rows, "heads"), expected)


def test_the_residual_stream_is_the_hidden_states_of_transformers(theirs, subject, rows):
    residual_LRD = read(subject, rows, "residual")
    norm: Any = getattr(subject._body, subject._architecture.final_norm)
    for r, row in enumerate(rows):
        states = theirs(torch.tensor([row]), output_hidden_states=True).hidden_states
        expected = torch.stack([state[0, -1] for state in states[1:]])
        before_norm_LD = residual_LRD[:, r].clone()
        before_norm_LD[-1] = norm(before_norm_LD[-1])
        assert_fp32_close(before_norm_LD, expected)


def test_the_stream_grows_by_attention_and_what_is_read_as_mlp(theirs, subject, rows):
    attention_LRD = last_position(
        theirs, rows, lambda part: part.norm_after_attention or part.attention, False
    )
    mlp_LRD, residual_LRD = (read(subject, rows, site) for site in ("mlp", "residual"))
    grown_LRD = residual_LRD[1:] - residual_LRD[:-1]
    # both sides are sums of the stream, whose rounding the difference keeps
    atol = FP32_VALUE * float(residual_LRD.abs().max())
    torch.testing.assert_close(grown_LRD, (attention_LRD + mlp_LRD)[1:], atol=atol, rtol=0)


def values_of_head(attention, head):
    """The parameters that make the values of one key and value head, a view."""
    if hasattr(attention, "v_proj"):
        return attention.v_proj.weight.unflatten(0, (-1, attention.head_dim))[head]
    if hasattr(attention, "c_attn"):
        return attention.c_attn.weight.T[64:].unflatten(0, (4, 8))[head]
    return attention.query_key_value.weight.unflatten(0, (4, 3, 8))[head, 2]


def test_head_h_of_the_projection_input_is_head_h(theirs, subject, tokens):
    """The values of a key and value head reach the heads of its group in the first layer."""
    seen = []
    attention = parts(theirs)[0].attention
    n_in_group = subject.shape.n_heads // subject.shape.n_kv_heads
    for head in range(subject.shape.n_kv_heads):
        seen.clear()
        with hook_points.hooked(subject, "heads", {0: lambda x: seen.append(x.clone())}):
            subject.hidden(tokens)
            values = values_of_head(attention, head)
            before = values.clone()
            values += 0.1
            subject.hidden(tokens)
            values.copy_(before)
        is_changed_D = (seen[1] != seen[0]).flatten(0, 1).any(0)
        changed = is_changed_D.view(subject.shape.n_heads, -1).any(1).nonzero()[:, 0].tolist()
        assert changed == list(range(head * n_in_group, (head + 1) * n_in_group))


@pytest.mark.parametrize("positions", ["last", "all"])
def test_a_steered_pass_equals_plain_hooks(theirs, subject, shift, tokens, positions):
    with plain_steering(theirs, shift, STRENGTHS, positions):
        expected = theirs(tokens).logits
    with intervention.steered(subject, shift, STRENGTHS, positions):
        steered = subject.unembed(subject.hidden(tokens))
    assert_fp32_close(steered.log_softmax(-1), expected.log_softmax(-1))
    unsteered = subject.unembed(subject.hidden(tokens))
    assert torch.equal(steered[0], unsteered[0])  # α = 0, to the bit
    assert not torch.allclose(steered[1], unsteered[1], atol=1e-2)


@pytest.mark.parametrize("site", ["mlp", "residual"])
def test_other_sites_are_steered_where_they_are_read(subject, rows, tokens, site):
    shift_LD = torch.zeros(3, 32)
    shift_LD[0, :9] = (
        0.5  # layer 0 alone, so that its reading changes by the shift and nothing else
    )
    before = read(subject, tokens.tolist(), site)
    with intervention.steered(subject, Shift(shift_LD, site), STRENGTHS, "all"):
        after = read(subject, tokens.tolist(), site)
    atol = FP32_VALUE * float(after[0].abs().max())
    expected = STRENGTHS[:, None] * shift_LD[0]
    torch.testing.assert_close(after[0] - before[0], expected, atol=atol, rtol=0)
    assert not torch.allclose(after[2, 1], before[2, 1], atol=1e-2)


@pytest.mark.parametrize("positions", ["last", "all"])
def test_steered_decoding_equals_hooks_on_generate(theirs, subject, shift, rows, positions):
    """Greedy, in one batch of unequal prompts, each at its own strength, token by token."""
    tokens_BT, padding_B = generation.left_padded(rows, 0)
    with plain_steering(theirs, shift, STRENGTHS, positions):
        generated = theirs.generate(
            tokens_BT,
            attention_mask=(torch.arange(12) >= padding_B[:, None]).long(),
            do_sample=False,
            max_new_tokens=8,
            eos_token_id=None,
            pad_token_id=0,
            suppress_tokens=list(range(N_IDS, 320)),
        )[:, 12:].tolist()
    # an id that no row samples ends documents, so that every row has all its tokens
    never = next(i for i in range(N_IDS) if all(i not in row for row in generated))
    keys, greedy = list(range(4)), GREEDY._replace(eos_id=never)
    with intervention.steered(subject, shift, STRENGTHS, positions) as steering:
        together = generation.sample(subject, rows, keys, greedy, steering)
        in_turns = generation.sample(subject, rows, keys, greedy, steering, Slots(3))
    assert together == in_turns == generated
    assert len(set(map(tuple, generated))) == 4


def test_rows_of_a_cache_can_be_chosen_repeated_and_kept(subject, tokens):
    cache = subject.empty_cache(4, 11)
    subject.hidden(tokens[:, :8], cache=cache)
    kept = cache.select(torch.tensor([2, 2, 0]), 11, is_kept=True)
    rest = subject.hidden(tokens[[2, 2, 0], 8:], cache=kept)
    assert kept.length == 11 and cache.length == 8
    assert_fp32_close(rest, subject.hidden(tokens)[[2, 2, 0], 8:])
    assert_fp32_close(subject.hidden(tokens[:, 8:], cache=cache), subject.hidden(tokens)[:, 8:])


@pytest.mark.parametrize("n_slots", [1, 2, 5])
def test_rows_that_end_leave_their_slot_to_the_next(subject, shift, rows, n_slots):
    """Prompts longer and shorter than what slots have read, many rows and early ends."""
    prompts = [row[-n:] for n in (12, 1, 3, 7) for row in rows]
    strengths, keys = STRENGTHS.repeat(4), list(range(16))
    nucleus = GREEDY._replace(decoding="nucleus", top_p=0.9, max_new_tokens=6, eos_id=N_IDS + 1)
    with intervention.steered(subject, shift, strengths, "last") as steering:
        endless = generation.sample(subject, prompts, keys, nucleus, steering)
        eos = endless[0][2]
        ending = nucleus._replace(eos_id=eos)
        ended = generation.sample(subject, prompts, keys, ending, steering, Slots(n_slots))
    assert ended == [row[: row.index(eos)] if eos in row else row for row in endless]


def derivative(function, x_D, change_D) -> Any:
    """Of a function at x, along a change."""
    return jvp(function, x_D, change_D)[1]


def test_the_lens_is_the_derivative_of_the_logits(theirs, subject):
    """Up to a positive factor, for a change that leaves the stream's size as it is."""
    generator = torch.Generator().manual_seed(4)
    x_D, change_D = torch.randn(2, 32, generator=generator)
    norm = getattr(subject._body, subject._architecture.final_norm)
    subtracts_mean = isinstance(norm, nn.LayerNorm) or type(norm).__name__ == "OlmoLayerNorm"
    centred_D = x_D - subtracts_mean * x_D.mean()
    change_D -= (change_D @ centred_D) / (centred_D @ centred_D) * centred_D
    expected_V = derivative(lambda x: theirs.lm_head(norm(x)), x_D, change_D)
    lens_V = subject.lens(change_D[None], 300)[0]
    assert lens_V.shape == (300,)
    scale = float(expected_V[:300] @ lens_V / (lens_V @ lens_V))
    assert scale > 0
    assert_fp32_close(scale * lens_V, expected_V[:300])


def test_a_change_of_attention_reaches_the_stream_through_its_norm(theirs, subject):
    generator = torch.Generator().manual_seed(5)
    x_D, change_D = torch.randn(2, 32, generator=generator)
    change_D -= (change_D @ x_D) / (x_D @ x_D) * x_D
    norm = parts(theirs)[1].norm_after_attention
    written_D = subject.to_residual(1, change_D[None])[0]
    if norm is None:
        assert torch.equal(written_D, change_D)
        return
    expected_D = derivative(norm, x_D, change_D)
    scale = float(expected_D @ written_D / (written_D @ written_D))
    assert scale > 0
    assert_fp32_close(scale * written_D, expected_D)
