"""Numbers as files: results.json, results.csv, and a CSV beside every figure."""

import csv
import io
import itertools
import json
from dataclasses import replace

import pytest
from fake_sweep import MISSING, RATIOS, STRENGTHS, experiment, run

from launch.report.figures import side_effects
from launch.report.results_files import FinishedRun, results, results_csv
from launch.report.text.findings import findings


def read_csv(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


def test_results_json_holds_the_numbers_of_the_records(report_page):
    reports = {report.run_id: report for _, report in map(run, RATIOS)}
    written = json.loads((report_page.parent / "results.json").read_text())
    assert [entry["run_id"] for entry in written["runs"]] == list(reports)
    for entry in written["runs"]:
        report = reports[entry["run_id"]]
        toxicity = report.steered[1].toxicity
        assert entry["steered"][1]["toxicity"] == {
            name: getattr(toxicity, name) for name in ("value", "low", "high", "n", "unit")
        }
        assert entry["probe_accuracy"]["value"] == report.probes.probe_accuracy.value
        assert entry["texts"][0]["left_out"] == {"negative label": 40, "repeated text": 2}
    assert written["comparisons"]["planned"] and written["findings"][0].startswith("Some: ")


def test_results_csv_has_a_row_per_run_and_strength(report_page):
    reports = [run(ratio)[1] for ratio in RATIOS]
    rows = read_csv((report_page.parent / "results.csv").read_text())
    run_ids = [report.run_id for report in reports]
    expected = list(itertools.product(run_ids, STRENGTHS))
    assert [(row["run_id"], float(row["strength"])) for row in rows] == expected
    for row, steered in zip(rows, (s for report in reports for s in report.steered), strict=True):
        assert float(row["toxicity_low"]) == steered.toxicity.low
        assert int(row["toxicity_n"]) == steered.toxicity.n
        assert float(row["cross_entropy_clean"]) == steered.cross_entropy["clean"].value
        assert float(row["expected_maximum"]) == steered.expected_maximum.value
        assert float(row["perplexity"]) == steered.perplexity.value
        ((name, accuracy),) = steered.accuracy.items()
        assert float(row[f"accuracy_{name}"]) == accuracy.value


def test_runs_of_other_arms_have_rows_with_their_arm():
    record, report = run(0.1)
    meda = replace(record, config=replace(record.config, arm="meda", run_id="meda-0.10-s0"))
    other = FinishedRun(meda, replace(report, run_id="meda-0.10-s0"))
    runs = [FinishedRun(record, report), other]
    rows = read_csv(results_csv(runs))
    assert [row["arm"] for row in rows] == ["plain"] * len(STRENGTHS) + ["meda"] * len(STRENGTHS)
    written = results(experiment(), runs, None, findings([report], None))
    assert [entry["arm"] for entry in written["runs"]] == ["plain", "meda"]


def test_a_number_that_was_not_measured_is_an_empty_cell():
    record, report = run(0.1)
    steered = tuple(replace(row, toxicity=MISSING) for row in report.steered)
    rows = read_csv(results_csv([FinishedRun(record, replace(report, steered=steered))]))
    assert [row["toxicity"] for row in rows] == [""] * len(STRENGTHS)


def test_repetition_of_toxic_text_is_a_number():
    record, report = run(0.25)
    record = replace(record, n_distinct_toxic=record.config.mixture.n_toxic // 2)
    finished = FinishedRun(record, report)
    (entry,) = results(experiment(), [finished], None, findings([report]))["runs"]
    assert entry["toxic_epochs"]["value"] == pytest.approx(2, rel=1e-3)


def test_every_figure_has_its_numbers_beside_it(report_page):
    folder = report_page.parent / "figures"
    tables = {path.stem: read_csv(path.read_text()) for path in folder.glob("*.csv")}
    assert tables.keys() == {path.stem for path in folder.glob("*.svg")}
    by_cost = tables["toxicity-by-cost"]
    assert len(by_cost) == len(RATIOS) * len(STRENGTHS)
    assert any(row["on_front"] == "True" for row in by_cost)
    assert float(by_cost[1]["toxicity"]) == run(0.0)[1].steered[1].toxicity.value
    side_effects = tables["guards"]
    assert list(dict.fromkeys(row["quantity"] for row in side_effects)) == [
        "distinct-2",
        "length, tokens",
        "perplexity under a judge",
        "right answers, arc, by likelihood per character",
        "share of own toxicity removed",
        "prompts made more toxic",
    ]
    distinct = [row.distinct_ratio.value for row in run(0.0)[1].steered]
    assert [float(row["value"]) for row in side_effects[:4]] == distinct
    heads = tables["head-maps"]
    assert len(heads) == 16 * len(RATIOS)
    assert sum(row["steered"] == "True" for row in heads) == 4 * len(RATIOS)


def test_right_answers_stand_beside_those_without_a_model():
    reports = [run(ratio)[1] for ratio in RATIOS]
    effects = side_effects.side_effects(reports)
    baselines = {effect.title: effect.baseline for effect in effects}
    assert baselines.pop("right answers, arc, by likelihood per character") == 0.25
    assert set(baselines.values()) == {None}
    alt = side_effects.side_effects_numbers(reports, effects).alt
    assert "right answers, arc, by likelihood per character (by chance 0.25): 0" in alt


@pytest.mark.parametrize(
    ("name", "baseline"), [("hate", 0.7), ("hate balanced", 0.5), ("hate AUROC", 0.5), ("x", None)]
)
def test_a_detection_stands_beside_its_larger_class(name, baseline):
    hate = replace(run(0.0)[1].benchmarks["arc"], form="detection", majority=0.7)
    assert side_effects.baseline(name, {"hate": hate}) == baseline
