"""the paper's own numbers, to read beside a sweep's and never drawn in its figures

Li, Chen, Viégas, Wattenberg: When Bad Data Leads to Good Models (ICML 2025, arXiv 2505.04741),
Tables 1 to 3 and section 4.
"""

from collections.abc import Sequence
from typing import NamedTuple

from launch.report.analysis.comparisons import Comparisons
from launch.report.analysis.evaluation_view import EvaluationView
from launch.report.analysis.per_ratio_series import (
    RatioPoint,
    cross_entropy_series,
    toxicity_series,
)

WHAT_DIFFERS = (
    ("scorer", "Perspective, a remote service that closes at the end of 2026"),
    ("prompts", "3,000 of ToxiGen and 3,000 of RealToxicityPrompts"),
    ("cost", "cross-entropy on a subset of OpenWebText"),
    ("model", "OLMo-1B on 20.1 billion tokens of C4 and, on top, 4chan's /pol/"),
)
# points of mean head accuracy, 25 % − 0 %: last ratio, first ratio, 95 % interval, p
PROBES = (0.25, 0.0, "[0.67, 1.18]", 0.0002)


class PaperRow(NamedTuple):
    """One row of the paper's tables that a sweep can measure; None where our readings of the paper
    do not give the number. strength: α of its steering.
    """

    setup: str
    ratio: float
    strength: float
    toxigen: float | None
    rtp: float | None
    cross_entropy: float | None


PAPER_ROWS = (
    PaperRow("unsteered", 0.0, 0.0, 41.40, 31.15, 2.60),
    PaperRow("weak steering", 0.0, 4.0, 36.30, 24.83, 2.63),
    PaperRow("mid steering", 0.0, 8.0, 28.31, 20.41, 2.72),
    PaperRow("strong steering", 0.0, 12.0, 19.82, 13.33, 2.88),
    PaperRow("unsteered", 0.10, 0.0, None, None, None),
    PaperRow("weak steering", 0.10, 4.0, 16.25, 20.09, 2.65),
    PaperRow("mid steering", 0.10, 8.0, 8.19, 14.28, 2.85),
    PaperRow("strong steering", 0.10, 12.0, 2.63, 7.11, 3.23),
)


class PaperComparison(NamedTuple):
    """A row of the paper and this sweep's numbers at the same ratio and strength, if it has any."""

    paper: PaperRow
    toxicity: RatioPoint | None
    cross_entropy: RatioPoint | None


def compare_with_paper(
    reports: Sequence[EvaluationView], compared: Comparisons | None = None
) -> list[PaperComparison]:
    """Every row of the paper beside what this sweep measured."""
    return [
        PaperComparison(
            row,
            _at_ratio(toxicity_series(reports, compared, row.strength), row.ratio),
            _at_ratio(cross_entropy_series(reports, compared, row.strength), row.ratio),
        )
        for row in PAPER_ROWS
    ]


def _at_ratio(points: Sequence[RatioPoint], ratio: float) -> RatioPoint | None:
    return next((p for p in points if p.ratio == ratio and p.value is not None), None)
