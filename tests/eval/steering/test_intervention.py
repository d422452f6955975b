from typing import get_args

import pytest
import torch
from torch import nn

from data_prep.core.errors import ConfigurationError
from eval.config import Control, ProbingConfig
from eval.model.batching import BatchSize
from eval.probing import activations
from eval.probing.directions import Directions, unit_shift
from eval.steering import intervention


@pytest.fixture
def shift(tiny):
    generator = torch.Generator().manual_seed(1)
    theta = nn.functional.normalize(
        torch.randn(tiny.n_layers, tiny.n_heads, tiny.d_head, generator=generator), dim=-1
    )
    sigma = torch.rand(tiny.n_layers, tiny.n_heads, generator=generator) + 0.5
    return unit_shift(Directions(theta, sigma), [(0, 2), (1, 0)])


@pytest.fixture
def tokens(tiny):
    return torch.randint(1, tiny.vocab_size, (4, 6), generator=torch.Generator().manual_seed(2))


def test_the_shift_is_sigma_theta_in_the_chosen_heads_and_nothing_elsewhere(tiny):
    theta = torch.zeros(2, 4, 8)
    theta[..., 3] = 1.0
    shift = unit_shift(Directions(theta, torch.full((2, 4), 2.5)), [(1, 2)])
    expected = torch.zeros(2, 32)
    expected[1, 2 * 8 + 3] = 2.5
    assert torch.equal(shift, expected)


@pytest.mark.parametrize("positions", ["last", "all"])
def test_a_row_with_strength_zero_keeps_its_bits_beside_steered_rows(
    model, shift, tokens, positions
):
    plain = model(tokens)
    with intervention.steered(model, shift, torch.tensor([0.0, 4.0, 0.0, 8.0]), positions):
        steered = model(tokens)
    assert torch.equal(steered[[0, 2]], plain[[0, 2]])
    assert not torch.allclose(steered[[1, 3]], plain[[1, 3]], atol=1e-3)


def test_strength_zero_keeps_even_negative_zeros():
    x = torch.tensor([[[-0.0, 0.0, 1.0]]])
    out = intervention._adding(torch.zeros(1, 3), "all")(x)
    assert torch.signbit(out[0, 0]).tolist() == [True, False, False]


def test_each_row_has_its_own_strength(model, shift, tokens):
    strengths = torch.tensor([1.0, 2.0, 4.0, -3.0])
    with intervention.steered(model, shift, strengths, "all"):
        together = model(tokens)
    for row, strength in enumerate(strengths):
        with intervention.steered(model, shift, strength[None], "all"):
            assert torch.allclose(model(tokens[row : row + 1])[0], together[row], atol=1e-4)


def test_last_changes_only_the_last_position_and_all_every_one(model, shift, tokens):
    plain = model(tokens)
    for positions, expected in (("last", [False] * 5 + [True]), ("all", [True] * 6)):
        with intervention.steered(model, shift, torch.full((4,), 4.0), positions):
            changed = (model(tokens) != plain).any(-1)
        assert changed.tolist() == [expected] * 4


def test_the_shift_reaches_the_output_projection_as_alpha_sigma_theta(model, shift, tokens):
    seen = []
    with intervention.steered(model, shift, torch.full((4,), 3.0), "all"):
        handle = model.blocks[0].attention.out.register_forward_pre_hook(
            lambda _, inputs: seen.append(inputs[0])
        )
        model(tokens)
        handle.remove()
    handle = model.blocks[0].attention.out.register_forward_pre_hook(
        lambda _, inputs: seen.append(inputs[0])
    )
    model(tokens)
    handle.remove()
    assert torch.allclose(seen[0] - seen[1], (3.0 * shift[0]).expand(4, 6, -1), atol=1e-5)


def test_the_hooks_are_gone_after_an_exception(model, shift, tokens):
    plain = model(tokens)
    with (
        pytest.raises(RuntimeError, match="inside"),
        intervention.steered(model, shift, torch.ones(4), "all"),
    ):
        raise RuntimeError("inside")
    assert torch.equal(model(tokens), plain)


