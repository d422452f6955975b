"""the penalised logistic loss of several probes: gradients and Hessians, CPU or GPU

    loss(v, b) = Σ_rows log(1 + exp(−s·(x·v + b))) + λ/2·Σ_features (scale·v)²,   s = ±1 the label

x is a row's features less a constant near their mean, which only moves b. v is the slope, and
scale·v the weight of the standardised feature, which is what the penalty counts.

A gradient is float32's or float64's. A Hessian is an estimate from a sample of the rows, since it
only preconditions. Products are numpy's on a CPU, whose xᵀx takes half the time of torch's (numpy
calls `syrk`), and torch's on a GPU.

Shapes: R rows, padded with rows of zeros to N blocks; P problems, H features, F = H + 1 parameters:
H slopes, then the intercept; K of the problems, S sampled rows.
"""

from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

Array = Any  # numpy's on a CPU, torch's on a GPU
Level = Literal["float32", "float64"]

N_CENTRE_ROWS = 64  # their mean is near enough to that of all rows
CONSTANT_FEATURE = 1e-7  # relative: a float32 feature that varies less than this is constant
FLAT = 1e-10  # added to the intercept's curvature, which vanishes where all rows are certain
# in a Hessian, per parameter: fewer take more steps, more take longer than the steps they save
SAMPLED_ROWS_PER_PARAMETER = 12
N_THRESHOLD_STEPS = 3  # that bring the size of the sample near that
BLOCK_ROWS = 256  # whose sum is float32's; sums of blocks are float64's


class ProblemRows:
    """Labels and buffers of a chunk of problems that share them. Allocating the buffers for each
    chunk would cost a CPU as much time as solving it.
    """

    def __init__(self, features_RPH: Tensor, labels_R: Tensor, n_problems: int) -> None:
        n_rows, _, n_features = features_RPH.shape
        self.n_rows = n_rows
        n_padded = n_rows + -n_rows % BLOCK_ROWS
        sign_R = features_RPH.new_zeros(n_padded, dtype=torch.float32)
        sign_R[:n_rows] = 2 * labels_R.to(sign_R) - 1
        self.sign_R = _array(sign_R)
        # rows are sampled at intervals within each class: they may alternate by label
        self.by_class_R = sign_R[:n_rows].argsort(stable=True).cpu().numpy()
        shape = (n_problems, n_padded, n_features)
        self.x32_PRH = features_RPH.new_zeros(shape, dtype=torch.float32)
        # of one problem at a time on a CPU
        self.x64_PRH = features_RPH.new_empty(
            shape if features_RPH.is_cuda else (1, *shape[1:]), dtype=torch.float64
        )


