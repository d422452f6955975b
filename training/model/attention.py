"""attention over the best kernel available: flash-attn, SDPA, masks, packed documents

flash-attn has no wheel and needs a compiler to install, so it is used where it is found and never
required; torch's SDPA (flash or cuDNN on CUDA, flash on a CPU) is the fallback. Every path computes
softmax(q kᵀ / √H) v; paths differ by rounding only, and the tests compare each with a plain
softmax.

A row of a training batch is a window of a stream: it holds the end of one document, whole ones, and
the beginning of another. With `train.document_mask` attention and positions stay within each
document. Every document ends with EOS, and no text contains it: special tokens in text are encoded
as text (data_prep/token_stream/tokenizer.py), so here EOS marks where documents end.

    tokens of a row     . . . E . . E . .        T = 9
    document            0 0 0 0 1 1 1 2 2        attends to its own, earlier positions
    position            0 1 2 3 0 1 2 0 1        restarts: rotary attention is relative, so this
                                                 changes rounding alone, and a document is computed
                                                 as if it were the only one

The token after EOS is still predicted from EOS, which sees the previous document and nothing of the
next.

Shapes: B batch, T query position, S key position, N head, H head dim; for packed documents also
M = B·T tokens of all rows, K documents of all rows, with padding.
"""

from functools import lru_cache
from importlib.util import find_spec
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend

QUERIES_PER_CHUNK = 512  # times 16 heads and 2,048 keys in fp32: 64 MiB


class PackedDocuments(NamedTuple):
    """Documents of B rows, concatenated to one sequence of M = B·T tokens.

    starts_K: where each document begins, then M as padding; int32.
    """

    starts_K: Tensor
    n_rows: int
    length: int

    def ids(self) -> Tensor:
        """Index of each token's document, counted over all rows: [B, T]."""
        n_tokens = self.n_rows * self.length
        tokens_M = torch.arange(n_tokens, dtype=torch.int32, device=self.starts_K.device)
        ids_M = torch.bucketize(tokens_M, self.starts_K, right=True) - 1
        return ids_M.view(self.n_rows, self.length)

    def positions(self) -> Tensor:
        """Each token's position in its document: [B, T]."""
        ids_BT = self.ids()
        tokens_BT = torch.arange(ids_BT.numel(), device=ids_BT.device).view_as(ids_BT)
        return tokens_BT - self.starts_K[ids_BT]

    def mask(self) -> Tensor:
        """Whether a token may attend to another one of its row: [B, T, S], boolean.

        True where both are in the same document and the key is not later than the query.
        """
        ids_BT = self.ids()
        same_BTS = ids_BT[:, :, None] == ids_BT[:, None]
        causal_TS = torch.ones(self.length, self.length, dtype=torch.bool, device=ids_BT.device)
        return same_BTS & causal_TS.tril()


Mask = Tensor | PackedDocuments | None


def document_starts(tokens_BT: Tensor, eos_id: int) -> Tensor:
    """PackedDocuments.starts_K of tokens in host memory.

    K is padded to a power of two plus one, so that compiled code meets few different shapes.
    """
    begins_BT = torch.ones_like(tokens_BT, dtype=torch.bool)
    begins_BT[:, 1:] = tokens_BT[:, :-1] == eos_id
    starts = begins_BT.flatten().nonzero()[:, 0]
    n_padded = (1 << (len(starts) - 1).bit_length()) + 1
    return F.pad(starts, (0, n_padded - len(starts)), value=tokens_BT.numel()).int()


def document_mask(documents: PackedDocuments, dtype: torch.dtype) -> Mask:
    """What `attend` takes in each layer: the documents where a kernel takes them, else their mask.

    The mask is computed here once, not in every layer.
    """
    has_kernel = documents.starts_K.is_cuda and dtype is torch.bfloat16
    return documents if has_kernel else documents.mask()


def attend(q_BTNH: Tensor, k_BSNH: Tensor, v_BSNH: Tensor, *, mask_BTS: Mask = None) -> Tensor:
    """Attention of T queries, the last T of S positions, over S keys: [B, T, N, H].

    Without a mask it is causal. A boolean mask (True: may attend; B may be 1) replaces causality,
    so it must contain it (`causal_mask`), and each of its rows needs a True. With PackedDocuments
    attention is causal within each document, and S equals T.
    """
    if isinstance(mask_BTS, PackedDocuments):
        return _attend_within_documents(q_BTNH, k_BSNH, v_BSNH, mask_BTS)
    T, S = q_BTNH.shape[1], k_BSNH.shape[1]
    if mask_BTS is None and kernel_name(q_BTNH.device, q_BTNH.dtype) != "SDPA":
        return _flash_attention(q_BTNH, k_BSNH, v_BSNH)
    if mask_BTS is None and 1 < T < S:
        # SDPA's own causality would align the first query with the first key
        mask_BTS = causal_mask(T, S, device=q_BTNH.device)
    # on a CPU bf16 attention takes twice the time of fp32
    dtype = q_BTNH.dtype if q_BTNH.is_cuda else torch.float32
    out_BNTH = F.scaled_dot_product_attention(
        q_BTNH.transpose(1, 2).to(dtype),
        k_BSNH.transpose(1, 2).to(dtype),
        v_BSNH.transpose(1, 2).to(dtype),
        attn_mask=None if mask_BTS is None else mask_BTS[:, None],
        is_causal=mask_BTS is None and T == S,
    )
    return out_BNTH.transpose(1, 2).to(q_BTNH.dtype)


