"""The model against transformers' OlmoForCausalLM, and against itself computed in other ways."""

import math
from itertools import pairwise
from typing import Any, NamedTuple

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from tolerances import U_BF16, U_FP32, assert_fp32_close
from torch import Tensor, nn

from data_prep.core.errors import ConfigurationError
from training.config import SIZES, ModelConfig
from training.model import olmo
from training.model.hf_export import hugging_face_config, to_hugging_face
from training.model.kv_cache import KVCache
from training.model.loss import next_token_loss
from training.model.olmo import OLMo, linear
from training.model.rotary_positions import rotary, rotate

TINY = ModelConfig(
    d_model=32, n_layers=2, n_heads=4, d_mlp=48, vocab_size=64, max_sequence_length=128
)
OLMO_1B = ModelConfig(d_model=2048, n_layers=16, n_heads=16, d_mlp=8192, vocab_size=50_304)


def initialised_model(config: ModelConfig = TINY, seed: int = 0) -> OLMo:
    model = OLMo(config)
    model.initialise(seed)
    return model.eval()


def random_tokens(B: int, T: int) -> Tensor:
    generator = torch.Generator().manual_seed(B * 1000 + T)
    return torch.randint(TINY.vocab_size, (B, T), generator=generator)


def random_hidden(B: int, T: int) -> Tensor:
    return torch.randn(B, T, TINY.d_model, generator=torch.Generator().manual_seed(T))


class Twins(NamedTuple):
    """Our model and transformers' with the same weights."""

    ours: OLMo
    theirs: Any


@pytest.fixture(scope="module")
def twins() -> Twins:
    transformers = pytest.importorskip("transformers", reason="the reference is not installed")
    model = initialised_model()
    config = transformers.OlmoConfig(
        **hugging_face_config(TINY, eos_id=0, dtype="float32"), attn_implementation="eager"
    )
    theirs = transformers.OlmoForCausalLM(config).eval()
    missing, unexpected = theirs.load_state_dict(to_hugging_face(model.state_dict()), strict=False)
    assert (missing, unexpected) == (["lm_head.weight"], [])
    theirs.tie_weights()
    return Twins(model, theirs)


@pytest.mark.numeric
@torch.no_grad()
def test_norm_equals_hugging_faces(twins: Twins):
    x = 3 * random_hidden(2, 9) + 1
    assert torch.equal(twins.ours.norm(x), twins.theirs.model.norm(x))


@pytest.mark.numeric
@torch.no_grad()
def test_rotary_positions_equal_hugging_faces(twins: Twins):
    from transformers.models.olmo.modeling_olmo import apply_rotary_pos_emb

    positions = torch.arange(128)[None]
    cos, sin = rotary(positions, TINY.d_head, TINY.rope_theta)
    their_cos, their_sin = twins.theirs.model.rotary_emb(cos, positions)
    assert torch.equal(cos[:, :, 0], their_cos)
    assert torch.equal(sin[:, :, 0], their_sin)
    q = torch.randn(1, 128, 4, TINY.d_head, generator=torch.Generator().manual_seed(1))
    expected, _ = apply_rotary_pos_emb(q, q, their_cos, their_sin, unsqueeze_dim=2)
    assert torch.equal(rotate(q, cos, sin), expected)


@pytest.mark.numeric
@torch.no_grad()
def test_attention_mlp_and_block_match_hugging_faces(twins: Twins):
    x = random_hidden(2, 40)
    rotation = rotary(torch.arange(40)[None], TINY.d_head, TINY.rope_theta)
    their_rotation = tuple(table[:, :, 0] for table in rotation)
    mask = torch.full((40, 40), -math.inf).triu(1)[None, None]
    for block, layer in zip(twins.ours.blocks, twins.theirs.model.layers, strict=True):
        expected, _ = layer.self_attn(x, position_embeddings=their_rotation, attention_mask=mask)
        assert_fp32_close(block.attention(x, rotation, None, None), expected)
        assert_fp32_close(block.mlp(x), layer.mlp(x))
        expected = layer(x, position_embeddings=their_rotation, attention_mask=mask)
        assert_fp32_close(block(x, rotation, None, None), expected)


@pytest.mark.numeric
@torch.no_grad()
def test_logits_and_loss_match_hugging_faces(twins: Twins):
    tokens = random_tokens(2, 100)
    logits, expected = twins.ours(tokens), twins.theirs(tokens, labels=tokens)
    assert_fp32_close(logits, expected.logits)
    assert_fp32_close(next_token_loss(logits, tokens).sum() / (2 * 99), expected.loss)


