import pytest
import torch
from tolerances import FP32_VALUE, U_FP32, assert_fp32_close
from torch import nn

from data_prep.core.errors import ConfigurationError
from eval.config import ProbingConfig
from eval.model.loaded_model import BatchSize
from eval.probing import activations
from eval.probing.directions import Directions, unit_shift
from eval.steering import intervention
from eval.steering.intervention import Shift, SteeredRows


@pytest.fixture
def shift(tiny):
    generator = torch.Generator().manual_seed(1)
    theta = nn.functional.normalize(
        torch.randn(tiny.n_layers, tiny.n_heads, tiny.d_head, generator=generator), dim=-1
    )
    sigma = torch.rand(tiny.n_layers, tiny.n_heads, generator=generator) + 0.5
    return Shift(unit_shift(Directions(theta, sigma), [(0, 2), (1, 0)]))


@pytest.fixture
def tokens(tiny):
    return torch.randint(1, tiny.vocab_size, (4, 6), generator=torch.Generator().manual_seed(2))


def read_activations(model, rows, site):
    """[L, R, D] of token rows."""
    read = activations.collect(
        model,
        {str(i): row for i, row in enumerate(rows)},
        ProbingConfig(site=site),
        batch=BatchSize(9),
        advance=lambda n: None,
    )
    return read.values_LRNH.flatten(2)


def test_the_shift_is_sigma_theta_in_the_selected_heads_alone():
    theta = torch.zeros(2, 4, 8)
    theta[..., 3] = 1.0
    shift_LD = unit_shift(Directions(theta, torch.full((2, 4), 2.5)), [(1, 2)])
    expected = torch.zeros(2, 32)
    expected[1, 2 * 8 + 3] = 2.5
    assert torch.equal(shift_LD, expected)


@pytest.mark.parametrize("positions", ["last", "all"])
def test_a_row_with_strength_zero_is_bit_identical(model, shift, tokens, positions):
    """Beside rows that are steered."""
    unsteered = model(tokens)
    with intervention.steered(model, shift, torch.tensor([0.0, 4.0, 0.0, 8.0]), positions):
        steered = model(tokens)
    assert torch.equal(steered[[0, 2]], unsteered[[0, 2]])
    assert not torch.allclose(steered[[1, 3]], unsteered[[1, 3]], atol=1e-3)


def test_strength_zero_keeps_even_negative_zeros():
    x = torch.tensor([[[-0.0, 0.0, 1.0]]])
    offset_B1D = intervention._keeping_zeros(torch.zeros(1, 3))[:, None]
    out = intervention._shifted(x, offset_B1D, "all")
    assert torch.signbit(out[0, 0]).tolist() == [True, False, False]


@pytest.mark.numeric
def test_each_row_has_its_own_strength(model, shift, tokens):
    strengths = torch.tensor([1.0, 2.0, 4.0, -3.0])
    with intervention.steered(model, shift, strengths, "all"):
        together = model(tokens)
    for row, strength in enumerate(strengths):
        with intervention.steered(model, shift, strength[None], "all"):
            assert_fp32_close(model(tokens[row : row + 1])[0], together[row])


@pytest.mark.parametrize(
    ("positions", "expected"), [("last", [False] * 5 + [True]), ("all", [True] * 6)]
)
def test_only_the_positions_of_the_mode_change(model, shift, tokens, positions, expected):
    unsteered = model(tokens)
    with intervention.steered(model, shift, torch.full((4,), 4.0), positions):
        is_changed = (model(tokens) != unsteered).any(-1)
    assert is_changed.tolist() == [expected] * 4


def test_the_output_projection_receives_alpha_sigma_theta(model, shift, tokens):
    inputs = []

    def record(_, arguments):
        inputs.append(arguments[0])

    projection = model.blocks[0].attention.out
    with intervention.steered(model, shift, torch.full((4,), 3.0), "all"):
        handle = projection.register_forward_pre_hook(record)
        model(tokens)
        handle.remove()
    handle = projection.register_forward_pre_hook(record)
    model(tokens)
    handle.remove()
    expected = (3.0 * shift.values_LD[0]).expand(4, 6, -1)
    # the same values, plus the shift in one rounded addition
    atol = U_FP32 * inputs[0].abs().max().item()
    torch.testing.assert_close(inputs[0] - inputs[1], expected, atol=2 * atol, rtol=0)


def test_the_hooks_are_removed_after_an_exception(model, shift, tokens):
    unsteered = model(tokens)
    with (
        pytest.raises(RuntimeError, match="inside"),
        intervention.steered(model, shift, torch.ones(4), "all"),
    ):
        raise RuntimeError("inside")
    assert torch.equal(model(tokens), unsteered)


@pytest.mark.numeric
def test_an_output_bias_equals_steering_at_all_positions(model, shift, tokens):
    with intervention.steered(model, shift, torch.full((4,), 4.0), "all"):
        steered = model(tokens)
    biases_LD = intervention.output_bias(model, shift.values_LD, 4.0)
    for block, bias_D in zip(model.blocks, biases_LD, strict=True):
        block.attention.out.bias = nn.Parameter(bias_D)
    assert_fp32_close(model(tokens), steered)


