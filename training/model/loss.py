"""the training objective in chunks: cross-entropy and z-loss without whole logits

The logits of 32,768 positions over 50,304 tokens take 6.6 GB in fp32, and autograd would keep them,
their softmax and its gradient. So positions are processed in chunks, and the gradient of a chunk is
computed with its loss, while its logits exist:

    logits = x Wᵀ      p = softmax(logits)      z = log Σ exp(logits)
    objective  Σ w · (z − logit of the target + ζ z²)
    gradient   g = w · ((1 + 2 ζ z) p − onehot(target))
               dx = g W        dW = Σ over chunks of gᵀ x, in fp32

That is possible because each position's weight w in the objective is known beforehand; computing
the gradient in the backward pass instead would take the logits' product twice, 3 % of a 1B's step.
The z-loss (PaLM, arXiv:2204.02311, §5) keeps z near 0.

The last position of a row predicts nothing: it gets weight 0 rather than being cut off, so that
shapes stay multiples of the GPU's tiles.

Shapes: B batch, T position, N = B·T, C positions of a chunk, D model, V vocab.
"""

from functools import lru_cache
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from training.config import ModelConfig
from training.model.olmo import OLMo, matmul_dtype

# C·V: on a GPU enough rows to keep it busy, on a CPU few enough for its cache
CHUNK_LOGITS = {"cuda": 1 << 28, "cpu": 1 << 22}
TILE = 128  # a chunk's rows are a multiple of it, if it has that many


class Objective(NamedTuple):
    """The training objective of some rows.

    total: what is minimised, a scalar. loss_B: each row's cross-entropy, summed over its T − 1
    predictions, in nats, fp32; without weights, z-loss or a gradient.
    """

    total: Tensor
    loss_B: Tensor


class OLMoForTraining(OLMo):
    """An OLMo whose forward is the objective.

    DeepSpeed's hooks see the forward of one module, and gather the matrix that the loss shares with
    the embedding. Parameters have OLMo's names.
    """

    def __init__(self, config: ModelConfig, *, z_loss: float = 0.0) -> None:
        super().__init__(config)
        self.z_loss = z_loss
        self.compiled_loss = False

    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, tokens_BT: Tensor, weight_B: Tensor, starts_K: Tensor | None = None
    ) -> Objective:
        """The objective of these rows.

        weight_B: weight in the objective of a nat of each row's loss, 0 for padding. starts_K:
        where documents begin, if none may attend to another (attention.py).
        """
        x_BTD = self.hidden(tokens_BT, starts_K=starts_K)
        return objective(
            x_BTD,
            self.embedding.weight,
            tokens_BT,
            weight_B,
            z_loss=self.z_loss,
            compiled=self.compiled_loss,
        )


def objective(
    x_BTD: Tensor,
    weight_VD: Tensor,
    tokens_BT: Tensor,
    weight_B: Tensor,
    *,
    z_loss: float = 0.0,
    compiled: bool = False,
) -> Objective:
    """Σ over rows of weight · Σ over positions of (cross-entropy + z_loss · z²).

    x_BTD: normed hidden states. weight_VD: the output matrix.
    """
    weight_BT = weight_B.float()[:, None].repeat(1, tokens_BT.shape[1])
    weight_BT[:, -1] = 0.0
    targets_N = tokens_BT.roll(-1, dims=1).flatten()
    options = _Options(z_loss, compiled, torch.is_grad_enabled())
    total, losses_N = _ChunkedObjective.apply(
        x_BTD.flatten(0, 1), weight_VD, targets_N, weight_BT.flatten(), options
    )
    return Objective(total, losses_N.view_as(tokens_BT)[:, :-1].sum(dim=1))


def next_token_loss(logits_BTV: Tensor, tokens_BT: Tensor) -> Tensor:
    """Cross-entropy of each row's T − 1 predictions, summed, in nats: [B], fp32.

    For callers that need the logits in any case.
    """
    logits, targets = logits_BTV[:, :-1].flatten(0, 1).float(), tokens_BT[:, 1:].flatten()
    losses = F.cross_entropy(logits, targets, reduction="none")
    return losses.view(tokens_BT.shape[0], -1).sum(dim=1)


