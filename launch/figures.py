"""the report's figures: drawings of the records, as SVG for the page and for print, PNG for slides

Each drawing function fills a matplotlib Figure at either of two widths, so that letters have the same size on a desk and on a
phone. Colours are drawn as the literals of the light theme; for the page each becomes a CSS variable, and so follows the reader's
theme. No pyplot, no dates, a fixed hash salt: the same records give the same bytes.
"""

import io
import math
import re
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from eval.record import EvalReport
from launch.findings import NOT_MEASURED, Point, by_ratio, cost_at, percent, strengths, toxicity_at

INK, SOFT, GRID, PAPER = "#1b2026", "#5a646e", "#e2e5e9", "#ffffff"
WIDE, NARROW = 7.5, 3.7  # inches; 96 CSS pixels each
MARKERS = "osD^vPX*"
STYLE = {
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
    "lines.linewidth": 1.8,
    "lines.solid_capstyle": "round",
    "figure.facecolor": PAPER,
    "svg.fonttype": "none",
    "svg.hashsalt": "hormesis",
}


class Curve(NamedTuple):
    """Losses over training: (tokens seen, nats per token), in order; held_out by stream."""

    ratio: float
    train: list[tuple[int, float]]
    held_out: dict[str, list[tuple[int, float]]]


class Colour(NamedTuple):
    light: str
    dark: str


class Drawing(NamedTuple):
    """A finished figure: files for print and slides, and SVG elements for the page at both widths."""

    name: str
    svg: bytes
    png: bytes
    wide: str
    narrow: str


Draw = Callable[[Figure, bool], None]


def strength_colours(values: Sequence[float]) -> list[Colour]:
    """Grey for no steering, then a perceptual ramp away from the background; readable without red-green vision."""
    ramp = _ramp("plasma", sum(value > 0 for value in values), light=(0.70, 0.04), dark=(0.42, 0.94))
    return [Colour("#737d87", "#98a2ac") if value == 0 else next(ramp) for value in values]


def ratio_colours(n: int) -> list[Colour]:
    return list(_ramp("viridis", n, light=(0.72, 0.04), dark=(0.32, 0.97)))


def variables(reports: Sequence[EvalReport]) -> tuple[dict[str, str], dict[str, str]]:
    """CSS custom properties for the light and the dark theme."""
    named = {f"strength-{i}": colour for i, colour in enumerate(strength_colours(strengths(reports)))}
    named |= {f"ratio-{i}": colour for i, colour in enumerate(ratio_colours(len(_ratios(reports))))}
    return {name: colour.light for name, colour in named.items()}, {name: colour.dark for name, colour in named.items()}


def render(name: str, draw: Draw, height: float, narrow_height: float, reports: Sequence[EvalReport]) -> Drawing:
    """The figure at both widths; heights in inches."""
    with matplotlib.rc_context(STYLE):
        wide, narrow = (
            Figure(figsize=(WIDE, height), layout="constrained"),
            Figure(figsize=(NARROW, narrow_height), layout="constrained"),
        )
        draw(wide, True)
        draw(narrow, False)
        svg, png = io.BytesIO(), io.BytesIO()
        wide.savefig(png, format="png", dpi=192, metadata={"Software": None})
        wide.savefig(svg, format="svg", metadata=_ANONYMOUS)
        return Drawing(name, svg.getvalue(), png.getvalue(), *(_inline(name, figure, reports) for figure in (wide, narrow)))


def toxicity_by_ratio(figure: Figure, wide: bool, reports: Sequence[EvalReport]) -> None:
    """The curve: toxicity against the realised ratio, one line a strength, with its interval as a band."""
    axes = figure.add_subplot(title="toxicity of the continuations, mean score × 100")
    ends = []
    for i, (strength, colour) in enumerate(zip(strengths(reports), strength_colours(strengths(reports)), strict=True)):
        last = _line(axes, by_ratio(reports, toxicity_at(strength)), colour.light, MARKERS[i % len(MARKERS)])
        ends += [(last, "unsteered" if strength == 0 else f"strength {strength:g}" if wide else f"α {strength:g}", colour.light)]
    _ratio_axis(axes, reports)
    axes.set_ylim(bottom=min(0.0, axes.get_ylim()[0]))
    _direct_labels(axes, ends)


