"""main figures: toxicity by ratio at equal strength and equal cost, and against cost

A function named after a figure fills it; its neighbour that ends in `_numbers` gives the same marks
as a table. Cost is cross-entropy on clean held-out text.
"""

import itertools
from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from eval.eval_report import EvalReport
from launch.report.analysis.comparisons import Comparisons
from launch.report.analysis.matched_cross_entropy import MatchedToxicity
from launch.report.analysis.per_ratio_series import (
    RatioPoint,
    cross_entropy_series,
    measured_strengths,
    toxicity_at,
    toxicity_series,
)
from launch.report.figures.axes import (
    MARKERS,
    colour_by_ratio,
    line_with_intervals,
    ratio_axis,
    ratio_legend,
    ratios,
    ring_per_model,
    strength_name,
    values_by_ratio,
)
from launch.report.figures.svg_rendering import (
    INK,
    PAPER,
    SOFT,
    FigureNumbers,
    FigurePlan,
    LineLabel,
    label_lines,
    note_if_empty,
    strength_colours,
)
from launch.report.text.number_format import NOT_MEASURED, percent

TOXICITY = "toxicity of the continuations, mean score × 100"
DODGE = 0.07  # between two lines at one ratio, as a share of the grid's step
MAX_SHIFT = 5  # a step counts as at most 1/MAX_SHIFT of the grid, where a ratio is far away
ZOOM = 2.5  # a second panel shows the compared costs where they span this much less


class SweepCurves(NamedTuple):
    """What the main figures show: the reports of a sweep, and their comparisons if they share
    items.
    """

    reports: Sequence[EvalReport]
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


def figures(curves: SweepCurves) -> list[FigurePlan]:
    """The figures of this module, in the page's order."""
    taller = 1.9 if curves.matched else 0.0
    return [
        FigurePlan(
            name="toxicity-by-ratio",
            draw=partial(toxicity_by_ratio, curves=curves),
            numbers=by_ratio_numbers(curves),
            heights=(3.9 + taller, 3.7 + taller),
        ),
        FigurePlan(
            name="toxicity-by-cost",
            draw=partial(toxicity_by_cost, curves=curves),
            numbers=by_cost_numbers(curves),
            heights=(4.1, 7.0 if curves.is_zoomed else 4.6),
        ),
    ]


def toxicity_by_ratio(figure: Figure, wide: bool, curves: SweepCurves) -> None:
    """Above, at equal cost: toxicity minus that of the first ratio. Below, at equal strength: one
    line per strength.
    """
    if not curves.matched:
        _at_equal_strength(figure.add_subplot(), wide, curves)
        return
    above, below = figure.subplots(2, 1, height_ratios=(1, 2.1), sharex=True)
    _at_equal_cost(above, wide, curves)
    _at_equal_strength(below, wide, curves)


def by_ratio_numbers(curves: SweepCurves) -> FigureNumbers:
    rows: list[tuple] = []
    for matched in curves.compared.matched if curves.compared else ():
        d = matched.difference
        values = (d.value, d.low, d.high) if d else (None, None, None)
        level = "common" if matched.is_common else "its own"
        cost = "none" if matched.cross_entropy is None else f"{matched.cross_entropy:.4f}, {level}"
        rows.append((f"difference at equal cross-entropy ({cost})", matched.ratio, *values))
    parts = []
    for strength in measured_strengths(curves.reports):
        points = toxicity_series(curves.reports, curves.compared, strength)
        name = strength_name(strength)
        rows += [(name, p.realised, p.value, p.low, p.high) for p in points]
        parts.append(f"{name}: {values_by_ratio(((p.ratio, p.value) for p in points), 1)}")
    alt = f"Toxicity by share of toxic text. {'; '.join(parts)}."
    differences = [
        (result.ratio, result.difference.value) for result in curves.matched if result.difference
    ]
    if differences:
        shown = values_by_ratio(differences, 1)
        alt += f" At equal cross-entropy, minus that of the first: {shown}."
    return FigureNumbers(("line", "toxic_ratio", "toxicity", "low", "high"), rows, alt)


