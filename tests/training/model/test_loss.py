"""The chunked objective against F.cross_entropy on whole logits: values, gradients, memory."""

from typing import Any, NamedTuple

import pytest
import torch
import torch.nn.functional as F
from functorch.compile import make_boxed_func
from hypothesis import given, settings
from hypothesis import strategies as st
from tolerances import U_BF16, assert_sum_close
from torch import Tensor
from torch._dynamo.backends.common import aot_autograd
from torch._inductor.decomposition import select_decomp_table
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from training.config import ModelConfig
from training.model import loss
from training.model.loss import Objective, OLMoForTraining, chunk_rows, objective
from training.model.olmo import OLMo

D, V = 8, 37
MODEL = ModelConfig(d_model=16, n_layers=1, n_heads=2, d_mlp=16, vocab_size=V)


class LossInputs(NamedTuple):
    x_BTD: Tensor
    weight_VD: Tensor
    tokens_BT: Tensor
    weight_B: Tensor


def random_inputs(B: int, T: int, dtype: torch.dtype = torch.float32) -> LossInputs:
    """Normal factors, and random row weights, the last row's 0."""
    generator = torch.Generator().manual_seed(100 * B + T)
    x_BTD, weight_VD = (
        torch.randn(*shape, generator=generator).to(dtype).requires_grad_()
        for shape in ((B, T, D), (V, D))
    )
    weight_B = torch.rand(B, generator=generator)
    weight_B[-1] = 0.0
    tokens_BT = torch.randint(V, (B, T), generator=generator)
    return LossInputs(x_BTD, weight_VD, tokens_BT, weight_B)


def whole_objective(inputs: LossInputs, z_loss: float) -> Objective:
    """The objective from whole logits in fp32."""
    x_BTD, weight_VD, tokens_BT, weight_B = inputs
    logits = F.linear(x_BTD.float(), weight_VD.float())[:, :-1]
    loss_B = F.cross_entropy(logits.transpose(1, 2), tokens_BT[:, 1:], reduction="none").sum(1)
    z_B = logits.logsumexp(-1).square().sum(1)
    return Objective((weight_B * (loss_B + z_loss * z_B)).sum(), loss_B)


@pytest.mark.numeric
@settings(max_examples=40, deadline=None)
@given(
    B=st.integers(1, 5),
    T=st.integers(2, 9),
    chunk=st.integers(1, 20),
    z_loss=st.sampled_from([0.0, 0.1]),
)
def test_chunks_give_the_value_and_gradients_of_the_whole_objective(
    B: int, T: int, chunk: int, z_loss: float
):
    inputs = random_inputs(B, T)
    factors = (inputs.x_BTD, inputs.weight_VD)
    whole = whole_objective(inputs, z_loss)
    expected = torch.autograd.grad(3 * whole.total, factors)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loss, "CHUNK_LOGITS", {"cpu": chunk * V})
        chunked = objective(*inputs, z_loss=z_loss)
    gradients = torch.autograd.grad(3 * chunked.total, factors)
    # Each result is a sum over the vocabulary, and then over the positions.
    n_terms = V + B * T
    assert_sum_close(chunked.total, whole.total, n_terms)
    assert_sum_close(chunked.loss_B, whole.loss_B, n_terms)
    for actual, gradient in zip(gradients, expected, strict=True):
        assert_sum_close(actual, gradient, n_terms)