def max_attention_logit(
    q_BTNH: Tensor, k_BTNH: Tensor, *, mask_BTS: Tensor | None = None
) -> Tensor:
    """The largest q·k / √H that `attend` puts into a softmax, a scalar in fp32.

    No kernel returns it, so the logits are computed here, QUERIES_PER_CHUNK queries at a time.
    """
    T, scale = q_BTNH.shape[1], q_BTNH.shape[-1] ** -0.5
    mask_BTS = causal_mask(T, T, device=q_BTNH.device) if mask_BTS is None else mask_BTS
    maxima = []
    for start in range(0, T, QUERIES_PER_CHUNK):
        chunk = slice(start, start + QUERIES_PER_CHUNK)
        q_chunk, k = q_BTNH[:, chunk].float(), k_BTNH.float()
        logits_BNTS = torch.einsum("btnh,bsnh->bnts", q_chunk, k) * scale
        maxima.append(logits_BNTS.masked_fill(~mask_BTS[:, None, chunk], -torch.inf).max())
    return torch.stack(maxima).max()


def causal_mask(
    T: int, S: int, *, padding_B: Tensor | None = None, device: torch.device | None = None
) -> Tensor:
    """Which of S keys each of the last T positions may attend to: [B or 1, T, S], boolean.

    padding_B: number of padding positions at the left of each row. Nothing attends to them but
    themselves, and that only so that no row of the mask is empty: a softmax over nothing is 0 in
    one kernel and NaN in another, and NaN would spread to every later layer.

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
    """The kernel that `attend` uses here without a mask."""
    if device.type != "cuda" or dtype is not torch.bfloat16:
        return "SDPA"
    return _flash_kernel(torch.cuda.get_device_capability(device))


def describe_kernel(
    device: torch.device, dtype: torch.dtype, d_head: int, *, document_mask: bool = False
) -> str:
    """`kernel_name` for records, with the backend that torch chooses for its SDPA.

    The choice depends on the library's versions, and on whether determinism is asked for.
    """
    name = kernel_name(device, dtype)
    if name != "SDPA":
        return name
    is_cuda = device.type == "cuda"
    if document_mask and is_cuda and dtype is torch.bfloat16:
        return "varlen_attn (flash)"
    shape = (1, 1, QUERIES_PER_CHUNK, d_head)
    q = torch.empty(shape, dtype=dtype if is_cuda else torch.float32, device=device)
    mask = torch.ones(QUERIES_PER_CHUNK, QUERIES_PER_CHUNK, dtype=torch.bool, device=device)
    choice = torch._fused_sdp_choice(
        *3 * (q.requires_grad_(),),
        attn_mask=mask if document_mask else None,
        is_causal=not document_mask,
    )
    backend = SDPBackend(choice).name  # e.g. CUDNN_ATTENTION
    return f"SDPA ({backend.removesuffix('_ATTENTION').lower()})"


@lru_cache
def _flash_kernel(capability: tuple[int, int]) -> str:
    # FlashAttention-3 supports Hopper alone
    if capability[0] == 9 and find_spec("flash_attn_interface"):
        return "flash-attn 3"
    return "flash-attn 2" if find_spec("flash_attn") else "SDPA"


def _attend_within_documents(
    q_BTNH: Tensor, k_BTNH: Tensor, v_BTNH: Tensor, documents: PackedDocuments
) -> Tensor:
    """Attention by a kernel for sequences of different lengths; torch's own without flash-attn."""
    q, k, v = (x.flatten(0, 1) for x in (q_BTNH, k_BTNH, v_BTNH))
    starts, T = documents.starts_K, documents.length
    kernel = kernel_name(q_BTNH.device, q_BTNH.dtype)
    if kernel == "SDPA":
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
    """Causal attention by flash-attn, which aligns the last query with the last key, as we do."""
    if kernel_name(q_BTNH.device, q_BTNH.dtype) == "flash-attn 3":
        from flash_attn_interface import flash_attn_func  # pyright: ignore[reportMissingImports]
    else:
        from flash_attn import flash_attn_func  # pyright: ignore[reportMissingImports]
    # without this the order of the backward pass's sums varies from run to run
    deterministic = torch.are_deterministic_algorithms_enabled()
    out = flash_attn_func(q_BTNH, k_BSNH, v_BSNH, causal=True, deterministic=deterministic)
    # some versions of flash-attn 3 return the log-sum-exp as well
    return out[0] if isinstance(out, tuple) else out
