"""series of a sweep: one value with its interval per toxic ratio, over all seeds"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from eval.eval_report import EvalReport, StrengthResult
from eval.stats.estimate import Estimate


class RatioPoint(NamedTuple):
    """All runs of one ratio: the mean of their values, and an interval that spans all of their
    intervals; None if no run measured the value.
    """

    ratio: float
    realised: float
    value: float | None
    low: float | None
    high: float | None
    n_runs: int


def by_ratio(
    reports: Sequence[EvalReport], read: Callable[[EvalReport], Estimate | None]
) -> list[RatioPoint]:
    """One point per ratio, ascending. With one seed per ratio the points are the estimates
    themselves.
    """
    points = []
    for ratio in sorted({report.toxic_ratio for report in reports}):
        same_ratio = [report for report in reports if report.toxic_ratio == ratio]
        estimates = [
            estimate
            for estimate in map(read, same_ratio)
            if estimate is not None and estimate.value is not None
        ]
        values = [estimate.value for estimate in estimates if estimate.value is not None]
        lows = [estimate.low for estimate in estimates if estimate.low is not None]
        highs = [estimate.high for estimate in estimates if estimate.high is not None]
        points.append(
            RatioPoint(
                ratio=ratio,
                realised=sum(report.realised_toxic_ratio for report in same_ratio)
                / len(same_ratio),
                value=sum(values) / len(values) if values else None,
                low=min(lows) if lows else None,
                high=max(highs) if highs else None,
                n_runs=len(estimates),
            )
        )
    return points


def measured_strengths(reports: Sequence[EvalReport]) -> list[float]:
    """Every strength that any report measured, ascending."""
    return sorted({steered.strength for report in reports for steered in report.steered})


def steered_at(report: EvalReport, strength: float) -> StrengthResult | None:
    """The measurements at `strength`, or None if the report lacks it."""
    return next((steered for steered in report.steered if steered.strength == strength), None)


def toxicity_at(strength: float) -> Callable[[EvalReport], Estimate | None]:
    """A function that reads toxicity at `strength` from a report."""
    return lambda report: steered.toxicity if (steered := steered_at(report, strength)) else None


def cross_entropy_at(
    strength: float, stream: str = "clean"
) -> Callable[[EvalReport], Estimate | None]:
    """A function that reads cross-entropy on held-out text of `stream` at `strength` from a report;
    the cost of steering is the rise over strength 0.
    """
    return lambda report: (
        steered.cross_entropy.get(stream) if (steered := steered_at(report, strength)) else None
    )


def cross_entropy_rises(reports: Sequence[EvalReport], strength: float) -> list[float]:
    """Cross-entropy at `strength` − unsteered, on clean held-out text, of each report that has
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