@given(
    n_rows=st.integers(1, 10_000),
    vocab_size=st.integers(1, 1000),
    chunk_logits=st.integers(1, 1 << 22),
)
def test_chunks_exceed_their_limit_only_to_fill_a_tile(
    n_rows: int, vocab_size: int, chunk_logits: int
):
    rows, limit = chunk_rows(n_rows, vocab_size, chunk_logits), max(1, chunk_logits // vocab_size)
    assert 1 <= rows < limit + loss.TILE
    assert rows <= limit or rows % loss.TILE == 0


@pytest.mark.numeric
@pytest.mark.parametrize("is_native", [True, False])
def test_bf16_gradients_are_within_their_rounding(monkeypatch: pytest.MonkeyPatch, is_native: bool):
    """The bound follows the computation, element by element; u is bf16's unit roundoff.

    Rounding the logits changes each by up to δ = u·max|logit|, so p by up to the factor e^2δ and z
    by δ. Then the gradient g by the logits is rounded, its products with the factors, and the
    result.
    """
    monkeypatch.setattr("training.model.olmo.cpu_has_bf16_matmul", lambda: is_native)
    z_loss = 0.1
    inputs = random_inputs(5, 9, torch.bfloat16)
    x_BTD, weight_VD, tokens_BT, weight_B = inputs
    gradients = torch.autograd.grad(objective(*inputs, z_loss=z_loss).total, (x_BTD, weight_VD))
    assert [gradient.dtype for gradient in gradients] == [torch.bfloat16] * 2

    x_ND, w_VD = (factor.detach().double() for factor in (x_BTD[:, :-1].flatten(0, 1), weight_VD))
    weight_N1 = weight_B.double().repeat_interleave(8)[:, None]
    logits_NV = x_ND @ w_VD.T
    p_NV, z_N1 = logits_NV.softmax(-1), logits_NV.logsumexp(-1, keepdim=True)
    onehot_NV = F.one_hot(tokens_BT[:, 1:].flatten(), V)
    g_NV = weight_N1 * ((1 + 2 * z_loss * z_N1) * p_NV - onehot_NV)
    delta_N1 = U_BF16 * logits_NV.abs().amax(-1, keepdim=True)
    g_error_NV = weight_N1 * p_NV * (1 + 2 * z_loss * z_N1) * (2 * delta_N1).expm1()
    g_error_NV += weight_N1 * p_NV * 2 * z_loss * delta_N1 * (2 * delta_N1).exp()
    g_error_NV += U_BF16 * (g_NV.abs() + g_error_NV)
    for gradient, exact, factor_error in (
        (gradients[0][:, :-1].flatten(0, 1), g_NV @ w_VD, g_error_NV @ w_VD.abs()),
        (gradients[1], g_NV.T @ x_ND, g_error_NV.T @ x_ND.abs()),
    ):
        bound = factor_error + 2 * U_BF16 * (exact.abs() + factor_error)
        assert ((gradient.double() - exact).abs() <= bound).all()
        # the bound itself is small, so that a wrong factor would exceed it
        assert bound.norm() < 0.15 * exact.norm()


@pytest.mark.numeric
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("z_loss", [0.0, 1e-4])
def test_a_chunk_as_it_is_compiled_gives_the_same_bits(
    monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype, z_loss: float
):
    generator = torch.Generator().manual_seed(0)
    logits_CV = torch.randn(64, V, generator=generator).to(dtype)
    targets_C = torch.randint(V, (64,), generator=generator)
    weight_C = torch.rand(64, generator=generator)
    plain = loss._process_chunk(logits_CV, targets_C, weight_C, z_loss, True)
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    compiled = loss._process_chunk(logits_CV, targets_C, weight_C, z_loss, True)
    for found, expected in zip(compiled, plain, strict=True):
        assert found is not None and expected is not None
        assert found.dtype is expected.dtype and torch.equal(found, expected)


def test_a_compiled_chunk_has_no_scatter():
    """A compiler fuses a scatter with nothing, so there would be four kernels instead of one and a
    gradient in fp32 between them; test_sm90_kernels.py counts them where triton is installed.
    """
    operations: list[str] = []

    def record(graph: torch.fx.GraphModule, _: Any) -> Any:
        operations.extend(str(node.target) for node in graph.graph.nodes)
        return make_boxed_func(graph.forward)

    backend: Any = aot_autograd(fw_compiler=record, decompositions=select_decomp_table)
    compiled: Any = torch.compile(loss._process_chunk, dynamic=False, backend=backend)
    with torch.no_grad():
        arguments = (torch.zeros(8, dtype=torch.int64), torch.ones(8), 1e-4, True)
        compiled(torch.zeros(8, V, dtype=torch.bfloat16), *arguments)
    assert any("exp" in operation for operation in operations)
    assert [name for name in operations if "index_put" in name or "scatter" in name] == []


def test_a_row_of_weight_0_has_a_loss_but_no_gradient():
    inputs = random_inputs(3, 6)
    result = objective(*inputs)
    (gradient,) = torch.autograd.grad(result.total, inputs.x_BTD)
    assert gradient[2].abs().sum() == 0
    assert gradient[:2].abs().sum() > 0
    assert result.loss_B[2] > 0
    assert gradient[:, -1].abs().sum() == 0  # a last position predicts nothing


def test_no_tensor_is_as_large_as_the_logits(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(loss, "CHUNK_LOGITS", {"cpu": 64 * V})
    inputs = random_inputs(64, 64)
    with LargestTensor() as chunked:
        objective(*inputs).total.backward()
    with LargestTensor() as whole:
        whole_objective(inputs, 0.0).total.backward()
    assert chunked.numel <= 2 * 64 * 64 * D  # x and its gradient
    assert whole.numel >= 64 * 63 * V  # all logits


def test_without_autograd_no_gradient_is_computed(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(loss, "_add_product", lambda *_: pytest.fail("computed a gradient"))
    inputs = random_inputs(2, 6)
    with torch.no_grad():
        actual, expected = objective(*inputs).loss_B, whole_objective(inputs, 0.0).loss_B
    assert_sum_close(actual, expected, V + 6)


@pytest.mark.numeric
def test_the_tied_matrix_gets_gradients_as_embedding_and_output():
    tokens = torch.randint(V, (3, 7), generator=torch.Generator().manual_seed(0))
    model = OLMoForTraining(MODEL, z_loss=1e-2)
    model.initialise(0)
    twin = OLMo(MODEL)
    twin.load_state_dict(model.state_dict())
    weight_B = torch.tensor([0.5, 0.25, 0.0])
    model(tokens, weight_B).total.backward()
    inputs = LossInputs(twin.hidden(tokens), twin.embedding.weight, tokens, weight_B)
    whole_objective(inputs, 1e-2).total.backward()
    for parameter, expected in zip(model.parameters(), twin.parameters(), strict=True):
        assert parameter.grad is not None and expected.grad is not None
        assert_sum_close(parameter.grad, expected.grad, V + 3 * 7)


class LargestTensor(TorchDispatchMode):
    """The number of elements of the largest tensor that any operation returned."""

    numel = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        sizes = [value.numel() for value in tree_leaves(result) if isinstance(value, Tensor)]
        self.numel = max([self.numel, *sizes])
        return result
