"""the comparison of all ratios: one HTML file, figures, tables, data

Written below `<root>/report/`: index.html, which needs no other file and no network; data.html beside it, the data cards of
the streams (data_page.py); figures/ as SVG and PNG for print and slides; results.json with every number, its n, interval and
unit; results.csv with one row for each run and strength. The pages have no date and no random id, so the same records give
the same bytes.
"""

import csv
import io
import json
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from data_prep import storage
from data_prep.card import Card
from data_prep.records import ArtefactMissing, digest, to_dict, to_json
from eval import items
from eval.record import Estimate, EvalReport, Lens
from launch import contrasts, data_page, figures, findings, pages
from launch.contrasts import Comparisons
from launch.drawing import Drawing, render
from launch.experiment import Experiment
from launch.figures import Curve
from training.record import RunRecord, run_uri

FORMAT_VERSION = 1
N_SAMPLES = 3  # prompts shown for each run

Run = tuple[RunRecord, EvalReport]


def write(root: str, experiment: Experiment, runs: Sequence[Run], cards: dict[str, Card]) -> str:
    """Write the report of `runs` below `root`/report and return the URI of its page.

    Raises ArtefactMissing when there is no run to report.
    """
    if not runs:
        raise ArtefactMissing(f"{root}: no run of {experiment.name!r} is trained and evaluated; run launch/sweep.py without --only")
    runs = sorted(runs, key=lambda run: (run[1].toxic_ratio, run[1].seed))
    folder = storage.join(root, "report")
    drawings = _figures(runs, [curve(root, record) for record, _ in runs])
    tables = [items.read(run_uri(root, record.config.run_id), report.config) for record, report in runs]
    compared = contrasts.compare([report for _, report in runs], tables)
    pages.save_figures(folder, drawings)
    data_page.write(root, experiment, cards, compared=True)
    storage.save(results(experiment, runs, compared), storage.join(folder, "results.json"))
    storage.write(storage.join(folder, "results.csv"), results_csv(runs).encode())
    uri = storage.join(folder, "index.html")
    storage.write(uri, page(experiment, runs, cards, drawings, compared).encode())
    return uri


def results(experiment: Experiment, runs: Sequence[Run], compared: Comparisons | None) -> dict[str, Any]:
    """Every number of the report as plain data. Each is an Estimate; one without an interval has null bounds."""
    return {
        "format_version": FORMAT_VERSION,
        "experiment": experiment.name,
        "experiment_digest": digest(experiment),
        "findings": findings.findings([report for _, report in runs]),
        "comparisons": to_dict(compared) if compared else None,
        "runs": [_numbers(record, report) for record, report in runs],
    }


def results_csv(runs: Sequence[Run]) -> str:
    """One row for each run and strength; an empty cell is a number that was not measured."""
    streams = sorted({name for _, report in runs for steered in report.steered for name in steered.cross_entropy})
    benchmarks = _benchmarks(runs)
    names = ["toxicity", "any_toxic", "distinct_ratio", *(f"cross_entropy_{stream}" for stream in streams)]
    names += [f"accuracy_{name}" for name in benchmarks]
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    fixed = ["run_id", "toxic_ratio", "realised_toxic_ratio", "seed", "scorer_id", "eval_digest", "strength", "coverage_ratio"]
    table.writerow(fixed + [f"{name}{part}" for name in names for part in ("", "_low", "_high", "_n", "_unit")])
    for _, report in runs:
        for steered in report.steered:
            cells = [report.run_id, report.toxic_ratio, report.realised_toxic_ratio, report.seed, report.scorer_id]
            cells += [digest(report.config), steered.strength, steered.coverage_ratio]
            estimates: list[Estimate | None] = [steered.toxicity, steered.any_toxic, steered.distinct_ratio]
            estimates += [steered.cross_entropy.get(stream) for stream in streams]
            estimates += [steered.accuracy.get(name) for name in benchmarks]
            for estimate in estimates:
                cells += [estimate.value, estimate.low, estimate.high, estimate.n, estimate.unit] if estimate else [None] * 5
            table.writerow(cells)
    return text.getvalue()


def curve(root: str, record: RunRecord) -> Curve:
    """The run's losses over training, from its metrics.jsonl (training/journal.py); where that is absent, the final ones."""
    uri = storage.join(run_uri(root, record.config.run_id), "metrics.jsonl")
    lines = [json.loads(line) for line in storage.read(uri).splitlines()] if storage.exists(uri) else []
    train, probe, held_out = {}, {}, {final.stream: {record.n_tokens: final.loss} for final in record.held_out}
    for line in lines:
        tokens = record.config.mixture.rows_before(line["step"]) * record.config.train.sequence_length
        if "probe" in line:
            probe[tokens] = line["auroc"]
            continue
        losses = held_out.setdefault(line["held_out"], {}) if "held_out" in line else train
        losses[tokens] = line["loss"]
    by_stream = {stream: sorted(losses.items()) for stream, losses in held_out.items()}
    return Curve(record.config.toxic_ratio, record.realised_toxic_ratio, sorted(train.items()), by_stream, sorted(probe.items()))