def chunk_rows(n_rows: int, vocab_size: int, chunk_logits: int) -> int:
    """Rows per chunk: chunks of about equal size, of at most about `chunk_logits` logits."""
    n_chunks = -(-n_rows // max(1, chunk_logits // vocab_size))
    rows = -(-n_rows // n_chunks)
    return rows if rows < TILE else -(-rows // TILE) * TILE


class _Options(NamedTuple):
    z_loss: float
    compiled: bool
    with_gradient: bool


class _ChunkedObjective(torch.autograd.Function):
    """(total, losses_N) of x_ND.

    The forward pass computes the gradients of both factors; the backward pass only scales them.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x_ND: Tensor,
        weight_VD: Tensor,
        targets_N: Tensor,
        weight_N: Tensor,
        options: _Options,
    ) -> Any:
        z_loss, compiled, with_gradient = options
        process_chunk = _compiled_process_chunk() if compiled else _process_chunk
        dtype = matmul_dtype(x_ND)
        w_VD = weight_VD.to(dtype)
        total = x_ND.new_zeros((), dtype=torch.float32)
        losses = []
        dx_ND = torch.empty_like(x_ND) if with_gradient else None
        dw_VD = torch.zeros_like(weight_VD, dtype=torch.float32) if with_gradient else None
        chunk_logits = CHUNK_LOGITS["cuda" if x_ND.is_cuda else "cpu"]
        rows = chunk_rows(len(x_ND), len(weight_VD), chunk_logits)
        for start in range(0, len(x_ND), rows):
            chunk = slice(start, start + rows)
            x_CD = x_ND[chunk].to(dtype)
            losses_C, z_C, gradient_CV = process_chunk(
                F.linear(x_CD, w_VD), targets_N[chunk], weight_N[chunk], z_loss, with_gradient
            )
            losses.append(losses_C)
            total += (weight_N[chunk] * (losses_C + z_loss * z_C.square())).sum()
            if gradient_CV is not None and dx_ND is not None and dw_VD is not None:
                dx_ND[chunk] = gradient_CV @ w_VD
                _add_product(dw_VD, gradient_CV.T, x_CD)
        losses_N = torch.cat(losses)
        ctx.save_for_backward(dx_ND, dw_VD)
        ctx.dtype = weight_VD.dtype
        ctx.mark_non_differentiable(losses_N)
        return total, losses_N

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Any) -> Any:
        dx_ND, dw_VD = ctx.saved_tensors
        scale = grad_outputs[0]
        return dx_ND * scale.to(dx_ND.dtype), (dw_VD * scale).to(ctx.dtype), None, None, None


def _process_chunk(
    logits_CV: Tensor, targets_C: Tensor, weight_C: Tensor, z_loss: float, with_gradient: bool
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Cross-entropy and z of each position, and the objective's gradient by the logits.

    The gradient is in the logits' dtype.
    """
    index_C1 = targets_C[:, None]
    log_p_CV = torch.log_softmax(logits_CV, dim=-1, dtype=torch.float32)
    target_C = log_p_CV.gather(1, index_C1)[:, 0]
    z_C = logits_CV.gather(1, index_C1)[:, 0].float() - target_C
    if not with_gradient:
        return -target_C, z_C, None
    gradient_CV = log_p_CV.exp_().mul_((weight_C * (1 + 2 * z_loss * z_C))[:, None])
    if torch.compiler.is_compiling():
        # The same numbers by a pass over all logits, which costs nothing where it is fused with the
        # lines above. A scatter is a kernel of its own, with a whole fp32 gradient before it.
        is_target_CV = torch.arange(logits_CV.shape[1], device=logits_CV.device) == index_C1
        gradient_CV -= torch.where(is_target_CV, weight_C[:, None], 0.0)
    else:
        gradient_CV[torch.arange(len(targets_C), device=targets_C.device), targets_C] -= weight_C
    return -target_C, z_C, gradient_CV.to(logits_CV.dtype)


@lru_cache
def _compiled_process_chunk() -> Any:
    """`_process_chunk` as one kernel, which reads the logits for z and again for the gradient."""
    return torch.compile(_process_chunk, dynamic=False)


def _add_product(total: Tensor, a: Tensor, b: Tensor) -> None:
    """total += a · b in fp32.

    With bf16 factors the product of each chunk is rounded once, and their sum is not.
    """
    if a.dtype is torch.float32:
        total.addmm_(a, b)
    else:
        total += a @ b
