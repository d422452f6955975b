"""linear probes of all heads at once: L2 logistic regression by preconditioned L-BFGS

P problems share R rows and labels; each has its own H features, standardised on the training rows.
All of them reach scikit-learn's optimum (LogisticRegression with C = 1/λ after StandardScaler) by
gradients that a Hessian preconditions (solver/), in 0.1 to 0.4 of its time.

    minimise over w, b:   Σ_rows log(1 + exp(−s·(w·x + b)))  +  λ/2·|w|²

where s = ±1 is the label; b is not penalised. Probes are fitted on the device of their features. A
GPU's differ from a CPU's by rounding and by where they end: the last step of both is at most 3e-6
of the largest weight (solver/lbfgs.py).

Shapes: R rows, P problems (heads, layer-major), H features, F = H + 1 with the intercept.
"""

from functools import cache
from typing import NamedTuple

import torch
from threadpoolctl import ThreadpoolController
from torch import Tensor

from data_prep.core.errors import ConfigurationError
from eval.probing.solver import lbfgs
from eval.probing.solver.logistic_loss import LogisticLoss, ProblemRows

# of float32 features at once on a CPU: in the cache, and 1.4 times as fast as 32 MiB
CHUNK_BYTES = 8 << 20
GPU_CHUNKS = 64  # times as many bytes at once on a GPU


class Probes(NamedTuple):
    """P fitted probes; the score of features x is weight·(x − mean)/scale + bias, toxic if
    positive.
    """

    weight_PH: Tensor
    bias_P: Tensor
    mean_PH: Tensor
    scale_PH: Tensor

    def scores(self, features_RPH: Tensor) -> Tensor:
        """Log odds of toxic: [R, P]."""
        slope_PH = self.weight_PH / self.scale_PH
        intercept_P = self.bias_P - (slope_PH * self.mean_PH).sum(-1)
        # in float64, one problem's features at a time: those of all would not fit in a cache
        x64_RH = features_RPH.new_empty(features_RPH[:, 0].shape, dtype=torch.float64)
        score_PR = [
            x64_RH.copy_(x_RH) @ slope_H
            for x_RH, slope_H in zip(features_RPH.transpose(0, 1), slope_PH, strict=True)
        ]
        return torch.stack(score_PR, dim=1) + intercept_P

    def correct(self, features_RPH: Tensor, labels_R: Tensor) -> Tensor:
        """Whether each probe classifies each row correctly: [R, P] bool."""
        return (self.scores(features_RPH) > 0) == labels_R.bool()[:, None]


def fit(features_RPH: Tensor, labels_R: Tensor, l2: float) -> Probes:
    """One probe per problem, in float64, in chunks of problems that fit in a CPU's cache.

    A head is too small a problem to share between threads, so numpy gets one.
    """
    if l2 <= 0:
        raise ConfigurationError(
            f"eval.probing.l2 is {l2}, expected more than 0: separable heads have no optimum "
            "without a penalty; the default is 1"
        )
    n_rows, n_problems, n_features = features_RPH.shape
    budget_bytes = CHUNK_BYTES * (GPU_CHUNKS if features_RPH.is_cuda else 1)
    step = max(1, budget_bytes // (4 * n_rows * n_features))
    rows = ProblemRows(features_RPH, labels_R, min(step, n_problems))
    with _threadpools().limit(limits=1, user_api="blas"):
        chunks = [
            _fit_chunk(LogisticLoss(features_RPH[:, start : start + step], rows, l2))
            for start in range(0, n_problems, step)
        ]
    return Probes(*(torch.cat(tensors) for tensors in zip(*chunks, strict=True)))


@cache
def _threadpools() -> ThreadpoolController:
    return ThreadpoolController()  # looking for the libraries takes milliseconds


def _fit_chunk(loss: LogisticLoss) -> Probes:
    u_PF = torch.from_numpy(lbfgs.minimise(loss)).to(loss.mean_PH)
    slope_PH, intercept_P = u_PF[:, :-1], u_PF[:, -1]
    bias_P = intercept_P + (slope_PH * (loss.mean_PH - loss.centre_PH)).sum(-1)
    return Probes(slope_PH * loss.scale_PH, bias_P, loss.mean_PH, loss.scale_PH)
