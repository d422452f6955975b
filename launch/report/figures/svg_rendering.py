"""figures as SVG and PNG: two widths, colours of the light and dark theme, line labels

A function fills a matplotlib Figure at either of two widths, so that letters have the same size on
a desk and on a phone. Colours are drawn as literals of the light theme; for the page each literal
becomes a CSS variable, which the dark theme redefines. No pyplot, no dates, a fixed hash salt: the
same records give the same bytes.
"""

import csv
import io
import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure

from launch.report.figures.palette import GRID, INK, NEUTRAL, PAPER, SOFT, Colour

WIDE, NARROW = 7.5, 3.7  # inches; 96 CSS pixels each
Area = Figure | SubFigure  # what a figure is drawn on
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

    draw: fills a Figure, wide (True) or narrow. heights: inches, of the wide and the narrow one.
    """

    name: str
    draw: Callable[[Area, bool], None]
    numbers: FigureNumbers
    heights: tuple[float, float]


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
        wide, narrow = (
            Figure(figsize=(width, height), layout="constrained")
            for width, height in zip((WIDE, NARROW), plan.heights, strict=True)
        )
        plan.draw(wide, True)
        plan.draw(narrow, False)
        wide_svg = _svg(wide)
        narrow_svg = _svg(narrow)
        # keep the layout of the SVG: computing it again takes a third of the time
        wide.set_layout_engine("none")
        png = io.BytesIO()
        wide.savefig(png, format="png", dpi=192, metadata={"Software": None})
    return Drawing(
        name=plan.name,
        numbers=plan.numbers,
        svg=wide_svg,
        png=png.getvalue(),
        wide=_inline(f"{plan.name}-wide", wide_svg, colours),
        narrow=_inline(f"{plan.name}-narrow", narrow_svg, colours),
    )


def label_lines(axes: Axes, labels: Sequence[LineLabel]) -> None:
    """Write the names of lines at their right ends; labels that would overlap are moved apart."""
    ordered = sorted(labels)
    low, high = axes.get_ylim()
    figure = axes.get_figure(root=True)
    assert figure is not None
    axes_inches = axes.get_position().height * figure.get_figheight()
    heights = _spread([label.height for label in ordered], (high - low) * LINE_INCHES / axes_inches)
    for label, height in zip(ordered, heights, strict=True):
        axes.annotate(
            label.text,
            (1.0, height),
            xycoords=axes.get_yaxis_transform(),
            xytext=(6, 0),
            textcoords="offset points",
            va="center",
            color=label.colour,
            annotation_clip=False,
        )


def _spread(heights: list[float], gap: float) -> list[float]:
    """Ascending heights moved apart until neighbours are `gap` away from each other."""
    for _ in range(200):
        for i in range(len(heights) - 1):
            overlap = gap - (heights[i + 1] - heights[i])
            if overlap > 1e-9:
                heights[i] -= overlap / 2
                heights[i + 1] += overlap / 2
    return heights


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