class LogisticLoss:
    """The loss of P problems that share their labels. Parameters and gradients are float64 arrays
    [P, F] on the CPU, wherever the features are.
    """

    def __init__(self, features_RPH: Tensor, rows: ProblemRows, l2: float) -> None:
        n_problems = features_RPH.shape[1]
        self._rows = rows
        self.n_rows = rows.n_rows
        centre_PH = features_RPH[:N_CENTRE_ROWS].double().mean(0).float()
        x_PRH = rows.x32_PRH[:n_problems]
        torch.sub(features_RPH.transpose(0, 1), centre_PH[:, None], out=x_PRH[:, : self.n_rows])
        # float64 rows are not needed yet
        square_RH = rows.x64_PRH[0].view(torch.float32).view(2, *x_PRH.shape[1:])[0]
        moments = [_moments(x_RH, square_RH, self.n_rows) for x_RH in x_PRH]
        offset_PH, scale_PH = (torch.stack(own) for own in zip(*moments, strict=True))
        size_PH = (centre_PH + offset_PH).abs()
        # a constant feature carries no information and gets weight 0
        self.scale_PH = torch.where(scale_PH > CONSTANT_FEATURE * size_PH, scale_PH, 1.0)
        self.centre_PH = centre_PH.double()
        self.mean_PH = self.centre_PH + offset_PH
        one_P1 = scale_PH.new_ones(n_problems, 1)
        self.scale_PF = torch.cat([self.scale_PH, one_P1], 1).cpu().numpy()
        self._penalty_PF = self.scale_PF**2 * l2
        self._penalty_PF[:, -1] = 0
        self._x_PRH = _array(x_PRH)
        # 1 − the probability of each row's own label, where the gradient was computed last
        self._miss_PR = _array(x_PRH.new_empty(x_PRH.shape[:2]))

    def gradient(
        self, u_PF: np.ndarray, level: Level, is_active_P: np.ndarray | None = None
    ) -> np.ndarray:
        """The gradient at slopes and intercepts u_PF. That of inactive problems may be anything: no
        time is spent on those before the first active one and after the last.
        """
        gradient_PF = self._penalty_PF * u_PF
        problems = range(len(u_PF)) if is_active_P is None else np.flatnonzero(is_active_P)
        start, stop = int(problems[0]), int(problems[-1]) + 1
        n_at_once = len(self._rows.x64_PRH) if level == "float64" else stop - start
        for first in range(start, stop, n_at_once):
            own = slice(first, min(first + n_at_once, stop))
            x_PRH = self._x_PRH[own]
            if level == "float64":
                x64_PRH = self._rows.x64_PRH[: len(x_PRH)]
                x_PRH = _array(x64_PRH.copy_(torch.as_tensor(x_PRH)))
            gradient_PF[own] += self._gradient_of_rows(x_PRH, u_PF[own], self._miss_PR[own])
        return gradient_PF

    def _gradient_of_rows(self, x_PRH: Array, u_PF: np.ndarray, miss_PR: Array) -> np.ndarray:
        u_PF = _like(x_PRH, u_PF)
        sign_R = self._rows.sign_R
        residual_PR = (x_PRH @ u_PF[:, :-1, None])[..., 0]
        residual_PR += u_PF[:, -1:]
        residual_PR *= -sign_R
        torch.as_tensor(residual_PR).sigmoid_()
        miss_PR[:] = residual_PR
        residual_PR *= -sign_R  # 0 in rows of padding
        n_problems, _, n_features = x_PRH.shape
        blocks_PNBH = x_PRH.reshape(n_problems, -1, BLOCK_ROWS, n_features)
        of_blocks_PN1H = residual_PR.reshape(n_problems, -1, 1, BLOCK_ROWS) @ blocks_PNBH
        gradient_PF = np.empty((n_problems, n_features + 1))
        gradient_PF[:, :-1] = _sum(of_blocks_PN1H, (1, 2))
        gradient_PF[:, -1] = _sum(residual_PR, (1,))
        return gradient_PF

    def hessian(self, problems_K: np.ndarray) -> np.ndarray:
        """The Hessian of some problems, where the gradient was computed last: [K, F, F]."""
        size = self._penalty_PF.shape[1]
        hessian_KFF = np.empty((len(problems_K), size, size))
        miss_KR = _numpy(self._miss_PR[problems_K, : self.n_rows])
        for hessian_FF, miss_R, p in zip(hessian_KFF, miss_KR, problems_K, strict=True):
            rows_S, weight_S = self._sample(miss_R * (1 - miss_R))
            root_S = _like(self._x_PRH, np.sqrt(weight_S))
            x_SH = self._x_PRH[p][rows_S]
            x_SH *= root_S[:, None]
            hessian_FF[:-1, :-1] = _numpy(x_SH.T @ x_SH)
            hessian_FF[-1, :-1] = hessian_FF[:-1, -1] = _numpy(root_S @ x_SH)
            hessian_FF[-1, -1] = weight_S.sum(dtype=np.float64) + FLAT
            np.einsum("ff->f", hessian_FF)[:] += self._penalty_PF[p]
        return hessian_KFF

    def _sample(self, weight_R: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Rows, and their weights. All that weigh more than a threshold; of the others, as many as
        their weights come to when each counts as much as the threshold.
        """
        n_sampled = SAMPLED_ROWS_PER_PARAMETER * self._penalty_PF.shape[1]
        if n_sampled >= self.n_rows:
            return np.arange(self.n_rows), weight_R
        threshold = weight_R.sum() / np.float32(n_sampled)
        for _ in range(N_THRESHOLD_STEPS):
            threshold = np.minimum(weight_R, threshold).sum() / np.float32(n_sampled)
        threshold = max(threshold, np.float32(FLAT))  # where all rows are certain
        rows_R = self._rows.by_class_R
        count_R = np.minimum(weight_R, threshold)[rows_R].cumsum(dtype=np.float64)
        count_R /= threshold
        rows_S = rows_R[np.diff(count_R.astype(np.int64), prepend=0) > 0]
        return rows_S, np.maximum(weight_R[rows_S], threshold)


def _array(values: Tensor) -> Array:
    return values if _is_on_gpu(values) else values.numpy()


def _is_on_gpu(values: Tensor) -> bool:
    return values.is_cuda


def _like(array: Array, values: np.ndarray) -> Array:
    """The values in the dtype and on the device of an array."""
    if isinstance(array, Tensor):
        return torch.from_numpy(values).to(array)
    return values.astype(array.dtype)


def _numpy(array: Array) -> np.ndarray:
    return array.cpu().numpy() if isinstance(array, Tensor) else array


def _sum(array: Array, axes: tuple[int, ...]) -> np.ndarray:
    """Sums in float64."""
    if isinstance(array, Tensor):
        return array.sum(axes, dtype=torch.float64).cpu().numpy()
    return array.sum(axes, dtype=np.float64)


def _moments(x_RH: Tensor, square_RH: Tensor, n_rows: int) -> tuple[Tensor, Tensor]:
    """Means and standard deviations (population) of the features, float64: [H] each. Rows from
    n_rows on are 0.
    """
    torch.mul(x_RH, x_RH, out=square_RH)
    one_1B = _array(x_RH.new_ones(1, BLOCK_ROWS))
    mean_H, mean_square_H = (
        torch.as_tensor(_sum(one_1B @ _array(values_RH.unflatten(0, (-1, BLOCK_ROWS))), (0, 1)))
        / n_rows
        for values_RH in (x_RH, square_RH)
    )
    return mean_H, (mean_square_H - mean_H**2).clamp(min=0).sqrt()
