"""figures of all head probes: distribution over heads, first against last ratio and all"""

from collections.abc import Sequence
from functools import partial

import numpy as np

from eval.stats.estimate_with_interval import Estimate
from launch.report.analysis.comparisons import Comparisons
from launch.report.analysis.evaluation_view import EvaluationView
from launch.report.analysis.head_accuracy_tails import TAIL
from launch.report.analysis.per_ratio_series import RatioPoint
from launch.report.figures.axes import ratios
from launch.report.figures.palette import INK, PAPER, SOFT, colour_by_ratio
from launch.report.figures.panels import draw_strips, strip_axis
from launch.report.figures.svg_rendering import Area, FigureNumbers, FigurePlan
from launch.report.text import figure_notes
from launch.report.text.number_format import percent, with_interval

MAX_BINS = 30
TAIL_SHARE = 0.25  # of the heads of both ratios that the panel of the right tail shows
DOTTED = (0, (2, 3))


def figures(
    reports: Sequence[EvaluationView], compared: Comparisons | None = None
) -> list[FigurePlan]:
    """The figures of this module, in the page's order; the first needs two ratios."""
    plans = [
        FigurePlan(
            name="head-spread",
            draw=partial(head_spread, reports=reports),
            numbers=spread_numbers(reports),
            heights=(2.9, 5.4),
            basis=figure_notes.probes(reports),
        )
    ]
    if len(ratios(reports)) < 2:
        return plans
    first_and_last = FigurePlan(
        name="head-distribution",
        draw=partial(head_distribution, reports=reports, compared=compared),
        numbers=distribution_numbers(reports),
        heights=(2.9, 5.4),
        basis=figure_notes.probes(reports),
    )
    return [first_and_last, *plans]


def head_distribution(
    figure: Area,
    wide: bool,
    reports: Sequence[EvaluationView],
    compared: Comparisons | None = None,
) -> None:
    """Heads by accuracy at the first and the last ratio, with their means, and the right tail: the
    share of heads above each accuracy.
    """
    bars, tail = figure.subplots(1 if wide else 2, 2 if wide else 1).flat
    colours = colour_by_ratio(ratios(reports))
    edges = bin_edges(reports)
    for ratio in _ends(reports):
        accuracies = sorted_accuracies(reports, ratio).ravel()
        colour = colours[ratio]
        shares = np.histogram(accuracies, edges)[0] / len(accuracies)
        bars.stairs(shares, edges, fill=True, color=colour, alpha=0.18, lw=0)
        bars.stairs(shares, edges, color=colour, lw=1.5, label=percent(ratio))
        bars.axvline(accuracies.mean(), color=colour, lw=1.2, ls=(0, (5, 2)))
        above = 1 - np.arange(len(accuracies)) / len(accuracies)
        tail.step(np.sort(accuracies), above, where="pre", color=colour, lw=1.6)
    for axes in (bars, tail):
        axes.yaxis.set_major_formatter(lambda share, _: percent(share))
        axes.set_xlabel("accuracy on test rows")
    bars.set_ylim(bottom=0)
    bars.set_title(f"share of heads\ndashed: the mean{_mean_difference(compared)}")
    tail.set_ylim(0, TAIL_SHARE * 1.05)
    both = np.concatenate([sorted_accuracies(reports, ratio).ravel() for ratio in _ends(reports)])
    tail.set_xlim(left=float(np.quantile(both, 1 - 2 * TAIL_SHARE)))
    title = "right tail: share of heads above"
    if compared and compared.tail:
        tail.axvline(compared.tail.threshold, color=SOFT, lw=1.0, ls=DOTTED)
        first, last = (percent(round(share, 3)) for share in compared.tail.above)
        title += f"\ndotted: {compared.tail.threshold:.3f}, above it {first} and {last}"
    tail.set_title(title)
    handles, labels = bars.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper left", ncols=2, borderaxespad=0.2)


def _ends(reports: Sequence[EvaluationView]) -> tuple[float, float]:
    """The first and the last ratio."""
    return ratios(reports)[0], ratios(reports)[-1]


def _mean_difference(compared: Comparisons | None) -> str:
    """', +0.9 points [+0.7, +1.2]': the difference of the means with its interval, if known."""
    if compared is None or compared.probes is None:
        return ""
    share = compared.probes.difference
    low, high = (None if end is None else 100 * end for end in (share.low, share.high))
    value = None if share.value is None else 100 * share.value
    points = Estimate(value=value, low=low, high=high, n=share.n, unit="points")
    number, space, interval = with_interval(points, 1, sign=True).partition(" ")
    return f", {number} points{space}{interval}"


def bin_edges(reports: Sequence[EvaluationView]) -> np.ndarray:
    """Common edges of the histograms of all ratios."""
    every = np.concatenate([np.ravel(report.probes.head_accuracy) for report in reports])
    edges = np.histogram_bin_edges(every, "fd")
    return edges if len(edges) <= MAX_BINS else np.linspace(edges[0], edges[-1], MAX_BINS)


