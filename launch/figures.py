"""the report's figures: toxicity by ratio and by cost, probe accuracy, heads, losses

Each function fills a figure from records; drawing.py knows how it becomes a file and a part of the page.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from eval.record import EvalReport
from launch.drawing import INK, PAPER, SOFT, Colour, Label, label_ends, note_if_empty, ratio_colours, strength_colours
from launch.findings import NOT_MEASURED, Point, by_ratio, cost_at, percent, strengths, toxicity_at

MARKERS = "osD^vPX*"
TOXICITY = "toxicity of the continuations, mean score × 100"
MAPS_WIDE, MAPS_NARROW = 6, 3  # heat maps in a row
SKIPPED_RATIO = 0.1  # share of a run whose steep first losses may leave the axes
Losses = list[tuple[int, float]]


class Curve(NamedTuple):
    """Losses of one run over training: (tokens seen, nats per token), in order; held_out by stream."""

    ratio: float
    realised: float
    train: Losses
    held_out: dict[str, Losses]
    probe: Sequence[tuple[int, float]] = ()  # (tokens seen, AUROC), training/emergence.py


def colours(reports: Sequence[EvalReport]) -> dict[str, Colour]:
    """The colour of each strength and ratio, by the name of its CSS variable."""
    named = {f"strength-{i}": colour for i, colour in enumerate(strength_colours(strengths(reports)))}
    return named | {f"ratio-{i}": colour for i, colour in enumerate(ratio_colours(len(ratios(reports))))}


def ratios(reports: Sequence[EvalReport]) -> list[float]:
    return sorted({report.toxic_ratio for report in reports})


def toxicity_by_ratio(figure: Figure, wide: bool, reports: Sequence[EvalReport]) -> None:
    """The curve: toxicity against the realised ratio, one line a strength, with its interval as a band."""
    axes, labels = figure.add_subplot(title=TOXICITY), []
    measured = strengths(reports)
    for i, (strength, colour) in enumerate(zip(measured, strength_colours(measured), strict=True)):
        end = _line(axes, by_ratio(reports, toxicity_at(strength)), colour.light, MARKERS[i % len(MARKERS)])
        name = "unsteered" if strength == 0 else f"strength {strength:g}" if wide else f"α {strength:g}"
        labels += [] if end is None else [Label(end, name, colour.light)]
    _ratio_axis(axes, reports)
    axes.set_ylim(bottom=min(0.0, axes.get_ylim()[0]))
    label_ends(axes, labels)


def toxicity_by_cost(figure: Figure, wide: bool, reports: Sequence[EvalReport]) -> None:
    """Toxicity against cross-entropy on clean held-out text: one path a ratio, from unsteered to the strongest steering."""
    axes = figure.add_subplot(title=TOXICITY)
    steps = list(zip(strengths(reports), MARKERS * 9, strict=False))
    for ratio, colour in zip(ratios(reports), ratio_colours(len(ratios(reports))), strict=True):
        same = [report for report in reports if report.toxic_ratio == ratio]
        path = [
            (by_ratio(same, cost_at(strength))[0], by_ratio(same, toxicity_at(strength))[0], marker) for strength, marker in steps
        ]
        known = [(x, y, marker) for x, y, marker in path if x.value is not None and y.value is not None]
        axes.plot([x.value or 0.0 for x, _, _ in known], [y.value or 0.0 for _, y, _ in known], color=colour.light, lw=1.5)
        axes.plot([], [], "-", color=colour.light, lw=3, label=percent(ratio))
        for x, y, marker in known:
            at = (x.value or 0.0, y.value or 0.0)
            axes.errorbar(*at, xerr=_reach(x), yerr=_reach(y), color=colour.light, elinewidth=0.8, alpha=0.4, zorder=1.5)
            axes.plot(*at, marker, color=colour.light, mec=PAPER, mew=0.8, ms=6.5, zorder=3)
    axes.set_xlabel("cross-entropy on clean held-out text, nats per token")
    axes.grid(axis="x")
    _key(figure, axes, 8 if wide else 3)
    handles = [axes.plot([], [], marker, color=SOFT, ms=6)[0] for _, marker in steps]
    axes.legend(handles, ["unsteered" if strength == 0 else f"strength {strength:g}" for strength, _ in steps], loc="upper right")
    note_if_empty(axes, NOT_MEASURED)


def probe_accuracy(figure: Figure, wide: bool, reports: Sequence[EvalReport]) -> None:
    """Accuracy of the head probes on test rows: all heads' mean and the best head, above the majority baseline."""
    axes = figure.add_subplot(title="accuracy on test rows")
    best = _line(axes, by_ratio(reports, lambda report: report.best_head_accuracy), INK, "D")
    mean = _line(axes, by_ratio(reports, lambda report: report.probe_accuracy), SOFT, "o")
    base = sum(report.majority_accuracy for report in reports) / len(reports)
    _ratio_axis(axes, reports)
    axes.axhline(base, color=SOFT, lw=1.0, ls=(0, (2, 3)))
    named = ((best, "best head", INK), (mean, "mean of heads" if wide else "mean", SOFT))
    labels = [Label(height, text, colour) for height, text, colour in named if height is not None]
    label_ends(axes, [*labels, Label(base, "majority class" if wide else "majority", SOFT)])


