"""main figure: toxicity by ratio, at equal cost and at equal strength"""

import itertools
from collections.abc import Sequence
from functools import partial

from matplotlib.axes import Axes

from launch.report.analysis.evaluation_view import EvaluationView
from launch.report.analysis.per_ratio_series import (
    RatioPoint,
    measured_strengths,
    toxicity_at,
    toxicity_series,
)
from launch.report.analysis.sweep_curves import SweepCurves
from launch.report.figures.axes import (
    MARKERS,
    line_with_intervals,
    ratio_axis,
    ratios,
    ring_per_model,
    strength_name,
    values_by_ratio,
)
from launch.report.figures.palette import INK, PAPER, SOFT, strength_colours
from launch.report.figures.svg_rendering import (
    Area,
    FigureNumbers,
    FigurePlan,
    LineLabel,
    label_lines,
)
from launch.report.text import figure_notes
from launch.report.text.number_format import percent

DODGE = 0.07  # between two lines at one ratio, as a share of the grid's step
MAX_SHIFT = 5  # a step counts as at most 1/MAX_SHIFT of the grid, where a ratio is far away


def figures(curves: SweepCurves) -> list[FigurePlan]:
    taller = 1.9 if curves.matched else 0.0
    return [
        FigurePlan(
            name="toxicity-by-ratio",
            draw=partial(toxicity_by_ratio, curves=curves),
            numbers=by_ratio_numbers(curves),
            heights=(3.9 + taller, 3.7 + taller),
            basis=_basis(curves),
        )
    ]


def _basis(curves: SweepCurves) -> str:
    note = figure_notes.toxicity(curves.reports, curves.compared)
    return f"{note} {figure_notes.cost(curves.reports)}" if curves.matched else note


def toxicity_by_ratio(figure: Area, wide: bool, curves: SweepCurves) -> None:
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
    axes: Axes, reports: Sequence[EvaluationView], strength: float, colour: str, shift: float
) -> None:
    """Every model as a small ring where a ratio has several."""
    if len(reports) == len(ratios(reports)):
        return
    for report in reports:
        estimate = toxicity_at(strength)(report)
        if estimate and estimate.value is not None:
            x = 100 * report.realised_toxic_ratio + shift
            ring_per_model(axes, [x], [estimate.value], colour)
