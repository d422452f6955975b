"""operations on many small models at once, with the replicas as the last axis

A contraction of 4 is four multiply-adds of whole tensors, whose innermost loop runs over replicas.
A batched matrix product would start one tiny product per replica: several times slower.

Shapes: D and E features in and out, M tokens (sequences × positions), H heads, C head dimension,
T positions, N sequences, V vocabulary, R replicas.
"""

import math
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

LAYER_NORM_EPSILON = 1e-5


class ReplicaLinear(Function):
    """y[e] = b[e] + Σ_d W[d, e]·x[d] of x [D, M, R], W [D, E, R], b [E, R]."""

    @staticmethod
    def forward(ctx: Any, x_DMR: Tensor, weight_DER: Tensor, bias_ER: Tensor) -> Tensor:
        ctx.save_for_backward(x_DMR, weight_DER)
        y_EMR = torch.addcmul(bias_ER[:, None], weight_DER[0][:, None], x_DMR[0][None])
        for x_MR, weight_ER in zip(x_DMR[1:], weight_DER[1:], strict=True):
            y_EMR.addcmul_(weight_ER[:, None], x_MR[None])
        return y_EMR

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        (gradient_EMR,) = gradients
        x_DMR, weight_DER = ctx.saved_tensors
        to_x_DMR = weight_DER[:, 0][:, None] * gradient_EMR[0][None]
        for e in range(1, weight_DER.shape[1]):
            to_x_DMR.addcmul_(weight_DER[:, e][:, None], gradient_EMR[e][None])
        if weight_DER.shape[0] <= weight_DER.shape[1]:
            rows = [(x_MR[None] * gradient_EMR).sum(1) for x_MR in x_DMR]
            to_weight_DER = torch.stack(rows)
        else:
            columns = [(x_DMR * gradient_MR[None]).sum(1) for gradient_MR in gradient_EMR]
            to_weight_DER = torch.stack(columns, dim=1)
        return to_x_DMR, to_weight_DER, gradient_EMR.sum(1)


class ReplicaLayerNorm(Function):
    """(x − mean)/√(variance + ε) over the features of x [D, M, R]."""

    @staticmethod
    def forward(ctx: Any, x_DMR: Tensor) -> Tensor:
        centred = x_DMR - x_DMR.mean(0)
        inverse_MR = centred.square().mean(0).add_(LAYER_NORM_EPSILON).rsqrt_()
        y_DMR = centred.mul_(inverse_MR)
        ctx.save_for_backward(y_DMR, inverse_MR)
        return y_DMR

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        (gradient_DMR,) = gradients
        y_DMR, inverse_MR = ctx.saved_tensors
        along_MR = (gradient_DMR * y_DMR).mean(0)
        rest = gradient_DMR - gradient_DMR.mean(0)
        return rest.addcmul_(y_DMR, along_MR[None], value=-1).mul_(inverse_MR)


class CausalAttention(Function):
    """Softmax attention of q, k, v [H, C, N, T, R] on the positions up to one's own."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        scale = 1 / math.sqrt(q.shape[1])
        scores_HNTTR = _outer(q * scale, k)
        n_positions = q.shape[3]
        hidden = torch.ones(n_positions, n_positions, dtype=torch.bool).triu(1)
        scores_HNTTR.masked_fill_(hidden[None, None, :, :, None], -math.inf)
        weights = scores_HNTTR.sub_(scores_HNTTR.amax(3, keepdim=True)).exp_()
        weights.div_(weights.sum(3, keepdim=True))
        ctx.save_for_backward(q, k, v, weights)
        return _mix(weights, v, over=3)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        (gradient,) = gradients
        q, k, v, weights = ctx.saved_tensors
        scale = 1 / math.sqrt(q.shape[1])
        to_weights = _outer(gradient, v)
        along = (to_weights * weights).sum(3, keepdim=True)
        to_scores = to_weights.sub_(along).mul_(weights).mul_(scale)
        to_q = _mix(to_scores, k, over=3)
        return to_q, _mix(to_scores, q, over=2), _mix(weights, gradient, over=2)


def _outer(a: Tensor, b: Tensor) -> Tensor:
    """Σ_c a[h, c, n, t]·b[h, c, n, s]: [H, N, T, S, R]."""
    total = a[:, 0, :, :, None] * b[:, 0, :, None]
    for c in range(1, a.shape[1]):
        total.addcmul_(a[:, c, :, :, None], b[:, c, :, None])
    return total


def _mix(weights_HNTSR: Tensor, values: Tensor, *, over: int) -> Tensor:
    """Per head dimension, the values [H, C, N, T, R] weighted and summed over axis 2 or 3."""
    axis = 4 - over + 1  # where the values lack an axis: 2 for sums over s, 3 for sums over t
    parts = [
        (weights_HNTSR * values[:, c].unsqueeze(axis)).sum(over) for c in range(values.shape[1])
    ]
    return torch.stack(parts, dim=1)


class WeightedCrossEntropy(Function):
    """Σ_m weight[m, r]·(−log softmax(logits)[target[m], m, r]), summed over replicas.

    logits [V, M, R], targets one-hot [V, M], weights [M, R].
    """

    @staticmethod
    def forward(ctx: Any, logits_VMR: Tensor, target_VM: Tensor, weight_MR: Tensor) -> Tensor:
        log_share = logits_VMR - logits_VMR.logsumexp(0)
        ctx.save_for_backward(log_share, target_VM, weight_MR)
        return -(log_share * target_VM[..., None] * weight_MR).sum()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        (gradient,) = gradients
        log_share, target_VM, weight_MR = ctx.saved_tensors
        to_logits = log_share.exp().sub_(target_VM[..., None]).mul_(weight_MR)
        return to_logits.mul_(gradient), None, None
