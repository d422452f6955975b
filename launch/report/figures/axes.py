"""shared parts of a sweep's figures: lines with intervals, ratio axis, token axis, legends"""

import math
from collections.abc import Iterable, Sequence

from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, MaxNLocator

from launch.report.analysis.evaluation_view import EvaluationView
from launch.report.analysis.per_ratio_series import RatioPoint, cost_text, measured_strengths
from launch.report.figures.palette import (
    FAINT,
    PAPER,
    Colour,
    ratio_colours,
    strength_colours,
)
from launch.report.figures.svg_rendering import note_if_empty
from launch.report.text import display_names
from launch.report.text.number_format import NOT_MEASURED, percent

MARKERS = "osD^vPX*"
SKIPPED_SHARE = 0.1  # of a run, from its start: steep losses there may leave the axes
MAX_POINTS = 80  # of a line over tokens; more are averaged in blocks

LossSeries = list[tuple[int, float]]


def palette(reports: Sequence[EvaluationView]) -> dict[str, Colour]:
    """The colour of each strength and ratio, by the name of its CSS variable."""
    strengths = strength_colours(measured_strengths(reports))
    ratio_steps = ratio_colours(len(ratios(reports)))
    named = {f"strength-{i}": colour for i, colour in enumerate(strengths)}
    return named | {f"ratio-{i}": colour for i, colour in enumerate(ratio_steps)}


def ratios(reports: Iterable[EvaluationView]) -> list[float]:
    return sorted({report.toxic_ratio for report in reports})


def cost_label(reports: Sequence[EvaluationView]) -> str:
    """The axis of costs, with the text that they are measured on."""
    return f"cross-entropy on {display_names.cost_text(cost_text(reports))}, nats per token"


def strength_name(strength: float) -> str:
    return "unsteered" if strength == 0 else f"strength {strength:g}"


def line_with_intervals(
    axes: Axes,
    points: Sequence[RatioPoint],
    colour: str,
    marker: str,
    shift: float = 0.0,
    *,
    band: bool = True,
) -> float | None:
    """A line over ratios with its intervals as bars, and as a band where lines are few.

    shift: percentage points to the right, so that bars of several lines do not cover each other.
    Returns the height of the last measured point.
    """
    measured = [point for point in points if point.value is not None]
    x = [100 * point.realised + shift for point in measured]
    y = [point.value or 0.0 for point in measured]
    bars = [
        (bar_x, point.low, point.high)
        for bar_x, point in zip(x, measured, strict=True)
        if point.low is not None and point.high is not None
    ]
    if bars:
        bar_x, low, high = zip(*bars, strict=True)
        if band:
            axes.fill_between(bar_x, low, high, color=colour, alpha=0.13, lw=0, zorder=1)
        axes.vlines(bar_x, low, high, color=colour, lw=1.3, alpha=0.75, zorder=2)
    axes.plot(x, y, color=colour, zorder=3)
    axes.plot(x, y, marker, color=colour, mec=PAPER, mew=0.9, ms=6.5, zorder=4)
    return y[-1] if y else None


def ring_per_model(axes: Axes, x: Sequence[float], y: Sequence[float], colour: str) -> None:
    """Single models of a ratio that has several, as small rings."""
    axes.plot(x, y, "o", color=colour, mfc="none", ms=4.5, mew=0.8)


def ratio_axis(axes: Axes, reports: Sequence[EvaluationView]) -> None:
    """The horizontal axis of toxic ratios, a tick per ratio."""
    steps = ratios(reports)
    margin = 4 * (steps[-1] - steps[0]) or 1.0
    axes.set_xticks([100 * ratio for ratio in steps], [percent(ratio) for ratio in steps])
    axes.set_xlim(100 * steps[0] - margin, 100 * steps[-1] + margin)
    axes.set_xlabel("toxic tokens / all training tokens")
    note_if_empty(axes, NOT_MEASURED)


def lines_over_tokens(axes: Axes, lines: Sequence[LossSeries], colour: str) -> None:
    """Losses against tokens seen; a single one as a point, and those in the back thinner."""
    width, order = (0.8, 1) if colour == FAINT else (1.4, 2)
    for points in lines:
        x = [tokens for tokens, _ in points]
        y = [loss for _, loss in points]
        form = "o" if len(points) == 1 else "-"
        axes.plot(x, y, form, color=colour, lw=width, ms=4, zorder=order)


def limit_losses(axes: Axes, lines: Sequence[LossSeries]) -> None:
    """Limit the vertical axis; the steep beginning, where all runs are alike, may leave it."""
    every = [point for points in lines for point in points]
    end = max((tokens for tokens, _ in every), default=0)
    late = [loss for tokens, loss in every if tokens >= SKIPPED_SHARE * end]
    if end and len(late) > 1 and max(late) > min(late):
        margin = 0.06 * (max(late) - min(late))
        axes.set_ylim(min(late) - margin, max(late) + margin)


def token_axis(axes: Axes, n_ticks: int) -> None:
    axes.set_xlim(left=0)
    axes.xaxis.set_major_locator(MaxNLocator(n_ticks))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda tokens, _: with_si_prefix(tokens)))


def block_means(points: LossSeries, at_most: int = MAX_POINTS) -> LossSeries:
    """Means of equal blocks, each at its last step, so that a long run stays a small file."""
    size = math.ceil(len(points) / at_most) or 1
    blocks = [points[i : i + size] for i in range(0, len(points), size)]
    return [(block[-1][0], sum(loss for _, loss in block) / len(block)) for block in blocks]


def values_by_ratio(points: Iterable[tuple[float, float | None]], digits: int) -> str:
    """'0 % 12.1, 5 % not measured', for the text alternatives of figures."""
    return ", ".join(
        f"{percent(ratio)} {NOT_MEASURED if value is None else f'{value:.{digits}f}'}"
        for ratio, value in points
    )


def with_si_prefix(number: float) -> str:
    """12_000 → '12k'."""
    for size, letter in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if abs(number) >= size:
            return f"{number / size:.3g}{letter}"
    return f"{number:.3g}"
