"""every head's linear probe at once: L2 logistic regression by a batched Newton solve

P problems share R rows and labels; each has its own H features, standardised on the training rows.
Newton's method meets scikit-learn's optimum (LogisticRegression with C = 1/λ after StandardScaler)
in about ten iterations: first in float32, where a pass over a head's 3 MB stays in a CPU's cache,
then in float64 from there.

    minimise over w, b:   Σ_rows log(1 + exp(−s·(w·x + b)))  +  λ/2·|w|²        s = ±1; b is not penalised

Shapes: R rows, P problems (heads, layer-major), H features.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import softplus

from data_prep.core import keyed_random
from data_prep.core.errors import ConfigurationError

CHUNK_BYTES = (
    8 << 20
)  # of standardised float64 features at once on a CPU: near the cache, a third faster than 32 MiB
GPU_CHUNKS = 64  # as many of them at once on a GPU
TEST_SHARE = 5  # one row in five is for test (Li et al. 2025, §4: 4:1), then one in five of the rest for validation
MAX_ITERATIONS = 100
MAX_ROUGH = 10  # in float32, where a few steps lead near the optimum
MAX_HALVINGS = 40
SLOW = 0.1  # a Hessian is kept while each step shrinks the gradient tenfold; in float32, where a gradient costs a tenth of one,
ROUGH_SLOW = 0.7  # while it shrinks at all
CLOSE = 1e-3  # per row: from here on a Newton step must shrink the gradient so, or float32 is too coarse for the Hessian
EQUAL = 1e-12  # relative: rounding of a mean leaves a constant feature that spread
GRADIENT_TOLERANCE = 1e-9  # per row
ROUGH = 1e-4  # as far as float32 is asked to go


class Split(NamedTuple):
    """Row positions, ascending."""

    train: list[int]
    validation: list[int]
    test: list[int]


class Probes(NamedTuple):
    """P fitted probes; the score of features x is weight·(x − mean)/scale + bias, toxic where
    positive.
    """

    weight_PH: Tensor
    bias_P: Tensor
    mean_PH: Tensor
    scale_PH: Tensor

    def scores(self, features_RPH: Tensor) -> Tensor:
        """[R, P]: log odds of toxic."""
        slope_PH = self.weight_PH / self.scale_PH
        intercept_P = self.bias_P - (slope_PH * self.mean_PH).sum(-1)
        return torch.einsum("rph,ph->rp", features_RPH.to(slope_PH.dtype), slope_PH) + intercept_P

    def correct(self, features_RPH: Tensor, labels_R: Tensor) -> Tensor:
        """[R, P] bool: whether each probe has each row right."""
        return (self.scores(features_RPH) > 0) == labels_R.bool()[:, None]


def split(groups: Sequence[str], labels: Sequence[int], seed: int) -> Split:
    """Rows into train, validation and test (16 : 4 : 5), whole groups at a time, by keyed hash of
    their names.

    Each kind of group (by the labels it holds) is divided in that proportion, so the parts have the
    same share of each label.
    """
    members: dict[str, list[int]] = {}
    for i, group in enumerate(groups):
        members.setdefault(group, []).append(i)
    kinds: dict[tuple[int, ...], list[str]] = {}
    for group, rows in members.items():
        kinds.setdefault(tuple(sorted(labels[i] for i in rows)), []).append(group)
    parts: tuple[list[int], ...] = ([], [], [])
    for kind in kinds.values():
        order = [kind[i] for i in keyed_random.shuffled(kind, "probe split", seed)]
        n_test = len(order) // TEST_SHARE
        n_validation = (len(order) - n_test) // TEST_SHARE
        cuts = (
            order[n_test + n_validation :],
            order[n_test : n_test + n_validation],
            order[:n_test],
        )
        for part, of_part in zip(parts, cuts, strict=True):
            part += [i for group in of_part for i in members[group]]
    for label in (0, 1):
        if not all(any(labels[i] == label for i in part) for part in parts):
            n_rows = sum(value == label for value in labels)
            raise ConfigurationError(
                f"probe rows with label {label}: got {n_rows} of {len(labels)}, too few for train, validation and test, which need "
                "6 groups alike; give more rows, or check the label field, eval.probing.label_threshold and eval.probing.group_field"
            )
    return Split(*(sorted(part) for part in parts))


def fit(features_RPH: Tensor, labels_R: Tensor, l2: float) -> Probes:
    """One probe per problem, in float64, a few problems at a time where all would not fit."""
    if l2 <= 0:
        raise ConfigurationError(
            f"eval.probing.l2 is {l2}; a probe needs a positive penalty, separable heads have no optimum without"
        )
    n_rows, n_problems, n_features = features_RPH.shape
    budget_bytes = CHUNK_BYTES * (GPU_CHUNKS if features_RPH.is_cuda else 1)
    step = max(1, budget_bytes // (8 * n_rows * (n_features + 1)))
    parts = [
        _fit_chunk(features_RPH[:, at : at + step], labels_R, l2)
        for at in range(0, n_problems, step)
    ]
    return Probes(*(torch.cat(tensors) for tensors in zip(*parts, strict=True)))


def _fit_chunk(features_RPH: Tensor, labels_R: Tensor, l2: float) -> Probes:
    n_rows, n_problems, size = features_RPH.shape
    x_PRF = torch.ones(
        n_problems, n_rows, size + 1, dtype=torch.float64, device=features_RPH.device
    )
    x_PRH = x_PRF[..., :-1]  # the last column is the intercept's
    x_PRH.copy_(features_RPH.transpose(0, 1))
    mean_PH = x_PRH.mean(1)
    x_PRH -= mean_PH[:, None]
    scale_PH = x_PRH.square().mean(1).sqrt()
    scale_PH = torch.where(
        scale_PH > EQUAL * mean_PH.abs(), scale_PH, 1.0
    )  # a constant feature says nothing, and gets weight 0
    x_PRH /= scale_PH[:, None]
    penalty_F = torch.full((size + 1,), l2, dtype=x_PRF.dtype, device=x_PRF.device)
    penalty_F[-1] = 0.0
    single_PRF = x_PRF.float()
    rough_PF = _newton(
        single_PRF,
        single_PRF,
        labels_R,
        penalty_F,
        single_PRF.new_zeros(n_problems, size + 1),
        ROUGH,
    )
    w_PF = _newton(x_PRF, single_PRF, labels_R, penalty_F, rough_PF.double(), GRADIENT_TOLERANCE)
    return Probes(w_PF[:, :-1], w_PF[:, -1], mean_PH, scale_PH)


def _newton(
    x_PRF: Tensor,
    single_PRF: Tensor,
    labels_R: Tensor,
    penalty_F: Tensor,
    w_PF: Tensor,
    tolerance: float,
) -> Tensor:
    """The minimisers [P, F], from w_PF on, by Newton steps halved where they would not descend; as
    far as x_PRF's precision goes. The Hessian only says where to step, so float32 (single_PRF)
    does, at half the time, until it does not.
    """
    labels_R, penalty_F, is_double = (
        labels_R.to(x_PRF),
        penalty_F.to(x_PRF),
        x_PRF.dtype == torch.float64,
    )
    sign_R, slack = 2 * labels_R - 1, 1 + (1e-12 if is_double else 1e-6)

    def margins(w_PF: Tensor) -> tuple[Tensor, Tensor]:
        """Each row's score, [P, R], and the loss, [P]; the scores of an accepted trial are the next
        iteration's.
        """
        score_PR = torch.bmm(x_PRF, w_PF[..., None])[..., 0]
        return score_PR, softplus(-sign_R * score_PR).sum(-1) + 0.5 * (penalty_F * w_PF**2).sum(-1)

    score_PR, current_P = margins(w_PF)
    factor_PFF, gradient_PF = x_PRF.new_empty(0), torch.full_like(w_PF, torch.inf)
    steepest, is_fresh, exact = torch.inf, False, False
    for _ in range(MAX_ITERATIONS if is_double else MAX_ROUGH):
        p_PR = torch.sigmoid(score_PR)
        gradient_PF = torch.bmm((p_PR - labels_R)[:, None], x_PRF)[:, 0] + penalty_F * w_PF
        previous, steepest = steepest, float(gradient_PF.abs().max())
        if steepest <= tolerance * len(labels_R):
            return w_PF
        is_slow = steepest > (SLOW if is_double else ROUGH_SLOW) * previous
        renewed = is_slow or not len(factor_PFF)
        if renewed:
            exact |= is_double and is_slow and is_fresh and previous < CLOSE * len(labels_R)
            factor_PFF, failed_P = torch.linalg.cholesky_ex(
                _hessian(x_PRF if exact else single_PRF, p_PR, penalty_F)
            )
            if failed_P.any() and not is_double:
                return w_PF
            if failed_P.any():
                exact, factor_PFF = True, torch.linalg.cholesky(_hessian(x_PRF, p_PR, penalty_F))
        is_fresh = renewed
        step_PF = torch.cholesky_solve(gradient_PF[..., None], factor_PFF)[..., 0]
        for _ in range(MAX_HALVINGS):
            trial_PR, trial_P = margins(w_PF - step_PF)
            uphill_P = trial_P > current_P * slack
            if not uphill_P.any():
                w_PF, score_PR, current_P = w_PF - step_PF, trial_PR, trial_P
                break
            step_PF = torch.where(uphill_P[:, None], step_PF / 2, step_PF)
    if is_double:
        raise AssertionError(
            f"Newton left a gradient of {gradient_PF.abs().max():.1e} after {MAX_ITERATIONS} iterations"
        )
    return w_PF


def _hessian(x_PRF: Tensor, p_PR: Tensor, penalty_F: Tensor) -> Tensor:
    weight_PR = (p_PR * (1 - p_PR)).to(x_PRF)
    # one product after the other: a batched one of transposed matrices takes twice as long on a CPU
    products = [
        x_RF.T @ (x_RF * weight_R[:, None]) for x_RF, weight_R in zip(x_PRF, weight_PR, strict=True)
    ]
    hessian_PFF = torch.stack(products).to(p_PR) + torch.diag(penalty_F)
    hessian_PFF[:, -1, -1] += 1e-10  # the intercept's curvature fades where all rows are certain
    return hessian_PFF
