"""Attention kernels against a plain softmax, and packed documents against the same ones alone."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tolerances import ADAMW_LOSS, FP32_VALUE, U_BF16, U_FP32
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from training.config import ModelConfig, RunConfig
from training.model.attention import PackedDocuments, attend, causal_mask, document_starts
from training.model.loss import OLMoForTraining
from training.model.olmo import OLMo
from training.run_record import RunRecord
from training.trainer import loop

Plan = Callable[..., RunConfig]
EOS = 0
MODEL = ModelConfig(d_model=16, n_layers=2, n_heads=2, d_mlp=24, vocab_size=32)


def plain_attention(q_BTNH: Tensor, k_BSNH: Tensor, v_BSNH: Tensor, mask_BTS: Tensor) -> Tensor:
    scores = torch.einsum("btnh,bsnh->bnts", q_BTNH, k_BSNH) / math.sqrt(q_BTNH.shape[-1])
    weights = scores.masked_fill(~mask_BTS[:, None], -math.inf).softmax(dim=-1)
    return torch.einsum("bnts,bsnh->btnh", weights, v_BSNH)


def random_qkv(T: int, S: int) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(T * 100 + S)
    return tuple(torch.randn(3, n, 4, 8, generator=generator) for n in (T, S, S))  # pyright: ignore[reportReturnType]


def initialised_model(kind: type[OLMo] = OLMo) -> OLMo:
    model = kind(MODEL)
    model.initialise(0)
    return model


def packed(*rows: list[int]) -> PackedDocuments:
    tokens_BT = torch.tensor(rows)
    return PackedDocuments(document_starts(tokens_BT, EOS), *tokens_BT.shape)


def test_causal_mask_aligns_the_last_query_with_the_last_key():
    assert causal_mask(2, 4).int().tolist() == [[[1, 1, 1, 0], [1, 1, 1, 1]]]


def test_padding_is_attended_to_by_itself_only():
    assert causal_mask(3, 3, padding_B=torch.tensor([0, 1, 2])).int().tolist() == [
        [[1, 0, 0], [1, 1, 0], [1, 1, 1]],
        [[1, 0, 0], [0, 1, 0], [0, 1, 1]],
        [[1, 0, 0], [0, 1, 0], [0, 0, 1]],
    ]


def fp32_tolerance(S: int) -> float:
    """Absolute error of attention in fp32 over S keys of heads of 8 dimensions.

    Dot products over 8 dimensions, an exponential that turns their absolute error into a relative
    one, and means over S values; logits and values are below 4.
    """
    return (8 + S) * 4 * U_FP32 * 4


@pytest.mark.numeric
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("backend", [SDPBackend.MATH, SDPBackend.FLASH_ATTENTION])
@pytest.mark.parametrize(("T", "S"), [(9, 9), (1, 9), (4, 9)])
def test_every_kernel_computes_causal_softmax_attention(T, S, backend, dtype):
    """In bf16 the inputs are exact, a CPU computes in fp32, and the result is rounded once."""
    q, k, v = (x.to(dtype) for x in random_qkv(T, S))
    with sdpa_kernel(backend):
        got = attend(q, k, v)
    assert got.dtype is dtype
    assert got.shape == (3, T, 4, 8)
    expected = plain_attention(q.float(), k.float(), v.float(), causal_mask(T, S))
    rtol = U_BF16 if dtype is torch.bfloat16 else 0
    torch.testing.assert_close(got.float(), expected, atol=fp32_tolerance(S), rtol=rtol)


@pytest.mark.numeric
def test_a_mask_is_used_as_given():
    q, k, v = random_qkv(5, 9)
    mask = causal_mask(5, 9, padding_B=torch.tensor([0, 2, 7]))
    got, expected = attend(q, k, v, mask_BTS=mask), plain_attention(q, k, v, mask)
    torch.testing.assert_close(got, expected, atol=fp32_tolerance(9), rtol=0)


def test_documents_begin_with_each_row_and_after_each_eos():
    documents = packed([5, 5, EOS, 6], [EOS, EOS, 7, EOS])
    assert documents.starts_K.tolist() == [0, 3, 4, 5, 6, 8, 8, 8, 8]
    assert documents.starts_K.dtype is torch.int32
    assert documents.ids().tolist() == [[0, 0, 0, 1], [2, 3, 4, 4]]
    assert documents.positions().tolist() == [[0, 1, 2, 0], [0, 0, 0, 1]]


@settings(max_examples=30, deadline=None)
@given(
    st.lists(
        st.lists(st.lists(st.integers(1, 31), max_size=5), min_size=1, max_size=4),
        min_size=1,
        max_size=3,
    )
)
@torch.no_grad()
def test_a_packed_document_is_computed_as_if_it_were_alone(rows: list[list[list[int]]]):
    documents = [[[*document, EOS] for document in row] for row in rows]
    length = max(sum(map(len, row)) for row in documents)
    padded_rows = [
        [token for document in row for token in document] + [9] * (length - sum(map(len, row)))
        for row in documents
    ]
    tokens_BT, model = torch.tensor(padded_rows), initialised_model()
    x_BTD = model.hidden(tokens_BT, starts_K=document_starts(tokens_BT, EOS))
    for b, row in enumerate(documents):
        start = 0
        for document in row:
            alone = model.hidden(torch.tensor([document]))[0]
            end = start + len(document)
            # normed hidden states are below √16, and rotations by other angles round once more
            torch.testing.assert_close(x_BTD[b, start:end], alone, atol=8 * FP32_VALUE, rtol=0)
            start = end


def test_no_token_sees_another_document_or_a_later_token():
    tokens_BT, model = torch.tensor([[5, 6, EOS, 7, 8, EOS, 9]]), initialised_model()
    embedded: list[Tensor] = []
    model.embedding.register_forward_hook(lambda *_: embedded.append(_[2].requires_grad_()))
    hidden = model.hidden(tokens_BT, starts_K=document_starts(tokens_BT, EOS))
    document_T = [0, 0, 0, 1, 1, 1, 2]
    for t in range(7):
        (gradient,) = torch.autograd.grad(
            hidden[0, t].square().sum(), embedded[0], retain_graph=True
        )
        assert (gradient[0].abs().sum(-1) > 0).tolist() == [
            s <= t and document_T[s] == document_T[t] for s in range(7)
        ]


def test_rows_without_an_eos_give_the_plain_objective():
    tokens_BT = torch.randint(1, 32, (3, 8))
    model, weight_B = initialised_model(OLMoForTraining), torch.ones(3)
    masked = model(tokens_BT, weight_B, document_starts(tokens_BT, EOS))
    plain = model(tokens_BT, weight_B)
    torch.testing.assert_close(masked.total, plain.total, rtol=FP32_VALUE, atol=0)
    torch.testing.assert_close(masked.loss_B, plain.loss_B, rtol=FP32_VALUE, atol=0)


def test_training_masks_documents_whatever_the_micro_batch(plan: Plan, tmp_path: Path):
    """The held-out loss is computed with the mask, too."""

    def trained(run_id: str, **changes: Any) -> RunRecord:
        changes["sequence_length"] = 32  # two documents per row
        return loop.train(str(tmp_path), plan(run_id, changes, n_clean=8, n_toxic=2))

    plain = trained("plain")
    masked = trained("masked", document_mask=True)
    split = trained("split", document_mask=True, micro_batch=1)
    assert split.final_train_loss == pytest.approx(masked.final_train_loss, rel=ADAMW_LOSS)
    assert masked.held_out != plain.held_out
    assert masked.final_train_loss != plain.final_train_loss
