"""main figure: toxicity against what steering costs, a path per ratio"""

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from launch.report.analysis.per_ratio_series import (
    RatioPoint,
    cross_entropy_series,
    measured_strengths,
    toxicity_series,
)
from launch.report.analysis.sweep_curves import SweepCurves
from launch.report.figures import panels
from launch.report.figures.axes import MARKERS, cost_label, ratios, strength_name
from launch.report.figures.palette import FAINT, INK, PAPER, SOFT
from launch.report.figures.panels import SMALL, RatioPanels
from launch.report.figures.svg_rendering import (
    LINE_INCHES,
    Area,
    FigureNumbers,
    FigurePlan,
    note_if_empty,
    split_bottom,
)
from launch.report.text import figure_notes
from launch.report.text.number_format import NOT_MEASURED, percent

ROW_WIDE, ROW_NARROW = 3, 2  # panels side by side, at most
LEGEND_INCHES = 0.3
TOXICITY = "toxicity of the continuations, mean score × 100"


def figures(curves: SweepCurves) -> list[FigurePlan]:
    n = len(ratios(curves.reports))
    return [
        FigurePlan(
            name="toxicity-by-cost",
            draw=partial(toxicity_by_cost, curves=curves),
            numbers=by_cost_numbers(curves),
            heights=(
                LEGEND_INCHES + panels.panels_height(n, ROW_WIDE, 1.75),
                2 * LEGEND_INCHES + panels.panels_height(n, ROW_NARROW, 1.5),
            ),
            basis=f"{figure_notes.toxicity(curves.reports, curves.compared)} "
            f"{figure_notes.cost(curves.reports)}",
        )
    ]


class PathPoint(NamedTuple):
    """One strength of a ratio's path: cost, toxicity and the marker of the strength."""

    strength: float
    cost: RatioPoint
    toxicity: RatioPoint
    marker: str


def _paths(curves: SweepCurves) -> dict[float, list[PathPoint]]:
    """The path of each ratio from unsteered to the strongest steering."""
    paths: dict[float, list[PathPoint]] = {ratio: [] for ratio in ratios(curves.reports)}
    strengths = measured_strengths(curves.reports)
    for strength, marker in zip(strengths, MARKERS * 9, strict=False):
        costs = cross_entropy_series(curves.reports, curves.compared, strength)
        toxicities = toxicity_series(curves.reports, curves.compared, strength)
        for cost, toxicity in zip(costs, toxicities, strict=True):
            paths[cost.ratio].append(PathPoint(strength, cost, toxicity, marker))
    return paths


def toxicity_by_cost(figure: Area, wide: bool, curves: SweepCurves) -> None:
    """Toxicity against cost: a panel per ratio with its path from unsteered to the strongest
    steering, and the Pareto front of all.
    """
    paths = _paths(curves)
    block = RatioPanels(
        title=TOXICITY,
        x_label=cost_label(curves.reports),
        draw=lambda axes, ratio, colour: _draw_path(axes, paths[ratio], colour),
        finish=partial(_limit_costs, curves=curves),
    )
    n_rows = 1 if wide else 3
    body, foot = split_bottom(figure, n_rows * LINE_INCHES + 0.1)
    drawn = panels.draw_panels(body, paths, block, ROW_WIDE if wide else ROW_NARROW)
    for axes, (ratio, path) in zip(drawn, paths.items(), strict=True):
        axes.grid(axis="x")
        axes.xaxis.set_major_locator(MaxNLocator(4))
        _draw_front(axes, paths, curves)
        _draw_compared_points(axes, ratio, curves)
        _note_points_beyond(axes, path)
        note_if_empty(axes, NOT_MEASURED)
    _strength_legend(foot, drawn[0], curves, wide)


def _draw_path(axes: Axes, path: Sequence[PathPoint], colour: str) -> None:
    measured = [
        point for point in path if point.cost.value is not None and point.toxicity.value is not None
    ]
    x = [point.cost.value or 0.0 for point in measured]
    y = [point.toxicity.value or 0.0 for point in measured]
    if colour == FAINT:
        axes.plot(x, y, color=FAINT, lw=1.0, zorder=1)
        return
    axes.plot(x, y, color=colour, lw=1.5, zorder=2)
    for at_x, at_y, point in zip(x, y, measured, strict=True):
        xerr, yerr = _bar_lengths(point.cost), _bar_lengths(point.toxicity)
        axes.errorbar(at_x, at_y, yerr, xerr, color=colour, elinewidth=1.0, alpha=0.6, zorder=2)
        axes.plot(at_x, at_y, point.marker, color=colour, mec=PAPER, mew=0.7, ms=6, zorder=3)


