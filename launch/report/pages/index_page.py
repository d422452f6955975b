"""report of a sweep: the comparison of all ratios as pages, figures and data files

Written below `<root>/report/`: index.html, which needs no other file and no network; data.html
beside it, the data cards of the streams (data_page.py); summary.html and summary.md, all of it on
one page; figures/ as SVG and PNG for print and slides, each with its numbers; results.json with
every number, its n, interval and unit; results.csv with a row per run and strength. The pages hold
no date and no random id, so the same records give the same bytes.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, get_args

from data_prep.cards.data_card import DataCard
from data_prep.core import storage
from data_prep.core.errors import ArtefactMissing
from data_prep.core.records import digest, to_json
from eval.eval_report import EvalReport, Lens, check_comparable, eval_uri
from eval.stats import intervals
from eval.steering.per_item_results import ItemTable
from launch.experiment import Experiment
from launch.report import condition_table, html_rendering, results_files, tables
from launch.report.analysis import (
    comparisons,
    evaluation_view,
    head_accuracy_tails,
    paper_reference,
    per_ratio_series,
    sweep_items,
)
from launch.report.analysis.comparisons import Comparisons
from launch.report.analysis.evaluation_view import EvaluationView
from launch.report.analysis.sweep_curves import SweepCurves
from launch.report.figures import (
    axes,
    head_distributions,
    paper_figures,
    probe_heads,
    side_effects,
    toxicity_by_cost,
    toxicity_by_ratio,
    training_curves,
)
from launch.report.figures.svg_rendering import Drawing, render
from launch.report.mask_slurs import masking
from launch.report.pages import data_page, prompt_set_page, summary_page, toy_section
from launch.report.pages.toy_section import ToyTable
from launch.report.results_files import FinishedRun
from launch.report.tables import MainTable
from launch.report.text import choices_vs_paper, display_names, text_overlap, text_sets
from launch.report.text.findings import findings, prompts_needed
from launch.report.text.number_format import listed, percent, value_range
from training.config import Arm
from training.run_record import RunRecord, run_uri

N_SAMPLES = 3  # prompts shown per ratio

Run = tuple[RunRecord, EvalReport]
Cards = dict[str, DataCard]


class Extras(NamedTuple):
    """What the page shows beside the views: overlap of texts with streams, table of conditions,
    results of the toy experiment."""

    overlaps: Sequence[str]
    conditions: MainTable | None
    toy: Sequence[ToyTable] = ()


def write(root: str, experiment: Experiment, runs: Sequence[Run], cards: Cards) -> str:
    """Write the report of `runs` below `root`/report and return the URI of its page.

    The plain arm is compared; runs of the other arms are listed. Raises ArtefactMissing if there is
    no run to report, ArtefactCorrupt if the runs were evaluated with different prompts or scorers.
    """
    if all(record.config.arm != "plain" for record, _ in runs):
        raise ArtefactMissing(
            f"{root}: no run of {experiment.name!r} is trained and evaluated; run launch/sweep.py "
            "without --only"
        )
    reports = [report for _, report in runs]
    check_comparable(reports)
    first, *other_sets = sorted(reports[0].config.prompts)
    results = {
        "conditions": condition_table.numbers(reports),
        "other_prompt_sets": {
            name: prompt_set_page.write(root, experiment, _views(runs, name), cards)
            for name in other_sets
        },
    }
    plain = [report for report in reports if report.arm == "plain"]
    return write_views(
        root,
        experiment,
        _views(runs, first),
        cards,
        by_set=_views_by_set(plain),
        conditions=condition_table.condition_table(reports),
        results=results,
    )


def _views(runs: Sequence[Run], prompt_set: str) -> list[FinishedRun]:
    """What each run shows on one prompt set."""
    return [
        FinishedRun(record, evaluation_view.view(report, prompt_set)) for record, report in runs
    ]


def _views_by_set(reports: Sequence[EvalReport]) -> list[list[EvaluationView]]:
    """The views of each prompt set by each scorer, ratios ascending."""
    ordered = sorted(reports, key=lambda report: (report.toxic_ratio, report.seed))
    return [
        [evaluation_view.view(report, name, scorer) for report in ordered]
        for scorer in range(len(ordered[0].scorer_ids))
        for name in sorted(ordered[0].config.prompts)
    ]


def write_views(
    root: str,
    experiment: Experiment,
    runs: Sequence[FinishedRun],
    cards: Cards,
    *,
    by_set: Sequence[Sequence[EvaluationView]] = (),
    conditions: MainTable | None = None,
    results: Mapping[str, Any] | None = None,
) -> str:
    """Write the report of these views of the runs, and return the URI of its page.

    by_set: the views of all plain runs of each prompt set by each scorer; by default only `runs`.
    results: more entries of results.json.
    """
    measured, others = map(_in_order, _by_arm(runs))
    folder = storage.join(root, "report")
    items = _read_items(root, measured)
    finished = _with_early_ends(measured, items)
    beside = _with_early_ends(others, _read_items(root, others))
    reports = [run.report for run in finished]
    heads = [head_accuracy_tails.read(run_folder(root, run), run.report.config) for run in finished]
    compared = comparisons.compare(reports, items, heads)
    toy_results = toy_section.read(root)
    drawings = draw_figures(root, finished, compared, by_set or [reports])
    drawings += toy_section.figures(toy_results)
    html_rendering.save_figures(folder, drawings)
    data_page.write(root, experiment, cards, with_comparison=True)
    sentences = findings(reports, compared)
    numbers = results_files.results(experiment, [*finished, *beside], compared, sentences)
    storage.save(numbers | dict(results or {}), storage.join(folder, "results.json"))
    rows = results_files.results_csv([*finished, *beside], compared)
    storage.write(storage.join(folder, "results.csv"), rows.encode())
    main_table = tables.main_table(reports, compared, tables.doses(finished, cards))
    summary = summary_page.summarize(experiment, finished, sentences, main_table)
    main_figure = next(drawing for drawing in drawings if drawing.name == summary_page.FIGURE)
    summary_page.write(folder, summary, finished, main_figure)
    uri = storage.join(folder, "index.html")
    overlaps = text_overlap.lines(text_overlap.read(root, experiment))
    shown = Extras(overlaps, conditions, toy_section.tables(toy_results))
    html = page(experiment, [*finished, *beside], cards, drawings, compared, shown)
    storage.write(uri, html.encode())
    return uri


def _by_arm(runs: Sequence[FinishedRun]) -> tuple[list[FinishedRun], list[FinishedRun]]:
    """The runs of the plain arm, which the report compares, and those of all other arms."""
    plain = [run for run in runs if run.record.config.arm == "plain"]
    return plain, [run for run in runs if run.record.config.arm != "plain"]


def _in_order(runs: Iterable[FinishedRun]) -> list[FinishedRun]:
    return sorted(
        runs,
        key=lambda run: (
            get_args(Arm).index(run.record.config.arm),
            run.report.toxic_ratio,
            run.report.seed,
        ),
    )


def _with_early_ends(runs: Sequence[FinishedRun], items: Sequence[ItemTable]) -> list[FinishedRun]:
    return [
        FinishedRun(run.record, sweep_items.with_early_ends(run.report, table))
        for run, table in zip(runs, items, strict=True)
    ]


def _read_items(root: str, runs: Sequence[FinishedRun]) -> list[ItemTable]:
    return [
        sweep_items.read(eval_uri(run_folder(root, run), run.report.config), run.report)
        for run in runs
    ]


def run_folder(root: str, run: FinishedRun) -> str:
    return run_uri(root, run.record.config.run_id)


def draw_figures(
    root: str,
    runs: Sequence[FinishedRun],
    compared: Comparisons | None,
    by_set: Sequence[Sequence[EvaluationView]],
) -> list[Drawing]:
    """All figures, in the page's order; by_set: as of `write_views`."""
    reports = [run.report for run in runs]
    curves = SweepCurves(reports, compared)
    plans = [
        *toxicity_by_ratio.figures(curves),
        *toxicity_by_cost.figures(curves),
        *paper_figures.figures(by_set),
        *side_effects.figures(reports, compared),
        *probe_heads.figures(reports),
        *head_distributions.figures(reports, compared),
        *training_curves.figures(
            [training_curves.read_training_curve(root, run.record) for run in runs]
        ),
    ]
    colours = axes.palette(reports)
    return [render(plan, colours) for plan in plans]


