"""the report's main figures: toxicity by ratio, at equal strength and at equal cost, and the price
of steering

Each function fills a figure from records; svg_rendering.py knows how it becomes a file and a part
of the page. Its neighbour with `_numbers` at the end gives the same marks as a table.
"""

import itertools
from collections.abc import Sequence
from typing import NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from eval.eval_report import EvalReport
from launch.report.analysis.comparisons import Comparisons
from launch.report.analysis.matched_cross_entropy import MatchedToxicity
from launch.report.analysis.per_ratio_series import (
    RatioPoint,
    by_ratio,
    cross_entropy_at,
    measured_strengths,
    toxicity_at,
)
from launch.report.figures.axes import (
    MARKERS,
    by_colour,
    key,
    line,
    name,
    name_ratios,
    ratio_axis,
    ratios,
    said,
)
from launch.report.figures.svg_rendering import (
    INK,
    PAPER,
    SOFT,
    Label,
    Numbers,
    label_ends,
    note_if_empty,
    strength_colours,
)
from launch.report.text.number_format import NOT_MEASURED, percent, with_interval

TOXICITY = "toxicity of the continuations, mean score × 100"
DODGE = 0.07  # between two lines at one ratio, as a share of the grid's step
ZOOM = 2.5  # the paths are drawn a second time around the cost they share where that is this much finer


