import math
from functools import partial
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from data_prep.core.errors import ConfigurationError
from training.config import SIZES, ModelConfig
from training.model.hf_export import hugging_face_config, to_hugging_face
from training.model.loss import next_token_loss
from training.model.olmo import KVCache, OLMo, linear, rotary, rotate

assert_same = partial(torch.testing.assert_close, atol=1e-5, rtol=0)  # fp32
TINY = ModelConfig(
    d_model=32, n_layers=2, n_heads=4, d_mlp=48, vocab_size=64, max_sequence_length=128
)
OLMO_1B = ModelConfig(d_model=2048, n_layers=16, n_heads=16, d_mlp=8192, vocab_size=50_304)


def build(config: ModelConfig = TINY, seed: int = 0) -> OLMo:
    model = OLMo(config)
    model.initialise(seed)
    return model.eval()


def some_tokens(B: int, T: int) -> Tensor:
    return torch.randint(
        TINY.vocab_size, (B, T), generator=torch.Generator().manual_seed(B * 1000 + T)
    )


def some_hidden(B: int, T: int) -> Tensor:
    return torch.randn(B, T, TINY.d_model, generator=torch.Generator().manual_seed(T))


@pytest.fixture(scope="module")
def twins():
    """Our model and transformers' with the same weights."""
    transformers = pytest.importorskip("transformers", reason="the parity oracle is not installed")
    model = build()
    oracle = transformers.OlmoConfig(
        **hugging_face_config(TINY, eos_id=0, dtype="float32"), attn_implementation="eager"
    )
    theirs = transformers.OlmoForCausalLM(oracle).eval()
    missing, unexpected = theirs.load_state_dict(to_hugging_face(model.state_dict()), strict=False)
    assert (missing, unexpected) == (["lm_head.weight"], [])
    theirs.tie_weights()
    return model, theirs


@torch.no_grad()
def test_norm_is_hugging_faces(twins):
    ours, theirs = twins
    x = 3 * some_hidden(2, 9) + 1
    assert torch.equal(ours.norm(x), theirs.model.norm(x))


@torch.no_grad()
def test_rotary_positions_are_hugging_faces(twins):
    from transformers.models.olmo.modeling_olmo import apply_rotary_pos_emb

    _, theirs = twins
    positions = torch.arange(128)[None]
    cos, sin = rotary(positions, TINY.d_head, TINY.rope_theta)
    their_cos, their_sin = theirs.model.rotary_emb(cos, positions)
    assert torch.equal(cos[:, :, 0], their_cos) and torch.equal(sin[:, :, 0], their_sin)
    q = torch.randn(1, 128, 4, TINY.d_head, generator=torch.Generator().manual_seed(1))
    expected, _ = apply_rotary_pos_emb(q, q, their_cos, their_sin, unsqueeze_dim=2)
    assert torch.equal(rotate(q, cos, sin), expected)


@torch.no_grad()
def test_attention_mlp_and_block_are_hugging_faces(twins):
    ours, theirs = twins
    x = some_hidden(2, 40)
    rotation = rotary(torch.arange(40)[None], TINY.d_head, TINY.rope_theta)
    their_rotation = tuple(table[:, :, 0] for table in rotation)
    mask = torch.full((40, 40), -math.inf).triu(1)[None, None]
    for block, layer in zip(ours.blocks, theirs.model.layers, strict=True):
        expected, _ = layer.self_attn(x, position_embeddings=their_rotation, attention_mask=mask)
        assert_same(block.attention(x, rotation, None, None), expected)
        assert_same(block.mlp(x), layer.mlp(x))
        assert_same(
            block(x, rotation, None, None),
            layer(x, position_embeddings=their_rotation, attention_mask=mask),
        )


