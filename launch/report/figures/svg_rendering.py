"""figures as SVG and PNG: two widths, colours of the light and dark theme, line labels

A function fills a matplotlib Figure at either of two widths, so that letters have the same size on
a desk and on a phone. Colours are drawn as literals of the light theme; for the page each literal
becomes a CSS variable, which the dark theme redefines. No pyplot, no dates, a fixed hash salt: the
same records give the same bytes.
"""

import csv
import io
import itertools
import re
import textwrap
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from matplotlib.text import Annotation
from matplotlib.ticker import FixedLocator
from matplotlib.transforms import Bbox

from launch.report.figures.palette import GRID, INK, NEUTRAL, PAPER, SOFT, Colour

WIDE, NARROW = 7.5, 3.7  # inches; 96 CSS pixels each
Area = Figure | SubFigure  # what a figure is drawn on
BASIS_SIZE, BASIS_LINE_INCHES, BASIS_LETTERS = 8.5, 0.15, 15  # points; inches; per inch
PLACE_DIGITS = 5  # of a place, as a share of the figure
NAME_GAP = 3  # pixels between the names of two ticks
LINE_LABEL = "label of a line"
LINE_INCHES = 0.17  # height of a line of text, letters and space
STYLE: dict[Any, Any] = {
    "font.family": "sans-serif",
    "font.size": 9.5,
    "text.color": INK,
    "axes.labelcolor": SOFT,
    "axes.edgecolor": SOFT,
    "axes.facecolor": "none",
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "axes.titlesize": 9.5,
    "axes.titlelocation": "left",
    "axes.titlecolor": INK,
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "xtick.color": SOFT,
    "ytick.color": SOFT,
    "ytick.major.size": 0,
    "xtick.major.size": 3,
    "legend.frameon": False,
    "legend.handlelength": 1.2,
    "legend.handletextpad": 0.5,
    "legend.columnspacing": 1.2,
    "lines.linewidth": 1.8,
    "lines.solid_capstyle": "round",
    "figure.facecolor": PAPER,
    "svg.fonttype": "none",
    "svg.hashsalt": "hormesis",
}


class FigureNumbers(NamedTuple):
    """The numbers of a figure, one row per mark, and its text alternative `alt`."""

    columns: tuple[str, ...]
    rows: list[tuple[Any, ...]]
    alt: str

    def csv(self) -> str:
        text = io.StringIO()
        table = csv.writer(text, lineterminator="\n")
        table.writerow(self.columns)
        table.writerows(self.rows)
        return text.getvalue()


class FigurePlan(NamedTuple):
    """A figure before it is drawn.

    draw: fills a figure, wide (True) or narrow. heights: inches, of the wide and the narrow one.
    basis: what the numbers stand on, below the figure: n, unit, scorer, the text of the cost.
    """

    name: str
    draw: Callable[[Area, bool], None]
    numbers: FigureNumbers
    heights: tuple[float, float]
    basis: str = ""


class Drawing(NamedTuple):
    """A drawn figure: files for print and slides, SVG elements for the page, and its numbers."""

    name: str
    numbers: FigureNumbers
    svg: str
    png: bytes
    wide: str
    narrow: str


def split_bottom(figure: Area, inches: float) -> tuple[Area, Area]:
    """Divide a figure into its body and a foot of this height."""
    height = figure.bbox.height / figure.dpi
    parts = figure.subfigures(2, 1, squeeze=False, height_ratios=(height - inches, inches))
    return parts[0, 0], parts[1, 0]


class LineLabel(NamedTuple):
    """The name of a line, written right of the axes at the height of its last point."""

    height: float
    text: str
    colour: str


def render(plan: FigurePlan, colours: dict[str, Colour]) -> Drawing:
    """Draw the figure at both widths; `colours` become CSS variables of their names."""
    with matplotlib.rc_context(STYLE):
        wide, narrow = (_drawn(plan, is_wide) for is_wide in (True, False))
        wide_svg = _svg(wide)
        narrow_svg = _svg(narrow)
        png = io.BytesIO()
        wide.savefig(png, format="png", dpi=192, metadata={"Software": None})
    alt = " ".join(filter(None, (plan.numbers.alt, plan.basis)))
    return Drawing(
        name=plan.name,
        numbers=plan.numbers._replace(alt=alt),
        svg=wide_svg,
        png=png.getvalue(),
        wide=_inline(f"{plan.name}-wide", wide_svg, colours),
        narrow=_inline(f"{plan.name}-narrow", narrow_svg, colours),
    )