def page(
    experiment: Experiment,
    runs: Sequence[FinishedRun],
    cards: Cards,
    drawings: Sequence[Drawing],
    compared: Comparisons | None,
    extras: Extras | None = None,
) -> str:
    """The HTML text. Every string from a record is escaped; only the drawings are trusted."""
    plain, others = _by_arm(runs)
    finished = _in_order(plain)
    reports = [run.report for run in finished]
    return html_rendering.template("report.html.j2").render(
        experiment=experiment,
        runs=finished,
        other_arms=_in_order(others),
        cards=cards,
        drawings={drawing.name: drawing for drawing in drawings},
        colours=axes.palette(reports),
        findings=findings(reports, compared),
        compared=compared,
        overlaps=extras.overlaps if extras else (),
        conditions=extras.conditions if extras else None,
        toy=extras.toy if extras else (),
        **_tables(finished, cards, compared),
        missing=_missing(experiment, runs),
        **_notes(experiment, finished, compared),
        **_details(reports),
    )


def _tables(
    runs: Sequence[FinishedRun], cards: Cards, compared: Comparisons | None
) -> dict[str, Any]:
    reports = [run.report for run in runs]
    strength_rows = tables.strength_rows(reports, compared)
    return {
        "main_table": tables.main_table(reports, compared, tables.doses(runs, cards)),
        "strengths": per_ratio_series.measured_strengths(reports),
        "steered_at": per_ratio_series.steered_at,
        "cost_of": _cost_of,
        "strength_rows": strength_rows,
        "planned": next((row.planned for row in strength_rows if row.planned), []),
        "removal_rows": tables.removal_rows(compared),
        "equal_cost_rows": tables.equal_cost_rows(compared),
        "head_probe_rows": tables.head_probe_rows(compared),
        "heads_above_by_seed": tables.heads_above_by_seed(compared),
        "control_rows": tables.control_rows(reports, compared),
        "paper_probes": paper_reference.PROBES,
        "paper_differs": paper_reference.WHAT_DIFFERS,
    }


