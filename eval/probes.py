"""every head's linear probe at once: L2 logistic regression by a batched Newton solve

P problems share R rows and labels; each has its own H features, standardised on the training rows. Newton's method meets
scikit-learn's optimum (LogisticRegression with C = 1/λ after StandardScaler) in about eight iterations, and one batched
Cholesky per iteration replaces a Python loop over heads.

    minimise over w, b:   Σ_rows log(1 + exp(−s·(w·x + b)))  +  λ/2·|w|²        s = ±1; b is not penalised

Shapes: R rows, P problems (heads, layer-major), H features.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import softplus

from data_prep import randomness
from data_prep.records import ConfigurationError

CHUNK_BYTES = 8 << 20  # of standardised float64 features at once on a CPU: near the cache, a third faster than 32 MiB
GPU_CHUNKS = 64  # as many of them at once on a GPU
TEST_SHARE = 5  # one row in five is for test (Li et al. 2025, §4: 4:1), then one in five of the rest for validation
MAX_ITERATIONS = 100
MAX_HALVINGS = 40
SLOW = 0.1  # a Hessian costs as much as 30 gradients, so it is kept while each step shrinks the gradient tenfold
GRADIENT_TOLERANCE = 1e-9  # per row


class Split(NamedTuple):
    """Row positions, ascending."""

    train: list[int]
    validation: list[int]
    test: list[int]


class Probes(NamedTuple):
    """P fitted probes; the score of features x is weight·(x − mean)/scale + bias, toxic where positive."""

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
    """Rows into train, validation and test (16 : 4 : 5), whole groups at a time, by keyed hash of their names.

    Each kind of group (by the labels it holds) is divided in that proportion, so the parts have the same share of each label.
    """
    members: dict[str, list[int]] = {}
    for i, group in enumerate(groups):
        members.setdefault(group, []).append(i)
    kinds: dict[tuple[int, ...], list[str]] = {}
    for group, rows in members.items():
        kinds.setdefault(tuple(sorted(labels[i] for i in rows)), []).append(group)
    parts: tuple[list[int], ...] = ([], [], [])
    for kind in kinds.values():
        order = [kind[i] for i in randomness.shuffled(kind, "probe split", seed)]
        n_test = len(order) // TEST_SHARE
        n_validation = (len(order) - n_test) // TEST_SHARE
        cuts = (order[n_test + n_validation :], order[n_test : n_test + n_validation], order[:n_test])
        for part, of_part in zip(parts, cuts, strict=True):
            part += [i for group in of_part for i in members[group]]
    for label in (0, 1):
        if not all(any(labels[i] == label for i in part) for part in parts):
            n_rows = sum(value == label for value in labels)
            raise ConfigurationError(
                f"probe rows with label {label}: got {n_rows} of {len(labels)}, too few for train, validation and test, which need "
                "6 groups alike; give more rows, or check the label field, eval.label_threshold and eval.group_field"
            )
    return Split(*(sorted(part) for part in parts))


def fit(features_RPH: Tensor, labels_R: Tensor, l2: float) -> Probes:
    """One probe per problem, in float64, a few problems at a time where all would not fit."""
    if l2 <= 0:
        raise ConfigurationError(
            f"eval.probe_l2 is {l2}; a probe needs a positive penalty, separable heads have no optimum without"
        )
    n_rows, n_problems, n_features = features_RPH.shape
    budget_bytes = CHUNK_BYTES * (GPU_CHUNKS if features_RPH.is_cuda else 1)
    step = max(1, budget_bytes // (8 * n_rows * (n_features + 1)))
    parts = [_fit_chunk(features_RPH[:, at : at + step], labels_R, l2) for at in range(0, n_problems, step)]
    return Probes(*(torch.cat(tensors) for tensors in zip(*parts, strict=True)))


def _fit_chunk(features_RPH: Tensor, labels_R: Tensor, l2: float) -> Probes:
    x_PRH = features_RPH.to(torch.float64).transpose(0, 1)
    mean_PH, scale_PH = x_PRH.mean(1), x_PRH.std(1, correction=0)
    scale_PH = torch.where(scale_PH > 0, scale_PH, 1.0)  # a constant feature says nothing, and gets weight 0
    x_PRH = (x_PRH - mean_PH[:, None]) / scale_PH[:, None]
    x_PRF = torch.cat([x_PRH, torch.ones_like(x_PRH[..., :1])], dim=-1).contiguous()
    penalty_F = torch.full((x_PRF.shape[-1],), l2, dtype=x_PRF.dtype, device=x_PRF.device)
    penalty_F[-1] = 0.0
    w_PF = _newton(x_PRF, labels_R.to(x_PRF), penalty_F)
    return Probes(w_PF[:, :-1], w_PF[:, -1], mean_PH, scale_PH)


def _newton(x_PRF: Tensor, labels_R: Tensor, penalty_F: Tensor) -> Tensor:
    """The minimisers [P, F], by Newton steps halved where they would not descend."""
    w_PF = x_PRF.new_zeros(x_PRF.shape[0], x_PRF.shape[2])
    sign_R = 2 * labels_R - 1

    def margins(w_PF: Tensor) -> tuple[Tensor, Tensor]:
        """Each row's score, [P, R], and the loss, [P]; the scores of an accepted trial are the next iteration's."""
        score_PR = torch.einsum("prf,pf->pr", x_PRF, w_PF)
        return score_PR, softplus(-sign_R * score_PR).sum(-1) + 0.5 * (penalty_F * w_PF**2).sum(-1)

    score_PR, current_P = margins(w_PF)
    factor_PFF, gradient_PF, steepest = None, torch.full_like(w_PF, torch.inf), torch.inf
    for _ in range(MAX_ITERATIONS):
        p_PR = torch.sigmoid(score_PR)
        gradient_PF = torch.einsum("prf,pr->pf", x_PRF, p_PR - labels_R) + penalty_F * w_PF
        previous, steepest = steepest, float(gradient_PF.abs().max())
        if steepest <= GRADIENT_TOLERANCE * len(labels_R):
            return w_PF
        if factor_PFF is None or steepest > SLOW * previous:
            factor_PFF = torch.linalg.cholesky(_hessian(x_PRF, p_PR, penalty_F))
        step_PF = torch.cholesky_solve(gradient_PF[..., None], factor_PFF)[..., 0]
        for _ in range(MAX_HALVINGS):
            trial_PR, trial_P = margins(w_PF - step_PF)
            uphill_P = trial_P > current_P * (1 + 1e-12)
            if not uphill_P.any():
                w_PF, score_PR, current_P = w_PF - step_PF, trial_PR, trial_P
                break
            step_PF = torch.where(uphill_P[:, None], step_PF / 2, step_PF)
    raise AssertionError(f"Newton left a gradient of {gradient_PF.abs().max():.1e} after {MAX_ITERATIONS} iterations")


def _hessian(x_PRF: Tensor, p_PR: Tensor, penalty_F: Tensor) -> Tensor:
    hessian_PFF = x_PRF.transpose(1, 2) @ (x_PRF * (p_PR * (1 - p_PR))[..., None]) + torch.diag(penalty_F)
    hessian_PFF[:, -1, -1] += 1e-10  # the intercept's curvature fades where all rows are certain
    return hessian_PFF
