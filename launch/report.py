"""the comparison of all ratios: one HTML file, figures, tables, data

Written below `<root>/report/`: index.html, which needs no other file and no network; figures/ as SVG and PNG for print and
slides; results.json with every number, its n, interval and unit; results.csv with one row for each run and strength. The page
has no date and no random id, so the same records give the same bytes.
"""

import csv
import io
import json
import re
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from data_prep import storage
from data_prep.manifest import Manifest
from data_prep.records import ArtefactMissing, digest, to_dict, to_json
from eval.record import Estimate, EvalReport
from launch import figures, findings
from launch.experiment import Experiment
from launch.figures import Curve, Drawing
from training.record import RunRecord, run_uri

FORMAT_VERSION = 1
N_SAMPLES = 3  # prompts shown for each run
N_INPUTS = 12  # input files listed for each stream
WORD = re.compile(r"[\w@$]+(?:['’*-][\w@$]+)*")

Run = tuple[RunRecord, EvalReport]


class Shown(NamedTuple):
    """A figure with its words."""

    drawing: Drawing
    title: str
    caption: str
    alt: str


def write(root: str, experiment: Experiment, runs: Sequence[Run], manifests: dict[str, Manifest]) -> str:
    """Write the report of `runs` below `root`/report and return the URI of its page.

    Raises ArtefactMissing when there is no run to report.
    """
    if not runs:
        raise ArtefactMissing(f"{root}: no run of {experiment.name!r} is trained and evaluated; run launch/sweep.py without --only")
    runs = sorted(runs, key=lambda run: (run[1].toxic_ratio, run[1].seed))
    folder = storage.join(root, "report")
    shown = _figures(runs, [curve(root, record) for record, _ in runs])
    for figure in shown:
        storage.write(storage.join(folder, "figures", f"{figure.drawing.name}.svg"), figure.drawing.svg)
        storage.write(storage.join(folder, "figures", f"{figure.drawing.name}.png"), figure.drawing.png)
    storage.save(results(experiment, runs), storage.join(folder, "results.json"))
    storage.write(storage.join(folder, "results.csv"), results_csv(runs).encode())
    uri = storage.join(folder, "index.html")
    storage.write(uri, page(experiment, runs, manifests, shown).encode())
    return uri


def results(experiment: Experiment, runs: Sequence[Run]) -> dict[str, Any]:
    """Every number of the report as plain data. Each is an Estimate; one without an interval has null bounds."""
    return {
        "format_version": FORMAT_VERSION,
        "experiment": experiment.name,
        "experiment_digest": digest(experiment),
        "findings": findings.findings([report for _, report in runs]),
        "runs": [_numbers(record, report) for record, report in runs],
    }


def results_csv(runs: Sequence[Run]) -> str:
    """One row for each run and strength; an empty cell is a number that was not measured."""
    streams = sorted({name for _, report in runs for steered in report.steered for name in steered.cross_entropy})
    names = ["toxicity", "any_toxic", "distinct_ratio", *(f"cross_entropy_{stream}" for stream in streams)]
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    fixed = ["run_id", "toxic_ratio", "realised_toxic_ratio", "seed", "scorer_id", "eval_digest", "strength", "coverage_ratio"]
    table.writerow(fixed + [f"{name}{part}" for name in names for part in ("", "_low", "_high", "_n", "_unit")])
    for _, report in runs:
        for steered in report.steered:
            cells = [report.run_id, report.toxic_ratio, report.realised_toxic_ratio, report.seed, report.scorer_id]
            cells += [digest(report.config), steered.strength, steered.coverage_ratio]
            estimates = [steered.toxicity, steered.any_toxic, steered.distinct_ratio]
            for estimate in [*estimates, *(steered.cross_entropy.get(stream) for stream in streams)]:
                cells += [estimate.value, estimate.low, estimate.high, estimate.n, estimate.unit] if estimate else [None] * 5
            table.writerow(cells)
    return text.getvalue()