def _cost_of(report: EvaluationView, strength: float) -> float | None:
    """Cross-entropy at a strength minus unsteered, of one run."""
    return next(iter(per_ratio_series.cross_entropy_rises([report], strength)), None)


def _missing(experiment: Experiment, runs: Sequence[FinishedRun]) -> list[str]:
    """The planned runs that are not trained and evaluated, or not under all conditions and in all
    benchmarks, as the page names them.
    """
    wanted = {*experiment.eval.conditions, *experiment.eval.benchmarks}
    lacking = {
        (record.config.arm, record.config.toxic_ratio, record.config.seed): sorted(
            wanted - {*report.config.conditions, *report.config.benchmarks}
        )
        for record, report in runs
    }
    missing = []
    for run in experiment.runs():
        name = (
            f"{'' if run.arm == 'plain' else f'{run.arm} '}{percent(run.toxic_ratio)} "
            f"(seed {run.seed})"
        )
        lacks = lacking.get((run.arm, run.toxic_ratio, run.seed))
        if lacks is None:
            missing.append(name)
        elif lacks:
            missing.append(f"{listed(lacks)} of {name}")
    return missing


def _notes(
    experiment: Experiment, runs: Sequence[FinishedRun], compared: Comparisons | None
) -> dict[str, Any]:
    """Single values that the page's text and captions name."""
    reports = [run.report for run in runs]
    held_out = {part.stream for run in runs for part in run.record.held_out}
    config = reports[0].config
    first, *other_sets = sorted(config.prompts)
    return {
        "prompt_set": first,
        "other_sets": other_sets,
        "confidence": intervals.CONFIDENCE,
        "experiment_digest": digest(experiment),
        "settings": to_json(experiment),
        "has_several_seeds": len(reports) > len(axes.ratios(reports)),
        "most_repeated": max(run.record.toxic_epochs for run in runs),
        "largest_ratio_error": max(abs(r.realised_toxic_ratio - r.toxic_ratio) for r in reports),
        "compared_cost": SweepCurves(reports, compared).compared_cost,
        "own_costs": SweepCurves(reports, compared).own_costs,
        "hypervolumes": tables.hypervolumes(compared),
        "prompts_needed": prompts_needed(compared),
        "majority": value_range([report.probes.majority_accuracy for report in reports], 3),
        "direction": display_names.DIRECTIONS[config.probing.direction],
        "scorer": display_names.scorer(config.scoring.scorer),
        "cost_text": display_names.cost_text(per_ratio_series.cost_text(reports)),
        "scorer_ids": sorted({report.scorer_id for report in reports}),
        "judge": display_names.judge(reports[0].fluency_id),
        "held_out_streams": sorted(held_out),
        "benchmarks": results_files.benchmark_names(runs),
        "choices": choices_vs_paper.choices(experiment, *runs[0]),
    }


