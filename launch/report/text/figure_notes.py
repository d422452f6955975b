"""notes below figures: n, unit, scorer, intervals, and the text that costs are measured on"""

from collections.abc import Iterable, Sequence

from eval.stats import intervals
from launch.report.analysis.comparisons import Comparisons
from launch.report.analysis.evaluation_view import EvaluationView
from launch.report.analysis.per_ratio_series import cost_text
from launch.report.text import display_names
from launch.report.text.number_format import percent, value_range


def models(ratios: Sequence[float]) -> str:
    """'2 models per share', of the ratios of all models."""
    counts = [ratios.count(ratio) for ratio in set(ratios)]
    return f"{value_range(counts, 0)} model{'s' if max(counts) > 1 else ''} per share"


def toxicity(reports: Sequence[EvaluationView], compared: Comparisons | None) -> str:
    """Of a figure of the continuations' toxicity."""
    n = (
        compared.n_prompts
        if compared
        else _most(row.toxicity.n for r in reports for row in r.steered)
    )
    first = reports[0]
    return (
        f"n = {n:,} prompts of the set {first.prompt_set}, {_models(reports)}; unit: mean score × "
        f"100 by the scorer {first.scorer_id}; bars: {percent(intervals.CONFIDENCE)} intervals."
    )


def cost(reports: Sequence[EvaluationView]) -> str:
    """Of a figure that shows a cost, behind another note."""
    name = cost_text(reports)
    estimates = [row.cross_entropy.get(name) for r in reports for row in r.steered]
    n = _most(estimate.n for estimate in estimates if estimate)
    return (
        f"Cost: cross-entropy on {display_names.cost_text(name)}, nats per token, n = {n:,} "
        "sequences."
    )


def probes(reports: Sequence[EvaluationView]) -> str:
    """Of a figure of head probes."""
    first = reports[0].probes
    n_heads = sum(map(len, first.head_accuracy))
    majority = value_range([report.probes.majority_accuracy for report in reports], 3)
    return (
        f"n = {first.n_rows['test']:,} test rows of the set {reports[0].config.steering_probes}, "
        f"{n_heads:,} heads per model, {_models(reports)}; unit: accuracy, share of rows; majority "
        f"class {majority}."
    )


def prompt_sets(by_set: Sequence[Sequence[EvaluationView]]) -> str:
    """Of the figure of every prompt set and scorer."""
    firsts = [reports[0] for reports in by_set]
    sizes = {first.prompt_set: first.steered[0].toxicity.n for first in firsts}
    n = ", ".join(f"{n:,} of {name}" for name, n in sizes.items())
    scorers = {first.scorer: first.scorer_id for first in firsts}
    named = ", ".join(f"{i + 1} {scorer_id}" for i, scorer_id in sorted(scorers.items()))
    return (
        f"n prompts = {n}; {_models(by_set[0])}; unit: mean score × 100; scorers: {named}; bars: "
        f"{percent(intervals.CONFIDENCE)} intervals, without empty continuations."
    )


def benchmarks(reports: Sequence[EvaluationView]) -> str:
    """Of the figure of benchmarks, unsteered."""
    n = _most(e.n for report in reports for e in report.steered[0].accuracy.values())
    return (
        f"n = {n:,} questions per benchmark at most, {_models(reports)}; unit: accuracy, share of "
        f"right answers; bands: {percent(intervals.CONFIDENCE)} intervals; unsteered."
    )


def side_effects(reports: Sequence[EvaluationView]) -> str:
    """Of the figure of what steering removes and changes."""
    n = _most(row.toxicity.n for report in reports for row in report.steered)
    benchmarks = _most(e.n for r in reports for row in r.steered for e in row.accuracy.values())
    questions = f" and {benchmarks:,} questions per benchmark" if benchmarks else ""
    return (
        f"n = {n:,} prompts of the set {reports[0].prompt_set}{questions}, {_models(reports)}; "
        f"unit: that of the panel; toxicity by the scorer {reports[0].scorer_id}; bars: "
        f"{percent(intervals.CONFIDENCE)} intervals."
    )


def losses(ratios: Sequence[float]) -> str:
    """Of a figure of training, with a line per model."""
    return f"n = {len(ratios)} models, {models(ratios)}; unit: nats per token."


def emergence(ratios: Sequence[float], n_windows: int) -> str:
    """Of the figure of the attribute's emergence."""
    return (
        f"n = {n_windows:,} held-out windows per point, {models(ratios)}; unit: AUROC, chance 0.5; "
        f"bands: {percent(intervals.CONFIDENCE)} intervals (Hanley and McNeil)."
    )


def _models(reports: Sequence[EvaluationView]) -> str:
    return models([report.toxic_ratio for report in reports])


def _most(counts: Iterable[int]) -> int:
    return max(counts, default=0)