def _at_equal_cost(axes: Axes, wide: bool, curves: SweepCurves) -> None:
    compared = curves.compared
    assert compared is not None
    first = ratios(curves.reports)[0]
    level = curves.compared_cost
    wide_title = "at equal cross-entropy" if level is None else f"at a cross-entropy of {level:.2f}"
    narrow_title = "at equal cost" if level is None else f"at a cost of {level:.2f}"
    axes.set_title(
        f"{wide_title}: toxicity minus that of {percent(first)}"
        if wide
        else f"{narrow_title}, minus {percent(first)}"
    )
    axes.axhline(0.0, color=SOFT, lw=1.0)
    axes.plot([100 * first], [0.0], "D", color=PAPER, mec=SOFT, mew=1.2, ms=6)
    for result in compared.matched:
        x = 100 * result.ratio
        if result.difference is None:
            _annotate_above(axes, "no equal cost", x)
            continue
        d = result.difference
        point = RatioPoint(result.ratio, result.ratio, d.value, d.low, d.high, 1)
        colour = INK if result.is_common else SOFT
        line_with_intervals(axes, [point], colour, "D", band=False)
        if not result.is_common:
            _annotate_above(axes, f"at {result.cross_entropy:.2f}", x, d.high)
        if compared.seeds_df:
            ring_per_model(axes, [x] * len(result.by_model), result.by_model, colour)
    low, high = axes.get_ylim()
    axes.set_ylim(min(low, -0.15 * (high - low)), max(high, 0.15 * (high - low)))
    if high > -low:
        text, height, align = "↑ more toxic", 0.97, "top"
    else:
        text, height, align = "↓ less toxic", 0.03, "bottom"
    axes.annotate(text, (0.0, height), xycoords="axes fraction", va=align, color=SOFT)


def _annotate_above(axes: Axes, text: str, x: float, y: float | None = None) -> None:
    axes.annotate(
        text,
        (x, y or 0.0),
        (0, 5),
        textcoords="offset points",
        ha="center",
        color=SOFT,
        fontsize=8.5,
    )


def _at_equal_strength(axes: Axes, wide: bool, curves: SweepCurves) -> None:
    reports = curves.reports
    strengths = measured_strengths(reports)
    step = _dodge_step(ratios(reports))
    labels = []
    for i, (strength, colour) in enumerate(
        zip(strengths, strength_colours(strengths), strict=True)
    ):
        shift = DODGE * step * (i - (len(strengths) - 1) / 2)
        points = toxicity_series(reports, curves.compared, strength)
        marker = MARKERS[i % len(MARKERS)]
        end = line_with_intervals(axes, points, colour.light, marker, shift, band=False)
        _rings_of_models(axes, reports, strength, colour.light, shift)
        label = strength_name(strength) if wide or strength == 0 else f"α = {strength:g}"
        labels += [] if end is None else [LineLabel(end, label, colour.light)]
    title = "at equal strength: mean score × 100"
    axes.set_title(f"{title} of the continuations" if wide else title)
    ratio_axis(axes, reports)
    axes.set_ylim(bottom=min(0.0, axes.get_ylim()[0]))
    label_lines(axes, labels)


def _dodge_step(grid: Sequence[float]) -> float:
    """The smallest step of the grid in percentage points; 1 where there is one ratio."""
    most = (grid[-1] - grid[0]) / MAX_SHIFT
    return min((100 * min(b - a, most) for a, b in itertools.pairwise(grid)), default=1.0)


def _rings_of_models(
    axes: Axes, reports: Sequence[EvalReport], strength: float, colour: str, shift: float
) -> None:
    """Every model as a small ring where a ratio has several."""
    if len(reports) == len(ratios(reports)):
        return
    for report in reports:
        estimate = toxicity_at(strength)(report)
        if estimate and estimate.value is not None:
            x = 100 * report.realised_toxic_ratio + shift
            ring_per_model(axes, [x], [estimate.value], colour)


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
