"""what the figures share: two widths, colours that follow the reader's theme, names at the lines'
ends

A drawing is made by a function that fills a matplotlib Figure at either of two widths, so that
letters have the same size on a desk and on a phone. Colours are drawn as the literals of the light
theme; for the page each literal becomes a CSS variable. No pyplot, no dates, a fixed hash salt: the
same records give the same bytes.
"""

import csv
import io
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import matplotlib
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


class Numbers(NamedTuple):
    """What a figure shows: one row a mark, and in words (`alt`) what a listener needs of it."""

    columns: tuple[str, ...]
    rows: list[tuple[Any, ...]]
    alt: str

    def csv(self) -> str:
        text = io.StringIO()
        table = csv.writer(text, lineterminator="\n")
        table.writerow(self.columns)
        table.writerows(self.rows)
        return text.getvalue()


class Drawing(NamedTuple):
    """A finished figure: files for print and slides, SVG elements for the page at both widths, and
    what it shows as numbers.
    """

    name: str
    numbers: Numbers
    svg: str
    png: bytes
    wide: str
    narrow: str


class Label(NamedTuple):
    """The name of a line, to stand right of the axes at the height of its last point."""

    height: float
    text: str
    colour: str


def render(
    name: str,
    draw: Callable[[Figure, bool], None],
    numbers: Numbers,
    heights: tuple[float, float],
    colours: dict[str, Colour],
) -> Drawing:
    """The figure at both widths, `heights` inches high when wide and when narrow. `colours` become
    CSS variables of their names.
    """
    with matplotlib.rc_context(STYLE):
        wide, narrow = (
            Figure(figsize=(w, h), layout="constrained")
            for w, h in zip((WIDE, NARROW), heights, strict=True)
        )
        draw(wide, True)
        draw(narrow, False)
        svg, small, png = _svg(wide), _svg(narrow), io.BytesIO()
        wide.set_layout_engine(
            "none"
        )  # as it was laid out for the SVG: working it out again takes a third of the time
        wide.savefig(png, format="png", dpi=192, metadata={"Software": None})
    inline = (
        _inline(f"{name}-{width}", text, colours)
        for width, text in (("wide", svg), ("narrow", small))
    )
    return Drawing(name, numbers, svg, png.getvalue(), *inline)


def strength_colours(strengths: Sequence[float]) -> list[Colour]:
    """Grey for no steering, then a perceptual ramp away from the background; readable without
    red-green vision. Lines are named in their colour, so each has the contrast of text (WCAG AA,
    4.5).
    """
    ramp = _ramp(
        "plasma", sum(strength > 0 for strength in strengths), light=(0.48, 0.02), dark=(0.56, 0.94)
    )
    return [Colour("#6b757f", "#98a2ac") if strength == 0 else next(ramp) for strength in strengths]


def ratio_colours(n: int) -> list[Colour]:
    """The first ratio, with which the others are compared, apart in orange; then a perceptual ramp.
    Each has the contrast of a graphical object (WCAG AA, 3).
    """
    return [
        Colour("#c2570c", "#ff9162"),
        *_ramp("viridis", n - 1, light=(0.58, 0.02), dark=(0.42, 0.88)),
    ][:n]


def label_ends(axes: Axes, labels: Sequence[Label]) -> None:
    """Name the lines at their right ends; labels that would collide are moved apart."""
    ordered = sorted(labels)
    low, high = axes.get_ylim()
    gap = (
        (high - low)
        * LINE_INCHES
        / (axes.get_position().height * axes.get_figure(root=True).get_figheight())
    )  # type: ignore[union-attr]
    heights = [label.height for label in ordered]
    for _ in range(200):
        for i in range(len(heights) - 1):
            overlap = gap - (heights[i + 1] - heights[i])
            if overlap > 1e-9:
                heights[i], heights[i + 1] = heights[i] - overlap / 2, heights[i + 1] + overlap / 2
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


def note_if_empty(axes: Axes, note: str) -> None:
    """Say so in the middle of axes that hold no data."""
    if not any(len(line.get_xydata()) for line in axes.get_lines()):  # type: ignore[arg-type]
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
    """An SVG file as an element of the page: theme variables for its colours, ids of its own, no
    document header.
    """
    svg = re.sub(r"<metadata>.*?</metadata>", "", text[text.index("<svg") :], flags=re.DOTALL)
    svg = re.sub(
        r"<style.*?</style>", "", svg, flags=re.DOTALL
    )  # it would reach out of the figure, over the whole page
    svg = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{prefix}-", svg)
    literals = {"ink": INK, "soft": SOFT, "grid": GRID, "paper": PAPER} | {
        name: colour.light for name, colour in colours.items()
    }
    for name, literal in literals.items():
        svg = svg.replace(literal, f"var(--{name})")
    return svg