@torch.no_grad()
def test_logits_and_loss_are_hugging_faces(twins):
    """Measured: the largest difference of 2 × 100 × 64 logits is 3.4e-6; of an attention 3.0e-7, an
    MLP 6.0e-8, a block 8.3e-7.
    """
    ours, theirs = twins
    tokens = some_tokens(2, 100)
    logits, expected = ours(tokens), theirs(tokens, labels=tokens)
    assert_same(logits, expected.logits)
    assert_same(next_token_loss(logits, tokens).sum() / (2 * 99), expected.loss)


def test_loss_is_the_sum_of_each_rows_cross_entropy_in_fp32():
    logits = torch.zeros(2, 3, 4)
    logits[1, 0, 2] = math.log(3)  # probability of token 2 is 3 / 6, of any other 1 / 6
    tokens = torch.tensor([[0, 1, 2], [0, 2, 3]])
    losses = next_token_loss(logits.bfloat16(), tokens)
    assert losses.dtype is torch.float32
    assert losses.tolist() == pytest.approx([2 * math.log(4), math.log(2) + math.log(4)], abs=2e-3)


def test_no_position_sees_a_later_token():
    model = build()
    positions = rotary(torch.arange(7)[None], TINY.d_head, TINY.rope_theta)
    x = some_hidden(1, 7).requires_grad_()
    y = x
    for block in model.blocks:
        y = block(y, positions, None, None)
    for t in range(7):
        (gradient,) = torch.autograd.grad(y[0, t].sum(), x, retain_graph=True)
        reached = gradient[0].abs().sum(dim=-1) > 0
        assert reached.tolist() == [s <= t for s in range(7)]


@settings(max_examples=25, deadline=None)
@given(cuts=st.lists(st.integers(1, 11), max_size=4, unique=True).map(sorted), padded=st.booleans())
@torch.no_grad()
def test_decoding_in_any_pieces_gives_the_whole_passes_logits(cuts, padded):
    model, tokens = build(), some_tokens(3, 12)
    padding = torch.tensor([0, 3, 11]) if padded else None
    cache = KVCache(TINY, 3, 12, dtype=torch.float32, device="cpu")
    edges = [0, *cuts, 12]
    pieces = [model(tokens[:, a:b], cache=cache, padding_B=padding) for a, b in pairwise(edges)]
    assert cache.length == 12
    assert_same(torch.cat(pieces, dim=1), model(tokens, padding_B=padding))


@settings(max_examples=25, deadline=None)
@given(padding=st.lists(st.integers(0, 9), min_size=1, max_size=4))
@torch.no_grad()
def test_left_padding_changes_nothing(padding):
    model, tokens = build(), some_tokens(len(padding), 10)
    logits = model(tokens, padding_B=torch.tensor(padding))
    assert logits.isfinite().all()
    for row, n in enumerate(padding):
        assert_same(logits[row, n:], model(tokens[row : row + 1, n:])[0])


def test_a_full_cache_refuses_more_tokens():
    cache = KVCache(TINY, 1, 4, dtype=torch.float32, device="cpu")
    build()(some_tokens(1, 3), cache=cache)
    with pytest.raises(ConfigurationError, match="holds 4 positions, 3 are taken, 2 more"):
        build()(some_tokens(1, 2), cache=cache)


def test_init_is_a_function_of_the_seed_alone():
    torch.manual_seed(5)
    first = build(seed=1).state_dict()
    torch.manual_seed(6)
    again, other = build(seed=1).state_dict(), build(seed=2).state_dict()
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not any(torch.equal(first[name], other[name]) for name in first)
    half = OLMo(TINY).bfloat16()
    half.initialise(1)
    assert all(
        torch.equal(first[name].bfloat16(), tensor) for name, tensor in half.state_dict().items()
    )


