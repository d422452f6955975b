"""rows of all conditions: arm × ratio × condition × strength, means over seeds

One row is one way to use one kind of model. All rows are measured on the same prompts, held-out
text and questions, so any two can be compared.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple, get_args

from eval.config import PLAIN
from eval.eval_report import EvalReport, OperatingPoint
from eval.stats.estimate_with_interval import Estimate
from launch.report.analysis import per_ratio_series
from launch.report.analysis.paper_reference import PaperRow, row_of_paper
from launch.report.analysis.per_ratio_series import RatioPoint
from training.config import Arm


class ConditionRow(NamedTuple):
    """One arm at one ratio under one condition at one strength; 0 if nothing is shifted.

    toxicity: by prompt set and scorer, score × 100. cross_entropy and accuracy: by text and
    benchmark. paper: the same row of the paper, if it has one.
    """

    arm: Arm
    ratio: float
    condition: str
    strength: float
    n_runs: int
    toxicity: dict[str, list[RatioPoint]]
    cross_entropy: dict[str, RatioPoint]
    accuracy: dict[str, RatioPoint]
    paper: PaperRow | None


def condition_rows(reports: Sequence[EvalReport]) -> list[ConditionRow]:
    """A row for all that was measured, by arm, ratio and condition, plain first."""
    return [
        row
        for arm in get_args(Arm)
        for row in _rows_of_arm(arm, [report for report in reports if report.arm == arm])
    ]


def _rows_of_arm(arm: Arm, reports: Sequence[EvalReport]) -> Iterator[ConditionRow]:
    """The spread between seeds is pooled over the ratios of an arm, so a row's numbers are read for
    all ratios at once.
    """
    points = _operating_points(reports)
    for ratio in sorted({report.toxic_ratio for report in reports}):
        for name, strength in points:
            yield _row(arm, ratio, name, strength, reports)


def _operating_points(reports: Sequence[EvalReport]) -> list[tuple[str, float]]:
    """(condition, strength) of all that some report has: plain, then by name and strength."""
    points = {
        (name, point.strength)
        for report in reports
        for name, of_condition in report.conditions.items()
        for point in of_condition
    }
    return sorted(points, key=lambda point: (point[0] != PLAIN, point))


def _row(
    arm: Arm, ratio: float, condition: str, strength: float, reports: Sequence[EvalReport]
) -> ConditionRow:
    def point_of(report: EvalReport) -> OperatingPoint | None:
        of_condition = report.conditions.get(condition, ())
        return next((point for point in of_condition if point.strength == strength), None)

    def at_ratio(read: Callable[[OperatingPoint], Estimate | None]) -> RatioPoint:
        def read_report(report: EvalReport) -> Estimate | None:
            point = point_of(report)
            return read(point) if point else None

        series = per_ratio_series.by_ratio(reports, read_report)
        return next(point for point in series if point.ratio == ratio)

    plain = reports[0].plain
    benchmarks = dict.fromkeys(name for report in reports for name in report.plain.accuracy)
    n_scorers = len(reports[0].scorer_ids)
    return ConditionRow(
        arm=arm,
        ratio=ratio,
        condition=condition,
        strength=strength,
        n_runs=sum(r.toxic_ratio == ratio and point_of(r) is not None for r in reports),
        toxicity={
            name: [
                at_ratio(lambda p, n=name, k=k: p.prompt_sets[n].scores[k].toxicity)
                for k in range(n_scorers)
            ]
            for name in sorted(plain.prompt_sets)
        },
        cross_entropy={
            name: at_ratio(lambda p, n=name: p.cross_entropy.get(n)) for name in plain.cross_entropy
        },
        accuracy={name: at_ratio(lambda p, n=name: p.accuracy.get(n)) for name in benchmarks},
        paper=row_of_paper(arm, ratio, condition, strength),
    )
