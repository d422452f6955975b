"""figures of the head probes: accuracy by ratio, how heads are spread, where in the model they are"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from eval.eval_report import EvalReport
from launch.report.analysis.per_ratio_series import by_ratio
from launch.report.figures.axes import by_colour, key, line, name_ratios, ratio_axis, ratios, said
from launch.report.figures.svg_rendering import INK, SOFT, Label, Numbers, label_ends
from launch.report.text.number_format import percent

MAPS_WIDE, MAPS_NARROW = 6, 3  # heat maps in a row
N_BEST = 30  # of the sorted heads: as many as the paper steers


def probe_accuracy(figure: Figure, wide: bool, reports: Sequence[EvalReport]) -> None:
    """Accuracy of the head probes on test rows: all heads' mean and the best head, above the
    majority baseline.
    """
    axes = figure.add_subplot(title="accuracy on test rows")
    best = line(axes, by_ratio(reports, lambda report: report.best_head_accuracy), INK, "D")
    mean = line(axes, by_ratio(reports, lambda report: report.probe_accuracy), SOFT, "o")
    base = sum(report.majority_accuracy for report in reports) / len(reports)
    ratio_axis(axes, reports)
    axes.axhline(base, color=SOFT, lw=1.0, ls=(0, (2, 3)))
    named = ((best, "best head", INK), (mean, "mean of heads" if wide else "mean", SOFT))
    labels = [Label(height, text, colour) for height, text, colour in named if height is not None]
    label_ends(axes, [*labels, Label(base, "majority class" if wide else "majority", SOFT)])


def accuracy_numbers(reports: Sequence[EvalReport]) -> Numbers:
    lines = {
        "best head": by_ratio(reports, lambda report: report.best_head_accuracy),
        "mean of heads": by_ratio(reports, lambda report: report.probe_accuracy),
    }
    rows = [
        (of, p.realised, p.value, p.low, p.high) for of, points in lines.items() for p in points
    ]
    parts = [
        f"{of}: {said(((p.ratio, p.value) for p in points), 3)}" for of, points in lines.items()
    ]
    return Numbers(
        ("line", "toxic_ratio", "accuracy", "low", "high"),
        rows,
        f"Probe accuracy. {'; '.join(parts)}.",
    )


def head_spread(figure: Figure, wide: bool, reports: Sequence[EvalReport]) -> None:
    """How the accuracies of all heads are spread: the share of heads at least so accurate, the best
    heads in order, and the mean of each layer. One line a ratio; the dotted line is what the best
    head of ignorant probes reaches in 1 of 20 permutations.
    """
    panels = figure.subplots(1 if wide else 3, 3 if wide else 1).flat
    above, ordered, layers = panels
    colour = by_colour(ratios(reports))
    chance = [report.probe_null.best_accuracy for report in reports if report.probe_null]
    for ratio, of in colour.items():
        accuracy_LN, ordered_SH = np.array(mean_accuracy(reports, ratio)), in_order(reports, ratio)
        heads = np.sort(ordered_SH.ravel())
        above.step(heads, 1 - np.arange(len(heads)) / len(heads), where="pre", color=of, lw=1.5)
        best = ordered_SH.mean(axis=0)[::-1][:N_BEST]
        ordered.plot(range(1, len(best) + 1), best, "-o", color=of, lw=1.3, ms=3)
        layers.plot(
            range(1, len(accuracy_LN) + 1), accuracy_LN.mean(axis=1), "-o", color=of, lw=1.3, ms=3
        )
    above.set(title="heads at least this accurate", xlabel="accuracy on test rows", ylim=(0, 1.02))
    above.yaxis.set_major_formatter(lambda share, _: percent(share))
    ordered.set(title="the most accurate heads", xlabel="rank of the head")
    layers.set(title="mean of a layer's heads", xlabel="layer")
    for axes in (ordered, layers):
        axes.xaxis.get_major_locator().set_params(integer=True)
    if chance:
        at = sum(chance) / len(chance)
        above.axvline(at, color=SOFT, lw=1.0, ls=(0, (2, 3)))
        ordered.axhline(at, color=SOFT, lw=1.0, ls=(0, (2, 3)))
    name_ratios(above, colour)
    key(figure, above, 8 if wide else 3)


def head_maps(figure: Figure, wide: bool, reports: Sequence[EvalReport]) -> None:
    """Probe accuracy of every head, layers upward, one map a ratio, on one colour scale; steered
    heads carry a dot.
    """
    maps = [_Map.of(ratio, reports) for ratio in ratios(reports)]
    values = [value for one in maps for row in one.accuracy for value in row] or [0.0]
    columns = min(len(maps), MAPS_WIDE if wide else MAPS_NARROW)
    grid = figure.subplots(math.ceil(len(maps) / columns), columns, squeeze=False)
    meshes = []
    for i, (axes, one) in enumerate(zip(grid.flat, maps, strict=False)):
        axes.grid(visible=False)
        axes.spines[:].set_visible(False)
        axes.set(title=percent(one.ratio), aspect="equal")
        meshes += [
            axes.pcolormesh(
                one.accuracy, cmap="cividis", vmin=min(values), vmax=max(values), linewidth=0
            )
        ]
        _mark(axes, one, wide)
        axes.tick_params(labelleft=i % columns == 0)
    for axes in grid.flat[len(maps) :]:
        axes.set_axis_off()
    grid[-1, 0].set(xlabel="head", ylabel="layer")
    shape = (45, 0.6) if wide else (28, 0.9)
    bar = figure.colorbar(
        meshes[0], ax=list(grid.flat), location="bottom", aspect=shape[0], shrink=shape[1], pad=0.04
    )
    bar.set_label("probe accuracy on test rows")
    bar.outline.set_visible(False)  # type: ignore[operator]


def head_numbers(reports: Sequence[EvalReport]) -> Numbers:
    """Every head of every run; the alternative says how they are spread."""
    rows = []
    for report in reports:
        for (layer, head), accuracy in np.ndenumerate(np.array(report.head_accuracy)):
            steered, auroc = (layer, head) in report.chosen_heads, report.head_auroc[layer][head]
            rows.append(
                (
                    report.toxic_ratio,
                    report.seed,
                    layer + 1,
                    head + 1,
                    float(accuracy),
                    auroc,
                    steered,
                )
            )
    parts = []
    for ratio in ratios(reports):
        low, median, high, top = np.quantile(in_order(reports, ratio), (0.0, 0.5, 0.9, 1.0))
        parts.append(f"{percent(ratio)} {low:.3f}, {median:.3f}, {high:.3f}, {top:.3f}")
    alt = f"Accuracy of all heads, as lowest, median, 90th percentile and highest: {'; '.join(parts)}."
    return Numbers(
        ("toxic_ratio", "seed", "layer", "head", "accuracy", "auroc", "steered"), rows, alt
    )


def in_order(reports: Sequence[EvalReport], ratio: float) -> np.ndarray:
    """Accuracies of the heads of each model of a ratio, ascending, [S, H]. A head's place means
    nothing in another model, so a mean over places would thin the tails.
    """
    return np.sort(
        [np.ravel(report.head_accuracy) for report in reports if report.toxic_ratio == ratio],
        axis=1,
    )


def mean_accuracy(reports: Sequence[EvalReport], ratio: float) -> list[list[float]]:
    """[layer][head], the mean over the seeds of a ratio."""
    tables = [report.head_accuracy for report in reports if report.toxic_ratio == ratio]
    return [
        [sum(heads) / len(heads) for heads in zip(*layers, strict=True)]
        for layers in zip(*tables, strict=True)
    ]


class _Map(NamedTuple):
    """Accuracy [layer][head] of one ratio, the mean over its seeds, and every head that any of them
    steers.
    """

    ratio: float
    accuracy: list[list[float]]
    chosen: list[tuple[int, int]]

    @classmethod
    def of(cls, ratio: float, reports: Sequence[EvalReport]) -> "_Map":
        same = [report for report in reports if report.toxic_ratio == ratio]
        return cls(
            ratio,
            mean_accuracy(reports, ratio),
            sorted({head for report in same for head in report.chosen_heads}),
        )


def _mark(axes: Axes, one: _Map, wide: bool) -> None:
    small = (len(one.accuracy) > 8) * (0.7 if wide else 1.6)
    x, y = [head + 0.5 for _, head in one.chosen], [layer + 0.5 for layer, _ in one.chosen]
    axes.plot(
        x,
        y,
        "o",
        color="#fdfdfd",
        mec="#0d0d0d",
        mew=0.7 if small < 1 else 0.35,
        ms=3.6 / (1 + small),
    )
    for axis, n in ((axes.xaxis, len(one.accuracy[0])), (axes.yaxis, len(one.accuracy))):
        axis.set_ticks([0.5, n - 0.5], ["1", str(n)]) if n > 1 else axis.set_ticks([0.5], ["1"])
        axis.set_tick_params(length=0)
