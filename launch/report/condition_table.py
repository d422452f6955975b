"""table of all conditions: a row per arm, ratio, condition and strength, beside the paper"""

from collections.abc import Sequence
from typing import Any

from data_prep.core.records import to_dict
from eval.eval_report import EvalReport
from eval.stats.estimate_with_interval import Estimate
from launch.report.analysis.paper_reference import PaperRow
from launch.report.analysis.per_ratio_series import RatioPoint
from launch.report.condition_rows import ConditionRow, condition_rows
from launch.report.figures.axes import strength_name
from launch.report.tables import MainTable
from launch.report.text import display_names
from launch.report.text.number_format import NOT_MEASURED, percent, with_interval

PAPERS_SETS = ("toxigen", "rtp")  # prompt sets that the paper has, by the name of their column
SCORERS = ("", ", second scorer")
MISSING = "–"


def condition_table(reports: Sequence[EvalReport]) -> MainTable:
    """The table of every arm, ratio, condition and strength that was evaluated."""
    rows = condition_rows(reports)
    with_paper = any(row.paper for row in rows)
    return MainTable(
        columns=["arm", *_headings(rows[0], with_paper)],
        rows=[[row.arm, *_cells(row, with_paper)] for row in rows],
    )


def numbers(reports: Sequence[EvalReport]) -> list[dict[str, Any]]:
    """The same rows as plain data, for results.json."""
    return [
        {
            "arm": row.arm,
            "toxic_ratio": row.ratio,
            "condition": row.condition,
            "strength": row.strength,
            "n_runs": row.n_runs,
            "toxicity": {
                name: [_estimate(point, "score × 100") for point in points]
                for name, points in row.toxicity.items()
            },
            "cross_entropy": {
                name: _estimate(point, "nats/token") for name, point in row.cross_entropy.items()
            },
            "accuracy": {name: _estimate(point, "ratio") for name, point in row.accuracy.items()},
        }
        for row in condition_rows(reports)
    ]


def _headings(row: ConditionRow, with_paper: bool) -> list[str]:
    headings = ["toxic text", "condition"]
    for name, points in row.toxicity.items():
        headings += [f"{name}{SCORERS[k]}" for k in range(len(points))]
        headings += [f"{name}, paper"] if with_paper and name in PAPERS_SETS else []
    headings += [f"nats per token, {name}" for name in row.cross_entropy]
    headings += ["nats per token, paper"] if with_paper else []
    return headings + [display_names.benchmark(name) for name in row.accuracy]


def _cells(row: ConditionRow, with_paper: bool) -> list[str]:
    name = row.condition
    if row.strength:
        name += f", {strength_name(row.strength)}"
    cells = [percent(row.ratio), name]
    for prompt_set, points in row.toxicity.items():
        cells += [_shown(point, 1) for point in points]
        if with_paper and prompt_set in PAPERS_SETS:
            cells.append(_paper(row.paper, prompt_set))
    cells += [_shown(point, 3) for point in row.cross_entropy.values()]
    cells += [_paper(row.paper, "cross_entropy")] if with_paper else []
    return cells + [_shown(point, 3) for point in row.accuracy.values()]


def _shown(point: RatioPoint, digits: int) -> str:
    return MISSING if point.n_runs == 0 else with_interval(point, digits)


def _paper(row: PaperRow | None, name: str) -> str:
    """The paper's number; "unknown" where it has the row and our readings do not give it."""
    if row is None:
        return MISSING
    value = getattr(row, name)
    return NOT_MEASURED if value is None else f"{value:.2f}"


def _estimate(point: RatioPoint, unit: str) -> Any:
    return to_dict(
        Estimate(value=point.value, low=point.low, high=point.high, n=point.n_runs, unit=unit)
    )
