"""results.json with every number; results.csv with a row per run and strength"""

import csv
import io
from collections.abc import Sequence
from typing import Any, NamedTuple

from data_prep.core.records import digest, to_dict
from eval.config import PLAIN
from eval.stats.estimate_with_interval import Estimate
from launch.experiment import Experiment
from launch.report.analysis.comparisons import Comparisons
from launch.report.analysis.evaluation_view import EvaluationView, StrengthResult
from launch.report.text.findings import Findings
from training.run_record import RunRecord

FORMAT_VERSION = 6
OF_CONTINUATIONS = (
    "toxicity",
    "expected_maximum",
    "any_toxic",
    "distinct_ratio",
    "n_tokens",
    "perplexity",
)


class FinishedRun(NamedTuple):
    """A trained and evaluated run: its two records."""

    record: RunRecord
    report: EvaluationView


def results(
    experiment: Experiment,
    runs: Sequence[FinishedRun],
    compared: Comparisons | None,
    findings: Findings,
) -> dict[str, Any]:
    """Every number of the report as plain data. Each is an Estimate; one without an interval has
    null bounds.
    """
    return {
        "format_version": FORMAT_VERSION,
        "experiment": experiment.name,
        "experiment_digest": digest(experiment),
        "findings": findings.sentences,
        "comparisons": to_dict(compared) if compared else None,
        "runs": [_numbers(record, report) for record, report in runs],
    }


def results_csv(runs: Sequence[FinishedRun], compared: Comparisons | None = None) -> str:
    """A row per run of any arm and strength; an empty cell is a number that was not measured.

    toxicity counts an empty continuation as 0; toxicity_continued leaves it out.
    """
    rows = [(run, steered) for run in runs for steered in run.report.steered]
    streams = sorted({name for _, steered in rows for name in steered.cross_entropy})
    benchmarks = benchmark_names(runs)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    for i, (run, steered) in enumerate(rows):
        cells = _run_cells(run, steered)
        estimates = {name: getattr(steered, name) for name in OF_CONTINUATIONS}
        estimates |= _against_unsteered(run.report, steered, compared)
        estimates |= {f"cross_entropy_{name}": steered.cross_entropy.get(name) for name in streams}
        estimates |= {f"accuracy_{name}": steered.accuracy.get(name) for name in benchmarks}
        for name, estimate in estimates.items():
            cells |= _estimate_cells(name, estimate)
        if i == 0:
            writer.writerow(cells)
        writer.writerow(cells.values())
    return text.getvalue()


def _against_unsteered(
    report: EvaluationView, steered: StrengthResult, compared: Comparisons | None
) -> dict[str, Estimate | None]:
    of_run = compared.removal_by_run.get(report.run_id, ()) if compared else ()
    removal = next((row for row in of_run if row.strength == steered.strength), None)
    continued = steered.toxicity
    if compared and compared.continued:
        of_model = compared.continued.toxicity.get(report.run_id, {})  # {}: of an arm not compared
        continued = of_model.get(f"{steered.strength:g}")
    return {
        "toxicity_continued": continued,
        "change_from_unsteered": removal and removal.difference,
        "removed": removal and removal.removed,
        "more_toxic": removal and removal.more_toxic,
    }


def _run_cells(run: FinishedRun, steered: StrengthResult) -> dict[str, Any]:
    report = run.report
    return {
        "run_id": report.run_id,
        "arm": run.record.config.arm,
        "toxic_ratio": report.toxic_ratio,
        "realised_toxic_ratio": report.realised_toxic_ratio,
        "seed": report.seed,
        "prompt_set": report.prompt_set,
        "scorer_id": report.scorer_id,
        "eval_digest": digest(report.config),
        "condition": report.condition if steered.strength else PLAIN,
        "strength": steered.strength,
        "coverage_ratio": steered.coverage_ratio,
        "n_continuations": steered.n_continuations,
        "n_empty": steered.n_empty,
    }


def _estimate_cells(name: str, estimate: Estimate | None) -> dict[str, Any]:
    return {
        name: estimate and estimate.value,
        f"{name}_low": estimate and estimate.low,
        f"{name}_high": estimate and estimate.high,
        f"{name}_n": estimate and estimate.n,
        f"{name}_unit": estimate and estimate.unit,
    }


def benchmark_names(runs: Sequence[FinishedRun]) -> list[str]:
    return sorted({name for run in runs for row in run.report.steered for name in row.accuracy})


def _numbers(record: RunRecord, report: EvaluationView) -> dict[str, Any]:
    def plain(value: float, n: int, unit: str) -> dict[str, Any]:
        return to_dict(Estimate(value=value, low=None, high=None, n=n, unit=unit))

    return {
        "run_id": report.run_id,
        "arm": record.config.arm,
        "toxic_ratio": report.toxic_ratio,
        "realised_toxic_ratio": plain(report.realised_toxic_ratio, record.n_tokens, "ratio"),
        "toxic_epochs": plain(record.toxic_epochs, record.config.mixture.n_toxic, "1"),
        "toxic_tokens": plain(
            record.config.mixture.n_toxic * record.config.train.sequence_length,
            record.n_tokens,
            "tokens",
        ),
        "seed": report.seed,
        "scorer_id": report.scorer_id,
        "prompt_set": report.prompt_set,
        "prompts_digest": report.prompts_digest,
        "fluency_id": report.fluency_id,
        "label_rule": report.probes.label_rule,
        "texts": to_dict(report.texts),
        "eval_digest": digest(report.config),
        "run_digest": digest(record.config),
        "clean_manifest_digest": record.clean_manifest_digest,
        "toxic_manifest_digest": record.toxic_manifest_digest,
        "n_parameters": record.n_parameters,
        "n_tokens": record.n_tokens,
        "final_train_loss": plain(record.final_train_loss, record.n_tokens, "nats/token"),
        "held_out": {
            part.stream: plain(part.loss, part.n_tokens, "nats/token") for part in record.held_out
        },
        "tokens_per_second": plain(record.tokens_per_second, record.n_tokens, "tokens/s"),
        "probe_accuracy": to_dict(report.probes.probe_accuracy),
        "best_head_accuracy": to_dict(report.probes.best_head_accuracy),
        "majority_accuracy": plain(
            report.probes.majority_accuracy,
            report.probes.probe_accuracy.n,
            report.probes.probe_accuracy.unit,
        ),
        "head_accuracy": to_dict(report.probes.head_accuracy),
        "head_auroc": to_dict(report.probes.head_auroc),
        "head_calibration_error": to_dict(report.probes.head_calibration_error),
        "probe_null": to_dict(report.probes.probe_null) if report.probes.probe_null else None,
        "transfers": to_dict(report.probes.transfers),
        "entanglement": to_dict(report.probes.entanglement) if report.probes.entanglement else None,
        "chosen_heads": to_dict(report.probes.chosen_heads),
        "probe_baselines": to_dict(report.probes.baselines) if report.probes.baselines else None,
        "gate": to_dict(report.gate) if report.gate else None,
        "direction_quality": to_dict(report.probes.direction_quality),
        "steered": to_dict(report.steered),
        "controls": to_dict(report.controls),
    }