def curve(root: str, record: RunRecord) -> Curve:
    """The run's losses over training, from its metrics.jsonl; empty where there is none. A step logged twice counts once, the
    last time: a resumed run repeats the steps after its checkpoint."""
    uri = storage.join(run_uri(root, record.config.run_id), "metrics.jsonl")
    lines = [json.loads(line) for line in storage.read(uri).splitlines() if line.strip()] if storage.exists(uri) else []
    train, held_out = {}, {held_out.stream: {record.n_steps: held_out.loss} for held_out in record.held_out}
    for line in lines:
        if "loss" in line:
            train[line["step"]] = line["loss"]
        for stream, loss in line.get("held_out", {}).items():
            held_out.setdefault(stream, {})[line["step"]] = loss
    at = partial(_tokens_at, record)
    in_order = {stream: [(at(step), loss) for step, loss in sorted(steps.items())] for stream, steps in held_out.items()}
    return Curve(record.config.toxic_ratio, [(at(step), loss) for step, loss in sorted(train.items())], in_order)


def mask(text: str, is_slur: Callable[[str], bool]) -> str:
    """`text` with each word that `is_slur` reduced to its first letter and asterisks."""
    return WORD.sub(lambda found: found[0][0] + "*" * (len(found[0]) - 1) if is_slur(found[0]) else found[0], text)


def page(experiment: Experiment, runs: Sequence[Run], manifests: dict[str, Manifest], shown: Sequence[Shown]) -> str:
    """The HTML text. Every string from a record is escaped; only the drawings are trusted."""
    here = Path(__file__).parent
    environment = Environment(
        loader=FileSystemLoader(here), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"percent": findings.percent, "show": findings.show, "markup": Markup, "count": lambda n: f"{n:,}"}
    reports = [report for _, report in runs]
    light, dark = figures.variables(reports)
    return environment.get_template("report.html.j2").render(
        experiment=experiment,
        experiment_digest=digest(experiment),
        runs=runs,
        manifests=manifests,
        shown=shown,
        light=light,
        dark=dark,
        strengths=findings.strengths(reports),
        at=findings.at,
        cost=lambda report, strength: next(iter(findings.cost_rises([report], strength)), None),
        findings=findings.findings(reports),
        missing=[
            (ratio, seed)
            for ratio in experiment.ratios
            for seed in experiment.seeds
            if not any(report.toxic_ratio == ratio and report.seed == seed for report in reports)
        ],
        furthest=max(abs(report.realised_toxic_ratio - report.toxic_ratio) for report in reports),
        held_out_streams=sorted({held_out.stream for record, _ in runs for held_out in record.held_out}),
        scorers=sorted({report.scorer_id for report in reports}),
        label_rules=sorted({report.label_rule for report in reports}),
        samples=_samples(reports),
        n_inputs=N_INPUTS,
        settings=to_json(experiment),
    )


def _numbers(record: RunRecord, report: EvalReport) -> dict[str, Any]:
    def plain(value: float, n: int, unit: str) -> dict[str, Any]:
        return to_dict(Estimate(value=value, low=None, high=None, n=n, unit=unit))

    return {
        "run_id": report.run_id,
        "toxic_ratio": report.toxic_ratio,
        "realised_toxic_ratio": plain(report.realised_toxic_ratio, record.n_tokens, "ratio"),
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
        "chosen_heads": to_dict(report.chosen_heads),
        "steered": to_dict(report.steered),
    }


def _tokens_at(record: RunRecord, step: int) -> int:
    """Tokens seen after `step` optimizer steps; the last batch may be short."""
    return min(record.n_tokens, step * record.config.train.global_batch * record.config.train.sequence_length)


