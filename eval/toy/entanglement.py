"""entanglement of directions: the largest |cos|, its lower bound and random level

PAPER.md §2: E_i = max over j ≠ i of |v_i · v_j|. Features of one chain are siblings that often
dominate the maximum, so it is also taken over the features of other chains alone.

Shapes: B batches, F features, D width.
"""

import math

import numpy as np

from eval.stats import resampling
from eval.stats.estimate_with_interval import Estimate
from eval.toy.config import ToyConfig

N_RANDOM_SETS = 4000  # sets of random directions behind the random level
Z = 1.96  # normal 97.5 % quantile; the mean is over thousands of sets


def entanglement(direction_BFD: np.ndarray) -> np.ndarray:
    """E of every feature: [B, F]; NaN where one of the directions is not defined."""
    cosine = _cosines(direction_BFD)
    n_features = cosine.shape[1]
    return np.where(np.eye(n_features, dtype=bool), -1.0, cosine).max(axis=2)


def with_other_chains(direction_BFD: np.ndarray, n_of_chain: int) -> np.ndarray:
    """The same over features of other chains alone; features are ordered by chain."""
    cosine = _cosines(direction_BFD)
    chain_F = np.arange(cosine.shape[1]) // n_of_chain
    return np.where(chain_F[:, None] == chain_F, -1.0, cosine).max(axis=2)


def _cosines(direction_BFD: np.ndarray) -> np.ndarray:
    cosine = np.abs(direction_BFD @ direction_BFD.transpose(0, 2, 1))
    return np.where(np.isnan(cosine).any(axis=(1, 2), keepdims=True), np.nan, cosine)


def welch_bound(n_features: int, n_dims: int) -> float:
    """The least that the largest E of any directions can be (Welch 1974)."""
    if n_features <= n_dims:
        return 0.0
    return math.sqrt((n_features - n_dims) / ((n_features - 1) * n_dims))


def random_level(config: ToyConfig) -> Estimate:
    """The mean E of independent random directions, by simulation: 0.843 for 12 in 4 dimensions."""
    n_features = config.chains.n_chains * config.chains.n_states
    shape = (N_RANDOM_SETS, n_features, config.model.d_model)
    draws = resampling.normals(shape, "toy random directions", *shape)
    means = entanglement(draws / np.linalg.norm(draws, axis=2, keepdims=True)).mean(axis=1)
    margin = Z * float(means.std(ddof=1)) / math.sqrt(len(means))
    value = float(means.mean())
    return Estimate(
        value=value, low=value - margin, high=value + margin, n=len(means), unit="|cos|"
    )
