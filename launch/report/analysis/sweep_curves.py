"""what the main figures show: the reports of a sweep, and its costs of comparison"""

from collections.abc import Sequence
from typing import NamedTuple

from launch.report.analysis.comparisons import Comparisons
from launch.report.analysis.evaluation_view import EvaluationView
from launch.report.analysis.matched_cross_entropy import MatchedToxicity
from launch.report.analysis.per_ratio_series import cross_entropy_series, measured_strengths

ZOOM = 2.5  # a second panel shows the compared costs where they span this much less


class SweepCurves(NamedTuple):
    """What the main figures show: the reports of a sweep, and their comparisons if they share
    items.
    """

    reports: Sequence[EvaluationView]
    compared: Comparisons | None

    @property
    def matched(self) -> list[MatchedToxicity]:
        """The comparisons at equal cost that were possible."""
        results = self.compared.matched if self.compared else ()
        return [result for result in results if result.difference]

    @property
    def compared_cost(self) -> float | None:
        """The cross-entropy at which all ratios that reach it are compared."""
        levels = (result.cross_entropy for result in self.matched if result.is_common)
        return next(levels, None)

    @property
    def own_costs(self) -> list[tuple[float, float]]:
        """The ratios compared with the first at a cross-entropy of their own, and that."""
        return [
            (result.ratio, result.cross_entropy)
            for result in self.matched
            if not result.is_common and result.cross_entropy is not None
        ]

    @property
    def costs(self) -> list[float]:
        """Cross-entropy at every ratio and strength."""
        return [
            point.value
            for strength in measured_strengths(self.reports)
            for point in cross_entropy_series(self.reports, self.compared, strength)
            if point.value is not None
        ]

    @property
    def is_zoomed(self) -> bool:
        """Whether the compared cost lies so near to the least that it needs a panel of its own."""
        if self.compared_cost is None or not self.costs:
            return False
        least = min(self.costs)
        return max(self.costs) - least > ZOOM * 2 * (self.compared_cost - least) > 0