def _limit_costs(axes: Axes, curves: SweepCurves) -> None:
    """Where the compared cost is near the least, limit the axis to as far beyond it again."""
    if curves.is_zoomed and curves.compared_cost is not None:
        least = min(curves.costs)
        margin = 0.08 * (curves.compared_cost - least)
        axes.set_xlim(least - margin, 2 * curves.compared_cost - least + margin)


def _note_points_beyond(axes: Axes, path: Sequence[PathPoint]) -> None:
    """Name the points that lie right of the axis's limit."""
    limit = axes.get_xlim()[1]
    beyond = [
        f"α {point.strength:g} at {point.cost.value:.2f}"
        for point in path
        if point.cost.value is not None and point.cost.value > limit
    ]
    if beyond:
        text = "\n".join(f"{name} →" for name in beyond)
        axes.text(
            1.0,
            1.0,
            text,
            transform=axes.transAxes,
            ha="right",
            va="top",
            color=SOFT,
            fontsize=SMALL,
        )


def _draw_compared_points(axes: Axes, ratio: float, curves: SweepCurves) -> None:
    """The cost at which this ratio is compared, and its toxicity there as a bar across the path."""
    first = ratios(curves.reports)[0]
    for result in curves.matched:
        pair = dict(zip((first, result.ratio), result.toxicity or (), strict=False))
        is_shown = result.ratio == ratio or (ratio == first and result.is_common)
        if is_shown and result.cross_entropy is not None and ratio in pair:
            axes.axvline(result.cross_entropy, color=SOFT, lw=1.0, ls=(0, (1, 2)), zorder=1.5)
            axes.plot(result.cross_entropy, pair[ratio], "_", color=INK, ms=11, mew=2, zorder=2.8)


def _strength_legend(figure: Area, axes: Axes, curves: SweepCurves, wide: bool) -> None:
    """The markers of the strengths and the line of the front, below the figure."""
    strengths = measured_strengths(curves.reports)
    handles = [
        axes.plot([], [], marker, color=SOFT, ms=6)[0]
        for _, marker in zip(strengths, MARKERS * 9, strict=False)
    ]
    names = [strength_name(strength) for strength in strengths]
    if curves.compared and len(curves.compared.front) > 1:
        handles.append(axes.plot([], [], color=INK, lw=1.0, ls=(0, (4, 2)))[0])
        names.append("Pareto front of all")
    columns = 5 if wide else 2
    figure.legend(handles, names, loc="lower left", ncols=columns, borderaxespad=0.2)


def _draw_front(axes: Axes, paths: dict[float, list[PathPoint]], curves: SweepCurves) -> None:
    """The Pareto front: the points that no other beats in both cost and toxicity."""
    front = curves.compared.front if curves.compared else ()
    if len(front) < 2:
        return
    points = {(ratio, point.strength): point for ratio, path in paths.items() for point in path}
    x = [points[key].cost.value or 0.0 for key in front]
    y = [points[key].toxicity.value or 0.0 for key in front]
    axes.step(x, y, where="post", color=INK, lw=1.0, ls=(0, (4, 2)), zorder=2.5)


def _bar_lengths(point: RatioPoint) -> list[list[float]] | None:
    """Lengths of an error bar below and above its point, as matplotlib takes them."""
    if point.value is None or point.low is None or point.high is None:
        return None
    return [[max(0.0, point.value - point.low)], [max(0.0, point.high - point.value)]]


def by_cost_numbers(curves: SweepCurves) -> FigureNumbers:
    columns = ("toxic_ratio", "strength", "cross_entropy", "cost_low", "cost_high")
    columns += ("toxicity", "low", "high", "on_front")
    front = set(curves.compared.front) if curves.compared else set()
    rows = []
    ends = []
    for ratio, path in _paths(curves).items():
        same = [report for report in curves.reports if report.toxic_ratio == ratio]
        measured = [point for point in path if point.strength in measured_strengths(same)]
        for strength, cost, toxicity, _ in measured:
            values = (cost.value, cost.low, cost.high, toxicity.value, toxicity.low, toxicity.high)
            rows.append((ratio, strength, *values, (ratio, strength) in front))
        ends.append(
            f"{percent(ratio)} goes from {_as_pair(measured[0])} to {_as_pair(measured[-1])}"
        )
    alt = (
        "Toxicity against cross-entropy, one path per share of toxic text, as (nats, score): "
        f"{'; '.join(ends)}."
    )
    return FigureNumbers(columns, rows, alt)


def _as_pair(point: PathPoint) -> str:
    """'(1.50, 11.5)': cost and toxicity."""
    cost, toxicity = point.cost.value, point.toxicity.value
    return (
        f"({NOT_MEASURED if cost is None else f'{cost:.2f}'}, "
        f"{NOT_MEASURED if toxicity is None else f'{toxicity:.1f}'})"
    )
