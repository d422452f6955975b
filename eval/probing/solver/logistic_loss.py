"""the penalised logistic loss of several probes: gradients and Hessians, CPU or GPU

    loss(v, b) = Σ_rows log(1 + exp(−s·(x·v + b))) + λ/2·Σ_features (scale·v)²,   s = ±1 the label

x is a row's features less a constant near their mean, which only moves b. v is the slope, and
scale·v the weight of the standardised feature, which is what the penalty counts.

The loss is read at one of three levels, each nearer to the true one and slower: "quarter" of the
rows, which leads near the optimum; "float32"; "float64". Products are numpy's on a CPU, whose xᵀx
takes half the time of torch's (numpy calls `syrk`), and torch's on a GPU.

Shapes: R rows, Q of them, P problems, H features, F = H + 1 parameters: H slopes, then the
intercept; K of the problems.
"""

from typing import Literal

import numpy as np
import torch
from torch import Tensor

Level = Literal["quarter", "float32", "float64"]

N_CENTRE_ROWS = 64  # their mean is near enough to that of all rows
CONSTANT_FEATURE = 1e-7  # relative: a float32 feature that varies less than this is constant
FLAT = 1e-10  # added to the intercept's curvature, which vanishes where all rows are certain
# rows per feature, below which a part of the rows leads too far from the optimum of all
MIN_ROWS_PER_FEATURE = 6
BLOCK_ROWS = 1024  # whose sum is float32's; sums of blocks are float64's


class ProblemRows:
    """Labels and buffers of a chunk of problems that share them. Allocating the buffers for each
    chunk would cost a CPU as much time as solving it.
    """

    def __init__(self, features_RPH: Tensor, labels_R: Tensor, n_problems: int) -> None:
        n_rows, _, n_features = features_RPH.shape
        self.labels_R = labels_R
        # of each class: rows may be ordered by label, or alternate
        is_toxic_R = labels_R.bool()
        self.quarter_Q = torch.cat([own_R.nonzero()[::4, 0] for own_R in (is_toxic_R, ~is_toxic_R)])
        self.has_quarter = len(self.quarter_Q) >= MIN_ROWS_PER_FEATURE * n_features
        new, shape = features_RPH.new_empty, (n_problems, n_rows, n_features)
        self.x32_PRH = new(shape, dtype=torch.float32)
        self.x64_PRH = new(shape, dtype=torch.float64)
        n_quarter = len(self.quarter_Q) if self.has_quarter else 0
        self.quarter_PQH = new((n_problems, n_quarter, n_features), dtype=torch.float32)
        # float32 values of one problem, while its float64 rows are not needed
        self.scratch_RH = self.x64_PRH[0].view(torch.float32).view(2, n_rows, n_features)[0]


