"""contrasts of the toy experiment: t intervals paired by seed, Holm over the whole table

Shapes: S seeds, G ratios.
"""

import math
from collections.abc import Iterable
from dataclasses import replace

import numpy as np

from eval.stats import multiple_tests
from eval.stats.estimate_with_interval import Estimate, not_measured
from eval.stats.intervals import CONFIDENCE
from eval.toy.toy_result import PairedContrast, ToyCell, ToyLevel, ToyQuantity

EQUAL = 1e-9  # differences that are only rounding: equal by construction


def t_estimate(values_S: np.ndarray, unit: str) -> Estimate:
    """The mean over seeds with Student's interval; not measured if a seed has no value."""
    if np.isnan(values_S).any():
        return not_measured(unit)
    mean, n = float(values_S.mean()), len(values_S)
    margin = _quantile(n) * float(values_S.std(ddof=1)) / math.sqrt(n)
    return Estimate(value=mean, low=mean - margin, high=mean + margin, n=n, unit=unit)


def paired(first_S: np.ndarray, second_S: np.ndarray, unit: str) -> PairedContrast:
    """First minus second, paired by seed, with the p of the two-sided t-test."""
    from scipy.stats import t

    difference_S = first_S - second_S
    if (np.abs(difference_S) <= EQUAL).all():
        difference_S = np.zeros_like(difference_S)
    estimate = t_estimate(difference_S, unit)
    deviation = float(difference_S.std(ddof=1))
    if estimate.value is None or deviation == 0:
        return PairedContrast(difference=estimate, p=None, p_holm=None)
    statistic = abs(estimate.value) * math.sqrt(estimate.n) / deviation
    p = 2 * float(t.sf(statistic, estimate.n - 1))
    return PairedContrast(difference=estimate, p=p, p_holm=None)


def quantity(
    under_sampled_GS: np.ndarray,
    control_GS: np.ndarray,
    untrained_S: np.ndarray,
    ratios: Iterable[float],
    unit: str,
) -> ToyQuantity:
    """Levels and contrasts of one quantity, ratios ascending."""
    levels = [
        ToyLevel(
            ratio=ratio,
            under_sampled=t_estimate(under_S, unit),
            control=t_estimate(control_S, unit),
        )
        for ratio, under_S, control_S in zip(ratios, under_sampled_GS, control_GS, strict=True)
    ]
    untrained = None if np.isnan(untrained_S).any() else float(untrained_S.mean())
    return ToyQuantity(
        levels=tuple(levels),
        minus_control=paired(under_sampled_GS[0], control_GS[0], unit),
        drop=paired(under_sampled_GS[0], under_sampled_GS[-1], unit),
        untrained=untrained,
    )


def corrected(cells: Iterable[ToyCell]) -> tuple[tuple[ToyCell, ...], int]:
    """The cells with Holm's correction over all their tests, and how many those are."""
    cells = list(cells)
    tests = [test.p for cell in cells for test in _tests(cell) if test.p is not None]
    adjusted = iter(multiple_tests.holm(tests))
    return tuple(_with_holm(cell, adjusted) for cell in cells), len(tests)


def _tests(cell: ToyCell) -> list[PairedContrast]:
    return [
        test for found in cell.quantities.values() for test in (found.minus_control, found.drop)
    ]


def _with_holm(cell: ToyCell, adjusted: Iterable[float]) -> ToyCell:
    values = iter(adjusted)

    def correct(test: PairedContrast) -> PairedContrast:
        return test if test.p is None else replace(test, p_holm=next(values))

    found = {
        name: replace(one, minus_control=correct(one.minus_control), drop=correct(one.drop))
        for name, one in cell.quantities.items()
    }
    return replace(cell, quantities=found)


def _quantile(n: int) -> float:
    from scipy.stats import t

    return float(t.ppf((1 + CONFIDENCE) / 2, n - 1))
