"""AUROC with its interval, average precision, calibration error of two-class scores

AUROC is the probability that a positive row scores above a negative one, ties counting one half
(Mann and Whitney 1947). Where the rows are at hand, its standard error is DeLong's (DeLong et al.
1988); where only the value was recorded, Hanley and McNeil's (1982). Both intervals are computed on
the logit scale, where they cannot leave [0, 1].

training/trainer/validation.py computes an AUROC of its own, because training may not import eval.

Shapes: R rows, P probes or scorers that score the same rows.
"""

import math
from statistics import NormalDist
from typing import NamedTuple

import numpy as np

from eval.stats.estimate_with_interval import Estimate
from eval.stats.intervals import CONFIDENCE

N_CALIBRATION_BINS = 10


class DeLong(NamedTuple):
    """The mean AUROC of P probes and its standard error over rows.

    standard_error: None where a class has a single row, so that no variance can be computed.
    n_rarer: number of rows of the rarer class.
    """

    auroc: float
    standard_error: float | None
    n_rarer: int


def auroc(scores_RP: np.ndarray, positive_R: np.ndarray) -> np.ndarray:
    """AUROC of each probe: [P]."""
    from scipy.stats import rankdata

    rank_RP = rankdata(np.asarray(scores_RP, dtype=np.float64), axis=0)
    n_positive = int(positive_R.sum())
    n_negative = len(positive_R) - n_positive
    excess_P = rank_RP[positive_R].sum(axis=0) - n_positive * (n_positive + 1) / 2
    return excess_P / (n_positive * n_negative)


def delong(scores_RP: np.ndarray, positive_R: np.ndarray) -> DeLong:
    """The mean AUROC of the probes with DeLong's standard error, which accounts for the probes
    scoring the same rows: each row's placement values are averaged over probes before their
    variance is taken.
    """
    from scipy.stats import rankdata

    scores_RP = np.asarray(scores_RP, dtype=np.float64)
    rank_RP = rankdata(scores_RP, axis=0)
    placements = []
    for own_R in (positive_R, ~positive_R):
        # a row's placement: the share of the other class that it outscores, ties counting one half
        n_outscored = rank_RP[own_R] - rankdata(scores_RP[own_R], axis=0)
        placements.append((n_outscored / (len(own_R) - own_R.sum())).mean(axis=1))
    n_rarer = min(map(len, placements))
    standard_error = None
    if n_rarer > 1:
        standard_error = math.sqrt(sum(float(own.var(ddof=1)) / len(own) for own in placements))
    return DeLong(float(placements[0].mean()), standard_error, n_rarer)


def mean_auroc(
    scores_RP: np.ndarray, positive_R: np.ndarray, *, confidence: float = CONFIDENCE
) -> Estimate:
    """The mean AUROC of the probes with DeLong's interval.

    At 0 and 1, and where a class has a single row, that interval has no width or does not exist.
    Then the interval reaches as far as unseen rows of the rarer class could move the AUROC (Clopper
    and Pearson's interval at n of n successes).
    """
    result = delong(scores_RP, positive_R)
    if 0 < result.auroc < 1 and result.standard_error is not None:
        low, high = _logit_interval(result.auroc, result.standard_error, confidence)
    else:
        unseen = 1 - ((1 - confidence) / 2) ** (1 / result.n_rarer)
        low, high = max(0.0, result.auroc - unseen), min(1.0, result.auroc + unseen)
    return Estimate(value=result.auroc, low=low, high=high, n=len(positive_R), unit="ratio")


def auroc_of_scores(
    scores_R: np.ndarray, positive_R: np.ndarray, *, confidence: float = CONFIDENCE
) -> Estimate:
    """The AUROC of one scorer with DeLong's interval, without an interval where that has no
    width.
    """
    value, standard_error, _ = delong(scores_R[:, None], positive_R)
    n = len(scores_R)
    if not standard_error or not 0 < value < 1:
        return Estimate(value=value, low=None, high=None, n=n, unit="AUROC")
    low, high = _logit_interval(value, standard_error, confidence)
    return Estimate(value=value, low=low, high=high, n=n, unit="AUROC")