def toxicity_by_cost(figure: Figure, wide: bool, reports: Sequence[EvalReport]) -> None:
    """Toxicity against cross-entropy on clean held-out text: one path a ratio, from unsteered to the strongest steering."""
    axes = figure.add_subplot(title="toxicity of the continuations, mean score × 100")
    steps, ratios = strengths(reports), _ratios(reports)
    for i, (ratio, colour) in enumerate(zip(ratios, ratio_colours(len(ratios)), strict=True)):
        same = [report for report in reports if report.toxic_ratio == ratio]
        pairs = [(by_ratio(same, cost_at(strength))[0], by_ratio(same, toxicity_at(strength))[0]) for strength in steps]
        known = [(x, y, MARKERS[k % len(MARKERS)]) for k, (x, y) in enumerate(pairs) if x.value is not None and y.value is not None]
        axes.plot(
            [x.value for x, _, _ in known],
            [y.value for _, y, _ in known],
            color=colour.light,
            lw=1.4,
            label=percent(ratio),
            zorder=3 + i,
        )
        for x, y, marker in known:
            axes.errorbar(
                x.value, y.value, xerr=_reach(x), yerr=_reach(y), color=colour.light, elinewidth=0.8, alpha=0.45, zorder=2
            )
            axes.plot(x.value, y.value, marker, color=colour.light, mec=PAPER, mew=0.8, ms=6.5, zorder=3 + i)
    for k, strength in enumerate(steps):
        axes.plot([], [], MARKERS[k % len(MARKERS)], color=SOFT, ms=6, label="unsteered" if strength == 0 else f"α {strength:g}")
    axes.set_xlabel("cross-entropy on clean held-out text, nats per token")
    axes.grid(axis="x")
    _key(figure, axes, 5 if wide else 3)
    _note_if_empty(axes)


def probe_accuracy(figure: Figure, wide: bool, reports: Sequence[EvalReport]) -> None:
    """Accuracy of the head probes on test rows: all heads' mean and the best head, above the majority baseline."""
    axes = figure.add_subplot(title="accuracy on test rows")
    best = _line(axes, by_ratio(reports, lambda report: report.best_head_accuracy), INK, "D")
    mean = _line(axes, by_ratio(reports, lambda report: report.probe_accuracy), SOFT, "o")
    base = sum(report.majority_accuracy for report in reports) / len(reports)
    axes.axhline(base, color=SOFT, lw=1.0, ls=(0, (2, 3)))
    _ratio_axis(axes, reports)
    end = max(axes.get_lines()[0].get_xdata(), default=0.0) if best or mean else 0.0  # type: ignore[arg-type]
    _direct_labels(
        axes,
        [
            (best, "best head", INK),
            (mean, "mean of heads", SOFT),
            ((float(end), base), "majority class" if wide else "majority", SOFT),
        ],
    )


def head_maps(figure: Figure, wide: bool, reports: Sequence[EvalReport]) -> None:
    """Probe accuracy of every head, layers upward, one map a ratio, on one colour scale; steered heads carry a dot."""
    ratios = _ratios(reports)
    means = [_mean_map([report.head_accuracy for report in reports if report.toxic_ratio == ratio]) for ratio in ratios]
    values = [value for table in means for row in table for value in row] or [0.0]
    columns = min(len(ratios), 6 if wide else 3)
    grid = figure.subplots(math.ceil(len(ratios) / columns), columns, squeeze=False)
    mesh = None
    for axes, ratio, table in zip(grid.flat, ratios, means, strict=False):
        axes.grid(visible=False)
        mesh = axes.pcolormesh(table, cmap="cividis", vmin=min(values), vmax=max(values), linewidth=0)
        chosen = {head for report in reports if report.toxic_ratio == ratio for head in report.chosen_heads}
        axes.plot(
            [h + 0.5 for _, h in sorted(chosen)],
            [k + 0.5 for k, _ in sorted(chosen)],
            "o",
            color="#fdfdfd",
            mec="#0d0d0d",
            mew=0.7,
            ms=3.6 if len(table) < 9 else 2.4,
        )
        axes.set(title=percent(ratio), aspect="equal")
        for axis, n in ((axes.xaxis, len(table[0])), (axes.yaxis, len(table))):
            axis.set_ticks([0.5, n - 0.5] if n > 1 else [0.5], ["1", str(n)] if n > 1 else ["1"])
            axis.set_tick_params(length=0)
        axes.spines[:].set_visible(False)
    for axes in grid.flat[len(ratios) :]:
        axes.set_axis_off()
    grid[-1, 0].set_xlabel("head")
    grid[-1, 0].set_ylabel("layer")
    if mesh is not None:
        bar = figure.colorbar(
            mesh, ax=list(grid.flat), location="bottom", aspect=45 if wide else 28, shrink=0.6 if wide else 0.9, pad=0.04
        )
        bar.set_label("probe accuracy on test rows")
        bar.outline.set_visible(False)  # type: ignore[operator]


