"""L-BFGS where SciPy is missing."""

import numpy as np

from eval.probing.solver import lbfgs


def test_without_scipy_torch_factors_and_solves_alike():
    root = np.random.default_rng(0).normal(size=(6, 6))
    matrix, b = root @ root.T + np.eye(6), np.arange(6.0)
    factor, failed = lbfgs._potrf(matrix, lower=1)
    x, _ = lbfgs._potrs(factor, b, lower=1)
    assert not failed and np.allclose(matrix @ x, b)
    assert lbfgs._potrf(-matrix, lower=1)[1] != 0
