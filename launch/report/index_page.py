"""the comparison of all ratios: one HTML file, figures, tables, data

Written below `<root>/report/`: index.html, which needs no other file and no network; data.html
beside it, the data cards of the streams (data_page.py); summary.html and summary.md, all of it on
one page; figures/ as SVG and PNG for print and slides, each with its numbers; results.json with
every number, its n, interval and unit; results.csv with one row for each run and strength. The
pages have no date and no random id, so the same records give the same bytes.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from data_prep.core import storage
from data_prep.core.errors import ArtefactMissing
from data_prep.core.records import digest, to_json
from data_prep.token_stream.data_card import DataCard
from eval.eval_report import EvalReport, Lens, check_comparable, eval_uri
from eval.stats import intervals
from eval.steering import per_item_results
from launch.experiment import Experiment
from launch.report import (
    data_page,
    html_rendering,
    mask_slurs,
    results_files,
    summary_page,
)
from launch.report.analysis import comparisons, head_tails, paper_reference, per_ratio_series
from launch.report.analysis.comparisons import Comparisons
from launch.report.figures import axes, probe_heads, side_effects, toxicity_curves, training_curves
from launch.report.figures.svg_rendering import Drawing, Numbers, render
from launch.report.figures.toxicity_curves import Curves
from launch.report.figures.training_curves import Curve, curve
from launch.report.results_files import Run, benchmarks
from launch.report.text import choices_vs_paper, display_names, findings, paired_findings
from training.run_record import run_uri

N_SAMPLES = 3  # prompts shown for each run


def write(
    root: str, experiment: Experiment, runs: Sequence[Run], cards: dict[str, DataCard]
) -> str:
    """Write the report of `runs` below `root`/report and return the URI of its page.

    Raises ArtefactMissing when there is no run to report, ArtefactCorrupt when they met other
    prompts or another scorer.
    """
    if not runs:
        raise ArtefactMissing(
            f"{root}: no run of {experiment.name!r} is trained and evaluated; run launch/sweep.py without --only"
        )
    runs = sorted(runs, key=lambda run: (run[1].toxic_ratio, run[1].seed))
    check_comparable([report for _, report in runs])
    folder = storage.join(root, "report")
    tables = [
        per_item_results.read(eval_uri(run_uri(root, record.config.run_id), report.config))
        for record, report in runs
    ]
    heads = [
        head_tails.read(run_uri(root, record.config.run_id), report.config)
        for record, report in runs
    ]
    compared = comparisons.compare([report for _, report in runs], tables, heads)
    drawn = drawings(
        runs, [curve(root, record, intervals.CONFIDENCE) for record, report in runs], compared
    )
    html_rendering.save_figures(folder, drawn)
    data_page.write(root, experiment, cards, compared=True)
    storage.save(
        results_files.everything(experiment, runs, compared), storage.join(folder, "results.json")
    )
    storage.write(storage.join(folder, "results.csv"), results_files.table(runs).encode())
    summary_page.write(folder, experiment, runs, drawn, compared)
    uri = storage.join(folder, "index.html")
    storage.write(uri, page(experiment, runs, cards, drawn, compared).encode())
    return uri


def page(
    experiment: Experiment,
    runs: Sequence[Run],
    cards: dict[str, DataCard],
    drawn: Sequence[Drawing],
    compared: Comparisons | None,
) -> str:
    """The HTML text. Every string from a record is escaped; only the drawings are trusted."""
    reports = [report for _, report in runs]
    rows, said = paired_findings.rows(reports, compared), results_files.said(runs, compared)
    return html_rendering.template("report.html.j2").render(
        experiment=experiment,
        experiment_digest=digest(experiment),
        runs=runs,
        cards=cards,
        drawings={drawing.name: drawing for drawing in drawn},
        colours=axes.colours(reports),
        n_ratios=len(axes.ratios(reports)),
        strengths=per_ratio_series.measured_strengths(reports),
        at=per_ratio_series.steered_at,
        cost=lambda report, strength: next(
            iter(per_ratio_series.cross_entropy_rises([report], strength)), None
        ),
        findings=said[:-1],
        caveat=said[-1],
        rows=rows,
        planned=next((row.planned for row in rows if row.planned), []),
        comparisons=compared,
        at_costs=paired_findings.at_costs(compared) if compared else [],
        paired=paired_findings.sentences(compared) if compared else [],
        of_heads=paired_findings.of_heads(compared) if compared else [],
        by_seed=paired_findings.by_seed(compared) if compared else "",
        level_of_cost=toxicity_curves.Curves(reports, compared).level,
        hypervolumes=toxicity_curves.hypervolumes(compared),
        direction=display_names.DIRECTIONS[reports[0].config.probing.direction],
        beside=paper_reference.compare_with_paper(reports),
        what_differs=paper_reference.WHAT_DIFFERS,
        paper_probes=paper_reference.PROBES,
        choices=choices_vs_paper.choices(experiment, *runs[0]),
        missing=[
            (ratio, seed)
            for ratio in experiment.ratios
            for seed in experiment.seeds
            if not any(report.toxic_ratio == ratio and report.seed == seed for report in reports)
        ],
        most_repeated=max(record.toxic_epochs for record, _ in runs),
        furthest=max(abs(report.realised_toxic_ratio - report.toxic_ratio) for report in reports),
        benchmarks=benchmarks(runs),
        judge=display_names.judge(reports[0].fluency_id),
        controls=findings.control_changes(reports),
        held_out_streams=sorted(
            {held_out.stream for record, _ in runs for held_out in record.held_out}
        ),
        scorer=display_names.scorer(reports[0].config.scoring.scorer),
        scorers=sorted({report.scorer_id for report in reports}),
        samples=_samples(reports),
        written=_written(reports),
        entangled=[report for report in reports if report.entanglement],
        settings=to_json(experiment),
        confidence=intervals.CONFIDENCE,
    )


def drawings(
    runs: Sequence[Run], curves: Sequence[Curve], compared: Comparisons | None
) -> list[Drawing]:
    """The drawings in the page's order; their heights in inches, wide and narrow."""
    reports = [report for _, report in runs]
    both = Curves(reports, compared)
    n, taller = len(axes.ratios(reports)), 1.9 if both.matched else 0.0
    maps = -(-n // probe_heads.MAPS_WIDE), -(-n // probe_heads.MAPS_NARROW)
    panels = -(-n // training_curves.EMERGENCE_WIDE), -(-n // training_curves.EMERGENCE_NARROW)
    guards = side_effects.guards(reports)
    heights = (
        0.7 + 2.2 * -(-len(guards) // side_effects.in_a_row(len(guards) or 1)),
        0.7 + 2.0 * len(guards),
    )
    guarded = ("guards", side_effects.draw, side_effects.numbers(reports), reports, heights)
    plan: list[tuple[str, Callable[..., None], Numbers, Any, tuple[float, float]]] = [
        (
            "toxicity-by-ratio",
            toxicity_curves.toxicity_by_ratio,
            toxicity_curves.by_ratio_numbers(both),
            both,
            (3.9 + taller, 3.7 + taller),
        ),
        (
            "toxicity-by-cost",
            toxicity_curves.toxicity_by_cost,
            toxicity_curves.by_cost_numbers(both),
            both,
            (4.1, 7.0 if both.zoomed else 4.6),
        ),
        *([guarded] if guards else []),
        (
            "probe-accuracy",
            probe_heads.probe_accuracy,
            probe_heads.accuracy_numbers(reports),
            reports,
            (3.4, 3.2),
        ),
        (
            "head-spread",
            probe_heads.head_spread,
            probe_heads.head_numbers(reports),
            reports,
            (3.1, 7.4),
        ),
        (
            "head-maps",
            probe_heads.head_maps,
            probe_heads.head_numbers(reports),
            reports,
            (1.0 + 1.3 * maps[0], 1.1 + 1.35 * maps[1]),
        ),
        (
            "losses",
            training_curves.losses,
            training_curves.losses_numbers(curves),
            curves,
            (3.2, 7.0),
        ),
    ]
    if any(curve.probe for curve in curves):
        heights = (0.5 + 1.6 * panels[0], 0.5 + 1.5 * panels[1])
        plan.append(
            (
                "emergence",
                training_curves.emergence,
                training_curves.emergence_numbers(curves),
                curves,
                heights,
            )
        )
    palette = axes.colours(reports)
    return [
        render(name, partial(_draw, draw, data), numbers, heights, palette)
        for name, draw, numbers, data, heights in plan
    ]


def _draw(draw: Callable[..., None], data: Any, figure: Any, wide: bool) -> None:
    draw(figure, wide, data)


def _samples(
    reports: Sequence[EvalReport],
) -> list[tuple[EvalReport, list[tuple[str, list[tuple[float, str]]]]]]:
    """The first seed of each ratio with a few masked prompts and their masked continuations by
    strength.
    """
    first = {report.toxic_ratio: report for report in reversed(reports)}
    chosen = [(first[ratio], first[ratio].samples[:N_SAMPLES]) for ratio in sorted(first)]
    texts = [
        text
        for _, samples in chosen
        for sample in samples
        for text in (sample.prompt, *sample.continuations)
    ]
    hide = partial(mask_slurs.mask, is_slur=mask_slurs.slurs(texts).__contains__)
    shown = []
    for report, samples in chosen:
        asked = [steered.strength for steered in report.steered]
        masked = [
            (hide(sample.prompt), list(zip(asked, map(hide, sample.continuations), strict=True)))
            for sample in samples
        ]
        shown += [(report, masked)] if masked else []
    return shown


def _written(reports: Sequence[EvalReport]) -> list[tuple[EvalReport, list[tuple[Lens, str, str]]]]:
    """The first seed of each ratio with the masked tokens, towards toxic and benign, that each
    group of its heads writes.
    """
    first = {report.toxic_ratio: report for report in reversed(reports) if report.lens}
    slurs = mask_slurs.slurs(
        t
        for report in first.values()
        for one in report.lens
        for t in (*one.toxic_tokens, *one.benign_tokens)
    )

    def line(of: Sequence[str]) -> str:
        return " · ".join(
            filter(None, (mask_slurs.mask(token, slurs.__contains__).strip() for token in of))
        )

    return [
        (
            first[ratio],
            [(one, line(one.toxic_tokens), line(one.benign_tokens)) for one in first[ratio].lens],
        )
        for ratio in sorted(first)
    ]