def test_loss_is_each_rows_summed_cross_entropy_in_fp32():
    logits = torch.zeros(2, 3, 4)
    logits[1, 0, 2] = math.log(3)  # probability of token 2 is 3 / 6, of any other 1 / 6
    tokens = torch.tensor([[0, 1, 2], [0, 2, 3]])
    losses = next_token_loss(logits.bfloat16(), tokens)
    assert losses.dtype is torch.float32
    expected = [2 * math.log(4), math.log(2) + math.log(4)]
    # log 3 is rounded to bf16; the loss changes by half as much
    assert losses.tolist() == pytest.approx(expected, abs=U_BF16 * math.log(3) / 2)


def test_no_position_depends_on_a_later_token():
    model = initialised_model()
    rotation = rotary(torch.arange(7)[None], TINY.d_head, TINY.rope_theta)
    x = random_hidden(1, 7).requires_grad_()
    y = x
    for block in model.blocks:
        y = block(y, rotation, None, None)
    for t in range(7):
        (gradient,) = torch.autograd.grad(y[0, t].sum(), x, retain_graph=True)
        depends_on = gradient[0].abs().sum(dim=-1) > 0
        assert depends_on.tolist() == [s <= t for s in range(7)]


@pytest.mark.numeric
@settings(max_examples=25, deadline=None)
@given(
    splits=st.lists(st.integers(1, 11), max_size=4, unique=True).map(sorted), padded=st.booleans()
)
@torch.no_grad()
def test_decoding_in_any_steps_gives_the_logits_of_one_pass(splits: list[int], padded: bool):
    model, tokens = initialised_model(), random_tokens(3, 12)
    padding = torch.tensor([0, 3, 11]) if padded else None
    cache = KVCache(TINY, 3, 12, dtype=torch.float32, device="cpu")
    logits = [
        model(tokens[:, start:end], cache=cache, padding_B=padding)
        for start, end in pairwise([0, *splits, 12])
    ]
    assert cache.length == 12
    assert_fp32_close(torch.cat(logits, dim=1), model(tokens, padding_B=padding))


@pytest.mark.numeric
@settings(max_examples=25, deadline=None)
@given(padding=st.lists(st.integers(0, 9), min_size=1, max_size=4))
@torch.no_grad()
def test_left_padding_changes_nothing(padding: list[int]):
    model, tokens = initialised_model(), random_tokens(len(padding), 10)
    logits = model(tokens, padding_B=torch.tensor(padding))
    assert logits.isfinite().all()
    for row, n in enumerate(padding):
        assert_fp32_close(logits[row, n:], model(tokens[row : row + 1, n:])[0])


def test_a_full_cache_refuses_more_tokens():
    cache = KVCache(TINY, 1, 4, dtype=torch.float32, device="cpu")
    initialised_model()(random_tokens(1, 3), cache=cache)
    with pytest.raises(ConfigurationError, match="room for 4 positions, 3 are in use, and 2 more"):
        initialised_model()(random_tokens(1, 2), cache=cache)


def test_init_depends_on_the_seed_alone():
    torch.manual_seed(5)
    first = initialised_model(seed=1).state_dict()
    torch.manual_seed(6)
    again, other = initialised_model(seed=1).state_dict(), initialised_model(seed=2).state_dict()
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not any(torch.equal(first[name], other[name]) for name in first)
    half = OLMo(TINY).bfloat16()
    half.initialise(1)
    for name, tensor in half.state_dict().items():
        assert torch.equal(first[name].bfloat16(), tensor)


def test_init_has_olmos_standard_deviations():
    config = ModelConfig(d_model=128, n_layers=3, n_heads=4, d_mlp=320, vocab_size=512)
    truncated_std = 0.98658  # of a unit normal truncated at 3
    for name, tensor in initialised_model(config).state_dict().items():
        fan_in = tensor.shape[1]
        std = fan_in**-0.5
        if name.endswith(("out.weight", "down.weight")):
            std /= math.sqrt(2 * (int(name.split(".")[1]) + 1))
        # the standard error of an estimate from n ≥ 128² elements is below std / √(2n) = 0.6 %
        assert tensor.std().item() == pytest.approx(truncated_std * std, rel=0.03), name
        assert tensor.abs().max().item() <= 3 * std * (1 + 2 * U_FP32), name


def test_the_1b_has_65_tensors_and_the_parameters_its_config_counts():
    with torch.device("meta"):
        model = OLMo(OLMO_1B)
    assert len(list(model.parameters())) == len(model.state_dict()) == 65
    assert sum(p.numel() for p in model.parameters()) == OLMO_1B.n_parameters == 1_176_764_416


