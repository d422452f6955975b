"""directions of the toy experiment's features by five estimators, and their lengths

    token_probes     per last token a logistic probe per feature against all others; mean of their
                     unit normals, renormalised: the paper's (Remark 2)
    joint_probes     one logistic probe per feature on the rows of all last tokens
    lda              linear discriminant analysis: S⁻¹(mean of the feature − mean of all), S within
    sequence_means   mean of the feature − mean of all
    state_means      the same for (chain, last token): what the next token depends on. The paper's
                     feature, (chain, start state), is not needed for any prediction.

A direction is unit, or NaN where the activations do not distinguish the feature at all: at layer 0
the mean over positions of every sequence is the same.

Shapes: B layers × replicas, K rows read (one per sequence and position), F features, D width.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from eval.toy import chains, logistic
from eval.toy.config import ToyConfig

NO_SIGNAL = 1e-9  # of the spread: a difference of means that is only rounding


class Rows(NamedTuple):
    """The rows that are read: the second half of every sequence.

    feature_K: (chain, start); state_K: (chain, last token); both are chain × states + the other.
    """

    position_T: np.ndarray
    feature_K: np.ndarray
    state_K: np.ndarray
    token_K: np.ndarray


class Features(NamedTuple):
    """The unit directions [B, F, D] of all features, and their lengths [B, F].

    The length is how far the direction separates the feature from the mean of all rows, over the
    spread of all rows. Of a state it is the distance from the mean of the states with its token,
    over the same: what tells its chain.
    """

    direction_BFD: np.ndarray
    length_BF: np.ndarray


def rows(config: ToyConfig) -> Rows:
    """Which rows are read, sequence by sequence."""
    found = chains.sequences(config.chains)
    n_positions = config.chains.length_tokens
    read = np.arange(n_positions // 2, n_positions)
    feature_K = np.repeat(found.feature_N, len(read))
    token_K = found.tokens_NT[:, read].ravel()
    n_states = config.chains.n_states
    return Rows(read, feature_K, feature_K // n_states * n_states + token_K, token_K)


def token_probes(x_BKD: np.ndarray, read: Rows, config: ToyConfig) -> Features:
    normals = []
    for token in range(config.chains.n_states):
        of_token = read.token_K == token
        own_FK = _members(read.feature_K[of_token], config)
        has_rows = own_FK.any(axis=1) & ~own_FK.all(axis=1)
        unit = np.full((len(x_BKD), len(own_FK), x_BKD.shape[2]), np.nan)
        unit[:, has_rows] = _unit(
            logistic.normals(x_BKD[:, of_token], own_FK[has_rows], config.probe_l2)
        )
        normals.append(unit)
    return _separating(x_BKD, read, config, np.nanmean(normals, axis=0))


def joint_probes(x_BKD: np.ndarray, read: Rows, config: ToyConfig) -> Features:
    own_FK = _members(read.feature_K, config)
    normals = logistic.normals(x_BKD, own_FK, config.probe_l2)
    return _separating(x_BKD, read, config, _where_means_differ(x_BKD, read, config, normals))


def lda(x_BKD: np.ndarray, read: Rows, config: ToyConfig) -> Features:
    centred_BFD = _centred_means(x_BKD, read.feature_K, config)
    within = x_BKD - (centred_BFD + x_BKD.mean(axis=1, keepdims=True))[:, read.feature_K]
    covariance = within.transpose(0, 2, 1) @ within / x_BKD.shape[1]
    inverse = np.linalg.pinv(covariance, hermitian=True)
    vector_BFD = _where_means_differ(x_BKD, read, config, centred_BFD @ inverse)
    return _separating(x_BKD, read, config, vector_BFD)


def sequence_means(x_BKD: np.ndarray, read: Rows, config: ToyConfig) -> Features:
    centred_BFD = _centred_means(x_BKD, read.feature_K, config)
    return _separating(x_BKD, read, config, _without_rounding(centred_BFD, x_BKD))


def state_means(x_BKD: np.ndarray, read: Rows, config: ToyConfig) -> Features:
    centred_BFD = _centred_means(x_BKD, read.state_K, config)
    by_chain = centred_BFD.reshape(len(x_BKD), config.chains.n_chains, config.chains.n_states, -1)
    of_chain = by_chain - by_chain.mean(axis=1, keepdims=True)
    length = np.linalg.norm(of_chain, axis=-1).reshape(len(x_BKD), -1) / _spread(x_BKD)
    return Features(_unit(_without_rounding(centred_BFD, x_BKD)), length)


Estimator = Callable[[np.ndarray, Rows, ToyConfig], Features]
ESTIMATORS: dict[str, Estimator] = {
    "token_probes": token_probes,
    "joint_probes": joint_probes,
    "lda": lda,
    "sequence_means": sequence_means,
    "state_means": state_means,
}


def _members(class_K: np.ndarray, config: ToyConfig) -> np.ndarray:
    """Which rows belong to each class: [F, K]."""
    n_features = config.chains.n_chains * config.chains.n_states
    return np.arange(n_features)[:, None] == class_K


def _centred_means(x_BKD: np.ndarray, class_K: np.ndarray, config: ToyConfig) -> np.ndarray:
    """The mean of each class minus the mean of all rows: [B, F, D]; NaN for a class without
    rows, which noise can leave.
    """
    own_FK = _members(class_K, config)
    n_F = own_FK.sum(axis=1)
    n_rows = np.where(n_F, n_F, np.nan)
    centred = x_BKD - x_BKD.mean(axis=1, keepdims=True)
    return (own_FK @ centred) / n_rows[:, None]


def _separating(
    x_BKD: np.ndarray, read: Rows, config: ToyConfig, vector_BFD: np.ndarray
) -> Features:
    """Unit directions of features, and how far each separates its own from the mean of all."""
    means_BFD = _centred_means(x_BKD, read.feature_K, config)
    direction = _unit(vector_BFD)
    return Features(direction, (direction * means_BFD).sum(axis=-1) / _spread(x_BKD))


def _where_means_differ(
    x_BKD: np.ndarray, read: Rows, config: ToyConfig, vector_BFD: np.ndarray
) -> np.ndarray:
    """The vectors, NaN where the mean of a feature is that of all rows: they are rounding then."""
    centred_BFD = _without_rounding(_centred_means(x_BKD, read.feature_K, config), x_BKD)
    return np.where(np.isnan(centred_BFD), np.nan, vector_BFD)


def _without_rounding(centred_BFD: np.ndarray, x_BKD: np.ndarray) -> np.ndarray:
    """The differences, NaN where they are nothing but rounding."""
    length_BF = np.linalg.norm(centred_BFD, axis=-1)
    is_rounding = length_BF <= NO_SIGNAL * _spread(x_BKD)
    return np.where(is_rounding[..., None], np.nan, centred_BFD)


def _spread(x_BKD: np.ndarray) -> np.ndarray:
    """Root mean square distance of the rows from their mean: [B, 1]."""
    centred = x_BKD - x_BKD.mean(axis=1, keepdims=True)
    return np.sqrt(np.square(centred).sum(axis=2).mean(axis=1))[:, None]


def _unit(vector: np.ndarray) -> np.ndarray:
    with np.errstate(invalid="ignore"):
        return vector / np.linalg.norm(vector, axis=-1, keepdims=True)