class Curves(NamedTuple):
    """What the main figures show: the reports of a sweep, and their comparisons where they share
    items.
    """

    reports: Sequence[EvalReport]
    compared: Comparisons | None

    @property
    def matched(self) -> list[MatchedToxicity]:
        return [one for one in self.compared.matched if one.difference] if self.compared else []

    @property
    def level(self) -> float | None:
        """The cross-entropy at which most ratios are compared."""
        levels = sorted(one.cross_entropy for one in self.matched if one.cross_entropy is not None)
        return levels[len(levels) // 2] if levels else None

    @property
    def costs(self) -> list[float]:
        points = (
            by_ratio(self.reports, cross_entropy_at(strength))
            for strength in measured_strengths(self.reports)
        )
        return [
            point.value
            for of_strength in points
            for point in of_strength
            if point.value is not None
        ]

    @property
    def zoomed(self) -> bool:
        """Whether the cost at which most are compared lies so near to the least that the paths are
        to be seen there larger.
        """
        if self.level is None or not self.costs:
            return False
        return max(self.costs) - min(self.costs) > ZOOM * 2 * (self.level - min(self.costs)) > 0


def toxicity_by_ratio(figure: Figure, wide: bool, of: Curves) -> None:
    """At equal cost: toxicity minus that of the first ratio. At equal strength: the curve, one line
    a strength.
    """
    if not of.matched:
        return _at_equal_strength(figure.add_subplot(), wide, of.reports)
    above, below = figure.subplots(2, 1, height_ratios=(1, 2.1), sharex=True)
    _at_equal_cost(above, wide, of)
    _at_equal_strength(below, wide, of.reports)


def by_ratio_numbers(of: Curves) -> Numbers:
    rows: list[tuple] = []
    for one in of.compared.matched if of.compared else ():
        d = one.difference
        rows.append(
            (
                "difference at equal cross-entropy",
                one.ratio,
                *((d.value, d.low, d.high) if d else (None,) * 3),
            )
        )
    measured = measured_strengths(of.reports)
    for strength in measured:
        rows += [
            (name(strength), p.realised, p.value, p.low, p.high)
            for p in by_ratio(of.reports, toxicity_at(strength))
        ]
    parts = [
        f"{name(s)}: {said(((p.ratio, p.value) for p in by_ratio(of.reports, toxicity_at(s))), 1)}"
        for s in measured
    ]
    alt = f"Toxicity by share of toxic text. {'; '.join(parts)}."
    if of.matched:
        alt += f" At equal cross-entropy, minus that of the first: {said(((m.ratio, m.difference.value) for m in of.matched), 1)}."  # type: ignore[union-attr]
    return Numbers(("line", "toxic_ratio", "toxicity", "low", "high"), rows, alt)


def toxicity_by_cost(figure: Figure, wide: bool, of: Curves) -> None:
    """Toxicity against cross-entropy on clean held-out text: one path a ratio, from unsteered to
    the strongest steering, and the front that no point beats. Again, larger, around the cost at
    which the ratios are compared.
    """
    paths = {
        ratio: _path([r for r in of.reports if r.toxic_ratio == ratio], of.reports)
        for ratio in ratios(of.reports)
    }
    zoomed = of.zoomed
    panels = figure.subplots(
        1 if wide else 1 + zoomed, 1 + zoomed if wide else 1, squeeze=False
    ).flat
    for axes in panels:
        _paths(axes, paths, of)
    first = panels[0]
    first.set_title(TOXICITY)
    if zoomed and of.level is not None:
        _zoom(panels[1], paths, min(of.costs), of.level)
    for axes in panels:
        axes.set_xlabel(
            "cross-entropy on clean held-out text, nats per token"
            if not (wide and zoomed)
            else "cross-entropy, nats per token"
        )
    name_ratios(first, by_colour(paths))
    key(figure, first, 8 if wide else 3)
    marks = [
        first.plot([], [], marker, color=SOFT, ms=6)[0]
        for _, marker in zip(measured_strengths(of.reports), MARKERS * 9, strict=False)
    ]
    names = [name(strength) for strength in measured_strengths(of.reports)]
    if of.compared and len(of.compared.front) > 1:
        marks.append(first.plot([], [], color=INK, lw=1.0, ls=(0, (4, 2)))[0])
        names.append("no point beats these")
    figure.legend(marks, names, loc="outside lower left", ncols=5 if wide else 2, borderaxespad=0.2)


def by_cost_numbers(of: Curves) -> Numbers:
    rows, ends = [], []
    front = set(of.compared.front) if of.compared else set()
    for ratio in ratios(of.reports):
        same = [report for report in of.reports if report.toxic_ratio == ratio]
        for strength in measured_strengths(same):
            (x,), (y,) = (
                by_ratio(same, cross_entropy_at(strength)),
                by_ratio(same, toxicity_at(strength)),
            )
            rows.append(
                (
                    ratio,
                    strength,
                    x.value,
                    x.low,
                    x.high,
                    y.value,
                    y.low,
                    y.high,
                    (ratio, strength) in front,
                )
            )
        ends.append(
            f"{percent(ratio)} goes from ({show_pair(rows, ratio, first=True)}) to ({show_pair(rows, ratio, first=False)})"
        )
    alt = f"Toxicity against cross-entropy, one path for each share of toxic text, as (nats, score): {'; '.join(ends)}."
    columns = (
        "toxic_ratio",
        "strength",
        "cross_entropy",
        "cost_low",
        "cost_high",
        "toxicity",
        "low",
        "high",
        "on_front",
    )
    return Numbers(columns, rows, alt)


def show_pair(rows: Sequence[tuple], ratio: float, *, first: bool) -> str:
    """'1.50, 11.5': cost and toxicity of the first or the last strength."""
    of_ratio = [row for row in rows if row[0] == ratio]
    row = of_ratio[0 if first else -1]
    return f"{NOT_MEASURED if row[2] is None else f'{row[2]:.2f}'}, {NOT_MEASURED if row[5] is None else f'{row[5]:.1f}'}"


def hypervolumes(compared: Comparisons | None) -> str:
    """'0 % 42.3 [42.0, 42.7], …': the area below the worst corner that each ratio's path dominates."""
    if compared is None:
        return ""
    return "; ".join(
        f"{percent(float(ratio))} {with_interval(of)}" for ratio, of in compared.hypervolume.items()
    )


def _at_equal_cost(axes: Axes, wide: bool, of: Curves) -> None:
    first = ratios(of.reports)[0]
    axes.set_title(
        f"at equal cross-entropy: toxicity minus that of {percent(first)}"
        if wide
        else f"at equal cost, minus {percent(first)}"
    )
    axes.axhline(0.0, color=SOFT, lw=1.0)
    axes.plot([100 * first], [0.0], "D", color=PAPER, mec=SOFT, mew=1.2, ms=6)
    points = [
        RatioPoint(m.ratio, m.ratio, m.difference.value, m.difference.low, m.difference.high, 1)
        for m in of.matched
        if m.difference
    ]
    for point in points:
        line(axes, [point], INK, "D", band=False)
    if of.compared and of.compared.seeds_df:
        for one in of.matched:
            axes.plot(
                [100 * one.ratio] * len(one.by_model),
                one.by_model,
                "o",
                color=INK,
                mfc="none",
                ms=4.5,
                mew=0.8,
            )
    lacking = (
        [one.ratio for one in of.compared.matched if one.difference is None] if of.compared else []
    )
    for ratio in lacking:
        axes.annotate(
            "no equal cost",
            (100 * ratio, 0.0),
            (0, 5),
            textcoords="offset points",
            ha="center",
            color=SOFT,
            fontsize=8.5,
        )
    low, high = axes.get_ylim()
    axes.set_ylim(min(low, -0.15 * (high - low)), max(high, 0.15 * (high - low)))
    up = high > -low
    where, va = ((0.0, 0.97), "top") if up else ((0.0, 0.03), "bottom")
    axes.annotate(
        "↑ more toxic" if up else "↓ less toxic", where, xycoords="axes fraction", va=va, color=SOFT
    )


def _at_equal_strength(axes: Axes, wide: bool, reports: Sequence[EvalReport]) -> None:
    measured, asked = measured_strengths(reports), ratios(reports)
    step = min(
        (100 * min(b - a, (asked[-1] - asked[0]) / 5) for a, b in itertools.pairwise(asked)),
        default=1.0,
    )
    labels = []
    for i, (strength, colour) in enumerate(zip(measured, strength_colours(measured), strict=True)):
        shift = DODGE * step * (i - (len(measured) - 1) / 2)
        end = line(
            axes,
            by_ratio(reports, toxicity_at(strength)),
            colour.light,
            MARKERS[i % len(MARKERS)],
            shift,
            band=False,
        )
        _seeds(axes, reports, strength, colour.light, shift)
        label = name(strength) if wide or strength == 0 else f"α = {strength:g}"
        labels += [] if end is None else [Label(end, label, colour.light)]
    axes.set_title(
        "at equal strength: mean score × 100 of the continuations"
        if wide
        else "at equal strength: mean score × 100"
    )
    ratio_axis(axes, reports)
    axes.set_ylim(bottom=min(0.0, axes.get_ylim()[0]))
    label_ends(axes, labels)


def _seeds(
    axes: Axes, reports: Sequence[EvalReport], strength: float, colour: str, shift: float
) -> None:
    """Every model as a small ring where a ratio has several."""
    if len(reports) == len(ratios(reports)):
        return
    for report in reports:
        if (estimate := toxicity_at(strength)(report)) and estimate.value is not None:
            axes.plot(
                [100 * report.realised_toxic_ratio + shift],
                [estimate.value],
                "o",
                color=colour,
                mfc="none",
                ms=4.5,
                mew=0.8,
            )


def _path(
    same: Sequence[EvalReport], reports: Sequence[EvalReport]
) -> list[tuple[RatioPoint, RatioPoint, str]]:
    return [
        (
            by_ratio(same, cross_entropy_at(strength))[0],
            by_ratio(same, toxicity_at(strength))[0],
            marker,
        )
        for strength, marker in zip(measured_strengths(reports), MARKERS * 9, strict=False)
    ]


def _paths(
    axes: Axes, paths: dict[float, list[tuple[RatioPoint, RatioPoint, str]]], of: Curves
) -> None:
    for ratio, colour in by_colour(paths).items():
        known = [
            (x, y, marker)
            for x, y, marker in paths[ratio]
            if x.value is not None and y.value is not None
        ]
        axes.plot(
            [x.value or 0.0 for x, _, _ in known],
            [y.value or 0.0 for _, y, _ in known],
            color=colour,
            lw=1.5,
        )
        for x, y, marker in known:
            at = (x.value or 0.0, y.value or 0.0)
            axes.errorbar(
                *at,
                xerr=_reach(x),
                yerr=_reach(y),
                color=colour,
                elinewidth=0.8,
                alpha=0.4,
                zorder=1.5,
            )
            axes.plot(*at, marker, color=colour, mec=PAPER, mew=0.8, ms=6.5, zorder=3)
    axes.grid(axis="x")
    if of.compared and len(of.compared.front) > 1:
        at = {
            (ratio, s): (x.value, y.value)
            for ratio, path in paths.items()
            for s, (x, y, _) in zip(measured_strengths(of.reports), path, strict=True)
        }
        x, y = zip(*(at[one] for one in of.compared.front), strict=True)
        axes.step(x, y, where="post", color=INK, lw=1.0, ls=(0, (4, 2)), zorder=2.5)
    if of.level is not None:
        axes.axvline(of.level, color=SOFT, lw=1.0, ls=(0, (1, 2)), zorder=1)
    note_if_empty(axes, NOT_MEASURED)


def _zoom(
    axes: Axes,
    paths: dict[float, list[tuple[RatioPoint, RatioPoint, str]]],
    least: float,
    level: float,
) -> None:
    margin = 0.08 * (level - least)
    low, high = least - margin, 2 * level - least + margin
    axes.set_xlim(low, high)
    axes.set_title(f"the same around {level:.2f}, where they are compared")


def _reach(point: RatioPoint) -> list[list[float]] | None:
    if point.value is None or point.low is None or point.high is None:
        return None
    return [[max(0.0, point.value - point.low)], [max(0.0, point.high - point.value)]]
