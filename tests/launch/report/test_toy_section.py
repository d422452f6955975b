"""The report's section on the toy experiment: there only with a result, and led by its table."""

import re
from dataclasses import replace
from pathlib import Path

import pytest
from fake_sweep import RATIOS, run, write_report

from data_prep.core import storage
from data_prep.core.records import digest
from eval.toy import result_table, run_toy, toy_result
from eval.toy.config import ToyConfig, ToyTrainingConfig
from launch.report import report_stage
from launch.report.pages import toy_section

TINY = ToyConfig(
    training=ToyTrainingConfig(n_steps=12, warmup_steps=4, batch_size=32),
    ratios=(0.1, 1.0),
    n_seeds=3,
)


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> str:
    root = tmp_path_factory.mktemp("toy")
    run_toy.run(str(root), TINY)
    run_toy.run(str(root), replace(TINY, probe_l2=0.01))
    return write_report(root, [run(ratio) for ratio in RATIOS[:2]]).read_text()


@pytest.mark.slow  # draws a whole report
def test_without_a_result_the_page_has_no_section(tmp_path: Path):
    text = write_report(tmp_path, [run(ratio) for ratio in RATIOS[:2]]).read_text()
    assert 'id="toy"' not in text and "#toy" not in text and "oy experiment" not in text


@pytest.mark.slow
def test_the_section_shows_every_cell_then_one_figure(page: str):
    section = page[page.index('<h2 id="toy">') : page.index('<h2 id="paper">')]
    assert section.count("<figure") == 1
    table = section.index("Table of the toy experiment, learning rate 0.003, weight decay 0")
    assert section.index("Token probes: entanglement is higher") < table
    assert table < section.index("<figure")
    rows = re.findall(r'<th scope="row">(token probes|joint probes|LDA|\w+ means)</th>', section)
    assert len(rows) == 2 * 2 * 5 * 5  # results, arms, estimators, layers
    assert page.count('id="toy"') == page.count('href="#toy"') == 1


@pytest.mark.slow
def test_a_variant_is_folded_away_and_named(page: str):
    section = page[page.index('<h2 id="toy">') : page.index('<h2 id="paper">')]
    assert section.count("<details>") == 1
    assert section.index("<figure") < section.index("<details>")  # the first result is not folded
    (summary,) = re.findall(r"<summary>A variant: (.*?)</summary>", section)
    named = {result_table.variant(TINY), result_table.variant(replace(TINY, probe_l2=0.01))}
    assert summary in named


def test_the_result_of_the_default_settings_comes_first(tmp_path: Path):
    result = run_toy.run(str(tmp_path), TINY)
    for l2 in (0.1, 0.2, 0.3):
        run_toy.run(str(tmp_path), replace(TINY, probe_l2=l2))
    default = replace(result, config=ToyConfig())
    storage.save(default, toy_result.result_uri(str(tmp_path), ToyConfig()))
    found = [digest(one.config) for one in toy_section.read(str(tmp_path))]
    assert found[0] == digest(ToyConfig())
    assert found[1:] == sorted(found[1:]) and len(found) == 5


def test_the_figures_numbers_are_the_records(tmp_path: Path):
    result = run_toy.run(str(tmp_path), TINY)
    (drawing,) = toy_section.figures([result])
    cell = next(
        cell
        for cell in result.cells
        if (cell.estimator, cell.layer, cell.weight_decay) == ("state_means", 4, 0.0)
    )
    point = cell.quantities["length"].levels[1].control
    place = ("state_means", 4, "length", "control", 1.0)
    assert (*place, point.value, point.low, point.high) in drawing.numbers.rows
    assert len(drawing.numbers.rows) == 5 * 2 * 2 * 2
    assert toy_section.figures([]) == []


def test_a_new_result_makes_the_report_out_of_date(tmp_path: Path):
    before = report_stage._digest_of_records(str(tmp_path), [], [])
    run_toy.run(str(tmp_path), TINY)
    assert report_stage._digest_of_records(str(tmp_path), [], []) != before
