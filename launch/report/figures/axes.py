"""what the figures of a sweep share: lines with intervals, the axis of shares, tokens seen, keys"""

import math
from collections.abc import Iterable, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from eval.eval_report import EvalReport
from launch.report.analysis.per_ratio_series import RatioPoint, measured_strengths
from launch.report.figures.svg_rendering import (
    PAPER,
    SOFT,
    Colour,
    note_if_empty,
    ratio_colours,
    strength_colours,
)
from launch.report.text.number_format import NOT_MEASURED, percent

MARKERS = "osD^vPX*"
SKIPPED_RATIO = 0.1  # share of a run whose steep first losses may leave the axes

Losses = list[tuple[int, float]]


def colours(reports: Sequence[EvalReport]) -> dict[str, Colour]:
    """The colour of each strength and ratio, by the name of its CSS variable."""
    named = {
        f"strength-{i}": colour
        for i, colour in enumerate(strength_colours(measured_strengths(reports)))
    }
    return named | {
        f"ratio-{i}": colour for i, colour in enumerate(ratio_colours(len(ratios(reports))))
    }


def ratios(reports: Iterable[EvalReport]) -> list[float]:
    return sorted({report.toxic_ratio for report in reports})


def by_colour(asked: Iterable[float]) -> dict[float, str]:
    """Each ratio's colour in the light theme, ascending."""
    steps = sorted(set(asked))
    return {
        ratio: colour.light for ratio, colour in zip(steps, ratio_colours(len(steps)), strict=True)
    }


def name(strength: float) -> str:
    return "unsteered" if strength == 0 else f"strength {strength:g}"


def line(
    axes: Axes,
    points: Sequence[RatioPoint],
    colour: str,
    marker: str,
    shift: float = 0.0,
    *,
    band: bool = True,
) -> float | None:
    """A line with its intervals as bars, moved by `shift` percentage points and, where lines are
    few, as a band; returns the height of its last measured point.
    """
    known = [
        (100 * point.realised + shift, point.value) for point in points if point.value is not None
    ]
    sure = [
        (100 * p.realised + shift, p.low, p.high)
        for p in points
        if p.value is not None and p.low is not None and p.high is not None
    ]
    if sure:
        x, low, high = zip(*sure, strict=True)
        if band:
            axes.fill_between(x, low, high, color=colour, alpha=0.13, lw=0, zorder=1)
        axes.vlines(x, low, high, color=colour, lw=1.3, alpha=0.75, zorder=2)
    axes.plot([x for x, _ in known], [y for _, y in known], color=colour, zorder=3)
    axes.plot(
        [x for x, _ in known],
        [y for _, y in known],
        marker,
        color=colour,
        mec=PAPER,
        mew=0.9,
        ms=6.5,
        zorder=4,
    )
    return known[-1][1] if known else None


def ratio_axis(axes: Axes, reports: Sequence[EvalReport], *, label: bool = True) -> None:
    asked = ratios(reports)
    margin = 4 * (asked[-1] - asked[0]) or 1.0
    axes.set_xticks([100 * ratio for ratio in asked], [percent(ratio) for ratio in asked])
    axes.set_xlim(100 * asked[0] - margin, 100 * asked[-1] + margin)
    if label:
        axes.set_xlabel("toxic tokens / all training tokens")
    note_if_empty(axes, NOT_MEASURED)


def over_tokens(axes: Axes, lines: Sequence[tuple[str, Losses]]) -> None:
    """Losses against tokens; the steep beginning, where all runs are alike, may leave the axes at
    the top.
    """
    form = "-o" if max((len(points) for _, points in lines), default=0) <= 12 else "-"
    for colour, points in lines:
        axes.plot(
            [tokens for tokens, _ in points],
            [loss for _, loss in points],
            form,
            color=colour,
            lw=1.3,
            ms=3.5,
        )
    end = max((tokens for _, points in lines for tokens, _ in points), default=0)
    late = [loss for _, points in lines for tokens, loss in points if tokens >= SKIPPED_RATIO * end]
    if end and len(late) > 1 and max(late) > min(late):
        margin = 0.06 * (max(late) - min(late))
        axes.set_ylim(min(late) - margin, max(late) + margin)
    token_axis(axes)
    note_if_empty(axes, NOT_MEASURED)


def token_axis(axes: Axes) -> None:
    axes.set_xlim(left=0)
    axes.xaxis.set_major_locator(MaxNLocator(4))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda tokens, _: si(tokens)))
    axes.set_xlabel("tokens seen")


def key(figure: Figure, axes: Axes, columns: int) -> None:
    """The names of the ratios' colours, above the figure. Axes hold a line without points for each."""
    handles, labels = axes.get_legend_handles_labels()
    title = "share of toxic text"
    shown = figure.legend(
        handles,
        labels,
        loc="outside upper left",
        ncols=columns,
        borderaxespad=0.2,
        title=title,
        alignment="left",
    )
    shown.get_title().set(color=SOFT)


def name_ratios(axes: Axes, colour: dict[float, str]) -> None:
    for ratio, of in colour.items():
        axes.plot([], [], "-", color=of, lw=3, label=percent(ratio))


def thin(points: Losses, at_most: int = 160) -> Losses:
    """Means of equal blocks, each at its last step, so that a long run stays a light picture."""
    block = math.ceil(len(points) / at_most) or 1
    parts = [points[i : i + block] for i in range(0, len(points), block)]
    return [(part[-1][0], sum(loss for _, loss in part) / len(part)) for part in parts]


def said(points: Iterable[tuple[float, float | None]], digits: int) -> str:
    """'0 % 12.1, 5 % not measured' for the alternatives of figures."""
    return ", ".join(
        f"{percent(ratio)} {NOT_MEASURED if value is None else f'{value:.{digits}f}'}"
        for ratio, value in points
    )


def si(number: float) -> str:
    """12_000 → '12k'."""
    for size, letter in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if abs(number) >= size:
            return f"{number / size:.3g}{letter}"
    return f"{number:.3g}"