def _figures(runs: Sequence[Run], curves: Sequence[Curve]) -> list[Shown]:
    reports = [report for _, report in runs]
    confidence = findings.percent(reports[0].config.confidence)
    bands = f"Bands and bars are {confidence} intervals over prompts."
    several = (
        " With several seeds the line is their mean and the band spans all their intervals."
        if len(runs) > len({r.toxic_ratio for r in reports})
        else ""
    )
    n_maps = len({report.toxic_ratio for report in reports})
    draw = figures.render
    return [
        Shown(
            draw("toxicity-by-ratio", partial(_call, figures.toxicity_by_ratio, reports), 4.2, 3.9, reports),
            "Toxicity against the share of toxic text",
            f"Mean score × 100 of the continuations, by the share of toxic tokens in pretraining. {bands}{several}",
            "Line chart: one line for each steering strength and one for the unsteered model; the values are in the table of toxicity.",
        ),
        Shown(
            draw("toxicity-by-cost", partial(_call, figures.toxicity_by_cost, reports), 4.4, 4.2, reports),
            "What steering costs",
            "Each path is one ratio, from the unsteered model to the strongest steering; lower and further left is better. "
            f"Where two paths cross a vertical line, the lower is less toxic at equal cost. Bars are {confidence} intervals.",
            "Scatter of toxicity against cross-entropy on clean held-out text, one connected path for each ratio; the values are in the tables.",
        ),
        Shown(
            draw("probe-accuracy", partial(_call, figures.probe_accuracy, reports), 3.4, 3.4, reports),
            "How well a linear probe reads the attribute",
            f"One logistic-regression probe for each attention head, scored on rows never used to choose heads. Bars are {confidence} intervals "
            f"over test rows.{several}",
            "Line chart of probe accuracy by ratio: best head, mean of all heads, and the majority class as baseline; the values are in the table of runs.",
        ),
        Shown(
            draw(
                "head-maps",
                partial(_call, figures.head_maps, reports),
                1.0 + 1.3 * -(-n_maps // 6),
                1.1 + 1.35 * -(-n_maps // 3),
                reports,
            ),
            "Where in the model it can be read",
            "Probe accuracy of every head at each share of toxic text, on one colour scale. Dots mark the heads that are steered, chosen on validation rows.",
            "Heat maps of probe accuracy by layer and head, one for each ratio; the values are in results.json.",
        ),
        Shown(
            draw("losses", partial(_call, figures.losses, curves), 3.1, 6.4, reports),
            "Losses",
            "Cross-entropy in nats per token: on the training text, and on held-out text of each stream. A training curve mixes both streams, so "
            "curves of different ratios are not comparable on the left; the held-out ones are.",
            "Line charts of training loss and held-out losses against tokens seen, one line for each ratio; final values are in the table of runs.",
        ),
    ]


def _call(draw: Callable[..., None], data: Any, figure: Any, wide: bool) -> None:
    draw(figure, wide, data)


def _samples(reports: Sequence[EvalReport]) -> list[tuple[EvalReport, list[tuple[str, list[tuple[float, str]]]]]]:
    """The first seed of each ratio with a few masked prompts and their masked continuations by strength."""
    first = {report.toxic_ratio: report for report in reversed(reports)}
    chosen = [(first[ratio], first[ratio].samples[:N_SAMPLES]) for ratio in sorted(first)]
    texts = [text for _, samples in chosen for sample in samples for text in (sample.prompt, *sample.continuations)]
    slurs = _slurs({word for text in texts for word in WORD.findall(text)})
    hide = partial(mask, is_slur=slurs.__contains__)
    return [
        (
            report,
            [
                (
                    hide(sample.prompt),
                    [(steered.strength, hide(text)) for steered, text in zip(report.steered, sample.continuations, strict=True)],
                )
                for sample in samples
            ],
        )
        for report, samples in chosen
        if samples
    ]


def _slurs(words: set[str]) -> set[str]:
    """The words that the offline profanity scorer alone calls at least as likely profane as not, also without a plural s.
    It hides on the safe side whatever scorer the evaluation used."""
    from eval import toxicity

    scorer = toxicity.load("profanity")
    ordered = sorted(words)
    either = [scorer.score(ordered), scorer.score([word.lower().removesuffix("s") for word in ordered])]
    return {
        word for word, *scores in zip(ordered, *either, strict=True) if any(score is not None and score >= 0.5 for score in scores)
    }
