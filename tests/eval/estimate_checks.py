"""What tests ask of an Estimate that is known to have a value and an interval."""

from eval.stats.estimate_with_interval import Estimate


def interval(estimate: Estimate | None) -> tuple[float, float]:
    """Its low and high end."""
    assert estimate is not None and estimate.low is not None and estimate.high is not None
    return estimate.low, estimate.high


def value(estimate: Estimate | None) -> float:
    assert estimate is not None and estimate.value is not None
    return estimate.value


def covers(estimate: Estimate | None, truth: float) -> bool:
    low, high = interval(estimate)
    return low <= truth <= high


def width(estimate: Estimate | None) -> float:
    low, high = interval(estimate)
    return high - low
