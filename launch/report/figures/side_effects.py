"""figure of what steering removes and what else it changes, against its strength"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from eval.eval_report import EvalReport
from eval.stats.estimate_with_interval import Estimate
from launch.report.analysis.comparisons import Comparisons
from launch.report.analysis.per_ratio_series import (
    RatioPoint,
    by_ratio,
    measured_strengths,
    steered_at,
)
from launch.report.figures.axes import ratio_legend, ratios
from launch.report.figures.palette import colour_by_ratio
from launch.report.figures.svg_rendering import FigureNumbers, FigurePlan
from launch.report.text.display_names import benchmark
from launch.report.text.number_format import NOT_MEASURED, percent

TEXT_QUANTITIES = {
    "distinct_ratio": "distinct-2",
    "n_tokens": "length, tokens",
    "perplexity": "perplexity under a judge",
}
AGAINST_UNSTEERED = {
    "removed": "share of own toxicity removed",
    "more_toxic": "prompts made more toxic",
}
LOG_FROM = 20  # a panel is logarithmic where its largest value is this many times the least
DODGE = 0.03  # between two ratios at one strength, as a share of the axis's step

Reader = Callable[[EvalReport, float], Estimate | None]


class SideEffect(NamedTuple):
    """One panel: its title and the points of each ratio, [ratio][strength]."""

    title: str
    points: dict[float, list[RatioPoint]]


def side_effects(
    reports: Sequence[EvalReport], compared: Comparisons | None = None
) -> list[SideEffect]:
    """Everything that was measured per strength besides toxicity and cross-entropy."""
    readers: dict[str, Reader] = {
        title: partial(_text_quantity, name) for name, title in TEXT_QUANTITIES.items()
    }
    names = {name for report in reports for row in report.steered for name in row.accuracy}
    for name in sorted(names):
        readers[f"right answers, {benchmark(name)}"] = partial(_accuracy, name)
    effects = [SideEffect(title, _points(reports, read)) for title, read in readers.items()]
    if compared:
        effects += [
            SideEffect(title, _points_of_removal(reports, compared, name))
            for name, title in AGAINST_UNSTEERED.items()
        ]
    return [
        effect
        for effect in effects
        if any(point.value is not None for row in effect.points.values() for point in row)
    ]


def _text_quantity(name: str, report: EvalReport, strength: float) -> Estimate | None:
    steered = steered_at(report, strength)
    return getattr(steered, name) if steered else None


def _accuracy(name: str, report: EvalReport, strength: float) -> Estimate | None:
    steered = steered_at(report, strength)
    return steered.accuracy.get(name) if steered else None


def _points(reports: Sequence[EvalReport], read: Reader) -> dict[float, list[RatioPoint]]:
    by_strength = [
        by_ratio(reports, lambda report, strength=strength: read(report, strength))
        for strength in measured_strengths(reports)
    ]
    return {points[0].ratio: list(points) for points in zip(*by_strength, strict=True)}


def _points_of_removal(
    reports: Sequence[EvalReport], compared: Comparisons, name: str
) -> dict[float, list[RatioPoint]]:
    estimates = {(row.ratio, row.strength): getattr(row, name) for row in compared.removal}
    points = {}
    for ratio in ratios(reports):
        n_runs = sum(report.toxic_ratio == ratio for report in reports)
        points[ratio] = [
            RatioPoint(ratio, ratio, *_ends(estimates.get((ratio, strength))), n_runs)
            for strength in measured_strengths(reports)
        ]
    return points


def _ends(estimate: Estimate | None) -> tuple[float | None, float | None, float | None]:
    return (estimate.value, estimate.low, estimate.high) if estimate else (None, None, None)


def figures(reports: Sequence[EvalReport], compared: Comparisons | None = None) -> list[FigurePlan]:
    """The figure, or none where nothing was measured."""
    effects = side_effects(reports, compared)
    n = len(effects)
    if not n:
        return []
    heights = (0.7 + 2.2 * -(-n // _columns(n)), 0.7 + 2.0 * n)
    draw = partial(side_effects_by_strength, reports=reports, effects=effects)
    return [FigurePlan("guards", draw, side_effects_numbers(reports, effects), heights)]


def _columns(n: int) -> int:
    """Panels per row of a wide page: three, or two where three would leave one alone."""
    return 2 if n in (2, 4) else min(n, 3)


def side_effects_by_strength(
    figure: Figure, wide: bool, reports: Sequence[EvalReport], effects: Sequence[SideEffect]
) -> None:
    """A panel per quantity, against strength, one line per ratio."""
    colours = colour_by_ratio(ratios(reports))
    n_columns = _columns(len(effects)) if wide else 1
    panels = figure.subplots(-(-len(effects) // n_columns), n_columns, squeeze=False).flat
    for axes, effect in zip(panels, effects, strict=False):
        axes.set_title(effect.title)
        for i, (ratio, points) in enumerate(effect.points.items()):
            shift = DODGE * (i - (len(colours) - 1) / 2)
            _line_over_strengths(axes, points, shift, colours[ratio])
        values = [
            point.value
            for points in effect.points.values()
            for point in points
            if point.value is not None
        ]
        if values and max(values) > LOG_FROM * min(values) > 0:
            axes.set_yscale("log")
        strengths = measured_strengths(reports)
        axes.set_xticks(range(len(strengths)), [f"{strength:g}" for strength in strengths])
        axes.set_xlabel("strength")
    for axes in panels[len(effects) :]:
        axes.set_axis_off()
    ratio_legend(figure, panels[0], colours, wide)


def _line_over_strengths(
    axes: Axes, points: Sequence[RatioPoint], shift: float, colour: str
) -> None:
    measured = [(k + shift, point) for k, point in enumerate(points) if point.value is not None]
    x = [position for position, _ in measured]
    y = [point.value or 0.0 for _, point in measured]
    axes.plot(x, y, "-o", color=colour, lw=1.4, ms=4)
    bars = [
        (position, point.low, point.high)
        for position, point in measured
        if point.low is not None and point.high is not None
    ]
    if bars:
        axes.vlines(*zip(*bars, strict=True), color=colour, lw=1.0, alpha=0.6)


def side_effects_numbers(
    reports: Sequence[EvalReport], effects: Sequence[SideEffect]
) -> FigureNumbers:
    strengths = measured_strengths(reports)
    rows = []
    parts = []
    for effect in effects:
        ends = []
        for ratio, points in effect.points.items():
            for strength, point in zip(strengths, points, strict=True):
                rows.append((effect.title, ratio, strength, point.value, point.low, point.high))
            shown = [_shown(point) for point in points if point.value is not None]
            span = f"{shown[0]} to {shown[-1]}" if shown else NOT_MEASURED
            ends.append(f"{percent(ratio)} {span}")
        parts.append(f"{effect.title}: {', '.join(ends)}")
    alt = f"Effects of steering, from the weakest to the strongest. {'; '.join(parts)}."
    columns = ("quantity", "toxic_ratio", "strength", "value", "low", "high")
    return FigureNumbers(columns, rows, alt)


def _shown(point: RatioPoint) -> str:
    return f"{point.value:.3g}"