def head_maps(figure: Figure, wide: bool, reports: Sequence[EvalReport]) -> None:
    """Probe accuracy of every head, layers upward, one map a ratio, on one colour scale; steered heads carry a dot."""
    maps = [_Map.of(ratio, reports) for ratio in ratios(reports)]
    values = [value for one in maps for row in one.accuracy for value in row] or [0.0]
    columns = min(len(maps), MAPS_WIDE if wide else MAPS_NARROW)
    grid = figure.subplots(math.ceil(len(maps) / columns), columns, squeeze=False)
    meshes = []
    for i, (axes, one) in enumerate(zip(grid.flat, maps, strict=False)):
        axes.grid(visible=False)
        axes.spines[:].set_visible(False)
        axes.set(title=percent(one.ratio), aspect="equal")
        meshes += [axes.pcolormesh(one.accuracy, cmap="cividis", vmin=min(values), vmax=max(values), linewidth=0)]
        x, y = [head + 0.5 for _, head in one.chosen], [layer + 0.5 for layer, _ in one.chosen]
        axes.plot(x, y, "o", color="#fdfdfd", mec="#0d0d0d", mew=0.7, ms=3.6 if len(one.accuracy) < 9 else 2.2)
        for axis, n in ((axes.xaxis, len(one.accuracy[0])), (axes.yaxis, len(one.accuracy))):
            axis.set_ticks([0.5, n - 0.5], ["1", str(n)]) if n > 1 else axis.set_ticks([0.5], ["1"])
            axis.set_tick_params(length=0)
        axes.tick_params(labelleft=i % columns == 0)
    for axes in grid.flat[len(maps) :]:
        axes.set_axis_off()
    grid[-1, 0].set(xlabel="head", ylabel="layer")
    shape = (45, 0.6) if wide else (28, 0.9)
    bar = figure.colorbar(meshes[0], ax=list(grid.flat), location="bottom", aspect=shape[0], shrink=shape[1], pad=0.04)
    bar.set_label("probe accuracy on test rows")
    bar.outline.set_visible(False)  # type: ignore[operator]


def losses(figure: Figure, wide: bool, curves: Sequence[Curve]) -> None:
    """Training loss and held-out loss of each stream against tokens seen, one line a run, coloured by ratio. Held-out losses
    that were measured only at the end stand against the ratio instead."""
    streams = sorted({stream for curve in curves for stream in curve.held_out})
    steps = sorted({curve.ratio for curve in curves})
    colour = {ratio: colour.light for ratio, colour in zip(steps, ratio_colours(len(steps)), strict=True)}
    panels = 1 + len(streams)
    train, *held_out = figure.subplots(1 if wide else panels, panels if wide else 1, squeeze=False).flat
    train.set_title("training text" if wide else "training text, nats per token")
    _over_tokens(train, [(colour[curve.ratio], _thin(curve.train)) for curve in curves])
    for axes, stream in zip(held_out, streams, strict=True):
        lines = [(curve, curve.held_out.get(stream, [])) for curve in curves]
        axes.set_title(f"held-out {stream} text")
        if any(len(line) > 1 for _, line in lines):
            _over_tokens(axes, [(colour[curve.ratio], line) for curve, line in lines])
            continue
        for curve, line in lines:
            axes.plot(
                [100 * curve.realised] * len(line), [loss for _, loss in line], "o", color=colour[curve.ratio], mec=PAPER, ms=7
            )
        axes.xaxis.set_major_formatter(FuncFormatter(lambda share, _: percent(share / 100)))
        axes.set_xlabel("share of toxic text")
        note_if_empty(axes, NOT_MEASURED)
    for ratio in steps:
        train.plot([], [], "-", color=colour[ratio], lw=3, label=percent(ratio))
    _key(figure, train, 8 if wide else 3)