def _drawn(plan: FigurePlan, wide: bool) -> Figure:
    """The figure at one width, laid out, with its basis below it."""
    width, height = (WIDE, plan.heights[0]) if wide else (NARROW, plan.heights[1])
    basis = textwrap.wrap(plan.basis, round(BASIS_LETTERS * width))
    foot_inches = len(basis) * BASIS_LINE_INCHES + 0.05
    figure = Figure(figsize=(width, height + foot_inches), layout="constrained")
    body, foot = split_bottom(figure, foot_inches)
    plan.draw(body, wide)
    foot.text(0.0, 0.0, "\n".join(basis), va="bottom", fontsize=BASIS_SIZE, color=SOFT)
    fix_layout(figure)
    return figure


def fix_layout(figure: Figure) -> None:
    """Lay the figure out once, for all formats, and move labels of lines apart.

    Places are rounded: the solver's last digits depend on the order of objects in memory.
    """
    engine = figure.get_layout_engine()
    assert engine is not None
    engine.execute(figure)
    figure.set_layout_engine("none")
    _round_parts(figure)
    for axes in figure.get_axes():
        place = axes.get_position(original=True)
        axes.set_position(Bbox(place.get_points().round(PLACE_DIGITS)))
        _separate_labels(axes)
        _thin_names(axes)


def _round_parts(figure: Area) -> None:
    for part in figure.subfigs:
        part.bbox_relative.set_points(part.bbox_relative.get_points().round(PLACE_DIGITS))
        _round_parts(part)


def _thin_names(axes: Axes) -> None:
    """Name only every second, third, … tick of the horizontal axis where names would touch."""
    labels = axes.xaxis.get_ticklabels()  # none where a panel below has the axis's names
    if not labels or not isinstance(axes.xaxis.get_major_locator(), FixedLocator):
        return
    boxes = [label.get_window_extent() for label in labels]
    every = next(
        n
        for n in range(1, len(boxes) + 1)
        if all(b.x0 - a.x1 > NAME_GAP for a, b in itertools.pairwise(boxes[::n]))
    )
    names = [label.get_text() if i % every == 0 else "" for i, label in enumerate(labels)]
    axes.xaxis.set_ticklabels(names)


def label_lines(axes: Axes, labels: Sequence[LineLabel]) -> None:
    """Write the names of lines at their right ends; `fix_layout` moves them apart."""
    for label in labels:
        annotation = axes.annotate(
            label.text,
            (1.0, label.height),
            xycoords=axes.get_yaxis_transform(),
            xytext=(6, 0),
            textcoords="offset points",
            va="center",
            color=label.colour,
            annotation_clip=False,
        )
        annotation.set_label(LINE_LABEL)


def _separate_labels(axes: Axes) -> None:
    """Move the labels of lines apart, within the height of the axes where they fit."""
    box = axes.get_window_extent()
    points = 72 / axes.figure.dpi
    labels = [
        (axes.transData.transform((0, text.xy[1]))[1] * points, text)
        for text in axes.texts
        if isinstance(text, Annotation) and text.get_label() == LINE_LABEL
    ]
    labels.sort(key=lambda pair: pair[0])
    placed = spread(
        [height for height, _ in labels], 72 * LINE_INCHES, box.y0 * points, box.y1 * points
    )
    for (height, text), new_height in zip(labels, placed, strict=True):
        text.set_position((6, new_height - height))


def spread(heights: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Ascending heights, moved apart until neighbours are `gap` away from each other, and then into
    the range from `low` to `high`, upwards of `low` if they do not fit.
    """
    moved = list(heights)
    for _ in range(500):
        for i in range(len(moved) - 1):
            overlap = gap - (moved[i + 1] - moved[i])
            if overlap > 1e-9:
                moved[i] -= overlap / 2
                moved[i + 1] += overlap / 2
    if not moved:
        return []
    for i in range(len(moved) - 1, -1, -1):  # from the top downwards, then back
        moved[i] = min(moved[i], (moved[i + 1] - gap) if i + 1 < len(moved) else high)
    for i in range(len(moved)):
        moved[i] = max(moved[i], (moved[i - 1] + gap) if i else low)
    return moved


def note_if_empty(axes: Axes, note: str) -> None:
    """Write `note` in the middle of axes that hold no data."""
    if not any(len(np.asarray(line.get_xydata())) for line in axes.get_lines()):
        axes.set(xticks=[], yticks=[])
        axes.text(0.5, 0.5, note, transform=axes.transAxes, ha="center", va="center", color=SOFT)


def _svg(figure: Figure) -> str:
    text = io.StringIO()
    figure.savefig(
        text, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None}
    )
    return text.getvalue()


def _inline(prefix: str, text: str, colours: dict[str, Colour]) -> str:
    """An SVG file as an element of the page: no document header, own ids, colours as variables."""
    svg = re.sub(r"<metadata>.*?</metadata>", "", text[text.index("<svg") :], flags=re.DOTALL)
    # a style element would apply to the whole page
    svg = re.sub(r"<style.*?</style>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{prefix}-", svg)
    for name, colour in (NEUTRAL | colours).items():
        svg = svg.replace(colour.light, f"var(--{name})")
    return svg
