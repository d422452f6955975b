"""figures as SVG and PNG: two widths, colours of the light and dark theme, line labels

A function fills a matplotlib Figure at either of two widths, so that letters have the same size on
a desk and on a phone. Colours are drawn as literals of the light theme; for the page each literal
becomes a CSS variable, which the dark theme redefines. No pyplot, no dates, a fixed hash salt: the
same records give the same bytes.
"""

import csv
import io
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

INK, SOFT, GRID, PAPER = "#1b2026", "#5a646e", "#e2e5e9", "#ffffff"
WIDE, NARROW = 7.5, 3.7  # inches; 96 CSS pixels each
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


class Colour(NamedTuple):
    light: str
    dark: str


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
    draw: Callable[[Figure, bool], None]
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


def strength_colours(strengths: Sequence[float]) -> list[Colour]:
    """Grey for unsteered, then a perceptual ramp away from the background, readable without
    red-green vision. Line labels have the line's colour, so each has the contrast of text (WCAG AA,
    4.5).
    """
    ramp = _ramp(
        "plasma", sum(strength > 0 for strength in strengths), light=(0.48, 0.02), dark=(0.56, 0.94)
    )
    return [Colour("#6b757f", "#98a2ac") if strength == 0 else next(ramp) for strength in strengths]


def ratio_colours(n: int) -> list[Colour]:
    """Orange for the first ratio, with which the others are compared; then a perceptual ramp. Each
    has the contrast of a graphical object (WCAG AA, 3).
    """
    return [
        Colour("#c2570c", "#ff9162"),
        *_ramp("viridis", n - 1, light=(0.58, 0.02), dark=(0.42, 0.88)),
    ][:n]


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


def _ramp(
    name: str, n: int, *, light: tuple[float, float], dark: tuple[float, float]
) -> Iterator[Colour]:
    colour_map = matplotlib.colormaps[name]
    steps = [i / (n - 1) if n > 1 else 0.7 for i in range(n)]
    return (
        Colour(*(to_hex(colour_map(a + (b - a) * step)) for a, b in (light, dark)))
        for step in steps
    )


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
    literals = {"ink": INK, "soft": SOFT, "grid": GRID, "paper": PAPER}
    for name, literal in (literals | {n: colour.light for n, colour in colours.items()}).items():
        svg = svg.replace(literal, f"var(--{name})")
    return svg
