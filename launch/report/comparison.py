"""the comparison of all ratios: one HTML file, figures, tables, data

Written below `<root>/report/`: index.html, which needs no other file and no network; data.html beside it, the data cards of
the streams (data_page.py); summary.html and summary.md, all of it on one page; figures/ as SVG and PNG for print and slides, each
with its numbers; results.json with every number, its n, interval and unit; results.csv with one row for each run and strength.
The pages have no date and no random id, so the same records give the same bytes.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from data_prep import storage
from data_prep.card import Card
from data_prep.records import ArtefactMissing, digest, to_json
from eval import items
from eval.record import EvalReport, Lens, check_comparable
from launch.experiment import Experiment
from launch.report import (
    axes,
    choices,
    contrasts,
    data_page,
    figures,
    findings,
    guard_figures,
    head_figures,
    pages,
    paper,
    results,
    summary,
    tails,
    training_figures,
    verdicts,
    words,
)
from launch.report.contrasts import Comparisons
from launch.report.drawing import Drawing, Numbers, render
from launch.report.figures import Curves
from launch.report.results import Run, benchmarks
from launch.report.training_figures import Curve, curve
from training.record import run_uri

N_SAMPLES = 3  # prompts shown for each run


def write(root: str, experiment: Experiment, runs: Sequence[Run], cards: dict[str, Card]) -> str:
    """Write the report of `runs` below `root`/report and return the URI of its page.

    Raises ArtefactMissing when there is no run to report, ArtefactCorrupt when they met other prompts or another scorer.
    """
    if not runs:
        raise ArtefactMissing(f"{root}: no run of {experiment.name!r} is trained and evaluated; run launch/sweep.py without --only")
    runs = sorted(runs, key=lambda run: (run[1].toxic_ratio, run[1].seed))
    check_comparable([report for _, report in runs])
    folder = storage.join(root, "report")
    tables = [items.read(run_uri(root, record.config.run_id), report.config) for record, report in runs]
    heads = [tails.read(run_uri(root, record.config.run_id), report.config) for record, report in runs]
    compared = contrasts.compare([report for _, report in runs], tables, heads)
    drawn = drawings(runs, [curve(root, record, report.config.confidence) for record, report in runs], compared)
    pages.save_figures(folder, drawn)
    data_page.write(root, experiment, cards, compared=True)
    storage.save(results.everything(experiment, runs, compared), storage.join(folder, "results.json"))
    storage.write(storage.join(folder, "results.csv"), results.table(runs).encode())
    summary.write(folder, experiment, runs, drawn, compared)
    uri = storage.join(folder, "index.html")
    storage.write(uri, page(experiment, runs, cards, drawn, compared).encode())
    return uri


def page(
    experiment: Experiment,
    runs: Sequence[Run],
    cards: dict[str, Card],
    drawn: Sequence[Drawing],
    compared: Comparisons | None,
) -> str:
    """The HTML text. Every string from a record is escaped; only the drawings are trusted."""
    reports = [report for _, report in runs]
    rows, said = verdicts.rows(reports, compared), results.said(runs, compared)
    return pages.template("report.html.j2").render(
        experiment=experiment,
        experiment_digest=digest(experiment),
        runs=runs,
        cards=cards,
        drawings={drawing.name: drawing for drawing in drawn},
        colours=axes.colours(reports),
        n_ratios=len(axes.ratios(reports)),
        strengths=findings.strengths(reports),
        at=findings.at,
        cost=lambda report, strength: next(iter(findings.cost_rises([report], strength)), None),
        findings=said[:-1],
        caveat=said[-1],
        rows=rows,
        planned=next((row.planned for row in rows if row.planned), []),
        comparisons=compared,
        at_costs=verdicts.at_costs(compared) if compared else [],
        paired=verdicts.sentences(compared) if compared else [],
        of_heads=verdicts.of_heads(compared) if compared else [],
        by_seed=verdicts.by_seed(compared) if compared else "",
        level_of_cost=figures.Curves(reports, compared).level,
        hypervolumes=figures.hypervolumes(compared),
        direction=words.DIRECTIONS[reports[0].config.direction],
        beside=paper.beside(reports),
        what_differs=paper.WHAT_DIFFERS,
        paper_probes=paper.PROBES,
        choices=choices.choices(experiment, *runs[0]),
        missing=[
            (ratio, seed)
            for ratio in experiment.ratios
            for seed in experiment.seeds
            if not any(report.toxic_ratio == ratio and report.seed == seed for report in reports)
        ],
        most_repeated=max(record.toxic_epochs for record, _ in runs),
        furthest=max(abs(report.realised_toxic_ratio - report.toxic_ratio) for report in reports),
        benchmarks=benchmarks(runs),
        judge=words.judge(reports[0].fluency_id),
        controls=findings.control_changes(reports),
        held_out_streams=sorted({held_out.stream for record, _ in runs for held_out in record.held_out}),
        scorer=words.scorer(reports[0].config.scorer),
        scorers=sorted({report.scorer_id for report in reports}),
        samples=_samples(reports),
        written=_written(reports),
        entangled=[report for report in reports if report.entanglement],
        settings=to_json(experiment),
    )


def drawings(runs: Sequence[Run], curves: Sequence[Curve], compared: Comparisons | None) -> list[Drawing]:
    """The drawings in the page's order; their heights in inches, wide and narrow."""
    reports = [report for _, report in runs]
    both = Curves(reports, compared)
    n, taller = len(axes.ratios(reports)), 1.9 if both.matched else 0.0
    maps = -(-n // head_figures.MAPS_WIDE), -(-n // head_figures.MAPS_NARROW)
    panels = -(-n // training_figures.EMERGENCE_WIDE), -(-n // training_figures.EMERGENCE_NARROW)
    guards = guard_figures.guards(reports)
    heights = (0.7 + 2.2 * -(-len(guards) // guard_figures.in_a_row(len(guards) or 1)), 0.7 + 2.0 * len(guards))
    guarded = ("guards", guard_figures.draw, guard_figures.numbers(reports), reports, heights)
    plan: list[tuple[str, Callable[..., None], Numbers, Any, tuple[float, float]]] = [
        ("toxicity-by-ratio", figures.toxicity_by_ratio, figures.by_ratio_numbers(both), both, (3.9 + taller, 3.7 + taller)),
        ("toxicity-by-cost", figures.toxicity_by_cost, figures.by_cost_numbers(both), both, (4.1, 7.0 if both.zoomed else 4.6)),
        *([guarded] if guards else []),
        ("probe-accuracy", head_figures.probe_accuracy, head_figures.accuracy_numbers(reports), reports, (3.4, 3.2)),
        ("head-spread", head_figures.head_spread, head_figures.head_numbers(reports), reports, (3.1, 7.4)),
        (
            "head-maps",
            head_figures.head_maps,
            head_figures.head_numbers(reports),
            reports,
            (1.0 + 1.3 * maps[0], 1.1 + 1.35 * maps[1]),
        ),
        ("losses", training_figures.losses, training_figures.losses_numbers(curves), curves, (3.2, 7.0)),
    ]
    if any(curve.probe for curve in curves):
        heights = (0.5 + 1.6 * panels[0], 0.5 + 1.5 * panels[1])
        plan.append(("emergence", training_figures.emergence, training_figures.emergence_numbers(curves), curves, heights))
    palette = axes.colours(reports)
    return [render(name, partial(_draw, draw, data), numbers, heights, palette) for name, draw, numbers, data, heights in plan]


def _draw(draw: Callable[..., None], data: Any, figure: Any, wide: bool) -> None:
    draw(figure, wide, data)


def _samples(reports: Sequence[EvalReport]) -> list[tuple[EvalReport, list[tuple[str, list[tuple[float, str]]]]]]:
    """The first seed of each ratio with a few masked prompts and their masked continuations by strength."""
    first = {report.toxic_ratio: report for report in reversed(reports)}
    chosen = [(first[ratio], first[ratio].samples[:N_SAMPLES]) for ratio in sorted(first)]
    texts = [text for _, samples in chosen for sample in samples for text in (sample.prompt, *sample.continuations)]
    hide = partial(pages.mask, is_slur=pages.slurs(texts).__contains__)
    shown = []
    for report, samples in chosen:
        asked = [steered.strength for steered in report.steered]
        masked = [(hide(sample.prompt), list(zip(asked, map(hide, sample.continuations), strict=True))) for sample in samples]
        shown += [(report, masked)] if masked else []
    return shown


def _written(reports: Sequence[EvalReport]) -> list[tuple[EvalReport, list[tuple[Lens, str, str]]]]:
    """The first seed of each ratio with the masked tokens, towards toxic and benign, that each group of its heads writes."""
    first = {report.toxic_ratio: report for report in reversed(reports) if report.lens}
    slurs = pages.slurs(t for report in first.values() for one in report.lens for t in (*one.toxic_tokens, *one.benign_tokens))

    def line(of: Sequence[str]) -> str:
        return " · ".join(filter(None, (pages.mask(token, slurs.__contains__).strip() for token in of)))

    return [
        (first[ratio], [(one, line(one.toxic_tokens), line(one.benign_tokens)) for one in first[ratio].lens])
        for ratio in sorted(first)
    ]