def losses(figure: Figure, wide: bool, curves: Sequence[Curve]) -> None:
    """Training loss and held-out losses against tokens seen, one line a run, coloured by ratio."""
    streams = sorted({stream for curve in curves for stream in curve.held_out})
    panels = figure.subplots(1, 1 + len(streams)) if wide else figure.subplots(1 + len(streams), 1)
    flat = list(panels.flat) if streams else [panels]
    ratios = sorted({curve.ratio for curve in curves})
    colours = dict(zip(ratios, ratio_colours(len(ratios)), strict=True))
    titles = ["training loss, nats per token" if not wide else "training loss", *(f"held-out {stream} text" for stream in streams)]
    for axes, title, stream in zip(flat, titles, [None, *streams], strict=True):
        axes.set_title(title)
        for curve in sorted(curves, key=lambda curve: curve.ratio):
            points = _thin(curve.train) if stream is None else curve.held_out.get(stream, [])
            label = (
                percent(curve.ratio)
                if axes is flat[0] and percent(curve.ratio) not in axes.get_legend_handles_labels()[1]
                else None
            )
            axes.plot(
                [t for t, _ in points],
                [y for _, y in points],
                "-" if len(points) > 12 else "-o",
                color=colours[curve.ratio].light,
                lw=1.3,
                ms=3.5,
                label=label,
            )
        axes.xaxis.set_major_formatter(FuncFormatter(lambda tokens, _: _si(tokens)))
        axes.xaxis.set_major_locator(MaxNLocator(4))
        _note_if_empty(axes)
    flat[0 if wide else -1].set_xlabel("tokens seen")
    if flat[0].get_legend_handles_labels()[0]:
        _key(figure, flat[0], 8 if wide else 3)


def _line(axes: Axes, points: Sequence[Point], colour: str, marker: str) -> tuple[float, float] | None:
    """A line with its interval as band and bars; returns its last measured point."""
    known = [point for point in points if point.value is not None]
    sure = [point for point in known if point.low is not None and point.high is not None]
    x = [100 * point.realised for point in known]
    axes.plot(x, [point.value for point in known], color=colour, zorder=3)
    axes.plot(x, [point.value for point in known], marker, color=colour, mec=PAPER, mew=0.9, ms=6.5, zorder=4)
    axes.fill_between(
        [100 * p.realised for p in sure], [p.low for p in sure], [p.high for p in sure], color=colour, alpha=0.13, lw=0, zorder=1
    )  # type: ignore[arg-type]
    axes.vlines(
        [100 * p.realised for p in sure], [p.low for p in sure], [p.high for p in sure], color=colour, lw=1.1, alpha=0.7, zorder=2
    )  # type: ignore[arg-type]
    return (x[-1], known[-1].value or 0.0) if known else None


def _ratio_axis(axes: Axes, reports: Sequence[EvalReport]) -> None:
    ratios = _ratios(reports)
    axes.set_xticks([100 * ratio for ratio in ratios], [percent(ratio) for ratio in ratios])
    margin = 0.03 * 100 * (ratios[-1] - ratios[0]) or 1.0
    axes.set_xlim(100 * ratios[0] - margin, 100 * ratios[-1] + margin)
    axes.set_xlabel("toxic tokens / all training tokens")
    _note_if_empty(axes)


