"""minimise the logistic losses of several probes: L-BFGS, preconditioned by a Hessian

A row costs 4·H operations in a gradient and H² in a Hessian: with 128 features a Hessian takes as
long as ten to twenty gradients. So each problem forms one Hessian, at zero, from a sample of its
rows. Its Cholesky factor gives the initial inverse Hessian of L-BFGS (Nocedal and Wright 2006,
algorithm 7.4), which updates it with a few curvature pairs. It is recomputed only where that
converges slowly, as for a head that separates the classes almost perfectly.

The loss is convex, so the gradient along a step tells whether the step is too long; the loss itself
is never computed. Gradients are float32's. A problem that these do not bring to its minimum, as
with little penalty and features that are nearly dependent, goes on with float64's.

Shapes: P problems, F parameters, K of the problems.
"""

from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import torch

from eval.probing.solver.logistic_loss import Level, LogisticLoss

# of the last step: the change of a standardised weight, relative to the largest weight, or to 1
TOLERANCE = 3e-6
SLOW = 0.5  # factor by which steps must shrink: above it a new Hessian saves time
N_STEPS_PER_HESSIAN = 3  # at least
N_PAIRS = 3  # steps that correct the Hessian
TOO_LONG = 0.9  # a step that ends where the slope along it is steeper, upwards, is shortened
MAX_SHORTENINGS = 20
MAX_STEPS: dict[Level, int] = {"float32": 30, "float64": 300}  # 10 to 20 are usual
JITTER = 1e-6  # relative, of the diagonal of a Hessian that rounding left indefinite


class _Pair(NamedTuple):
    """A curvature pair: the step s and the gradient difference y, [P, F]; curvature: ρ = 1 / (s·y),
    or 0 for a problem that no longer uses the pair, [P, 1].
    """

    step_PF: np.ndarray
    change_PF: np.ndarray
    curvature_P1: np.ndarray


def minimise(loss: LogisticLoss) -> np.ndarray:
    """The minimisers, slopes and intercepts [P, F], as exact as TOLERANCE."""
    u_PF = np.zeros_like(loss.scale_PF)
    is_active_P = np.ones(len(u_PF), dtype=bool)
    curvature = _Curvature(len(u_PF))
    for level in MAX_STEPS:
        u_PF, is_active_P = _minimise_at(loss, level, u_PF, is_active_P, curvature)
        if not is_active_P.any():
            return u_PF
    raise AssertionError(f"{is_active_P.sum()} problems have not converged: {MAX_STEPS}")


class _Curvature:
    """What is known of the curvature of P problems: factors of Hessians, and pairs since then."""

    def __init__(self, n_problems: int) -> None:
        self.factors = [np.empty(0)] * n_problems
        self.pairs: list[_Pair] = []
        self.age_P = np.zeros(n_problems, dtype=int)  # steps since the Hessian

    def renew(self, loss: LogisticLoss, problems_K: np.ndarray) -> None:
        """Recompute the Hessians of some problems, at the point of the last gradient."""
        for p, hessian_FF in zip(problems_K, loss.hessian(problems_K), strict=True):
            self.factors[p] = _factor(hessian_FF)
        self.age_P[problems_K] = 0
        for pair in self.pairs:
            pair.curvature_P1[problems_K] = 0

    def add(self, step_PF: np.ndarray, change_PF: np.ndarray) -> None:
        """Store a curvature pair: a step and its gradient difference."""
        product_P1 = np.vecdot(step_PF, change_PF)[:, None]
        curvature_P1 = np.zeros_like(product_P1)
        np.divide(1.0, product_P1, out=curvature_P1, where=product_P1 > 0)
        self.pairs = [*self.pairs[1 - N_PAIRS :], _Pair(step_PF, change_PF, curvature_P1)]
        self.age_P += 1


def _minimise_at(
    loss: LogisticLoss,
    level: Level,
    u_PF: np.ndarray,
    is_active_P: np.ndarray,
    curvature: _Curvature,
) -> tuple[np.ndarray, np.ndarray]:
    """The active problems' minimisers, from u_PF on, and which of them are not reached yet.

    A problem's last step is taken without a look at the gradient behind it.
    """
    problems_P = np.arange(len(u_PF))
    is_active_P1 = is_active_P[:, None]
    gradient_PF = loss.gradient(u_PF, level, is_active_P)
    curvature.renew(loss, problems_P[is_active_P])
    previous_P = np.full(len(u_PF), np.inf)
    for _ in range(MAX_STEPS[level]):
        direction_PF = _direction(gradient_PF, curvature) * is_active_P1
        size_P = _largest(loss.scale_PF * direction_PF)
        is_slow_P = (size_P > SLOW * previous_P) & (curvature.age_P >= N_STEPS_PER_HESSIAN)
        if is_slow_P.any():
            curvature.renew(loss, problems_P[is_slow_P])
            direction_PF = _direction(gradient_PF, curvature) * is_active_P1
            size_P = _largest(loss.scale_PF * direction_PF)
        previous_P = size_P
        is_last_P = size_P <= TOLERANCE * np.maximum(_largest(loss.scale_PF * u_PF), 1)
        if is_last_P.any():
            u_PF = u_PF - direction_PF * is_last_P[:, None]
            is_active_P1 = is_active_P1 & ~is_last_P[:, None]
            if not is_active_P1.any():
                break
            direction_PF *= is_active_P1
        step_PF, new_gradient_PF = _step(loss, level, u_PF, gradient_PF, direction_PF)
        curvature.add(step_PF, new_gradient_PF - gradient_PF)
        u_PF, gradient_PF = u_PF + step_PF, new_gradient_PF
    return u_PF, is_active_P1[:, 0]


