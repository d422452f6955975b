"""series of a sweep: one value with its interval per toxic ratio, over all seeds of the ratio"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from eval.eval_report import EvalReport, Steered
from eval.stats.estimate import Estimate


class RatioPoint(NamedTuple):
    """All runs of one ratio: the mean of their values, and an interval that spans all of theirs;
    None where none was measured.
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
    """One point for each ratio, ascending. With one seed a ratio, the points are the estimates
    themselves.
    """
    points = []
    for ratio in sorted({report.toxic_ratio for report in reports}):
        same = [report for report in reports if report.toxic_ratio == ratio]
        known = [
            estimate
            for estimate in map(read, same)
            if estimate is not None and estimate.value is not None
        ]
        lows = [estimate.low for estimate in known if estimate.low is not None]
        highs = [estimate.high for estimate in known if estimate.high is not None]
        points.append(
            RatioPoint(
                ratio=ratio,
                realised=sum(report.realised_toxic_ratio for report in same) / len(same),
                value=sum(estimate.value or 0.0 for estimate in known) / len(known)
                if known
                else None,
                low=min(lows) if lows else None,
                high=max(highs) if highs else None,
                n_runs=len(known),
            )
        )
    return points


def measured_strengths(reports: Sequence[EvalReport]) -> list[float]:
    return sorted({steered.strength for report in reports for steered in report.steered})


def steered_at(report: EvalReport, strength: float) -> Steered | None:
    """What was measured at `strength`, or None where that report lacks it."""
    return next((steered for steered in report.steered if steered.strength == strength), None)


def toxicity_at(strength: float) -> Callable[[EvalReport], Estimate | None]:
    return lambda report: steered.toxicity if (steered := steered_at(report, strength)) else None


def cross_entropy_at(
    strength: float, stream: str = "clean"
) -> Callable[[EvalReport], Estimate | None]:
    """Cross-entropy on held-out text of `stream` at `strength`; its cost is the rise over strength
    0.
    """
    return lambda report: (
        steered.cross_entropy.get(stream) if (steered := steered_at(report, strength)) else None
    )


def intervals_are_disjoint(a: RatioPoint, b: RatioPoint) -> bool:
    """Whether the intervals of two points do not overlap; False where either is unknown."""
    if a.low is None or a.high is None or b.low is None or b.high is None:
        return False
    return a.high < b.low or b.high < a.low


def cross_entropy_rises(reports: Sequence[EvalReport], strength: float) -> list[float]:
    """Cross-entropy at `strength` minus unsteered, clean held-out text, for each report that has
    both.
    """
    pairs = [
        (cross_entropy_at(0.0)(report), cross_entropy_at(strength)(report)) for report in reports
    ]
    return [
        b.value - a.value
        for a, b in pairs
        if a and b and a.value is not None and b.value is not None
    ]
