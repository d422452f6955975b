"""linear probes of all heads at once: L2 logistic regression by a batched Newton solve

P problems share R rows and labels; each has its own H features, standardised on the training rows.
Newton's method reaches scikit-learn's optimum (LogisticRegression with C = 1/λ after
StandardScaler) in about ten iterations: first in float32, where a pass over a head's 3 MB stays in
a CPU's cache, then in float64 from there.

    minimise over w, b:   Σ_rows log(1 + exp(−s·(w·x + b)))  +  λ/2·|w|²

where s = ±1 is the label; b is not penalised. Probes are fitted on the device of their features. A
GPU's differ from a CPU's by rounding: both end where no element of the gradient exceeds 1e-9·R, so
their weights are within 2e-9·R·√F/λ of each other.

Shapes: R rows, P problems (heads, layer-major), H features, F = H + 1 with the intercept.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import softplus

from data_prep.core import keyed_random
from data_prep.core.errors import ConfigurationError

# of standardised float64 features at once on a CPU: near the cache, a third faster than 32 MiB
CHUNK_BYTES = 8 << 20
GPU_CHUNKS = 64  # times as many bytes at once on a GPU
# one row in five is for test (Li et al. 2025, §4: 4:1), then one in five of the rest for validation
TEST_DIVISOR = 5

MAX_HALVINGS = 40  # of a Newton step that would raise the loss
# gradient per row below which Newton steps must converge fast, or else a float32 Hessian is too
# coarse
NEAR_OPTIMUM = 1e-3
CONSTANT_FEATURE = 1e-12  # relative: rounding of the mean leaves a constant feature this spread


class _NewtonLimits(NamedTuple):
    """tolerance: of the gradient, per row. slow: a Hessian is reused while each step shrinks the
    gradient at least by this factor. slack: rounding error of the loss, relative.
    """

    max_iterations: int
    tolerance: float
    slow: float
    slack: float


# in float32 a few steps lead near the optimum, and a gradient costs a tenth of a Hessian, which is
# therefore reused while the gradient shrinks at all
FLOAT32 = _NewtonLimits(max_iterations=10, tolerance=1e-4, slow=0.7, slack=1e-6)
FLOAT64 = _NewtonLimits(max_iterations=100, tolerance=1e-9, slow=0.1, slack=1e-12)


class RowSplit(NamedTuple):
    """Row positions, ascending."""

    train: list[int]
    validation: list[int]
    test: list[int]


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
        return torch.einsum("rph,ph->rp", features_RPH.to(slope_PH.dtype), slope_PH) + intercept_P

    def correct(self, features_RPH: Tensor, labels_R: Tensor) -> Tensor:
        """Whether each probe classifies each row correctly: [R, P] bool."""
        return (self.scores(features_RPH) > 0) == labels_R.bool()[:, None]


def split_rows(groups: Sequence[str], labels: Sequence[int], seed: int) -> RowSplit:
    """Split rows into train, validation and test (16 : 4 : 5), whole groups at a time, by a keyed
    hash of the groups' names.

    Groups that hold the same labels are split in that proportion, so that every part has the same
    share of each label. Groups of several rows that differ too much for that are split as one set.
    Raises ConfigurationError if a part lacks a label.
    """
    members: dict[str, list[int]] = {}
    for i, group in enumerate(groups):
        members.setdefault(group, []).append(i)
    groups_by_labels: dict[tuple[int, ...], list[str]] = {}
    for group, rows in members.items():
        key = tuple(sorted(labels[i] for i in rows))
        groups_by_labels.setdefault(key, []).append(group)
    split = _split_each(list(groups_by_labels.values()), members, seed)
    if _lacks(split, labels) and len(members) < len(groups):
        split = _split_each([list(members)], members, seed)
    for label in _lacks(split, labels):
        n_rows = sum(value == label for value in labels)
        raise ConfigurationError(
            f"probe rows with label {label}: got {n_rows} of {len(labels)}, too few for train, "
            "validation and test; expected at least 6 groups with the same labels; give more rows, "
            "or check the label field, eval.probing.label_threshold and eval.probing.group_field"
        )
    return split


def _split_each(
    strata: Sequence[Sequence[str]], members: Mapping[str, Sequence[int]], seed: int
) -> RowSplit:
    """Each stratum of groups in the proportion of the split."""
    train: list[int] = []
    validation: list[int] = []
    test: list[int] = []
    for alike in strata:
        order = [alike[i] for i in keyed_random.shuffled_positions(alike, "probe split", seed)]
        n_test = len(order) // TEST_DIVISOR
        n_validation = (len(order) - n_test) // TEST_DIVISOR
        for position, group in enumerate(order):
            if position < n_test:
                test += members[group]
            elif position < n_test + n_validation:
                validation += members[group]
            else:
                train += members[group]
    return RowSplit(sorted(train), sorted(validation), sorted(test))


def _lacks(split: RowSplit, labels: Sequence[int]) -> list[int]:
    """The labels that a part of the split has no row of."""
    return [label for label in (0, 1) if not all(any(labels[i] == label for i in p) for p in split)]


def fit(features_RPH: Tensor, labels_R: Tensor, l2: float) -> Probes:
    """One probe per problem, in float64, in chunks of problems that fit in memory."""
    if l2 <= 0:
        raise ConfigurationError(
            f"eval.probing.l2 is {l2}, expected more than 0: separable heads have no optimum "
            "without a penalty; the default is 1"
        )
    n_rows, n_problems, n_features = features_RPH.shape
    budget_bytes = CHUNK_BYTES * (GPU_CHUNKS if features_RPH.is_cuda else 1)
    step = max(1, budget_bytes // (8 * n_rows * (n_features + 1)))
    chunks = [
        _fit_chunk(features_RPH[:, start : start + step], labels_R, l2)
        for start in range(0, n_problems, step)
    ]
    return Probes(*(torch.cat(tensors) for tensors in zip(*chunks, strict=True)))


def _fit_chunk(features_RPH: Tensor, labels_R: Tensor, l2: float) -> Probes:
    n_rows, n_problems, n_features = features_RPH.shape
    device = features_RPH.device
    x_PRF = torch.ones(n_problems, n_rows, n_features + 1, dtype=torch.float64, device=device)
    x_PRH = x_PRF[..., :-1]  # the last column is the intercept's
    x_PRH.copy_(features_RPH.transpose(0, 1))
    mean_PH = x_PRH.mean(1)
    x_PRH -= mean_PH[:, None]
    scale_PH = x_PRH.square().mean(1).sqrt()
    # a constant feature carries no information and gets weight 0
    scale_PH = torch.where(scale_PH > CONSTANT_FEATURE * mean_PH.abs(), scale_PH, 1.0)
    x_PRH /= scale_PH[:, None]
    penalty_F = torch.full((n_features + 1,), l2, dtype=torch.float64, device=device)
    penalty_F[-1] = 0.0
    x32_PRF = x_PRF.float()
    w_PF = x32_PRF.new_zeros(n_problems, n_features + 1)
    w_PF = _newton(_Objective(x32_PRF, labels_R.float(), penalty_F.float()), x32_PRF, w_PF)
    w_PF = _newton(_Objective(x_PRF, labels_R.double(), penalty_F), x32_PRF, w_PF.double())
    return Probes(w_PF[:, :-1], w_PF[:, -1], mean_PH, scale_PH)


class _Objective(NamedTuple):
    """The penalised logistic loss of P problems, in the precision of its tensors."""

    x_PRF: Tensor
    labels_R: Tensor
    penalty_F: Tensor

    def scores_and_loss(self, w_PF: Tensor) -> tuple[Tensor, Tensor]:
        """Each row's score, [P, R], and the loss, [P]."""
        sign_R = 2 * self.labels_R - 1
        score_PR = torch.bmm(self.x_PRF, w_PF[..., None])[..., 0]
        loss_P = softplus(-sign_R * score_PR).sum(-1) + 0.5 * (self.penalty_F * w_PF**2).sum(-1)
        return score_PR, loss_P

    def gradient(self, p_PR: Tensor, w_PF: Tensor) -> Tensor:
        """The gradient [P, F] at weights w_PF, where the rows have probabilities p_PR."""
        residual_P1R = (p_PR - self.labels_R)[:, None]
        return torch.bmm(residual_P1R, self.x_PRF)[:, 0] + self.penalty_F * w_PF


