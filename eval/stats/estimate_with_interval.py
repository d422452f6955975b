"""a number with its confidence interval, as all results are recorded"""

from data_prep.core.records import record


@record
class Estimate:
    """A number with its interval. value is None where nothing could be measured; n counts the
    independent items behind it.
    """

    value: float | None
    low: float | None
    high: float | None
    n: int
    unit: str


def not_measured(unit: str) -> Estimate:
    """The estimate of a quantity that could not be measured."""
    return Estimate(value=None, low=None, high=None, n=0, unit=unit)