class MaskedSample(NamedTuple):
    """A prompt and its (strength, continuation) pairs, with slurs masked."""

    prompt: str
    continuations: list[tuple[float, str]]


class MaskedTokens(NamedTuple):
    """The tokens that a group of heads writes towards toxic and benign text, with slurs masked."""

    lens: Lens
    toxic: str
    benign: str


def _details(reports: Sequence[EvaluationView]) -> dict[str, Any]:
    """What the page quotes: words of label fields, and of each ratio the first seed's samples and
    tokens.
    """
    first = {report.toxic_ratio: report for report in reversed(reports)}
    sampled = [first[ratio] for ratio in sorted(first) if first[ratio].samples]
    first_read = {report.toxic_ratio: report for report in reversed(reports) if report.probes.lens}
    read = [first_read[ratio] for ratio in sorted(first_read)]
    quoted = [text for report in sampled for text in _sample_texts(report)]
    quoted += [token for report in read for lens in report.probes.lens for token in _tokens(lens)]
    quoted += text_sets.words(reports)
    masked = masking(quoted)
    return {
        "samples": [(report, _masked_samples(report, masked)) for report in sampled],
        "tokens": [(report, _masked_tokens(report, masked)) for report in read],
        "texts_read": text_sets.lines(reports, masked),
        "entangled": [report for report in reports if report.probes.entanglement],
    }


def _sample_texts(report: EvaluationView) -> list[str]:
    samples = report.samples[:N_SAMPLES]
    return [text for sample in samples for text in (sample.prompt, *sample.continuations)]


def _tokens(lens: Lens) -> list[str]:
    return [*lens.toxic_tokens, *lens.benign_tokens]


def _masked_samples(report: EvaluationView, masked: Callable[[str], str]) -> list[MaskedSample]:
    strengths = [steered.strength for steered in report.steered]
    return [
        MaskedSample(
            prompt=masked(sample.prompt),
            continuations=list(zip(strengths, map(masked, sample.continuations), strict=True)),
        )
        for sample in report.samples[:N_SAMPLES]
    ]


def _masked_tokens(report: EvaluationView, masked: Callable[[str], str]) -> list[MaskedTokens]:
    def line(tokens: Sequence[str]) -> str:
        return " · ".join(filter(None, (masked(token).strip() for token in tokens)))

    return [
        MaskedTokens(lens, line(lens.toxic_tokens), line(lens.benign_tokens))
        for lens in report.probes.lens
    ]
