"""figures of what steering may break: is it still text, and does the model still know things? Against the strength"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from matplotlib.figure import Figure

from eval.eval_report import EvalReport
from eval.stats.estimate import Estimate
from launch.report.analysis.per_ratio_series import (
    RatioPoint,
    by_ratio,
    measured_strengths,
    steered_at,
)
from launch.report.figures.axes import by_colour, key, name_ratios, ratios
from launch.report.figures.svg_rendering import Numbers
from launch.report.text.display_names import benchmark
from launch.report.text.number_format import NOT_MEASURED, percent

TEXT = {
    "distinct_ratio": "distinct pairs of tokens, share",
    "n_tokens": "length, tokens",
    "perplexity": "perplexity under a judge",
}
LOG_FROM = 20  # the ratio of the largest value to the least from which a panel is logarithmic
STEP = 0.03  # between two ratios at one strength, as a share of the axis's step


class Guard(NamedTuple):
    """One panel: its title and the points of each ratio, [ratio][strength]."""

    title: str
    points: dict[float, list[RatioPoint]]


def guards(reports: Sequence[EvalReport]) -> list[Guard]:
    """Everything that was measured at each strength besides toxicity and cross-entropy."""
    readers: dict[str, Callable[[EvalReport, float], Estimate | None]] = {
        title: lambda r, strength, name=name: (
            getattr(one, name) if (one := steered_at(r, strength)) else None
        )
        for name, title in TEXT.items()
    }
    for name in sorted(
        {name for report in reports for one in report.steered for name in one.accuracy}
    ):
        title = f"right answers, {benchmark(name)}"
        readers[title] = lambda r, strength, name=name: (
            one.accuracy.get(name) if (one := steered_at(r, strength)) else None
        )
    found = []
    for title, read in readers.items():
        points = {
            ratio: [
                by_ratio(
                    [r for r in reports if r.toxic_ratio == ratio],
                    lambda r, s=strength, read=read: read(r, s),
                )[0]
                for strength in measured_strengths(reports)
            ]
            for ratio in ratios(reports)
        }
        if any(point.value is not None for of_ratio in points.values() for point in of_ratio):
            found.append(Guard(title, points))
    return found


def in_a_row(n: int) -> int:
    """Of n panels on a wide page: three, or two where three would leave one alone."""
    return 2 if n in (2, 4) else min(n, 3)


def draw(figure: Figure, wide: bool, reports: Sequence[EvalReport]) -> None:
    """A panel for each guard, against strength, one line a ratio."""
    shown, measured = guards(reports), measured_strengths(reports)
    columns = in_a_row(len(shown)) if wide else 1
    grid = figure.subplots(-(-len(shown) // columns), columns, squeeze=False)
    colour = by_colour(ratios(reports))
    for axes, guard in zip(grid.flat, shown, strict=False):
        axes.set_title(guard.title)
        for i, (ratio, points) in enumerate(guard.points.items()):
            shift = STEP * (i - (len(colour) - 1) / 2)
            known = [
                (k + shift, p.value, p.low, p.high)
                for k, p in enumerate(points)
                if p.value is not None
            ]
            axes.plot(
                [x for x, *_ in known],
                [y for _, y, *_ in known],
                "-o",
                color=colour[ratio],
                lw=1.4,
                ms=4,
            )
            sure = [
                (x, low, high) for x, _, low, high in known if low is not None and high is not None
            ]
            axes.vlines(
                *zip(*sure, strict=True), color=colour[ratio], lw=1.0, alpha=0.6
            ) if sure else None
        values = [
            point.value for points in guard.points.values() for point in points if point.value
        ]
        if values and max(values) > LOG_FROM * min(values) > 0:
            axes.set_yscale("log")
        axes.set_xticks(range(len(measured)), [f"{strength:g}" for strength in measured])
        axes.set_xlabel("strength")
    for axes in grid.flat[len(shown) :]:
        axes.set_axis_off()
    name_ratios(grid.flat[0], colour)
    key(figure, grid.flat[0], 8 if wide else 3)


def numbers(reports: Sequence[EvalReport]) -> Numbers:
    rows, said = [], []
    for guard in guards(reports):
        for ratio, points in guard.points.items():
            rows += [
                (guard.title, ratio, s, p.value, p.low, p.high)
                for s, p in zip(measured_strengths(reports), points, strict=True)
            ]
        ends = [
            f"{percent(ratio)} {_show(points[0])} to {_show(points[-1])}"
            for ratio, points in guard.points.items()
        ]
        said.append(f"{guard.title}: {', '.join(ends)}")
    alt = f"What steering does to the text, from unsteered to the strongest. {'; '.join(said)}."
    return Numbers(("quantity", "toxic_ratio", "strength", "value", "low", "high"), rows, alt)


def _show(point: RatioPoint) -> str:
    return NOT_MEASURED if point.value is None else f"{point.value:.3g}"
