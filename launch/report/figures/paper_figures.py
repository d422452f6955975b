"""the paper's Figures 4 and 6 in a sweep's data: benchmarks, toxicity of every prompt set"""

import math
from collections.abc import Mapping, Sequence
from functools import partial

from matplotlib.axes import Axes

from eval.stats.estimate_with_interval import Estimate
from launch.report.analysis.evaluation_view import EvaluationView
from launch.report.analysis.per_ratio_series import (
    RatioPoint,
    by_ratio,
    measured_strengths,
    toxicity_at,
)
from launch.report.figures.axes import (
    MARKERS,
    line_with_intervals,
    ratio_axis,
    strength_name,
    values_by_ratio,
)
from launch.report.figures.palette import INK, SOFT, strength_colours
from launch.report.figures.side_effects import baseline
from launch.report.figures.svg_rendering import (
    Area,
    FigureNumbers,
    FigurePlan,
    LineLabel,
    label_lines,
)
from launch.report.text import display_names, figure_notes

PANEL_WIDE, PANEL_NARROW = 2.4, 2.3  # inches, height of a panel
DOTTED = (0, (2, 3))

Views = Sequence[EvaluationView]


def figures(by_set: Sequence[Views]) -> list[FigurePlan]:
    """Benchmarks by ratio, if any was asked; toxicity by ratio of each prompt set and scorer, if
    there are several: of one, the main figure shows it.

    by_set: the views of all runs, of each prompt set by each scorer.
    """
    plans = []
    accuracies = benchmark_accuracies(by_set[0])
    if accuracies:
        plans.append(
            FigurePlan(
                name="benchmarks-by-ratio",
                draw=partial(benchmarks_by_ratio, reports=by_set[0], accuracies=accuracies),
                numbers=benchmark_numbers(by_set[0], accuracies),
                heights=_heights(len(accuracies)),
                basis=figure_notes.benchmarks(by_set[0]),
            )
        )
    if len(by_set) > 1:
        plans.append(_plan_of_prompt_sets(by_set))
    return plans


def _plan_of_prompt_sets(by_set: Sequence[Views]) -> FigurePlan:
    return FigurePlan(
        name="toxicity-by-prompt-set",
        draw=partial(toxicity_by_prompt_set, by_set=by_set),
        numbers=prompt_set_numbers(by_set),
        heights=_heights(len(by_set)),
        basis=figure_notes.prompt_sets(by_set),
    )


def _heights(n_panels: int) -> tuple[float, float]:
    return PANEL_WIDE * math.ceil(n_panels / 2), PANEL_NARROW * n_panels


def _panels(figure: Area, wide: bool, n: int) -> list[Axes]:
    """`n` panels, two side by side where the page is wide."""
    n_columns = min(n, 2) if wide else 1
    grid = list(figure.subplots(math.ceil(n / n_columns), n_columns, squeeze=False).flat)
    for axes in grid[n:]:
        axes.set_axis_off()
    return grid[:n]


def benchmark_accuracies(reports: Views) -> dict[str, list[RatioPoint]]:
    """Accuracy of the plain, unsteered models by ratio, of each benchmark."""
    names = sorted({name for report in reports for name in report.steered[0].accuracy})

    def read(name: str, report: EvaluationView) -> Estimate | None:
        return report.steered[0].accuracy.get(name)

    return {name: by_ratio(reports, partial(read, name)) for name in names}


def benchmarks_by_ratio(
    figure: Area, wide: bool, reports: Views, accuracies: Mapping[str, Sequence[RatioPoint]]
) -> None:
    """A panel per benchmark: accuracy of the unsteered models and, dotted, what needs no model:
    chance, or the majority class of a detection.
    """
    panels = _panels(figure, wide, len(accuracies))
    for axes, (name, points) in zip(panels, accuracies.items(), strict=True):
        axes.set_title(display_names.benchmark(name))
        line_with_intervals(axes, points, INK, "o")
        ratio_axis(axes, reports)
        level = baseline(name, reports[0].benchmarks)
        if level is not None:
            facts = reports[0].benchmarks[name.partition(" ")[0]]
            is_majority = facts.form == "detection" and " " not in name
            axes.axhline(level, color=SOFT, lw=1.0, ls=DOTTED)
            label_lines(axes, [LineLabel(level, "majority" if is_majority else "chance", SOFT)])


def benchmark_numbers(
    reports: Views, accuracies: Mapping[str, Sequence[RatioPoint]]
) -> FigureNumbers:
    rows = []
    parts = []
    for name, points in accuracies.items():
        level = baseline(name, reports[0].benchmarks)
        rows += [(name, p.realised, p.value, p.low, p.high, level) for p in points]
        values = values_by_ratio(((p.ratio, p.value) for p in points), 3)
        by_chance = "" if level is None else f" (without a model {level:.3f})"
        parts.append(f"{display_names.benchmark(name)}{by_chance}: {values}")
    columns = ("benchmark", "toxic_ratio", "accuracy", "low", "high", "without_model")
    return FigureNumbers(columns, rows, f"Accuracy of the unsteered models. {'; '.join(parts)}.")


def toxicity_by_prompt_set(figure: Area, wide: bool, by_set: Sequence[Views]) -> None:
    """A panel per prompt set and scorer: toxicity by ratio, unsteered and at each strength."""
    panels = _panels(figure, wide, len(by_set))
    for axes, reports in zip(panels, by_set, strict=True):
        strengths = measured_strengths(reports)
        labels = []
        for i, (strength, colour) in enumerate(
            zip(strengths, strength_colours(strengths), strict=True)
        ):
            points = by_ratio(reports, toxicity_at(strength))
            marker = MARKERS[i % len(MARKERS)]
            end = line_with_intervals(axes, points, colour.light, marker, band=False)
            name = "unsteered" if strength == 0 else f"α = {strength:g}"
            labels += [] if end is None else [LineLabel(end, name, colour.light)]
        axes.set_title(panel_title(reports[0]))
        ratio_axis(axes, reports)
        axes.set_ylim(bottom=min(0.0, axes.get_ylim()[0]))
        label_lines(axes, labels)


def panel_title(report: EvaluationView) -> str:
    """'prompts toxigen, scorer 1'; the note below the figure has the scorers' names."""
    return f"prompts: {report.prompt_set}; scorer {report.scorer + 1}"


def prompt_set_numbers(by_set: Sequence[Views]) -> FigureNumbers:
    rows = []
    parts = []
    for reports in by_set:
        first = reports[0]
        for strength in measured_strengths(reports):
            points = by_ratio(reports, toxicity_at(strength))
            place = (first.prompt_set, first.scorer_id, strength)
            rows += [(*place, p.realised, p.value, p.low, p.high) for p in points]
            values = values_by_ratio(((p.ratio, p.value) for p in points), 1)
            parts.append(f"{panel_title(first)}, {strength_name(strength)}: {values}")
    columns = ("prompt_set", "scorer", "strength", "toxic_ratio", "toxicity", "low", "high")
    return FigureNumbers(columns, rows, f"Toxicity of each prompt set. {'; '.join(parts)}.")
