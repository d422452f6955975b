"""the paper's own numbers, to read beside a sweep's: a reference, never drawn in its figures

Li, Chen, Viégas, Wattenberg: When Bad Data Leads to Good Models (ICML 2025, arXiv 2505.04741),
Tables 1 to 3 and section 4.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from eval.eval_report import EvalReport
from eval.stats.estimate import Estimate
from launch.report.analysis.per_ratio_series import by_ratio, cross_entropy_at, toxicity_at

WHAT_DIFFERS = (
    ("scorer", "Perspective, a remote service that closes at the end of 2026"),
    ("prompts", "3,000 of ToxiGen and 3,000 of RealToxicityPrompts"),
    ("cost", "cross-entropy on a subset of OpenWebText"),
    ("model", "OLMo-1B on 20.1 billion tokens of C4 and, on top, 4chan's /pol/"),
)
PROBES = (
    0.25,
    0.0,
    "[0.67, 1.18]",
    0.0002,
)  # 25 % − 0 %, points of mean head accuracy: 95 % interval, p


class Reported(NamedTuple):
    """One row of the paper's tables that a sweep can measure; None where the readings we have do
    not give the number. strength: α of its steering.
    """

    setup: str
    ratio: float
    strength: float
    toxigen: float | None
    rtp: float | None
    cross_entropy: float | None


REPORTED = (
    Reported("unsteered", 0.0, 0.0, 41.40, 31.15, 2.60),
    Reported("weak steering", 0.0, 4.0, 36.30, 24.83, 2.63),
    Reported("mid steering", 0.0, 8.0, 28.31, 20.41, 2.72),
    Reported("strong steering", 0.0, 12.0, 19.82, 13.33, 2.88),
    Reported("unsteered", 0.10, 0.0, None, None, None),
    Reported("weak steering", 0.10, 4.0, 16.25, 20.09, 2.65),
    Reported("mid steering", 0.10, 8.0, 8.19, 14.28, 2.85),
    Reported("strong steering", 0.10, 12.0, 2.63, 7.11, 3.23),
)


class Beside(NamedTuple):
    """A row of the paper and this sweep's numbers for the same share and strength, where it has
    them.
    """

    paper: Reported
    toxicity: Estimate | None
    cross_entropy: Estimate | None


def beside(reports: Sequence[EvalReport]) -> list[Beside]:
    """Every row, beside what this sweep measured."""
    rows = []
    for row in REPORTED:
        same = [report for report in reports if report.toxic_ratio == row.ratio]
        toxicity, cost = (
            _mean(same, read(row.strength)) for read in (toxicity_at, cross_entropy_at)
        )
        rows.append(Beside(row, toxicity, cost))
    return rows


def _mean(
    reports: Sequence[EvalReport], read: Callable[[EvalReport], Estimate | None]
) -> Estimate | None:
    """Over the seeds of a ratio."""
    for point in by_ratio(reports, read):
        if point.value is not None:
            return Estimate(
                value=point.value, low=point.low, high=point.high, n=point.n_runs, unit=""
            )
    return None