def _direct_labels(axes: Axes, ends: Iterable[tuple[tuple[float, float] | None, str, str]]) -> None:
    """Name each line at its right end; labels that would collide are moved apart."""
    known = sorted(((point, text, colour) for point, text, colour in ends if point), key=lambda end: end[0][1])
    low, high = axes.get_ylim()
    gap = (high - low) * 0.17 / axes.figure.get_size_inches()[1]  # type: ignore[union-attr]
    heights = [point[1] for point, _, _ in known]
    for _ in range(200):
        for i in range(len(heights) - 1):
            overlap = gap - (heights[i + 1] - heights[i])
            if overlap > 1e-9:
                heights[i], heights[i + 1] = heights[i] - overlap / 2, heights[i + 1] + overlap / 2
    for (_, text, colour), height in zip(known, heights, strict=True):
        axes.annotate(
            text,
            (1.0, height),
            xycoords=axes.get_yaxis_transform(),
            xytext=(6, 0),
            textcoords="offset points",
            va="center",
            color=colour,
            annotation_clip=False,
        )


def _key(figure: Figure, axes: Axes, columns: int) -> None:
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(
        handles,
        labels,
        loc="outside upper left",
        ncols=columns,
        frameon=False,
        handlelength=1.2,
        columnspacing=1.2,
        handletextpad=0.5,
        borderaxespad=0.2,
    )


def _note_if_empty(axes: Axes) -> None:
    if not any(len(line.get_xdata()) for line in axes.get_lines()):  # type: ignore[arg-type]
        axes.text(0.5, 0.5, NOT_MEASURED, transform=axes.transAxes, ha="center", va="center", color=SOFT)


def _ratios(reports: Sequence[EvalReport]) -> list[float]:
    return sorted({report.toxic_ratio for report in reports})


def _reach(point: Point) -> list[list[float]] | None:
    if point.value is None or point.low is None or point.high is None:
        return None
    return [[max(0.0, point.value - point.low)], [max(0.0, point.high - point.value)]]


def _mean_map(maps: Sequence[Sequence[Sequence[float]]]) -> list[list[float]]:
    return [[sum(values) / len(values) for values in zip(*rows, strict=True)] for rows in zip(*maps, strict=True)]


def _thin(points: Sequence[tuple[int, float]], at_most: int = 160) -> list[tuple[int, float]]:
    """Means of equal blocks, each at its last step, so that a long run stays a light picture."""
    block = math.ceil(len(points) / at_most) or 1
    parts = [points[i : i + block] for i in range(0, len(points), block)]
    return [(part[-1][0], sum(loss for _, loss in part) / len(part)) for part in parts]


def _si(number: float) -> str:
    for size, letter in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if abs(number) >= size:
            return f"{number / size:.3g}{letter}"
    return f"{number:.3g}"


def _ramp(name: str, n: int, *, light: tuple[float, float], dark: tuple[float, float]) -> Iterable[Colour]:
    map_ = matplotlib.colormaps[name]
    steps = [i / (n - 1) if n > 1 else 0.7 for i in range(n)]
    return (Colour(*(matplotlib.colors.to_hex(map_(a + (b - a) * step)) for a, b in (light, dark))) for step in steps)


_ANONYMOUS = {"Date": None, "Creator": None, "Format": None, "Type": None}


def _inline(name: str, figure: Figure, reports: Sequence[EvalReport]) -> str:
    """The figure as an SVG element of the page: theme variables for its colours, ids of its own, no document header."""
    text = io.StringIO()
    figure.savefig(text, format="svg", metadata=_ANONYMOUS)
    prefix = f"{name}-{'wide' if figure.get_size_inches()[0] == WIDE else 'narrow'}-"
    svg = re.sub(r"<metadata>.*?</metadata>", "", text.getvalue()[text.getvalue().index("<svg") :], flags=re.DOTALL)
    svg = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{prefix}", svg)
    for variable, colour in {"ink": INK, "soft": SOFT, "grid": GRID, "paper": PAPER, **variables(reports)[0]}.items():
        svg = svg.replace(colour, f"var(--{variable})")
    return svg