def emergence(figure: Figure, wide: bool, curves: Sequence[Curve]) -> None:
    """AUROC of the best head's probe on held-out text of the two streams against tokens seen, one line a run, coloured by ratio."""
    axes, steps = figure.add_subplot(title="AUROC of the best head, toxic against clean windows"), sorted({c.ratio for c in curves})
    colour = {ratio: colour.light for ratio, colour in zip(steps, ratio_colours(len(steps)), strict=True)}
    for ratio in steps:
        axes.plot([], [], "-", color=colour[ratio], lw=3, label=percent(ratio))
    for curve in curves:
        axes.plot([t for t, _ in curve.probe], [a for _, a in curve.probe], "-o", color=colour[curve.ratio], lw=1.3, ms=3.5)
    axes.axhline(0.5, color=SOFT, lw=1.0, ls=(0, (2, 3)))
    axes.set(xlabel="tokens seen", xlim=(0, None))
    axes.xaxis.set_major_locator(MaxNLocator(4))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda tokens, _: si(tokens)))
    _key(figure, axes, 8 if wide else 3)


class _Map(NamedTuple):
    """Accuracy [layer][head] of one ratio, the mean over its seeds, and every head that any of them steers."""

    ratio: float
    accuracy: list[list[float]]
    chosen: list[tuple[int, int]]

    @classmethod
    def of(cls, ratio: float, reports: Sequence[EvalReport]) -> "_Map":
        same = [report for report in reports if report.toxic_ratio == ratio]
        tables = [report.head_accuracy for report in same]
        mean = [[sum(heads) / len(heads) for heads in zip(*layers, strict=True)] for layers in zip(*tables, strict=True)]
        return cls(ratio, mean, sorted({head for report in same for head in report.chosen_heads}))


def _line(axes: Axes, points: Sequence[Point], colour: str, marker: str) -> float | None:
    """A line with its interval as band and bars; returns the height of its last measured point."""
    known = [(100 * point.realised, point.value) for point in points if point.value is not None]
    sure = [(100 * p.realised, p.low, p.high) for p in points if p.value is not None and p.low is not None and p.high is not None]
    if sure:
        x, low, high = zip(*sure, strict=True)
        axes.fill_between(x, low, high, color=colour, alpha=0.13, lw=0, zorder=1)
        axes.vlines(x, low, high, color=colour, lw=1.1, alpha=0.7, zorder=2)
    axes.plot([x for x, _ in known], [y for _, y in known], color=colour, zorder=3)
    axes.plot([x for x, _ in known], [y for _, y in known], marker, color=colour, mec=PAPER, mew=0.9, ms=6.5, zorder=4)
    return known[-1][1] if known else None


def _ratio_axis(axes: Axes, reports: Sequence[EvalReport]) -> None:
    asked = ratios(reports)
    margin = 3 * (asked[-1] - asked[0]) or 1.0
    axes.set_xticks([100 * ratio for ratio in asked], [percent(ratio) for ratio in asked])
    axes.set_xlim(100 * asked[0] - margin, 100 * asked[-1] + margin)
    axes.set_xlabel("toxic tokens / all training tokens")
    note_if_empty(axes, NOT_MEASURED)


def _over_tokens(axes: Axes, lines: Sequence[tuple[str, Losses]]) -> None:
    """Losses against tokens; the steep beginning, where all runs are alike, may leave the axes at the top."""
    form = "-o" if max((len(line) for _, line in lines), default=0) <= 12 else "-"
    for colour, line in lines:
        axes.plot([tokens for tokens, _ in line], [loss for _, loss in line], form, color=colour, lw=1.3, ms=3.5)
    end = max((tokens for _, line in lines for tokens, _ in line), default=0)
    late = [loss for _, line in lines for tokens, loss in line if tokens >= SKIPPED_RATIO * end]
    if end and len(late) > 1 and max(late) > min(late):
        margin = 0.06 * (max(late) - min(late))
        axes.set_ylim(min(late) - margin, max(late) + margin)
    axes.set_xlim(left=0)
    axes.xaxis.set_major_locator(MaxNLocator(4))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda tokens, _: si(tokens)))
    axes.set_xlabel("tokens seen")
    note_if_empty(axes, NOT_MEASURED)


def _key(figure: Figure, axes: Axes, columns: int) -> None:
    handles, labels = axes.get_legend_handles_labels()
    title = "share of toxic text"
    key = figure.legend(handles, labels, loc="outside upper left", ncols=columns, borderaxespad=0.2, title=title, alignment="left")
    key.get_title().set(color=SOFT)


def _reach(point: Point) -> list[list[float]] | None:
    if point.value is None or point.low is None or point.high is None:
        return None
    return [[max(0.0, point.value - point.low)], [max(0.0, point.high - point.value)]]


def _thin(points: Losses, at_most: int = 160) -> Losses:
    """Means of equal blocks, each at its last step, so that a long run stays a light picture."""
    block = math.ceil(len(points) / at_most) or 1
    parts = [points[i : i + block] for i in range(0, len(points), block)]
    return [(part[-1][0], sum(loss for _, loss in part) / len(part)) for part in parts]


def si(number: float) -> str:
    """12_000 → '12k'."""
    for size, letter in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if abs(number) >= size:
            return f"{number / size:.3g}{letter}"
    return f"{number:.3g}"