def hanley_mcneil(value: float, n: int, *, confidence: float = CONFIDENCE) -> Estimate:
    """The interval of a recorded AUROC over `n` rows, half of each class.

    At 0 and 1 the standard error is 0; there it is computed as if one row of each class were on the
    wrong side.
    """
    n_class = n / 2
    a = min(max(value, 0.5 / n_class), 1 - 0.5 / n_class)
    # Hanley and McNeil 1982, eq. 1: q1 for two positive rows above one negative, q2 the reverse
    q1 = a / (2 - a)
    q2 = 2 * a * a / (1 + a)
    variance = (a * (1 - a) + (n_class - 1) * (q1 - a * a + q2 - a * a)) / n_class**2
    low, high = _logit_interval(a, math.sqrt(variance), confidence)
    return Estimate(value=value, low=min(low, value), high=max(high, value), n=n, unit="AUROC")


def average_precision(score_R: np.ndarray, positive_R: np.ndarray) -> float:
    """The precision at each positive row, averaged; rows of one score share the precision at it.

    Σ (recall − previous recall) · precision over the distinct scores, from the highest: not
    interpolated. A random order has the share of positive rows.
    """
    caught_K, flagged_K = _counts_above(score_R, positive_R)
    recall_gain_K = np.diff(caught_K, prepend=0) / positive_R.sum()
    return float((recall_gain_K * caught_K / flagged_K).sum())


def recall_at_false_positive_rate(
    score_R: np.ndarray, positive_R: np.ndarray, max_rate: float
) -> float | None:
    """The share of positive rows above the lowest threshold at which at most `max_rate` of the
    others are. None with so few others that a single one exceeds the rate.
    """
    n_others = int((~positive_R).sum())
    if n_others * max_rate < 1:
        return None
    caught_K, flagged_K = _counts_above(score_R, positive_R)
    is_allowed_K = flagged_K - caught_K <= max_rate * n_others
    return float(caught_K[is_allowed_K].max(initial=0) / positive_R.sum())


def _counts_above(score_R: np.ndarray, positive_R: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Positive rows, and all rows, that score at least each of K distinct scores, highest first."""
    order = np.argsort(-score_R, kind="stable")
    is_last_of_score = np.append(np.diff(score_R[order]) != 0, True)
    return np.cumsum(positive_R[order])[is_last_of_score], np.flatnonzero(is_last_of_score) + 1


def calibration_error(probability_RP: np.ndarray, positive_R: np.ndarray) -> np.ndarray:
    """Expected calibration error of each probe: |share of positive rows − mean probability|,
    averaged by rows over bins of equal width: [P].
    """
    bin_RP = probability_bin(probability_RP)
    gap_RP = positive_R.astype(np.float64)[:, None] - probability_RP
    sums_KP = np.stack(
        [np.where(bin_RP == k, gap_RP, 0.0).sum(axis=0) for k in range(N_CALIBRATION_BINS)]
    )
    return np.abs(sums_KP).sum(axis=0) / len(probability_RP)


def probability_bin(probability: np.ndarray) -> np.ndarray:
    """The number of the calibration bin of each probability; the last bin includes 1."""
    return np.minimum((probability * N_CALIBRATION_BINS).astype(int), N_CALIBRATION_BINS - 1)


def _logit_interval(value: float, standard_error: float, confidence: float) -> tuple[float, float]:
    """A normal interval of logit(value), transformed back (delta method)."""
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    half_width = z * standard_error / (value * (1 - value))
    odds_against = (1 - value) / value
    return (
        1 / (1 + odds_against * math.exp(half_width)),
        1 / (1 + odds_against * math.exp(-half_width)),
    )
