"""agreement of two scorers on the same texts: rank correlation, decisions, kappa

A second scorer beside the first shows how far a result hangs on the choice of scorer. A missing
score is missing: a text without a score from either is in no number, and is counted.

The intervals take texts as independent. Give one continuation per prompt, or read them as too
narrow: continuations of one prompt are alike.

Shapes: N texts with both scores.
"""

import math
from collections.abc import Sequence
from statistics import NormalDist

import numpy as np

from data_prep.core.records import record
from eval.stats import intervals
from eval.stats.estimate_with_interval import Estimate, not_measured

MIN_VARIANCE = 1e-12  # below it, as at kappa 1, the interval has no width and claims too much


@record
class ScorerAgreement:
    """How far two scorers agree on the texts that both have scored.

    n_missing: texts without a score from one of them.
    rho: Spearman's rank correlation of the scores.
    agreement: share of the texts on which both are on the same side of the threshold, 0.5.
    kappa: Cohen's kappa of these decisions; no value if both scorers call all texts the same.
    """

    n: int
    n_missing: int
    rho: Estimate
    agreement: Estimate
    kappa: Estimate


def scorer_agreement(
    first: Sequence[float | None], second: Sequence[float | None], *, threshold: float = 0.5
) -> ScorerAgreement:
    """The agreement of two scorers: their scores of the same texts, in the same order. A text is
    called toxic from the threshold on.
    """
    pairs = [(a, b) for a, b in zip(first, second, strict=True) if a is not None and b is not None]
    a_N, b_N = np.array(pairs, dtype=np.float64).reshape(-1, 2).T
    is_toxic_a_N, is_toxic_b_N = a_N >= threshold, b_N >= threshold
    return ScorerAgreement(
        n=len(pairs),
        n_missing=len(first) - len(pairs),
        rho=intervals.spearman(a_N, b_N),
        agreement=intervals.wilson(int((is_toxic_a_N == is_toxic_b_N).sum()), len(pairs), "ratio"),
        kappa=cohen_kappa(is_toxic_a_N, is_toxic_b_N),
    )


def cohen_kappa(
    first_N: np.ndarray, second_N: np.ndarray, *, confidence: float = intervals.CONFIDENCE
) -> Estimate:
    """Cohen's kappa (1960) of two series of yes and no, with the large-sample interval of Fleiss,
    Cohen and Everitt (1969, eq. 13), cut at −1 and 1; without an interval where it has no width:
    at 1, and if one of the two never changes.
    """
    n = len(first_N)
    cell_N = 2 * first_N.astype(int) + second_N.astype(int)
    share_22 = np.bincount(cell_N, minlength=4).reshape(2, 2) / max(1, n)
    row_2, column_2 = share_22.sum(axis=1), share_22.sum(axis=0)
    observed, by_chance = float(np.trace(share_22)), float(row_2 @ column_2)
    if n == 0 or math.isclose(by_chance, 1):
        return not_measured("kappa")
    kappa = (observed - by_chance) / (1 - by_chance)
    # of cells (i, j): agreements weigh with their own marginals, disagreements with the crossed
    same = sum(share_22[i, i] * (1 - (row_2[i] + column_2[i]) * (1 - kappa)) ** 2 for i in (0, 1))
    crossed = (1 - kappa) ** 2 * sum(
        share_22[i, 1 - i] * (column_2[i] + row_2[1 - i]) ** 2 for i in (0, 1)
    )
    variance = same + crossed - (kappa - by_chance * (1 - kappa)) ** 2
    if variance < MIN_VARIANCE:
        return Estimate(value=kappa, low=None, high=None, n=n, unit="kappa")
    standard_error = math.sqrt(variance / n) / (1 - by_chance)
    half_width = NormalDist().inv_cdf((1 + confidence) / 2) * standard_error
    return Estimate(
        value=kappa,
        low=max(-1.0, kappa - half_width),
        high=min(1.0, kappa + half_width),
        n=n,
        unit="kappa",
    )
