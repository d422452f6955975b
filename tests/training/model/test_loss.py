"""The chunked objective against F.cross_entropy on whole logits, in values, gradients and memory."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from training.config import ModelConfig
from training.model import loss
from training.model.loss import OLMoForTraining, chunk_rows, objective
from training.model.olmo import OLMo

D, V = 8, 37
MODEL = ModelConfig(d_model=16, n_layers=1, n_heads=2, d_mlp=16, vocab_size=V)


def some(
    B: int, T: int, dtype: torch.dtype = torch.float32
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """x_BTD, weight_VD, tokens_BT and a weight for each row, the last row's 0."""
    draw = torch.Generator().manual_seed(100 * B + T)
    x_BTD, weight_VD = (
        torch.randn(*shape, generator=draw).to(dtype).requires_grad_()
        for shape in ((B, T, D), (V, D))
    )
    weight_B = torch.rand(B, generator=draw)
    weight_B[-1] = 0.0
    return x_BTD, weight_VD, torch.randint(V, (B, T), generator=draw), weight_B


def plain(
    x_BTD: Tensor, weight_VD: Tensor, tokens_BT: Tensor, weight_B: Tensor, z_loss: float
) -> tuple[Tensor, Tensor]:
    """(total, loss_B) from whole logits."""
    logits = F.linear(x_BTD.float(), weight_VD.float())[:, :-1]
    loss_B = F.cross_entropy(logits.transpose(1, 2), tokens_BT[:, 1:], reduction="none").sum(1)
    return (weight_B * (loss_B + z_loss * logits.logsumexp(-1).square().sum(1))).sum(), loss_B


@settings(max_examples=40, deadline=None)
@given(
    B=st.integers(1, 5),
    T=st.integers(2, 9),
    chunk=st.integers(1, 20),
    z_loss=st.sampled_from([0.0, 0.1]),
)
def test_any_chunks_give_the_value_and_gradients_of_the_whole_cross_entropy(
    B: int, T: int, chunk: int, z_loss: float
):
    given_ = x, weight, _, _ = some(B, T)
    total, loss_B = plain(*given_, z_loss)
    expected = torch.autograd.grad(3 * total, (x, weight))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loss, "CHUNK_LOGITS", {"cpu": chunk * V})
        got = objective(*given_, z_loss=z_loss)
    torch.testing.assert_close((got.total, got.loss_B), (total, loss_B))
    torch.testing.assert_close(torch.autograd.grad(3 * got.total, (x, weight)), expected)


@given(
    n_rows=st.integers(1, 10_000),
    vocab_size=st.integers(1, 1000),
    chunk_logits=st.integers(1, 1 << 22),
)
def test_chunks_are_no_larger_than_asked_but_for_whole_tiles(
    n_rows: int, vocab_size: int, chunk_logits: int
):
    rows, most = chunk_rows(n_rows, vocab_size, chunk_logits), max(1, chunk_logits // vocab_size)
    assert 1 <= rows < most + loss.TILE and (rows <= most or rows % loss.TILE == 0)


def test_bf16_factors_give_the_fp32_gradients_rounded_once():
    """Measured: the largest difference is 1.7e-3 of a largest gradient of 0.55, half a step of
    bf16.
    """
    x, weight, tokens, weight_B = some(5, 9, torch.bfloat16)
    expected = torch.autograd.grad(plain(x, weight, tokens, weight_B, 0.1)[0], (x, weight))
    got = torch.autograd.grad(objective(x, weight, tokens, weight_B, z_loss=0.1).total, (x, weight))
    assert [g.dtype for g in got] == [torch.bfloat16] * 2
    for ours, theirs in zip(got, expected, strict=True):
        torch.testing.assert_close(
            ours.float(), theirs.float(), rtol=2**-7, atol=2**-9 * theirs.abs().max().item()
        )


def test_a_row_of_weight_0_moves_nothing_and_still_has_its_loss():
    x, weight, tokens, weight_B = some(3, 6)
    got = objective(x, weight, tokens, weight_B)
    (gradient,) = torch.autograd.grad(got.total, x)
    assert gradient[2].abs().sum() == 0 and gradient[:2].abs().sum() > 0 and got.loss_B[2] > 0
    assert gradient[:, -1].abs().sum() == 0  # a last position predicts nothing


def test_no_tensor_is_as_large_as_the_logits(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(loss, "CHUNK_LOGITS", {"cpu": 64 * V})
    given_ = some(64, 64)
    with Largest() as ours:
        objective(*given_).total.backward()
    with Largest() as whole:
        plain(*given_, 0.0)[0].backward()
    assert (
        ours.numel <= 2 * 64 * 64 * D and whole.numel >= 64 * 63 * V
    )  # x and its gradient, against all logits


def test_without_a_gradient_none_is_made(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(loss, "_add_product", lambda *_: pytest.fail("made"))
    given_ = some(2, 6)
    with torch.no_grad():
        torch.testing.assert_close(objective(*given_).loss_B, plain(*given_, 0.0)[1])


def test_the_tied_matrix_gets_the_gradient_of_reading_and_of_writing():
    model, tokens = (
        OLMoForTraining(MODEL, z_loss=1e-2),
        torch.randint(V, (3, 7), generator=torch.Generator().manual_seed(0)),
    )
    model.initialise(0)
    twin = OLMo(MODEL)
    twin.load_state_dict(model.state_dict())
    weight_B = torch.tensor([0.5, 0.25, 0.0])
    model(tokens, weight_B).total.backward()
    plain(twin.hidden(tokens), twin.embedding.weight, tokens, weight_B, 1e-2)[0].backward()
    for ours, theirs in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad)


class Largest(TorchDispatchMode):
    """The most numbers in a tensor that any operation made."""

    numel = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        self.numel = max(
            [self.numel, *(t.numel() for t in tree_leaves(made) if isinstance(t, Tensor))]
        )
        return made