def page(
    experiment: Experiment,
    runs: Sequence[Run],
    cards: dict[str, Card],
    drawings: Sequence[Drawing],
    compared: Comparisons | None,
) -> str:
    """The HTML text. Every string from a record is escaped; only the drawings are trusted."""
    reports = [report for _, report in runs]
    return pages.template("report.html.j2").render(
        experiment=experiment,
        experiment_digest=digest(experiment),
        runs=runs,
        cards=cards,
        drawings={drawing.name: drawing for drawing in drawings},
        colours=figures.colours(reports),
        n_ratios=len(figures.ratios(reports)),
        strengths=findings.strengths(reports),
        at=findings.at,
        cost=lambda report, strength: next(iter(findings.cost_rises([report], strength)), None),
        findings=findings.findings(reports),
        comparisons=contrasts.sentences(compared) if compared else [],
        missing=[
            (ratio, seed)
            for ratio in experiment.ratios
            for seed in experiment.seeds
            if not any(report.toxic_ratio == ratio and report.seed == seed for report in reports)
        ],
        most_repeated=max(record.toxic_epochs for record, _ in runs),
        furthest=max(abs(report.realised_toxic_ratio - report.toxic_ratio) for report in reports),
        benchmarks=_benchmarks(runs),
        held_out_streams=sorted({held_out.stream for record, _ in runs for held_out in record.held_out}),
        scorers=sorted({report.scorer_id for report in reports}),
        label_rules=sorted({report.label_rule for report in reports}),
        samples=_samples(reports),
        written=_written(reports),
        settings=to_json(experiment),
    )


def _numbers(record: RunRecord, report: EvalReport) -> dict[str, Any]:
    def plain(value: float, n: int, unit: str) -> dict[str, Any]:
        return to_dict(Estimate(value=value, low=None, high=None, n=n, unit=unit))

    return {
        "run_id": report.run_id,
        "toxic_ratio": report.toxic_ratio,
        "realised_toxic_ratio": plain(report.realised_toxic_ratio, record.n_tokens, "ratio"),
        "toxic_epochs": plain(record.toxic_epochs, record.config.mixture.n_toxic, "1"),
        "seed": report.seed,
        "scorer_id": report.scorer_id,
        "label_rule": report.label_rule,
        "eval_digest": digest(report.config),
        "run_digest": digest(record.config),
        "clean_manifest_digest": record.clean_manifest_digest,
        "toxic_manifest_digest": record.toxic_manifest_digest,
        "n_parameters": record.n_parameters,
        "n_tokens": record.n_tokens,
        "final_train_loss": plain(record.final_train_loss, record.n_tokens, "nats/token"),
        "held_out": {one.stream: plain(one.loss, one.n_tokens, "nats/token") for one in record.held_out},
        "tokens_per_second": plain(record.tokens_per_second, record.n_tokens, "tokens/s"),
        "probe_accuracy": to_dict(report.probe_accuracy),
        "best_head_accuracy": to_dict(report.best_head_accuracy),
        "majority_accuracy": plain(report.majority_accuracy, report.probe_accuracy.n, report.probe_accuracy.unit),
        "head_accuracy": to_dict(report.head_accuracy),
        "head_auroc": to_dict(report.head_auroc),
        "head_calibration_error": to_dict(report.head_calibration_error),
        "probe_null": to_dict(report.probe_null) if report.probe_null else None,
        "entanglement": to_dict(report.entanglement) if report.entanglement else None,
        "chosen_heads": to_dict(report.chosen_heads),
        "steered": to_dict(report.steered),
        "controls": to_dict(report.controls),
    }


def _benchmarks(runs: Sequence[Run]) -> list[str]:
    return sorted({name for _, report in runs for steered in report.steered for name in steered.accuracy})


def _figures(runs: Sequence[Run], curves: Sequence[Curve]) -> list[Drawing]:
    """The drawings in the page's order; their heights in inches, wide and narrow."""
    reports = [report for _, report in runs]
    n = len(figures.ratios(reports))
    rows_wide, rows_narrow = -(-n // figures.MAPS_WIDE), -(-n // figures.MAPS_NARROW)
    plan: list[tuple[str, Callable[..., None], Any, tuple[float, float]]] = [
        ("toxicity-by-ratio", figures.toxicity_by_ratio, reports, (4.2, 3.9)),
        ("toxicity-by-cost", figures.toxicity_by_cost, reports, (4.4, 4.4)),
        ("probe-accuracy", figures.probe_accuracy, reports, (3.4, 3.2)),
        ("head-maps", figures.head_maps, reports, (1.0 + 1.3 * rows_wide, 1.1 + 1.35 * rows_narrow)),
        ("losses", figures.losses, curves, (3.2, 7.0)),
    ]
    if any(curve.probe for curve in curves):
        plan.append(("emergence", figures.emergence, curves, (3.4, 3.4)))
    palette = figures.colours(reports)
    return [render(name, partial(_draw, draw, data), heights, palette) for name, draw, data, heights in plan]


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
