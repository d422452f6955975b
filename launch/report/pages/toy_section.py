"""section on the toy experiment: its table, its levels, one figure; none without a result

The table is the result: what the experiment shows depends on the estimator of directions, so no
curve stands alone. The figure draws every estimator at the last layer, of the first arm.
"""

from collections.abc import Sequence
from typing import NamedTuple

from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullLocator

from data_prep.core.records import digest
from eval.toy import result_table, toy_result
from eval.toy.config import ToyConfig
from eval.toy.toy_result import ENTANGLEMENT, LENGTH, ToyCell, ToyLevel, ToyResult
from launch.report.figures.palette import INK, SOFT
from launch.report.figures.panels import SMALL
from launch.report.figures.svg_rendering import Area, Drawing, FigureNumbers, FigurePlan, render
from launch.report.tables import MainTable
from launch.report.text.number_format import listed, percent

ROWS = (ENTANGLEMENT, LENGTH)
DOTTED = (0, (2, 3))


class ToyTable(NamedTuple):
    """One result as text."""

    digest: str
    variant: str
    verdicts: list[str]
    facts: str
    arms: list[tuple[str, MainTable]]
    losses: MainTable


def read(root: str) -> list[ToyResult]:
    """The results below an object root, that of the default settings first."""
    default = digest(ToyConfig())
    found = toy_result.read_all(root)
    return [result for name, result in sorted(found, key=lambda one: (one[0] != default, one[0]))]


def tables(results: Sequence[ToyResult]) -> list[ToyTable]:
    """The tables of each result."""
    return [
        ToyTable(
            digest=digest(result.config),
            variant=result_table.variant(result.config),
            verdicts=result_table.verdicts(result),
            facts=result_table.facts(result),
            arms=[
                (
                    arm.name,
                    MainTable(list(result_table.COLUMNS), list(map(result_table.row, arm.cells))),
                )
                for arm in result_table.arms(result)
            ],
            losses=MainTable(list(result_table.LOSS_COLUMNS), result_table.loss_rows(result)),
        )
        for result in results
    ]


def figures(results: Sequence[ToyResult]) -> list[Drawing]:
    """The figure of the first result; it needs no colours but the neutral ones."""
    if not results:
        return []
    result = results[0]
    arm = result_table.arms(result)[0]
    last = max(cell.layer for cell in arm.cells)
    cells = [cell for cell in arm.cells if cell.layer == last]

    def draw(figure: Area, wide: bool) -> None:
        _draw(figure, wide, cells, result)

    level = result.random_level.value
    basis = (
        f"Layer {last}, {arm.name}; means of {result.config.n_seeds} seeds with 95 % t intervals. "
        f"Solid, dots: under-sampled features; dashed, squares: control features. Dotted: random "
        f"directions, {level:.3f}."
    )
    return [render(FigurePlan("toy-experiment", draw, _numbers(cells), (3.4, 8.0), basis), {})]


def _draw(figure: Area, wide: bool, cells: Sequence[ToyCell], result: ToyResult) -> None:
    """Wide: a column per estimator and a row per quantity; narrow: the other way round."""
    shape = (len(ROWS), len(cells)) if wide else (len(cells), len(ROWS))
    grid = figure.subplots(*shape, squeeze=False, sharex=True, sharey="row" if wide else "col")
    for column, cell in enumerate(cells):
        for place, name in enumerate(ROWS):
            axes = grid[place, column] if wide else grid[column, place]
            title = f"{result_table.estimator_name(cell.estimator)}\n{name}"
            axes.set_title(title, fontsize=SMALL, pad=3)
            _draw_levels(axes, cell.quantities[name].levels)
            if name == ENTANGLEMENT:
                axes.axhline(result.random_level.value, color=SOFT, lw=1.0, ls=DOTTED)
    figure.supxlabel(
        "frequency of the under-sampled chain / of another", fontsize=SMALL, color=SOFT
    )


def _draw_levels(axes: Axes, levels: Sequence[ToyLevel]) -> None:
    # the control stands a little to the right, so that bars do not cover each other
    styles = (("under_sampled", INK, "-", "o", 1.0), ("control", SOFT, "--", "s", 1.15))
    for name, colour, line, marker, shift in styles:
        found = [(shift * level.ratio, getattr(level, name)) for level in levels]
        measured = [(x, point) for x, point in found if point.value is not None]
        x = [place for place, _ in measured]
        axes.vlines(
            x,
            [point.low for _, point in measured],
            [point.high for _, point in measured],
            color=colour,
            lw=1.1,
        )
        y = [point.value for _, point in measured]
        axes.plot(x, y, line, marker=marker, color=colour, lw=1.2, ms=3)
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(FuncFormatter(lambda ratio, _: f"{100 * ratio:.4g}\u00a0%"))
    axes.set_xticks([levels[0].ratio, levels[-1].ratio])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_locator(MaxNLocator(4))
    axes.tick_params(labelsize=SMALL)


def _numbers(cells: Sequence[ToyCell]) -> FigureNumbers:
    rows = []
    parts = []
    for cell in cells:
        for name in ROWS:
            levels = cell.quantities[name].levels
            for level in levels:
                for group in ("under_sampled", "control"):
                    point = getattr(level, group)
                    place = (cell.estimator, cell.layer, name, group, level.ratio)
                    rows.append((*place, point.value, point.low, point.high))
            ends = [
                f"{level.under_sampled.value:.3f} (control {level.control.value:.3f}) at "
                f"{percent(level.ratio)}"
                for level in (levels[0], levels[-1])
                if level.under_sampled.value is not None and level.control.value is not None
            ]
            words = listed(ends) if ends else "not measured"
            parts.append(f"{result_table.estimator_name(cell.estimator)}, {name}: {words}")
    alt = f"Toy experiment, under-sampled features. {'; '.join(parts)}."
    columns = ("estimator", "layer", "quantity", "features", "ratio", "value", "low", "high")
    return FigureNumbers(columns, rows, alt)