class LogisticLoss:
    """The loss of P problems that share their labels, once `read` has chosen a level. Parameters
    and gradients are float64 arrays [P, F] on the CPU, wherever the features are.
    """

    def __init__(self, features_RPH: Tensor, rows: ProblemRows, l2: float) -> None:
        n_problems = features_RPH.shape[1]
        self._rows = rows
        self._l2 = l2
        centre_PH = features_RPH[:N_CENTRE_ROWS].double().mean(0).float()
        self._x32_PRH = rows.x32_PRH[:n_problems]
        torch.sub(features_RPH.transpose(0, 1), centre_PH[:, None], out=self._x32_PRH)
        moments = [_moments(x_RH, rows.scratch_RH) for x_RH in self._x32_PRH]
        offset_PH, scale_PH = (torch.stack(own) for own in zip(*moments, strict=True))
        size_PH = (centre_PH + offset_PH).abs()
        # a constant feature carries no information and gets weight 0
        self.scale_PH = torch.where(scale_PH > CONSTANT_FEATURE * size_PH, scale_PH, 1.0)
        self.centre_PH = centre_PH.double()
        self.mean_PH = self.centre_PH + offset_PH
        one_P1 = scale_PH.new_ones(n_problems, 1)
        self.scale_PF = torch.cat([self.scale_PH, one_P1], 1).cpu().numpy()
        self.levels: tuple[Level, ...] = (
            ("quarter", "float32", "float64") if rows.has_quarter else ("float32", "float64")
        )

    def read(self, level: Level) -> None:
        """From now on the loss is that of this level, of n_rows rows."""
        rows, n_problems = self._rows, len(self._x32_PRH)
        labels_R = rows.labels_R
        if level == "quarter":
            self._x_PRH = rows.quarter_PQH[:n_problems]
            torch.index_select(self._x32_PRH, 1, rows.quarter_Q, out=self._x_PRH)
            labels_R = labels_R[rows.quarter_Q]
        elif level == "float32":
            self._x_PRH = self._x32_PRH
        else:
            self._x_PRH = rows.x64_PRH[:n_problems].copy_(self._x32_PRH)
        self._labels_R = labels_R.to(self._x_PRH)
        self.n_rows = len(labels_R)
        self._probability_PR = self._x_PRH.new_empty(n_problems, self.n_rows)
        share = self.n_rows / len(rows.labels_R)
        self._penalty_PF = self.scale_PF**2 * (self._l2 * share)
        self._penalty_PF[:, -1] = 0

    def gradient(self, u_PF: np.ndarray) -> np.ndarray:
        """The gradient at slopes and intercepts u_PF."""
        u = torch.from_numpy(u_PF).to(self._x_PRH)
        slope_PH, intercept_P1 = u[:, :-1], u[:, -1:]
        score_PR = self._probability_PR
        if _is_on_gpu(u):
            torch.bmm(self._x_PRH, slope_PH[..., None], out=score_PR[..., None])
        else:
            for x_RH, slope_H, score_R in _each_problem(self._x_PRH, slope_PH, score_PR):
                np.matmul(x_RH, slope_H, out=score_R)
        score_PR.add_(intercept_P1).sigmoid_()
        residual_PR = self._probability_PR - self._labels_R
        gradient_PF = self._penalty_PF * u_PF
        gradient_PF[:, -1] += _to_numpy(residual_PR.sum(1, dtype=torch.float64))
        if _is_on_gpu(u):
            gradient_PF[:, :-1] += _to_numpy(torch.bmm(residual_PR[:, None], self._x_PRH)[:, 0])
        else:
            for gradient_F, (x_RH, residual_R) in zip(
                gradient_PF, _each_problem(self._x_PRH, residual_PR), strict=True
            ):
                gradient_F[:-1] += residual_R @ x_RH
        return gradient_PF

    def hessian(self, problems_K: np.ndarray) -> np.ndarray:
        """The Hessian of some problems, where the gradient was computed last: [K, F, F]."""
        size = self._penalty_PF.shape[1]
        hessian_KFF = np.zeros((len(problems_K), size, size))
        for hessian_FF, p in zip(hessian_KFF, problems_K, strict=True):
            p_R = self._probability_PR[p]
            weight_R = p_R * (1 - p_R)
            products_HH, products_H = self._weighted_products(int(p), weight_R)
            hessian_FF[:-1, :-1] = products_HH
            hessian_FF[-1, :-1] = hessian_FF[:-1, -1] = products_H
            hessian_FF[-1, -1] = float(weight_R.sum()) + FLAT
            hessian_FF[np.diag_indices(size)] += self._penalty_PF[p]
        return hessian_KFF

    def _weighted_products(self, p: int, weight_R: Tensor) -> tuple[np.ndarray, np.ndarray]:
        """xᵀ·diag(weight)·x and xᵀ·weight."""
        x_RH, scratch_RH = self._x_PRH[p], self._rows.scratch_RH
        root_R = weight_R.sqrt()
        # the rows in float64 take the scratch's place
        out = scratch_RH[: len(x_RH)] if x_RH.dtype == torch.float32 else None
        weighted_RH = torch.mul(x_RH, root_R[:, None], out=out)
        if _is_on_gpu(weighted_RH):
            return _to_numpy(weighted_RH.T @ weighted_RH), _to_numpy(root_R @ weighted_RH)
        weighted = weighted_RH.numpy()
        return weighted.T @ weighted, root_R.numpy() @ weighted


def _is_on_gpu(tensor: Tensor) -> bool:
    return tensor.is_cuda


def _each_problem(*tensors: Tensor) -> "zip[tuple[np.ndarray, ...]]":
    """The arrays of each problem, of tensors on the CPU."""
    return zip(*(tensor.numpy() for tensor in tensors), strict=True)


def _moments(x_RH: Tensor, scratch_RH: Tensor) -> tuple[Tensor, Tensor]:
    """Means and standard deviations (population) of the features, float64: [H] each."""
    n_rows = len(x_RH)
    one_R = x_RH.new_ones(n_rows)
    square_RH = torch.mul(x_RH, x_RH, out=scratch_RH)
    blocks = [slice(start, start + BLOCK_ROWS) for start in range(0, n_rows, BLOCK_ROWS)]
    mean_H, mean_square_H = (
        torch.stack([one_R[own] @ values_RH[own] for own in blocks]).double().sum(0) / n_rows
        for values_RH in (x_RH, square_RH)
    )
    return mean_H, (mean_square_H - mean_H**2).clamp(min=0).sqrt()


def _to_numpy(values: Tensor) -> np.ndarray:
    return values.double().cpu().numpy()
