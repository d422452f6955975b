"""many small one-against-rest logistic regressions at once, by Newton's method

Minimises Σ log(1 + exp(−y·(w·x + b))) + ½·l2·‖w‖² per problem, the objective of scikit-learn's
LogisticRegression with C = 1/l2; the intercept is not penalised.

Shapes: B batches of rows, K rows, F classes, D dimensions.
"""

import numpy as np

from data_prep.core.errors import ConfigurationError

MAX_ITERATIONS = 100
MAX_HALVINGS = 20
TOLERANCE = 1e-9  # largest element of the gradient


def normals(x_BKD: np.ndarray, is_own_FK: np.ndarray, l2: float) -> np.ndarray:
    """The weights of each class against all other rows: [B, F, D].

    is_own_FK: which rows belong to the class; each class has rows, and so has its rest. Raises
    ConfigurationError if Newton's method does not converge.
    """
    n_batches, n_rows, n_dims = x_BKD.shape
    x_BKE = np.concatenate([x_BKD, np.ones((n_batches, n_rows, 1))], axis=2)
    outer_BKEE = (x_BKE[..., :, None] * x_BKE[..., None, :]).reshape(n_batches, n_rows, -1)
    penalty_E = np.append(np.full(n_dims, l2), 0.0)
    share_F = is_own_FK.mean(axis=1)
    w_BFE = np.zeros((n_batches, len(is_own_FK), n_dims + 1))
    w_BFE[..., -1] = np.log(share_F / (1 - share_F))
    for _ in range(MAX_ITERATIONS):
        share_BFK = _sigmoid(w_BFE @ x_BKE.transpose(0, 2, 1))
        gradient = (share_BFK - is_own_FK) @ x_BKE + penalty_E * w_BFE
        if np.abs(gradient).max() < TOLERANCE:
            return w_BFE[..., :-1]
        curvature = (share_BFK * (1 - share_BFK)) @ outer_BKEE
        hessian = curvature.reshape(*w_BFE.shape, n_dims + 1) + np.diag(penalty_E)
        # tiny, for rows that are all certain: then the intercept has no curvature left
        hessian += 1e-12 * np.eye(n_dims + 1)
        step = np.linalg.solve(hessian, gradient[..., None])[..., 0]
        w_BFE = _descend(w_BFE, step, x_BKE, is_own_FK, penalty_E)
    raise ConfigurationError(
        f"probe_l2 is {l2:g}; the probes did not converge in {MAX_ITERATIONS} steps of Newton's "
        "method: raise it"
    )


def _descend(
    w_BFE: np.ndarray,
    step: np.ndarray,
    x_BKE: np.ndarray,
    is_own_FK: np.ndarray,
    penalty_E: np.ndarray,
) -> np.ndarray:
    """`w` minus the step, halved in each problem until its loss does not rise: with a small penalty
    whole steps diverge.
    """
    size_BF1 = np.ones((*w_BFE.shape[:2], 1))
    before = _loss(w_BFE, x_BKE, is_own_FK, penalty_E)
    allowed = before + 1e-12 * (1 + np.abs(before))
    for _ in range(MAX_HALVINGS):
        rises = ~(_loss(w_BFE - size_BF1 * step, x_BKE, is_own_FK, penalty_E) <= allowed)
        if not rises.any():
            break
        size_BF1[rises] /= 2
    return w_BFE - size_BF1 * step


def _loss(
    w_BFE: np.ndarray, x_BKE: np.ndarray, is_own_FK: np.ndarray, penalty_E: np.ndarray
) -> np.ndarray:
    margin_BFK = w_BFE @ x_BKE.transpose(0, 2, 1) * np.where(is_own_FK, 1.0, -1.0)
    penalty = (penalty_E * np.square(w_BFE)).sum(axis=-1) / 2
    return np.logaddexp(0, -margin_BFK).sum(axis=-1) + penalty


def _sigmoid(z: np.ndarray) -> np.ndarray:
    return np.exp(-np.logaddexp(0, -z))
