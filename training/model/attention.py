"""one attention call over the best kernel present: flash-attn, SDPA, boolean masks, documents apart

flash-attn has no wheel and needs a compiler at its installation, so it is used where it is found
and never required; torch's SDPA (flash or cuDNN on CUDA, flash on CPU) is the floor. Every path
computes softmax(q kᵀ / √H) v, and they differ by rounding only; the tests hold each to a plain
softmax.

Shapes: B batch, T query position, S key position, N head, H head dim.
"""

from functools import lru_cache
from importlib.util import find_spec

import torch
import torch.nn.functional as F
from torch import Tensor

from training.model.documents import Documents

Mask = Tensor | Documents | None
QUERIES = 512  # times 16 heads and 2,048 keys in fp32: 64 MiB


def attend(q_BTNH: Tensor, k_BSNH: Tensor, v_BSNH: Tensor, *, mask_BTS: Mask = None) -> Tensor:
    """Attention of T queries, the last T of S positions, over S keys: [B, T, N, H].

    Without a mask it is causal. A boolean mask (True: may attend; B may be 1) replaces causality,
    so it must contain it (`causal_mask`), and each of its rows needs a True. Documents are causal,
    each apart; S is T then.
    """
    if isinstance(mask_BTS, Documents):
        return _within_documents(q_BTNH, k_BSNH, v_BSNH, mask_BTS)
    T, S = q_BTNH.shape[1], k_BSNH.shape[1]
    if mask_BTS is None and kernel_name(q_BTNH.device, q_BTNH.dtype) != "SDPA":
        return _flash_attention(q_BTNH, k_BSNH, v_BSNH)
    if mask_BTS is None and 1 < T < S:
        mask_BTS = causal_mask(
            T, S, device=q_BTNH.device
        )  # SDPA's own causality would align the first ones
    dtype = (
        q_BTNH.dtype if q_BTNH.is_cuda else torch.float32
    )  # on a CPU bf16 attention takes twice the time of fp32
    out_BNTH = F.scaled_dot_product_attention(
        q_BTNH.transpose(1, 2).to(dtype),
        k_BSNH.transpose(1, 2).to(dtype),
        v_BSNH.transpose(1, 2).to(dtype),
        attn_mask=None if mask_BTS is None else mask_BTS[:, None],
        is_causal=mask_BTS is None and T == S,
    )
    return out_BNTH.transpose(1, 2).to(q_BTNH.dtype)


def largest_logit(q_BTNH: Tensor, k_BTNH: Tensor, *, mask_BTS: Tensor | None = None) -> Tensor:
    """The largest q·k / √H that `attend` puts into a softmax, a scalar in fp32; made QUERIES at a
    time, for no kernel shows it.
    """
    T, scale = q_BTNH.shape[1], q_BTNH.shape[-1] ** -0.5
    mask_BTS = causal_mask(T, T, device=q_BTNH.device) if mask_BTS is None else mask_BTS
    found = []
    for start in range(0, T, QUERIES):
        part = slice(start, start + QUERIES)
        logits_BNTS = (
            torch.einsum("btnh,bsnh->bnts", q_BTNH[:, part].float(), k_BTNH.float()) * scale
        )
        found.append(logits_BNTS.masked_fill(~mask_BTS[:, None, part], -torch.inf).max())
    return torch.stack(found).max()


def causal_mask(
    T: int, S: int, *, padding_B: Tensor | None = None, device: torch.device | None = None
) -> Tensor:
    """Which of S keys each of the last T positions may attend to: [B or 1, T, S], boolean.

    padding_B: how many positions at the left of each row are padding. Nothing attends to them but
    themselves, and that only so that no row of the mask is empty: a softmax of nothing is 0 in one
    kernel and NaN, for good, in the next.

        T = 2, S = 4, padding 1:   · █ █ ·
                                   · █ █ █
    """
    if padding_B is not None:
        device = padding_B.device
    key_S = torch.arange(S, device=device)
    query_T = torch.arange(S - T, S, device=device)
    mask_BTS = (key_S <= query_T[:, None])[None]
    if padding_B is None:
        return mask_BTS
    return mask_BTS & (key_S >= padding_B[:, None])[:, None] | (key_S == query_T[:, None])[None]


def kernel_name(device: torch.device, dtype: torch.dtype) -> str:
    """The kernel that maskless attention takes here, for records and for `attend`."""
    if device.type != "cuda" or dtype is not torch.bfloat16:
        return "SDPA"
    return _flash_kernel(torch.cuda.get_device_capability(device))


@lru_cache
def _flash_kernel(capability: tuple[int, int]) -> str:
    if capability[0] == 9 and find_spec(
        "flash_attn_interface"
    ):  # FlashAttention-3 is for Hopper alone
        return "flash-attn 3"
    return "flash-attn 2" if find_spec("flash_attn") else "SDPA"


def documents_mask(documents: Documents, dtype: torch.dtype) -> Mask:
    """What to give `attend` in each layer: the documents where a kernel takes them, else their
    mask, made once.
    """
    return documents if documents.starts_K.is_cuda and dtype is torch.bfloat16 else documents.mask()


def _within_documents(
    q_BTNH: Tensor, k_BTNH: Tensor, v_BTNH: Tensor, documents: Documents
) -> Tensor:
    """By a kernel that takes rows of different lengths; torch's own where flash-attn is not."""
    q, k, v = (x.flatten(0, 1) for x in (q_BTNH, k_BTNH, v_BTNH))
    starts, T = documents.starts_K, documents.length
    if (kernel := kernel_name(q_BTNH.device, q_BTNH.dtype)) == "SDPA":
        from torch.nn.attention.varlen import varlen_attn

        out = varlen_attn(q, k, v, starts, starts, T, T, window_size=(-1, 0))
    else:
        if kernel == "flash-attn 3":
            from flash_attn_interface import flash_attn_varlen_func  # pyright: ignore[reportMissingImports]
        else:
            from flash_attn import flash_attn_varlen_func  # pyright: ignore[reportMissingImports]
        deterministic = torch.are_deterministic_algorithms_enabled()
        out = flash_attn_varlen_func(
            q, k, v, starts, starts, T, T, causal=True, deterministic=deterministic
        )
    return (out[0] if isinstance(out, tuple) else out).view_as(q_BTNH)


def _flash_attention(q_BTNH: Tensor, k_BSNH: Tensor, v_BSNH: Tensor) -> Tensor:
    """Causal; it aligns the last query with the last key, as we do."""
    if kernel_name(q_BTNH.device, q_BTNH.dtype) == "flash-attn 3":
        from flash_attn_interface import flash_attn_func  # pyright: ignore[reportMissingImports]
    else:
        from flash_attn import flash_attn_func  # pyright: ignore[reportMissingImports]
    deterministic = (
        torch.are_deterministic_algorithms_enabled()
    )  # else the order of its sums is chance
    out = flash_attn_func(q_BTNH, k_BSNH, v_BSNH, causal=True, deterministic=deterministic)
    return (
        out[0] if isinstance(out, tuple) else out
    )  # some versions of 3 return the log-sum-exp as well
