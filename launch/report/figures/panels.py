"""small multiples: a panel or a strip per ratio, so that lines do not hide each other

In panels the other ratios stand in pale grey behind the panel's own, the same in all, and the axes
are shared. In strips, for short lines, the ratios stand side by side on one vertical axis.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes

from launch.report.analysis.per_ratio_series import RatioPoint
from launch.report.figures.palette import FAINT, INK, SOFT, colour_by_ratio
from launch.report.figures.svg_rendering import Area
from launch.report.text.number_format import percent

SMALL = 8.5  # points: letters within panels
ROW_WIDE, ROW_NARROW = 6, 3  # panels side by side, at most
BLOCK_INCHES = 0.55  # of a block besides its panels: its title, and the name of its axis
STRIP = 0.74  # of the distance between two ratios

# draws a ratio: in its colour, or in grey behind the ratio of the panel if that is FAINT
DrawRatio = Callable[[Axes, float, str], None]


class RatioPanels(NamedTuple):
    """One quantity: a panel per ratio.

    finish: called with one of the panels once all are drawn, for what they share: scale and limits.
    """

    title: str
    x_label: str
    draw: DrawRatio
    finish: Callable[[Axes], None] | None = None


def n_columns(n: int, at_most: int) -> int:
    """Panels side by side, so that rows are about equally long: 8 in rows of up to 6 gives 4."""
    return math.ceil(n / math.ceil(n / at_most)) if n else 1


def panels_height(n_ratios: int, at_most: int, panel_inches: float) -> float:
    """Inches that a block takes with up to `at_most` panels side by side."""
    return BLOCK_INCHES + panel_inches * math.ceil(n_ratios / n_columns(n_ratios, at_most))


def draw_panels(
    figure: Area, ratios: Iterable[float], block: RatioPanels, at_most: int
) -> list[Axes]:
    """A panel per ratio, ascending, row by row; returns the panels."""
    colours = colour_by_ratio(ratios)
    n_across = n_columns(len(colours), at_most)
    grid = figure.subplots(
        math.ceil(len(colours) / n_across), n_across, squeeze=False, sharex=True, sharey=True
    )
    drawn, empty = np.split(np.array(grid.flat), [len(colours)])
    for axes in empty:
        axes.set_axis_off()
    for i, (axes, (ratio, colour)) in enumerate(zip(drawn, colours.items(), strict=True)):
        axes.set_title(percent(ratio), fontsize=SMALL, pad=3)
        axes.tick_params(labelsize=SMALL)
        for other in colours:
            if other != ratio:
                block.draw(axes, other, FAINT)
        block.draw(axes, ratio, colour)
        axes.label_outer()
        if i + n_across >= len(drawn):  # the lowest of its column; its row need not be the last
            axes.tick_params(labelbottom=True)
    if block.finish:
        block.finish(drawn[0])
    if block.title:
        figure.suptitle(block.title, x=0.0, ha="left", fontsize=9.5, color=INK)
    figure.supxlabel(block.x_label, fontsize=9.5, color=SOFT)
    return list(drawn)


def strip_positions(place: int, n: int) -> np.ndarray:
    """Where the `n` points of the ratio at `place` stand on the horizontal axis."""
    return place + (np.linspace(-STRIP / 2, STRIP / 2, n) if n > 1 else np.zeros(n))


def draw_strips(axes: Axes, points: dict[float, Sequence[RatioPoint]]) -> None:
    """The points of each ratio, ascending, from left to right, with their intervals."""
    for place, (ratio, colour) in enumerate(colour_by_ratio(points).items()):
        strip = zip(strip_positions(place, len(points[ratio])), points[ratio], strict=True)
        measured = [(x, point) for x, point in strip if point.value is not None]
        bars = [
            (x, point.low, point.high)
            for x, point in measured
            if point.low is not None and point.high is not None
        ]
        if bars:
            axes.vlines(*zip(*bars, strict=True), color=colour, lw=1.1, alpha=0.6)
        x = [x for x, _ in measured]
        y = [point.value or 0.0 for _, point in measured]
        axes.plot(x, y, "-o", color=colour, lw=1.3, ms=3.5)
    strip_axis(axes, sorted(points))


def strip_axis(axes: Axes, ratios: Sequence[float]) -> None:
    """The horizontal axis of strips: a name per ratio."""
    axes.set_xticks(range(len(ratios)), [percent(ratio) for ratio in ratios])
    axes.tick_params(axis="x", length=0, labelsize=SMALL)
    axes.set_xlim(-0.55, len(ratios) - 0.45)
