"""figures of the head probes: accuracy by ratio, and place in the model"""

import math
from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

from matplotlib.axes import Axes

from launch.report.analysis.evaluation_view import EvaluationView
from launch.report.analysis.per_ratio_series import by_ratio
from launch.report.figures import head_distributions
from launch.report.figures.axes import (
    line_with_intervals,
    ratio_axis,
    ratios,
    values_by_ratio,
)
from launch.report.figures.palette import INK, SOFT
from launch.report.figures.svg_rendering import (
    Area,
    FigureNumbers,
    FigurePlan,
    LineLabel,
    label_lines,
)
from launch.report.text import figure_notes
from launch.report.text.number_format import percent

MAPS_WIDE, MAPS_NARROW = 6, 3  # heat maps per row
DOTTED = (0, (2, 3))


def figures(reports: Sequence[EvaluationView]) -> list[FigurePlan]:
    """The figures of this module, in the page's order."""
    n = len(ratios(reports))
    rows_wide, rows_narrow = -(-n // MAPS_WIDE), -(-n // MAPS_NARROW)
    return [
        FigurePlan(
            name="probe-accuracy",
            draw=partial(probe_accuracy, reports=reports),
            numbers=accuracy_numbers(reports),
            heights=(3.4, 3.2),
            basis=figure_notes.probes(reports),
        ),
        FigurePlan(
            name="head-maps",
            draw=partial(head_maps, reports=reports),
            numbers=head_distributions.spread_numbers(reports),
            heights=(1.0 + 1.3 * rows_wide, 1.1 + 1.35 * rows_narrow),
            basis=figure_notes.probes(reports),
        ),
    ]


def probe_accuracy(figure: Area, wide: bool, reports: Sequence[EvaluationView]) -> None:
    """Accuracy on test rows of the mean of all heads and of the best head; dotted, what needs no
    trained model: a bag of words, an untrained model's heads, the majority class.
    """
    axes = figure.add_subplot(title="accuracy on test rows")
    best_head = by_ratio(reports, lambda report: report.probes.best_head_accuracy)
    all_heads = by_ratio(reports, lambda report: report.probes.probe_accuracy)
    best = line_with_intervals(axes, best_head, INK, "D")
    mean = line_with_intervals(axes, all_heads, SOFT, "o")
    ratio_axis(axes, reports)
    labels = []
    for name, short, value in baselines(reports):
        axes.axhline(value, color=SOFT, lw=1.0, ls=DOTTED)
        labels.append(LineLabel(value, name if wide else short, SOFT))
    if best is not None:
        labels.append(LineLabel(best, "best head", INK))
    if mean is not None:
        labels.append(LineLabel(mean, "mean of heads" if wide else "mean", SOFT))
    label_lines(axes, labels)


def baselines(reports: Sequence[EvaluationView]) -> list[tuple[str, str, float]]:
    """(name, short name, accuracy) of what needs no trained model, means over the models."""
    lines = [("majority class", "majority", [r.probes.majority_accuracy for r in reports])]
    measured = [r.probes.baselines for r in reports if r.probes.baselines]
    if measured:
        lines += [
            ("bag of words", "words", [b.bag_of_words.value for b in measured]),
            ("untrained, best", "untrained", [b.untrained_best_head.value for b in measured]),
        ]
    return [
        (name, short, sum(known) / len(known))
        for name, short, values in lines
        if (known := [value for value in values if value is not None])
    ]


def accuracy_numbers(reports: Sequence[EvaluationView]) -> FigureNumbers:
    lines = {
        "best head": by_ratio(reports, lambda report: report.probes.best_head_accuracy),
        "mean of heads": by_ratio(reports, lambda report: report.probes.probe_accuracy),
    }
    rows = [
        (name, p.realised, p.value, p.low, p.high) for name, points in lines.items() for p in points
    ]
    parts = [
        f"{name}: {values_by_ratio(((p.ratio, p.value) for p in points), 3)}"
        for name, points in lines.items()
    ]
    parts += [f"{name}: {value:.3f}" for name, _, value in baselines(reports)]
    alt = f"Probe accuracy. {'; '.join(parts)}."
    return FigureNumbers(("line", "toxic_ratio", "accuracy", "low", "high"), rows, alt)


def head_maps(figure: Area, wide: bool, reports: Sequence[EvaluationView]) -> None:
    """Probe accuracy of every head, layers upward, a map per ratio, on one colour scale; steered
    heads carry a dot.
    """
    maps = [HeadMap.of(ratio, reports) for ratio in ratios(reports)]
    values = [value for head_map in maps for layer in head_map.accuracy for value in layer] or [0.0]
    n_columns = min(len(maps), MAPS_WIDE if wide else MAPS_NARROW)
    grid = figure.subplots(math.ceil(len(maps) / n_columns), n_columns, squeeze=False)
    scale = {"cmap": "cividis", "vmin": min(values), "vmax": max(values)}
    meshes = []
    for i, (axes, head_map) in enumerate(zip(grid.flat, maps, strict=False)):
        axes.grid(visible=False)
        axes.spines[:].set_visible(False)
        axes.set(title=percent(head_map.ratio), aspect="equal")
        meshes.append(axes.pcolormesh(head_map.accuracy, linewidth=0, **scale))
        _dot_steered_heads(axes, head_map, wide)
        axes.tick_params(labelleft=i % n_columns == 0)
    for axes in grid.flat[len(maps) :]:
        axes.set_axis_off()
    grid[-1, 0].set(xlabel="head", ylabel="layer")
    aspect, shrink = (45, 0.6) if wide else (28, 0.9)
    bar = figure.colorbar(
        meshes[0], ax=list(grid.flat), location="bottom", aspect=aspect, shrink=shrink, pad=0.04
    )
    bar.set_label("probe accuracy on test rows")
    bar.outline.set_visible(False)  # type: ignore[operator]


def mean_accuracy(reports: Sequence[EvaluationView], ratio: float) -> list[list[float]]:
    """[layer][head], the mean over the seeds of a ratio."""
    models = [report.probes.head_accuracy for report in reports if report.toxic_ratio == ratio]
    return [
        [sum(heads) / len(heads) for heads in zip(*layers, strict=True)]
        for layers in zip(*models, strict=True)
    ]


class HeadMap(NamedTuple):
    """Accuracy [layer][head] of one ratio, the mean over its seeds, and the heads that any of its
    models steers.
    """

    ratio: float
    accuracy: list[list[float]]
    steered: list[tuple[int, int]]

    @classmethod
    def of(cls, ratio: float, reports: Sequence[EvaluationView]) -> "HeadMap":
        same = [report for report in reports if report.toxic_ratio == ratio]
        steered = sorted({head for report in same for head in report.probes.chosen_heads})
        return cls(ratio, mean_accuracy(reports, ratio), steered)


def _dot_steered_heads(axes: Axes, head_map: HeadMap, wide: bool) -> None:
    n_layers, n_heads = len(head_map.accuracy), len(head_map.accuracy[0])
    smaller = (n_layers > 8) * (0.7 if wide else 1.6)
    axes.plot(
        [head + 0.5 for _, head in head_map.steered],
        [layer + 0.5 for layer, _ in head_map.steered],
        "o",
        color="#fdfdfd",
        mec="#0d0d0d",
        mew=0.7 if smaller < 1 else 0.35,
        ms=3.6 / (1 + smaller),
    )
    for axis, n in ((axes.xaxis, n_heads), (axes.yaxis, n_layers)):
        if n > 1:
            axis.set_ticks([0.5, n - 0.5], ["1", str(n)])
        else:
            axis.set_ticks([0.5], ["1"])
        axis.set_tick_params(length=0)
