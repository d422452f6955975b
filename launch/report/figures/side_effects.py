"""figure of what steering removes and what else it changes, against its strength"""

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import NamedTuple

from matplotlib.ticker import MaxNLocator

from eval.eval_report import BenchmarkFacts
from eval.stats.estimate_with_interval import Estimate
from launch.report.analysis.comparisons import Comparisons
from launch.report.analysis.evaluation_view import EvaluationView
from launch.report.analysis.per_ratio_series import (
    RatioPoint,
    by_ratio,
    measured_strengths,
    steered_at,
)
from launch.report.figures.axes import ratios
from launch.report.figures.palette import SOFT
from launch.report.figures.panels import SMALL, draw_strips
from launch.report.figures.svg_rendering import Area, FigureNumbers, FigurePlan
from launch.report.text import figure_notes
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
DOTTED = (0, (2, 3))
LOG_FROM = 20  # a panel is logarithmic where its largest value is this many times the least

Reader = Callable[[EvaluationView, float], Estimate | None]


class SideEffect(NamedTuple):
    """One panel: its title, the points of each ratio, [ratio][strength], and the value that needs
    no model: chance, or the majority class of a detection.
    """

    title: str
    points: dict[float, Sequence[RatioPoint]]
    baseline: float | None = None


def side_effects(
    reports: Sequence[EvaluationView], compared: Comparisons | None = None
) -> list[SideEffect]:
    """Everything that was measured per strength besides toxicity and cross-entropy."""
    readers: dict[str, Reader] = {
        title: partial(_text_quantity, name) for name, title in TEXT_QUANTITIES.items()
    }
    names = {name for report in reports for row in report.steered for name in row.accuracy}
    effects = [SideEffect(title, _points(reports, read)) for title, read in readers.items()]
    effects += [
        SideEffect(
            f"right answers, {benchmark(name)}",
            _points(reports, partial(_accuracy, name)),
            baseline(name, reports[0].benchmarks),
        )
        for name in sorted(names)
    ]
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


def _text_quantity(name: str, report: EvaluationView, strength: float) -> Estimate | None:
    steered = steered_at(report, strength)
    return getattr(steered, name) if steered else None


def _accuracy(name: str, report: EvaluationView, strength: float) -> Estimate | None:
    steered = steered_at(report, strength)
    return steered.accuracy.get(name) if steered else None


def baseline(name: str, benchmarks: Mapping[str, BenchmarkFacts]) -> float | None:
    """The value of an accuracy that needs no model: chance, or a detection's majority class."""
    own, _, quantity = name.partition(" ")
    facts = benchmarks.get(own)
    if facts and facts.form == "detection":
        return 0.5 if quantity else facts.majority  # AUROC and the mean over both classes: 0.5
    return facts.chance if facts else None


def _points(reports: Sequence[EvaluationView], read: Reader) -> dict[float, Sequence[RatioPoint]]:
    by_strength = [
        by_ratio(reports, lambda report, strength=strength: read(report, strength))
        for strength in measured_strengths(reports)
    ]
    return {points[0].ratio: list(points) for points in zip(*by_strength, strict=True)}


def _points_of_removal(
    reports: Sequence[EvaluationView], compared: Comparisons, name: str
) -> dict[float, Sequence[RatioPoint]]:
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


def figures(
    reports: Sequence[EvaluationView], compared: Comparisons | None = None
) -> list[FigurePlan]:
    """The figure, or none where nothing was measured."""
    effects = side_effects(reports, compared)
    n = len(effects)
    if not n:
        return []
    heights = (0.3 + 1.75 * math.ceil(n / 2), 0.3 + 1.7 * n)
    draw = partial(side_effects_by_strength, effects=effects)
    return [
        FigurePlan(
            "guards",
            draw,
            side_effects_numbers(reports, effects),
            heights,
            figure_notes.side_effects(reports),
        )
    ]


def side_effects_by_strength(figure: Area, wide: bool, effects: Sequence[SideEffect]) -> None:
    """A panel per quantity with a strip per ratio: from left to right, the strengths."""
    n_columns = 2 if wide and len(effects) > 1 else 1
    grid = figure.subplots(math.ceil(len(effects) / n_columns), n_columns, squeeze=False).flat
    for axes, effect in zip(grid, effects, strict=False):
        axes.set_title(effect.title)
        draw_strips(axes, effect.points)
        if effect.baseline is not None:
            axes.axhline(effect.baseline, color=SOFT, lw=1.0, ls=DOTTED)
        values = [
            point.value
            for points in effect.points.values()
            for point in points
            if point.value is not None
        ]
        if max(values) > LOG_FROM * min(values) > 0:
            axes.set_yscale("log")
        else:
            axes.yaxis.set_major_locator(MaxNLocator(4))
    for axes in grid[len(effects) :]:
        axes.set_axis_off()
    figure.supxlabel(
        "toxic tokens / all training tokens; in each, α from left to right",
        fontsize=9.5 if wide else SMALL,
        color=SOFT,
    )


def side_effects_numbers(
    reports: Sequence[EvaluationView], effects: Sequence[SideEffect]
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
        by_chance = f" (by chance {effect.baseline:.3g})" if effect.baseline is not None else ""
        parts.append(f"{effect.title}{by_chance}: {', '.join(ends)}")
    alt = f"Effects of steering, from the weakest to the strongest. {'; '.join(parts)}."
    columns = ("quantity", "toxic_ratio", "strength", "value", "low", "high")
    return FigureNumbers(columns, rows, alt)


def _shown(point: RatioPoint) -> str:
    return f"{point.value:.3g}"