def test_init_has_olmos_spread():
    config = ModelConfig(d_model=128, n_layers=3, n_heads=4, d_mlp=320, vocab_size=512)
    cut = 0.98658  # standard deviation of a unit normal cut at 3
    for name, tensor in build(config).state_dict().items():
        fan_in = tensor.shape[1]
        std = fan_in**-0.5
        if name.endswith(("out.weight", "down.weight")):
            std /= math.sqrt(2 * (int(name.split(".")[1]) + 1))
        assert tensor.std().item() == pytest.approx(cut * std, rel=0.03), name
        assert tensor.abs().max().item() <= 3 * std * (1 + 1e-6), name


def test_the_1b_has_65_tensors_and_the_parameters_its_config_counts():
    with torch.device("meta"):
        model = OLMo(OLMO_1B)
    assert len(list(model.parameters())) == len(model.state_dict()) == 65
    assert sum(p.numel() for p in model.parameters()) == OLMO_1B.n_parameters == 1_176_764_416


@torch.no_grad()
@pytest.mark.parametrize("native", [True, False])
def test_a_bf16_product_is_the_exact_one_rounded_once_with_or_without_the_instructions(
    native, monkeypatch
):
    monkeypatch.setattr("training.model.olmo.cpu_has_bf16_matmul", lambda: native)
    x, weight = (
        torch.randn(n, 256, generator=torch.Generator().manual_seed(n)).bfloat16() for n in (5, 7)
    )
    got = linear(x, weight)
    assert got.dtype is torch.bfloat16
    torch.testing.assert_close(got.double(), x.double() @ weight.double().T, rtol=2**-8, atol=1e-5)


def test_late_positions_stay_exact_in_a_bf16_model():
    """One rounding to bf16 is 2⁻⁹ of a value; angles of position 2047 that were bf16 would be off
    by up to 4 radians.
    """
    model = build().bfloat16()
    assert model(some_tokens(1, 9)).dtype is torch.bfloat16
    assert not list(model.buffers())
    q = torch.randn(1, 2048, 4, TINY.d_head, generator=torch.Generator().manual_seed(1)).bfloat16()
    tables = rotary(torch.arange(2048)[None], TINY.d_head, TINY.rope_theta)
    assert tables[0].dtype is torch.float32
    torch.testing.assert_close(
        rotate(q, *tables).float(), rotate(q.float(), *tables), atol=0, rtol=2**-8
    )


@torch.no_grad()
def test_the_output_projection_reads_the_heads_side_by_side():
    model, seen = build(), []
    handle = model.blocks[1].attention.out.register_forward_pre_hook(
        lambda module, inputs: seen.append(inputs[0])
    )
    model(some_tokens(2, 5))
    handle.remove()
    assert [tuple(x.shape) for x in seen] == [(2, 5, TINY.n_heads * TINY.d_head)]
    attention, x = model.blocks[1].attention, some_hidden(1, 1)
    v = attention.qkv(x).chunk(3, dim=-1)[
        2
    ]  # a lone position attends to itself, so the heads' outputs are v, head by head
    rotation = rotary(torch.zeros(1, 1), TINY.d_head, TINY.rope_theta)
    assert_same(attention(x, rotation, None, None), attention.out(v))


N_PARAMETERS = {
    "laptop": 7_487_488,
    "olmo-20m": 21_266_432,
    "olmo-60m": 59_310_080,
    "olmo-150m": 151_879_680,
    "olmo-300m": 319_946_752,
    "olmo-700m": 681_246_720,
    "olmo-1b": 1_176_764_416,
    "olmo-7b": 6_682_050_560,  # the published one has a second matrix of 206,045,184 for the logits
}


@pytest.mark.parametrize("name", SIZES)
def test_every_named_size_has_its_parameters_on_the_meta_device(name: str):
    config = OLMO_1B.named(name)
    with torch.device("meta"):
        model = OLMo(config)
    assert (
        sum(parameter.numel() for parameter in model.parameters())
        == config.n_parameters
        == N_PARAMETERS[name]
    )
    assert (config.vocab_size, config.max_sequence_length) == (50_304, 2048)
