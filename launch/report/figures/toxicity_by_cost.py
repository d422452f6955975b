"""main figure: toxicity against what steering costs, a path per ratio"""

from functools import partial
from typing import NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from launch.report.analysis.per_ratio_series import (
    RatioPoint,
    cross_entropy_series,
    measured_strengths,
    toxicity_series,
)
from launch.report.analysis.sweep_curves import SweepCurves
from launch.report.figures.axes import MARKERS, ratio_legend, ratios, strength_name
from launch.report.figures.palette import INK, PAPER, SOFT, colour_by_ratio
from launch.report.figures.svg_rendering import FigureNumbers, FigurePlan, note_if_empty
from launch.report.text.number_format import NOT_MEASURED, percent

TOXICITY = "toxicity of the continuations, mean score × 100"


def figures(curves: SweepCurves) -> list[FigurePlan]:
    return [
        FigurePlan(
            name="toxicity-by-cost",
            draw=partial(toxicity_by_cost, curves=curves),
            numbers=by_cost_numbers(curves),
            heights=(4.1, 7.0 if curves.is_zoomed else 4.6),
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


def toxicity_by_cost(figure: Figure, wide: bool, curves: SweepCurves) -> None:
    """Toxicity against cost: one path per ratio, from unsteered to the strongest steering, and the
    Pareto front. A second panel shows the neighbourhood of the compared cost.
    """
    paths = _paths(curves)
    n_panels = 1 + curves.is_zoomed
    shape = (1, n_panels) if wide else (n_panels, 1)
    panels = list(figure.subplots(*shape, squeeze=False).flat)
    label = "cross-entropy on clean held-out text, nats per token"
    for axes in panels:
        _draw_paths(axes, paths, curves)
        is_cramped = wide and curves.is_zoomed
        axes.set_xlabel("cross-entropy, nats per token" if is_cramped else label)
    first = panels[0]
    first.set_title(TOXICITY)
    if curves.is_zoomed and curves.compared_cost is not None:
        _zoom(panels[1], min(curves.costs), curves.compared_cost)
    ratio_legend(figure, first, colour_by_ratio(paths), wide)
    _strength_legend(figure, first, curves, wide)


def _strength_legend(figure: Figure, axes: Axes, curves: SweepCurves, wide: bool) -> None:
    """The markers of the strengths and the line of the front, below the figure."""
    strengths = measured_strengths(curves.reports)
    handles = [
        axes.plot([], [], marker, color=SOFT, ms=6)[0]
        for _, marker in zip(strengths, MARKERS * 9, strict=False)
    ]
    names = [strength_name(strength) for strength in strengths]
    if curves.compared and len(curves.compared.front) > 1:
        handles.append(axes.plot([], [], color=INK, lw=1.0, ls=(0, (4, 2)))[0])
        names.append("Pareto front")
    columns = 5 if wide else 2
    figure.legend(handles, names, loc="outside lower left", ncols=columns, borderaxespad=0.2)


def _draw_paths(axes: Axes, paths: dict[float, list[PathPoint]], curves: SweepCurves) -> None:
    for ratio, colour in colour_by_ratio(paths).items():
        measured = [
            point
            for point in paths[ratio]
            if point.cost.value is not None and point.toxicity.value is not None
        ]
        x = [point.cost.value or 0.0 for point in measured]
        y = [point.toxicity.value or 0.0 for point in measured]
        axes.plot(x, y, color=colour, lw=1.5)
        for at_x, at_y, point in zip(x, y, measured, strict=True):
            axes.errorbar(
                at_x,
                at_y,
                xerr=_bar_lengths(point.cost),
                yerr=_bar_lengths(point.toxicity),
                color=colour,
                elinewidth=0.8,
                alpha=0.4,
                zorder=1.5,
            )
            axes.plot(at_x, at_y, point.marker, color=colour, mec=PAPER, mew=0.8, ms=6.5, zorder=3)
    axes.grid(axis="x")
    _draw_front(axes, paths, curves)
    _draw_compared_points(axes, paths, curves)
    note_if_empty(axes, NOT_MEASURED)


def _draw_compared_points(
    axes: Axes, paths: dict[float, list[PathPoint]], curves: SweepCurves
) -> None:
    """The toxicity that is compared, as bars across the paths at the compared cost."""
    colours = colour_by_ratio(paths)
    first = ratios(curves.reports)[0]
    if curves.compared_cost is not None:
        axes.axvline(curves.compared_cost, color=SOFT, lw=1.0, ls=(0, (1, 2)), zorder=1)
    for result in curves.matched:
        for ratio, toxicity in zip((first, result.ratio), result.toxicity or (), strict=False):
            colour = colours[ratio]
            axes.plot(
                result.cross_entropy or 0.0, toxicity, "_", color=colour, ms=11, mew=2, zorder=2.8
            )


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


def _zoom(axes: Axes, least: float, cost: float) -> None:
    """Limit the axis to the range from the least cost to as far beyond the compared one."""
    margin = 0.08 * (cost - least)
    axes.set_xlim(least - margin, 2 * cost - least + margin)
    axes.set_title(f"around {cost:.2f}, where ratios are compared")


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
