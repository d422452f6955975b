import math

import pytest
import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from training.model.attention import attend, causal_mask

# Largest difference measured: 3.6e-7 in fp32, 7e-3 in bf16 (whose step just below 2 is 8e-3).
TOLERANCE = {torch.float32: 2e-6, torch.bfloat16: 2e-2}


def plain_attention(q_BTNH: Tensor, k_BSNH: Tensor, v_BSNH: Tensor, mask_BTS: Tensor) -> Tensor:
    scores = torch.einsum("btnh,bsnh->bnts", q_BTNH, k_BSNH) / math.sqrt(q_BTNH.shape[-1])
    weights = scores.masked_fill(~mask_BTS[:, None], -math.inf).softmax(dim=-1)
    return torch.einsum("bnts,bsnh->btnh", weights, v_BSNH)


def some_qkv(T: int, S: int) -> tuple[Tensor, Tensor, Tensor]:
    draw = torch.Generator().manual_seed(T * 100 + S)
    return tuple(torch.randn(3, n, 4, 8, generator=draw) for n in (T, S, S))  # pyright: ignore[reportReturnType]


def test_causal_mask_aligns_the_last_query_with_the_last_key():
    assert causal_mask(2, 4).int().tolist() == [[[1, 1, 1, 0], [1, 1, 1, 1]]]


def test_padding_is_attended_to_by_itself_only():
    assert causal_mask(3, 3, padding_B=torch.tensor([0, 1, 2])).int().tolist() == [
        [[1, 0, 0], [1, 1, 0], [1, 1, 1]],
        [[1, 0, 0], [0, 1, 0], [0, 1, 1]],
        [[1, 0, 0], [0, 1, 0], [0, 0, 1]],
    ]


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("backend", [SDPBackend.MATH, SDPBackend.FLASH_ATTENTION])
@pytest.mark.parametrize(("T", "S"), [(9, 9), (1, 9), (4, 9)])
def test_every_kernel_computes_causal_softmax_attention(T, S, backend, dtype):
    q, k, v = some_qkv(T, S)
    with sdpa_kernel(backend):
        got = attend(q.to(dtype), k.to(dtype), v.to(dtype))
    assert got.dtype is dtype and got.shape == (3, T, 4, 8)
    torch.testing.assert_close(
        got.float(), plain_attention(q, k, v, causal_mask(T, S)), atol=TOLERANCE[dtype], rtol=0
    )


def test_a_mask_is_used_as_given():
    q, k, v = some_qkv(5, 9)
    mask = causal_mask(5, 9, padding_B=torch.tensor([0, 2, 7]))
    torch.testing.assert_close(
        attend(q, k, v, mask_BTS=mask), plain_attention(q, k, v, mask), atol=2e-6, rtol=0
    )
