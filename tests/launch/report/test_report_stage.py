"""The report of a sweep while it grows, and at its end."""

import threading
from dataclasses import replace
from pathlib import Path

import pytest
from fake_data_cards import cards
from fake_sweep import (
    eval_folder,
    eval_report,
    experiment,
    run_record,
    write_heads,
    write_items,
    write_metrics,
)

from data_prep.core import storage
from data_prep.core.errors import ArtefactMissing
from data_prep.core.settings import evolve
from eval.config import ConditionConfig
from launch.experiment import Experiment
from launch.report import report_stage
from launch.report.analysis.evaluation_view import view
from launch.report.figures.svg_rendering import Drawing, FigurePlan
from launch.report.pages import data_page, index_page
from launch.report.results_files import FinishedRun
from training.config import RunConfig
from training.run_record import run_uri

SWEEP = replace(experiment(ratios=(0.0, 0.25)), arms=("plain", "matched"))


def finish(root: Path, run: RunConfig) -> None:
    """Leave what a trained and evaluated run leaves."""
    record = replace(run_record(run.toxic_ratio, run.seed), config=run)
    report = eval_report(record)
    write_metrics(root, record)
    write_items(root, report)
    write_heads(root, report)
    storage.save(report, storage.join(eval_folder(root, report), "report.json"))
    storage.save(record, storage.join(run_uri(str(root), run.run_id), "record.json"))


@pytest.fixture(autouse=True)
def made_up_cards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report_stage, "data_cards", lambda root, sweep: cards())


def files_of_report(root: Path) -> dict[str, bytes]:
    folder = root / "report"
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def undrawn(plan: FigurePlan, colours: object) -> Drawing:
    """The figure without its drawing, which takes most of a report's time."""
    return Drawing(plan.name, plan.numbers, "", b"", "", "")


def test_interim_reports_leave_no_trace_in_the_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    for module in (index_page, data_page):
        monkeypatch.setattr(module, "render", undrawn)
    growing, at_once = tmp_path / "growing", tmp_path / "at_once"
    for run in SWEEP.runs():
        finish(growing, run)
        finish(at_once, run)
        report_stage.write(str(growing), SWEEP)
        is_last = run == SWEEP.runs()[-1]
        page = (growing / "report" / "index.html").read_text()
        assert ("This report is not complete" in page) != is_last
        assert report_stage.is_written(str(growing), SWEEP) == is_last
    report_stage.write(str(at_once), SWEEP)
    assert files_of_report(growing) == files_of_report(at_once)


def test_an_interim_report_of_a_longer_sweep_unmarks_the_shorter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(index_page, "write", lambda *_: "index.html")
    shorter, longer = experiment(ratios=(0.0,)), experiment(ratios=(0.0, 0.25))
    finish(tmp_path, shorter.runs()[0])
    report_stage.write(str(tmp_path), shorter)
    assert report_stage.is_written(str(tmp_path), shorter)
    report_stage.write(str(tmp_path), longer)
    assert not report_stage.is_written(str(tmp_path), shorter)


def test_a_report_needs_a_plain_run(tmp_path: Path):
    (matched,) = (run for run in SWEEP.runs() if run.arm == "matched")
    finish(tmp_path, matched)
    assert not report_stage.can_be_written(str(tmp_path), SWEEP)
    finish(tmp_path, SWEEP.runs()[0])
    assert report_stage.can_be_written(str(tmp_path), SWEEP)


class SlowWriter:
    """Stands in for report_stage.write: each call waits until it is released."""

    def __init__(self) -> None:
        self.n_begun = 0
        self.begun, self.release = threading.Semaphore(0), threading.Semaphore(0)

    def __call__(self, root: str, sweep: Experiment) -> None:
        self.n_begun += 1
        self.begun.release()
        assert self.release.acquire(timeout=10)


def test_requests_during_a_write_are_served_by_one_more(monkeypatch: pytest.MonkeyPatch):
    writer = SlowWriter()
    monkeypatch.setattr(report_stage, "write", writer)
    with report_stage.InterimReports("root", SWEEP) as interim:
        interim.request()
        assert writer.begun.acquire(timeout=10)
        for _ in range(5):
            interim.request()
        writer.release.release()
        assert writer.begun.acquire(timeout=10)
        writer.release.release()
        interim._writer.submit(lambda: None).result(timeout=10)
        assert writer.n_begun == 2


def test_the_end_of_a_sweep_waits_for_the_write_and_begins_no_other(
    monkeypatch: pytest.MonkeyPatch,
):
    writer = SlowWriter()
    monkeypatch.setattr(report_stage, "write", writer)
    with report_stage.InterimReports("root", SWEEP) as interim:
        interim.request()
        assert writer.begun.acquire(timeout=10)
        interim.request()
        threading.Timer(1, writer.release.release).start()
    assert writer.n_begun == 1


def test_an_error_of_an_interim_report_is_logged(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    def fail(root: str, sweep: Experiment) -> None:
        raise RuntimeError("no such figure")

    monkeypatch.setattr(report_stage, "write", fail)
    with report_stage.InterimReports("root", SWEEP) as interim:
        interim.request()
        interim._writer.submit(lambda: None).result(timeout=10)
    (record,) = [r for r in caplog.records if "interim report was not written" in r.message]
    assert "no such figure" in record.message and record.exc_info


def test_runs_evaluated_under_fewer_conditions_are_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    shown: dict[str, list] = {}
    monkeypatch.setattr(
        index_page, "write", lambda root, sweep, runs, cards: shown.setdefault("runs", runs)
    )
    for run in SWEEP.runs():
        finish(tmp_path, run)
    more = evolve(
        SWEEP,
        {
            "eval.conditions": {
                **SWEEP.eval.conditions,
                "polite": ConditionConfig(prefix="Please. "),
            }
        },
    )
    report_stage.write(str(tmp_path), more)
    assert [run.config.run_id for run, _ in shown["runs"]] == [r.run_id for r in SWEEP.runs()]
    finished = [
        FinishedRun(run, view(report, *report.config.prompts)) for run, report in shown["runs"]
    ]
    missing = index_page._missing(more, finished)
    assert missing[0] == "polite of 0\u00a0% (seed 0)" and len(missing) == 3
    other = evolve(SWEEP, {"eval.generation.max_new_tokens": 7})
    assert not report_stage.can_be_written(str(tmp_path), other)
    with pytest.raises(ArtefactMissing):
        monkeypatch.undo()
        monkeypatch.setattr(report_stage, "data_cards", lambda root, sweep: cards())
        report_stage.write(str(tmp_path), other)