@pytest.mark.numeric
@torch.no_grad()
@pytest.mark.parametrize("is_native", [True, False])
def test_a_bf16_product_is_rounded_once_with_or_without_instructions(
    monkeypatch: pytest.MonkeyPatch, is_native: bool
):
    """The sum of n products in fp32 may be off by n·u·Σ|x·w|; then it is rounded to bf16."""
    monkeypatch.setattr("training.model.olmo.cpu_has_bf16_matmul", lambda: is_native)
    n = 256
    x, weight = (
        torch.randn(rows, n, generator=torch.Generator().manual_seed(rows)).bfloat16()
        for rows in (5, 7)
    )
    product = linear(x, weight)
    assert product.dtype is torch.bfloat16
    x, weight = x.double(), weight.double()
    exact = x @ weight.T
    summation_error = n * U_FP32 * (x.abs() @ weight.abs().T)
    bound = summation_error + U_BF16 * (exact.abs() + summation_error)
    assert ((product.double() - exact).abs() <= bound).all()


def test_late_positions_stay_exact_in_a_bf16_model():
    """The rotation is in fp32 and its result is rounded once.

    In bf16 the angles of position 2047 would be off by up to 4 radians.
    """
    model = initialised_model().bfloat16()
    assert model(random_tokens(1, 9)).dtype is torch.bfloat16
    assert not list(model.buffers())
    q = torch.randn(1, 2048, 4, TINY.d_head, generator=torch.Generator().manual_seed(1)).bfloat16()
    tables = rotary(torch.arange(2048)[None], TINY.d_head, TINY.rope_theta)
    assert tables[0].dtype is torch.float32
    expected = rotate(q.float(), *tables)
    torch.testing.assert_close(rotate(q, *tables).float(), expected, atol=0, rtol=U_BF16)


@torch.no_grad()
def test_the_output_projection_reads_the_heads_side_by_side():
    model, inputs = initialised_model(), []
    hook = model.blocks[1].attention.out.register_forward_pre_hook(
        lambda module, arguments: inputs.append(arguments[0])
    )
    model(random_tokens(2, 5))
    hook.remove()
    assert [tuple(x.shape) for x in inputs] == [(2, 5, TINY.n_heads * TINY.d_head)]
    attention, x = model.blocks[1].attention, random_hidden(1, 1)
    # A single position attends to itself, so the outputs of the heads are v, head by head.
    v = attention.qkv(x).chunk(3, dim=-1)[2]
    rotation = rotary(torch.zeros(1, 1), TINY.d_head, TINY.rope_theta)
    assert_fp32_close(attention(x, rotation, None, None), attention.out(v))


N_PARAMETERS = {
    "laptop": 3_481_600,
    "mini": 7_487_488,
    "olmo-20m": 21_266_432,
    "olmo-60m": 59_310_080,
    "olmo-150m": 151_879_680,
    "olmo-300m": 319_946_752,
    "olmo-700m": 681_246_720,
    "olmo-1b": 1_176_764_416,
    "olmo-7b": 6_682_050_560,  # the published one has a second matrix, 206,045,184, for the logits
}


@pytest.mark.parametrize("name", SIZES)
def test_every_named_size_has_its_number_of_parameters(name: str):
    config = OLMO_1B.named(name)
    with torch.device("meta"):
        model = OLMo(config)
    n_parameters = sum(parameter.numel() for parameter in model.parameters())
    assert n_parameters == config.n_parameters == N_PARAMETERS[name]
    assert (config.vocab_size, config.max_sequence_length) == (50_304, 2048)


@pytest.mark.parametrize("shape", [(1, 64), (3, 5, 64), (0, 64), (200, 64)])
def test_products_of_an_evaluation_are_those_of_training(shape):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(*shape, generator=generator)
    strided = torch.randn(96, 128, generator=generator)[::2, ::2]
    for weight in (strided, strided.contiguous()[7:30], nn.Parameter(strided.contiguous())):
        expected = x.double() @ weight.detach().double().T
        with torch.inference_mode():
            is_usual = weight.is_contiguous() and olmo.cpu_has_bf16_matmul()
            assert olmo._is_faster_with_onednn(x, weight) == is_usual
            product = linear(x, weight)
        assert product.shape == expected.shape and product.dtype is torch.float32
        assert torch.allclose(product.double(), expected, atol=1e-4, rtol=0)
        assert torch.equal(linear(x, weight), F.linear(x, weight))
