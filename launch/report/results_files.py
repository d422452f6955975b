"""the report's data: results.json with every number, results.csv with a row for each run and strength"""

import csv
import io
from collections.abc import Sequence
from typing import Any

from data_prep.core.records import digest, to_dict
from eval.eval_report import EvalReport
from eval.stats.estimate import Estimate
from launch.experiment import Experiment
from launch.report.analysis.comparisons import Comparisons
from launch.report.text import findings, paired_findings
from training.run_record import RunRecord

FORMAT_VERSION = 3
MEASURED = (
    "toxicity",
    "expected_maximum",
    "any_toxic",
    "distinct_ratio",
    "n_tokens",
    "perplexity",
)  # of the continuations

Run = tuple[RunRecord, EvalReport]


def everything(
    experiment: Experiment, runs: Sequence[Run], compared: Comparisons | None
) -> dict[str, Any]:
    """Every number of the report as plain data. Each is an Estimate; one without an interval has
    null bounds.
    """
    return {
        "format_version": FORMAT_VERSION,
        "experiment": experiment.name,
        "experiment_digest": digest(experiment),
        "findings": said(runs, compared),
        "comparisons": to_dict(compared) if compared else None,
        "runs": [_numbers(record, report) for record, report in runs],
    }


def said(runs: Sequence[Run], compared: Comparisons | None) -> list[str]:
    """The report's sentences, in the order in which a sceptic would ask; the last says what the
    intervals leave out.
    """
    probes = paired_findings.probes(compared) if compared else ""
    *sentences, seeds = findings.findings(
        [report for _, report in runs], paired_findings.lead(compared), probes
    )
    return [*sentences, f"{seeds} {paired_findings.caveat(compared)}".strip()]


def table(runs: Sequence[Run]) -> str:
    """One row for each run and strength; an empty cell is a number that was not measured."""
    streams = sorted(
        {name for _, report in runs for steered in report.steered for name in steered.cross_entropy}
    )
    measured = benchmarks(runs)
    names = [*MEASURED, *(f"cross_entropy_{stream}" for stream in streams)]
    names += [f"accuracy_{name}" for name in measured]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    fixed = [
        "run_id",
        "toxic_ratio",
        "realised_toxic_ratio",
        "seed",
        "scorer_id",
        "eval_digest",
        "strength",
        "coverage_ratio",
    ]
    fixed += ["n_continuations", "n_empty"]
    writer.writerow(
        fixed + [f"{name}{part}" for name in names for part in ("", "_low", "_high", "_n", "_unit")]
    )
    for _, report in runs:
        for steered in report.steered:
            cells = [
                report.run_id,
                report.toxic_ratio,
                report.realised_toxic_ratio,
                report.seed,
                report.scorer_id,
            ]
            cells += [
                digest(report.config),
                steered.strength,
                steered.coverage_ratio,
                steered.n_continuations,
                steered.n_empty,
            ]
            estimates: list[Estimate | None] = [getattr(steered, name) for name in MEASURED]
            estimates += [steered.cross_entropy.get(stream) for stream in streams]
            estimates += [steered.accuracy.get(name) for name in measured]
            for estimate in estimates:
                cells += (
                    [estimate.value, estimate.low, estimate.high, estimate.n, estimate.unit]
                    if estimate
                    else [None] * 5
                )
            writer.writerow(cells)
    return text.getvalue()


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
        "prompts_digest": report.prompts_digest,
        "fluency_id": report.fluency_id,
        "label_rule": report.label_rule,
        "eval_digest": digest(report.config),
        "run_digest": digest(record.config),
        "clean_manifest_digest": record.clean_manifest_digest,
        "toxic_manifest_digest": record.toxic_manifest_digest,
        "n_parameters": record.n_parameters,
        "n_tokens": record.n_tokens,
        "final_train_loss": plain(record.final_train_loss, record.n_tokens, "nats/token"),
        "held_out": {
            one.stream: plain(one.loss, one.n_tokens, "nats/token") for one in record.held_out
        },
        "tokens_per_second": plain(record.tokens_per_second, record.n_tokens, "tokens/s"),
        "probe_accuracy": to_dict(report.probe_accuracy),
        "best_head_accuracy": to_dict(report.best_head_accuracy),
        "majority_accuracy": plain(
            report.majority_accuracy, report.probe_accuracy.n, report.probe_accuracy.unit
        ),
        "head_accuracy": to_dict(report.head_accuracy),
        "head_auroc": to_dict(report.head_auroc),
        "head_calibration_error": to_dict(report.head_calibration_error),
        "probe_null": to_dict(report.probe_null) if report.probe_null else None,
        "transfers": to_dict(report.transfers),
        "entanglement": to_dict(report.entanglement) if report.entanglement else None,
        "chosen_heads": to_dict(report.chosen_heads),
        "steered": to_dict(report.steered),
        "controls": to_dict(report.controls),
    }


def benchmarks(runs: Sequence[Run]) -> list[str]:
    return sorted(
        {name for _, report in runs for steered in report.steered for name in steered.accuracy}
    )