def _newton(objective: _Objective, x32_PRF: Tensor, w_PF: Tensor) -> Tensor:
    """The minimisers [P, F], from w_PF on, by Newton steps that are halved where they would raise
    the loss; as precise as the objective's precision allows.

    The Hessian only gives the step's direction, so that of the float32 features serves, at half the
    time, until steps near the optimum become slow.
    """
    is_double = objective.x_PRF.dtype == torch.float64
    limits = FLOAT64 if is_double else FLOAT32
    n_rows = len(objective.labels_R)
    score_PR, loss_P = objective.scores_and_loss(w_PF)
    factor_PFF = w_PF.new_empty(0)  # of the Hessian; none yet
    steepest = torch.inf
    hessian_is_new = False
    exact_hessian = False
    for _ in range(limits.max_iterations):
        p_PR = torch.sigmoid(score_PR)
        gradient_PF = objective.gradient(p_PR, w_PF)
        previous = steepest
        steepest = float(gradient_PF.abs().max())
        if steepest <= limits.tolerance * n_rows:
            return w_PF
        is_slow = steepest > limits.slow * previous
        if is_slow or not len(factor_PFF):
            near_optimum = previous < NEAR_OPTIMUM * n_rows
            exact_hessian |= is_double and is_slow and hessian_is_new and near_optimum
            x_PRF = objective.x_PRF if exact_hessian else x32_PRF
            factor_PFF, failed_P = torch.linalg.cholesky_ex(
                _hessian(x_PRF, p_PR, objective.penalty_F)
            )
            if failed_P.any():
                if not is_double:
                    return w_PF
                exact_hessian = True
                factor_PFF = torch.linalg.cholesky(
                    _hessian(objective.x_PRF, p_PR, objective.penalty_F)
                )
            hessian_is_new = True
        else:
            hessian_is_new = False
        step_PF = torch.cholesky_solve(gradient_PF[..., None], factor_PFF)[..., 0]
        for _ in range(MAX_HALVINGS):
            trial_PR, trial_P = objective.scores_and_loss(w_PF - step_PF)
            is_uphill_P = trial_P > loss_P * (1 + limits.slack)
            if not is_uphill_P.any():
                w_PF, score_PR, loss_P = w_PF - step_PF, trial_PR, trial_P
                break
            step_PF = torch.where(is_uphill_P[:, None], step_PF / 2, step_PF)
    assert not is_double, f"gradient {steepest:.1e} after {limits.max_iterations} Newton iterations"
    return w_PF


def _hessian(x_PRF: Tensor, p_PR: Tensor, penalty_F: Tensor) -> Tensor:
    weight_PR = (p_PR * (1 - p_PR)).to(x_PRF)
    multiply = _products_at_once if x_PRF.is_cuda else _products_one_by_one
    hessian_PFF = multiply(x_PRF, weight_PR).to(p_PR) + torch.diag(penalty_F)
    # the intercept's curvature vanishes where all rows are certain
    hessian_PFF[:, -1, -1] += 1e-10
    return hessian_PFF


def _products_at_once(x_PRF: Tensor, weight_PR: Tensor) -> Tensor:
    """xᵀ·diag(weight)·x of each problem, [P, F, F], in one launch."""
    return torch.bmm(x_PRF.transpose(1, 2), x_PRF * weight_PR[..., None])


def _products_one_by_one(x_PRF: Tensor, weight_PR: Tensor) -> Tensor:
    """The same on a CPU, where a batched product of transposed matrices takes twice as long."""
    return torch.stack(
        [
            x_RF.T @ (x_RF * weight_R[:, None])
            for x_RF, weight_R in zip(x_PRF, weight_PR, strict=True)
        ]
    )
