"""rotary position embedding (RoPE): angles of positions; queries and keys rotated by them

Su et al., arXiv:2104.09864, with the pairs of dimensions that Hugging Face's OLMo rotates:
(i, i + H/2).
"""

import torch
from torch import Tensor

Rotation = tuple[Tensor, Tensor]  # cos and sin of each position's angles


def rotary(positions_BT: Tensor, d_head: int, theta: float) -> Rotation:
    """cos and sin of position · θ^(−2i/H), each half-dimension twice: [B, T, 1, H], fp32.

    Computed in each pass (a few small kernels) rather than kept in a buffer: `model.bfloat16()`
    casts buffers, and in bf16 the positions from 257 on are no longer distinct.
    """
    exponent = torch.arange(0, d_head, 2, dtype=torch.float32, device=positions_BT.device) / d_head
    angle_BTH = (positions_BT.float()[..., None] * (1.0 / theta**exponent)).repeat(1, 1, 2)
    return angle_BTH.cos()[:, :, None], angle_BTH.sin()[:, :, None]


def rotate(x_BTNH: Tensor, cos_BT1H: Tensor, sin_BT1H: Tensor) -> Tensor:
    """Rotate the pairs (i, i + H/2) of each head by their angles, in fp32."""
    left, right = x_BTNH.chunk(2, dim=-1)
    return (x_BTNH * cos_BT1H + torch.cat((-right, left), dim=-1) * sin_BT1H).to(x_BTNH.dtype)