@pytest.mark.parametrize("site", ["mlp", "residual"])
def test_other_sites_are_steered_where_they_are_read(model, shift, tokens, site):
    rows = tokens.tolist()
    before = read_activations(model, rows, site)
    logits = model(tokens)
    # layer 0 alone, so that its reading changes by the shift and nothing else
    first_LD = torch.cat([shift.values_LD[:1], torch.zeros_like(shift.values_LD[:1])])
    strengths = torch.tensor([0.0, 2.0, 0.0, -1.0])
    with intervention.steered(model, Shift(first_LD, site), strengths, "all"):
        after = read_activations(model, rows, site)
        steered = model(tokens)
    expected = strengths[:, None] * first_LD[0]
    # the same values, plus the shift in one rounded addition
    atol = U_FP32 * after[0].abs().max().item()
    torch.testing.assert_close(after[0] - before[0], expected, atol=2 * atol, rtol=0)
    assert torch.equal(steered[[0, 2]], logits[[0, 2]])
    assert not torch.allclose(steered[1], logits[1], atol=1e-3)
    assert torch.equal(model(tokens), logits)


@pytest.mark.numeric
def test_the_residual_stream_grows_by_the_heads_and_the_mlp(model, token_rows):
    heads, mlp, residual = (
        read_activations(model, token_rows, site) for site in ("heads", "mlp", "residual")
    )
    written = heads[1] @ model.blocks[1].attention.out.weight.T + mlp[1]
    # Both sides are sums of the residual stream, whose rounding the difference keeps.
    atol = FP32_VALUE * residual[1].abs().max().item()
    torch.testing.assert_close(residual[1] - residual[0], written, atol=atol, rtol=0)


def head_norms(shift_LD):
    return shift_LD.unflatten(1, (4, 8)).norm(dim=-1)


@pytest.fixture
def directions():
    """Of two layers with four heads."""
    generator = torch.Generator().manual_seed(1)
    theta = nn.functional.normalize(torch.randn(2, 4, 8, generator=generator), dim=-1)
    return Directions(theta, torch.full((2, 4), 2.5))


HEADS = [(0, 2), (1, 0), (1, 3)]


@pytest.mark.parametrize("control", ("random_heads", "random_directions", "flipped"))
def test_a_control_shifts_as_far_as_steering_in_another_way(directions, control):
    steering_LD = unit_shift(directions, HEADS)
    control_LD = intervention.control_shift(control, directions, HEADS, 0)
    norms = head_norms(control_LD).flatten().sort().values.tolist()
    assert norms == pytest.approx([0.0] * 5 + [2.5] * 3, abs=1e-5)
    assert not torch.allclose(control_LD, steering_LD)


def test_flipped_is_the_shift_with_its_sign_changed(directions):
    flipped = intervention.control_shift("flipped", directions, HEADS, 0)
    assert torch.equal(flipped, -unit_shift(directions, HEADS))


def test_random_heads_are_none_of_the_steered_heads(directions):
    shift_LD = intervention.control_shift("random_heads", directions, HEADS, 0)
    shifted = set(map(tuple, head_norms(shift_LD).nonzero().tolist()))
    assert not shifted & set(HEADS)


def test_controls_are_keyed_by_the_seed(directions):
    def control(name, seed):
        return intervention.control_shift(name, directions, HEADS, seed)

    assert torch.equal(control("random_heads", 0), control("random_heads", 0))
    assert not torch.equal(control("random_directions", 0), control("random_directions", 1))


def test_random_heads_are_refused_if_too_few_are_left():
    directions = Directions(torch.zeros(1, 3, 2), torch.zeros(1, 3))
    with pytest.raises(
        ConfigurationError, match="needs as many other heads as are steered: 2 of 3 are"
    ):
        intervention.control_shift("random_heads", directions, [(0, 0), (0, 1)], 0)


@pytest.mark.parametrize("positions", ["last", "all"])
def test_rows_with_shifts_of_their_own_are_as_with_one_alone(model, shift, tokens, positions):
    other = Shift(-2 * shift.values_LD.roll(1, 0))
    shifts = [intervention.no_shift(model.shape), shift, other]
    rows = SteeredRows(torch.tensor([2, 0, 1, 1]), torch.tensor([1.0, 0.0, 3.0, 0.0]))
    with intervention.steered_apart(model, shifts, rows, positions):
        together = model(tokens)
    for row, (number, strength) in enumerate(zip(*rows, strict=True)):
        with intervention.steered(model, shifts[number], strength[None], positions):
            assert_fp32_close(model(tokens[row : row + 1])[0], together[row])
    assert torch.equal(together[[1, 3]], model(tokens)[[1, 3]])


def test_an_unsteered_row_has_no_site_of_its_own(model, tokens):
    shifts = [intervention.no_shift(model.shape), Shift(torch.ones(2, 32), "mlp")]
    rows = SteeredRows(torch.tensor([0, 1, 0, 1]), torch.tensor([0.0, 2.0, 0.0, 0.0]))
    with intervention.steered_apart(model, shifts, rows, "all"):
        is_changed = (model(tokens) != model(tokens)).any()
        together = model(tokens)
    assert not is_changed
    assert (together != model(tokens)).any(-1).any(-1).tolist() == [False, True, False, False]