def _largest(values_PF: np.ndarray) -> np.ndarray:
    return np.abs(values_PF).max(1)


def _direction(gradient_PF: np.ndarray, curvature: _Curvature) -> np.ndarray:
    """Inverse Hessian · gradient, by the two-loop recursion: [P, F]."""

    solve = _lapack("potrs")
    q_PF = gradient_PF
    coefficients = []
    for step_PF, change_PF, curvature_P1 in reversed(curvature.pairs):
        coefficient_P1 = curvature_P1 * np.vecdot(step_PF, q_PF)[:, None]
        q_PF = q_PF - coefficient_P1 * change_PF
        coefficients.append(coefficient_P1)
    q_PF = np.stack(
        [
            solve(factor, q_F, lower=1)[0]
            for factor, q_F in zip(curvature.factors, q_PF, strict=True)
        ]
    )
    for (step_PF, change_PF, curvature_P1), coefficient_P1 in zip(
        curvature.pairs, reversed(coefficients), strict=True
    ):
        q_PF += (coefficient_P1 - curvature_P1 * np.vecdot(change_PF, q_PF)[:, None]) * step_PF
    return q_PF


def _step(
    loss: LogisticLoss,
    level: Level,
    u_PF: np.ndarray,
    gradient_PF: np.ndarray,
    direction_PF: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """A step along −direction, and the gradient at its end: [P, F] each. The whole direction, but
    where the loss rises again steeply before it ends: there as far as the slope is 0 by
    interpolation.
    """
    slope_P = np.vecdot(gradient_PF, direction_PF)
    length_P = np.ones(len(u_PF))
    n_trials = 0
    while True:
        step_PF = -length_P[:, None] * direction_PF
        new_gradient_PF = loss.gradient(u_PF + step_PF, level, slope_P != 0)
        new_slope_P = np.vecdot(new_gradient_PF, direction_PF)
        is_too_long_P = new_slope_P < -TOO_LONG * slope_P
        n_trials += 1
        if n_trials > MAX_SHORTENINGS or not is_too_long_P.any():
            return step_PF, new_gradient_PF
        shorter_P = slope_P / np.where(is_too_long_P, slope_P - new_slope_P, 1.0)
        length_P = np.where(is_too_long_P, length_P * shorter_P, length_P)


def _factor(hessian_FF: np.ndarray) -> np.ndarray:
    """The lower Cholesky factor."""
    factorise = _lapack("potrf")
    jitter = JITTER
    factor_FF, failed = factorise(hessian_FF, lower=1)
    while failed:
        factor_FF, failed = factorise(hessian_FF + jitter * np.diag(np.diag(hessian_FF)), lower=1)
        jitter *= 10
    return factor_FF


def _potrf(matrix_FF: np.ndarray, *, lower: int) -> tuple[np.ndarray, int]:
    factor_FF, failed = torch.linalg.cholesky_ex(torch.from_numpy(matrix_FF), upper=not lower)
    return factor_FF.numpy(), int(failed)


def _potrs(factor_FF: np.ndarray, b_F: np.ndarray, *, lower: int) -> tuple[np.ndarray, int]:
    b_F1 = torch.from_numpy(np.ascontiguousarray(b_F))[:, None]
    x_F1 = torch.cholesky_solve(b_F1, torch.from_numpy(factor_FF), upper=not lower)
    return x_F1[:, 0].numpy(), 0


@cache
def _lapack(name: str) -> Callable[..., Any]:
    """LAPACK's routine for float64, called without checks: they would take longer than it does.

    A GPU machine without a network (`make gpu-carry`) has no SciPy: torch calls it there.
    """
    try:
        from scipy.linalg import get_lapack_funcs
    except ImportError:
        return {"potrf": _potrf, "potrs": _potrs}[name]
    (routine,) = get_lapack_funcs([name], dtype=np.float64)
    return routine
