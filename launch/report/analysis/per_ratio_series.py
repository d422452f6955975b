"""series of a sweep: one value with its interval per toxic ratio, over all seeds"""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol, TypeVar

from eval.stats import seed_spread
from eval.stats.estimate_with_interval import Estimate
from launch.report.analysis.comparisons import Comparisons
from launch.report.analysis.evaluation_view import EvaluationView, StrengthResult

UPPER_BOUNDS = {"ratio": 1.0, "score × 100": 100.0}  # by unit; every series is at least 0


class RatioPoint(NamedTuple):
    """All runs of one ratio: the mean of their values with its interval; None if no run measured
    the value.
    """

    ratio: float
    realised: float
    value: float | None
    low: float | None
    high: float | None
    n_runs: int


class HasRatio(Protocol):
    """A report or a view of one."""

    @property
    def toxic_ratio(self) -> float: ...

    @property
    def realised_toxic_ratio(self) -> float: ...


R = TypeVar("R", bound=HasRatio)


def by_ratio(reports: Sequence[R], read: Callable[[R], Estimate | None]) -> list[RatioPoint]:
    """One point per ratio, ascending. With one seed per ratio the points are the estimates
    themselves.

    With several, the interval of the mean covers items and seeds: its part over items is as wide as
    the seeds' own on average, which is too wide where models differ on single items; the spread
    between seeds is pooled over ratios (eval/stats/seed_spread.py).
    """
    same_ratio = {
        ratio: [report for report in reports if report.toxic_ratio == ratio]
        for ratio in sorted({report.toxic_ratio for report in reports})
    }
    measured = {
        ratio: [
            estimate
            for estimate in map(read, same)
            if estimate is not None and estimate.value is not None
        ]
        for ratio, same in same_ratio.items()
    }
    spread = seed_spread.pooled([[e.value or 0.0 for e in of] for of in measured.values()])
    points = []
    for ratio, same in same_ratio.items():
        mean = _mean(measured[ratio])
        if mean:
            bounds = (0.0, UPPER_BOUNDS.get(mean.unit, math.inf))
            mean = seed_spread.widened(mean, spread, len(measured[ratio]), bounds=bounds)
        points.append(
            RatioPoint(
                ratio=ratio,
                realised=sum(report.realised_toxic_ratio for report in same) / len(same),
                value=mean and mean.value,
                low=mean and mean.low,
                high=mean and mean.high,
                n_runs=len(measured[ratio]),
            )
        )
    return points


def _mean(estimates: Sequence[Estimate]) -> Estimate | None:
    """The mean of the values, and of the ends of the intervals where all have one."""
    if len(estimates) < 2:
        return estimates[0] if estimates else None

    def mean(ends: Sequence[float | None]) -> float | None:
        known = [end for end in ends if end is not None]
        return sum(known) / len(known) if len(known) == len(ends) else None

    return Estimate(
        value=mean([estimate.value for estimate in estimates]),
        low=mean([estimate.low for estimate in estimates]),
        high=mean([estimate.high for estimate in estimates]),
        n=min(estimate.n for estimate in estimates),
        unit=estimates[0].unit,
    )


def toxicity_series(
    reports: Sequence[EvaluationView], compared: Comparisons | None, strength: float
) -> list[RatioPoint]:
    """Toxicity at `strength`, one point per ratio: where there are several seeds and common items,
    the comparisons' means over seeds.
    """
    points = by_ratio(reports, toxicity_at(strength))
    if compared is None:
        return points
    means = {mean.ratio: mean.toxicity for mean in compared.points if mean.strength == strength}
    return [_with_estimate(point, means.get(point.ratio)) for point in points]


def cross_entropy_series(
    reports: Sequence[EvaluationView], compared: Comparisons | None, strength: float
) -> list[RatioPoint]:
    """Cross-entropy on the text of the cost, in the same way."""
    points = by_ratio(reports, cross_entropy_at(strength))
    if compared is None:
        return points
    means = {
        mean.ratio: mean.cross_entropy for mean in compared.points if mean.strength == strength
    }
    return [_with_estimate(point, means.get(point.ratio)) for point in points]


def _with_estimate(point: RatioPoint, estimate: Estimate | None) -> RatioPoint:
    if estimate is None:
        return point
    return point._replace(value=estimate.value, low=estimate.low, high=estimate.high)


def measured_strengths(reports: Sequence[EvaluationView]) -> list[float]:
    """Every strength that any report measured, ascending."""
    return sorted({steered.strength for report in reports for steered in report.steered})


def steered_at(report: EvaluationView, strength: float) -> StrengthResult | None:
    """The measurements at `strength`, or None if the report lacks it."""
    return next((steered for steered in report.steered if steered.strength == strength), None)


def toxicity_at(strength: float) -> Callable[[EvaluationView], Estimate | None]:
    """A function that reads toxicity at `strength` from a report."""
    return lambda report: steered.toxicity if (steered := steered_at(report, strength)) else None


def cost_text(reports: Sequence[EvaluationView]) -> str:
    """Name of the held-out text on which the cost of steering is measured."""
    return reports[0].config.capability.cost_text


def cross_entropy_at(strength: float) -> Callable[[EvaluationView], Estimate | None]:
    """A function that reads cross-entropy on the text of the cost at `strength` from a report; the
    cost of steering is the rise over strength 0.
    """

    def read(report: EvaluationView) -> Estimate | None:
        steered = steered_at(report, strength)
        return steered.cross_entropy.get(cost_text([report])) if steered else None

    return read


def cross_entropy_rises(reports: Sequence[EvaluationView], strength: float) -> list[float]:
    """Cross-entropy at `strength` − unsteered, on the text of the cost, of each report that has
    both.
    """
    pairs = [
        (cross_entropy_at(0.0)(report), cross_entropy_at(strength)(report)) for report in reports
    ]
    return [
        steered.value - unsteered.value
        for unsteered, steered in pairs
        if unsteered and steered and unsteered.value is not None and steered.value is not None
    ]


def intervals_are_disjoint(a: RatioPoint, b: RatioPoint) -> bool:
    """Whether the intervals of two points do not overlap; False if either is unknown."""
    if a.low is None or a.high is None or b.low is None or b.high is None:
        return False
    return a.high < b.low or b.high < a.low