def test_a_bias_on_the_output_projection_equals_steering_at_all_positions(model, shift, tokens):
    with intervention.steered(model, shift, torch.full((4,), 4.0), "all"):
        hooked = model(tokens)
    for block, bias_D in zip(
        model.blocks, intervention.output_bias(model, shift, 4.0), strict=True
    ):
        block.attention.out.bias = nn.Parameter(bias_D)
    assert torch.allclose(model(tokens), hooked, atol=1e-4)


@pytest.mark.parametrize("site", ["mlp", "residual"])
def test_other_sites_are_steered_and_read_where_they_are(model, shift, tokens, site):
    ids, rows = [str(i) for i in range(4)], tokens.tolist()

    def read():
        return activations.collect(
            model,
            dict(zip(ids, rows, strict=True)),
            ProbingConfig(site=site),
            batch=BatchSize(4),
            advance=lambda n: None,
        ).values_LRNH[:, :, 0]

    plain, logits = read(), model(tokens)
    first = torch.cat(
        [shift[:1], torch.zeros_like(shift[:1])]
    )  # layer 0 alone, so that layer 0's reading is all it changes there
    with intervention.steered(model, first, torch.tensor([0.0, 2.0, 0.0, -1.0]), "all", site):
        changed, steered = read(), model(tokens)
    assert torch.allclose(
        changed[0] - plain[0], torch.tensor([0.0, 2.0, 0.0, -1.0])[:, None] * shift[0], atol=1e-5
    )
    assert torch.equal(steered[[0, 2]], logits[[0, 2]]) and not torch.allclose(
        steered[1], logits[1], atol=1e-3
    )
    assert torch.equal(model(tokens), logits)


def test_the_residual_stream_leaves_a_block_as_its_mlp_and_its_heads_make_it(model, token_rows):
    def read(site):
        ids = [str(i) for i in range(len(token_rows))]
        return activations.collect(
            model,
            dict(zip(ids, token_rows, strict=True)),
            ProbingConfig(site=site),
            batch=BatchSize(9),
            advance=lambda n: None,
        ).values_LRNH.flatten(2)

    heads, mlp, residual = read("heads"), read("mlp"), read("residual")
    written = heads[1] @ model.blocks[1].attention.out.weight.T + mlp[1]
    assert torch.allclose(residual[1] - residual[0], written, atol=1e-4)


def test_the_controls_shift_as_far_as_the_steering_they_control(tiny):
    generator = torch.Generator().manual_seed(1)
    theta = nn.functional.normalize(torch.randn(2, 4, 8, generator=generator), dim=-1)
    found, heads = Directions(theta, torch.full((2, 4), 2.5)), [(0, 2), (1, 0), (1, 3)]
    shift = unit_shift(found, heads)
    made = {
        control: intervention.control_shift(control, found, heads, 0)
        for control in get_args(Control)
    }
    for control, of_control in made.items():
        norms = of_control.unflatten(1, (4, 8)).norm(dim=-1)
        assert norms.flatten().sort().values.tolist() == pytest.approx(
            [0.0] * 5 + [2.5] * 3, abs=1e-5
        ), control
        assert not torch.allclose(of_control, shift)
    assert torch.equal(made["flipped"], -shift)
    steered_heads = [
        set(map(tuple, s.unflatten(1, (4, 8)).norm(dim=-1).nonzero().tolist()))
        for s in (made["random_heads"], shift)
    ]
    assert not steered_heads[0] & steered_heads[1]
    assert torch.equal(
        intervention.control_shift("random_heads", found, heads, 0), made["random_heads"]
    )
    assert not torch.equal(
        intervention.control_shift("random_directions", found, heads, 1), made["random_directions"]
    )


def test_random_heads_are_refused_where_too_few_are_left():
    found = Directions(torch.zeros(1, 3, 2), torch.zeros(1, 3))
    with pytest.raises(
        ConfigurationError, match="needs as many other heads as are steered: 2 of 3 are"
    ):
        intervention.control_shift("random_heads", found, [(0, 0), (0, 1)], 0)