def distribution_numbers(reports: Sequence[EvaluationView]) -> FigureNumbers:
    edges = bin_edges(reports)
    rows = []
    parts = []
    for ratio in _ends(reports):
        accuracies = sorted_accuracies(reports, ratio).ravel()
        shares = np.histogram(accuracies, edges)[0] / len(accuracies)
        rows += [
            (ratio, float(low), float(high), float(share))
            for low, high, share in zip(edges, edges[1:], shares, strict=False)
        ]
        parts.append(
            f"{percent(ratio)} mean {accuracies.mean():.3f}, 90th percentile "
            f"{np.quantile(accuracies, TAIL):.3f}, n = {len(accuracies)} heads"
        )
    alt = f"Distribution of head probe accuracies. {'; '.join(parts)}."
    return FigureNumbers(("toxic_ratio", "from", "to", "share_of_heads"), rows, alt)


def head_spread(figure: Area, wide: bool, reports: Sequence[EvaluationView]) -> None:
    """The distribution of all heads' accuracies at every ratio, and the mean of each layer.

    Dotted: the accuracy that the best head reaches in 1 of 20 permutations of the labels.
    """
    heads, layers = figure.subplots(1 if wide else 2, 2 if wide else 1).flat
    edges = bin_edges(reports)
    counts = {
        ratio: np.histogram(sorted_accuracies(reports, ratio), edges)[0]
        for ratio in ratios(reports)
    }
    most = max(int(of_ratio.max()) for of_ratio in counts.values())
    for place, (ratio, colour) in enumerate(colour_by_ratio(counts).items()):
        accuracies = sorted_accuracies(reports, ratio)
        left = place - 0.4
        widths = left + 0.8 * counts[ratio] / most
        heads.stairs(
            widths,
            edges,
            baseline=left,
            orientation="horizontal",
            fill=True,
            color=colour,
            alpha=0.55,
        )
        heads.plot(left, accuracies.mean(), ">", color=INK, ms=6, mec=PAPER, mew=0.7)
        heads.plot(left, np.quantile(accuracies, TAIL), "^", color=INK, ms=6, mec=PAPER, mew=0.7)
    strip_axis(heads, ratios(reports))
    heads.set_title("accuracy of all heads; ▸ mean, ▴ 90th percentile")
    draw_strips(layers, layer_means(reports))
    layers.set_title("mean of a layer's heads, first layer to last")
    nulls = [
        report.probes.probe_null.best_accuracy for report in reports if report.probes.probe_null
    ]
    if nulls:
        heads.axhline(sum(nulls) / len(nulls), color=SOFT, lw=1.0, ls=DOTTED)
    for axes in (heads, layers):
        axes.set_xlabel("toxic tokens / all training tokens")


def layer_means(reports: Sequence[EvaluationView]) -> dict[float, Sequence[RatioPoint]]:
    """Mean accuracy of the heads of each layer, by ratio, over its seeds."""
    means = {}
    for ratio in ratios(reports):
        models = [np.array(r.probes.head_accuracy) for r in reports if r.toxic_ratio == ratio]
        by_layer = np.mean([accuracy_LN.mean(axis=1) for accuracy_LN in models], axis=0)
        means[ratio] = [
            RatioPoint(ratio, ratio, float(value), None, None, len(models)) for value in by_layer
        ]
    return means


def spread_numbers(reports: Sequence[EvaluationView]) -> FigureNumbers:
    """Every head of every run; the text alternative gives quantiles over heads."""
    columns = ("toxic_ratio", "seed", "layer", "head", "accuracy", "auroc", "steered")
    rows = []
    for report in reports:
        for (layer, head), accuracy in np.ndenumerate(np.array(report.probes.head_accuracy)):
            auroc = report.probes.head_auroc[layer][head]
            is_steered = (layer, head) in report.probes.chosen_heads
            place = (report.toxic_ratio, report.seed, layer + 1, head + 1)
            rows.append((*place, float(accuracy), auroc, is_steered))
    parts = []
    for ratio in ratios(reports):
        quantiles = np.quantile(sorted_accuracies(reports, ratio), (0.0, 0.5, 0.9, 1.0))
        parts.append(f"{percent(ratio)} {', '.join(f'{value:.3f}' for value in quantiles)}")
    alt = (
        "Accuracy of all heads, as lowest, median, 90th percentile and highest: "
        f"{'; '.join(parts)}."
    )
    return FigureNumbers(columns, rows, alt)


def sorted_accuracies(reports: Sequence[EvaluationView], ratio: float) -> np.ndarray:
    """Accuracies of the heads of each model of a ratio, ascending, [S, H].

    A head's place means nothing in another model: a mean over places would thin the tails.
    """
    models = [report.probes.head_accuracy for report in reports if report.toxic_ratio == ratio]
    return np.sort([np.ravel(accuracy_LN) for accuracy_LN in models], axis=1)
