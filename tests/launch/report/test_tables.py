"""Rows of the report's tables, on the fake sweep, whose effects are known."""

from dataclasses import replace

import fake_sweep
import numpy as np
import pytest
from compared_sweep import compared
from fake_sweep import RATIOS, estimate, items_of, run, value_of, with_toxicity

from eval.eval_report import ControlResult
from launch.report import tables
from launch.report.analysis import comparisons
from launch.report.analysis.head_tails import HeadRows


def plain(cells) -> tuple[str, ...]:
    return tuple(cell.replace("\u00a0", " ") for cell in cells)


def test_the_main_table_has_a_row_per_ratio_with_its_change_and_cost():
    table = tables.main_table([run(ratio)[1] for ratio in RATIOS], compared())
    assert [plain(row)[0] for row in table.rows] == ["0 %", "5 %", "10 %", "15 %", "20 %", "25 %"]
    assert all(len(row) == len(table.columns) for row in table.rows)
    report = run(0.1)[1]
    unsteered, steered = (value_of(report.steered[i].toxicity) for i in (0, -1))
    row = plain(table.rows[2])
    assert row[1].startswith(f"{unsteered:.1f} [") and row[2].startswith(f"{steered:.1f} [")
    assert row[3] == f"\u2212{100 * (1 - steered / unsteered):.0f} %"
    assert row[4] == "+0.39"
    assert table.rows[0][5] == "–" and row[5].startswith("\u2212")  # the planted dip


def test_a_change_is_given_only_where_there_is_toxicity_for_sure():
    unsteered = {0.0: (0.4, 0.5), 0.25: (12.0, 4.0)}
    reports = []
    for report in with_toxicity({0.0: (0.3, 0.4), 0.25: (3.0, 2.0)}):
        base = replace(report.steered[0], toxicity=estimate(*unsteered[report.toxic_ratio]))
        reports.append(replace(report, steered=(base, report.steered[1])))
    rows = tables.main_table(reports, None).rows
    assert [plain(row)[3] for row in rows] == ["–", "\u221275 %"]


def test_each_strength_has_its_contrasts_and_its_lowest_point():
    reports = [run(ratio)[1] for ratio in RATIOS]
    rows = tables.strength_rows(reports, compared())
    assert [(row.strength, len(row.planned), row.lowest.ratio) for row in rows if row.lowest] == [
        (0, 0, 0.0),
        (4, 2, 0.1),
        (8, 2, 0.1),
        (12, 2, 0.1),
    ]
    assert [row.minimum.strength for row in rows if row.minimum] == [0, 4, 8, 12]
    without = tables.strength_rows(reports, None)
    assert [(row.planned, row.minimum) for row in without] == [([], None)] * 4


def test_equal_cost_is_compared_at_a_lower_and_a_higher_cost_too():
    rows = dict(tables.equal_cost_rows(compared()))
    assert list(rows) == list(RATIOS[1:])
    for ratio, cells in rows.items():
        assert [result.share for result in cells] == [0.25, 0.5, 0.75]
        assert {result.ratio for result in cells} == {ratio}
        low, middle, high = (result.cross_entropy or 0.0 for result in cells)
        assert low < middle < high and middle == pytest.approx((low + high) / 2)
    assert rows[0.10][1] == next(result for result in compared().matched if result.ratio == 0.10)
    for result in rows[0.10][1:]:  # the dip deepens with the strength
        assert result.difference is not None and (result.difference.high or 0.0) < 0
    assert tables.equal_cost_rows(None) == []


def test_several_models_of_a_ratio_are_kept_beside_their_difference():
    for comparisons_of_sweep in (compared(seeds=(0, 1)), compared(seeds=(0, 1), of_seed=4.0)):
        result = next(result for result in comparisons_of_sweep.matched if result.ratio == 0.10)
        assert len(result.by_model) == 2
        assert np.mean(result.by_model) == pytest.approx(value_of(result.difference))


def test_controls_are_listed_beside_steering_itself():
    report = run(0.1)[1]
    flipped = replace(report.steered[-1], toxicity=estimate(60.0, 2.0))
    controlled = replace(report, controls=(ControlResult(control="flipped", steered=(flipped,)),))
    unsteered, steered = (value_of(report.steered[i].toxicity) for i in (0, -1))
    rows = {row.control: row.changes for row in tables.control_rows([controlled])}
    assert list(rows) == ["flipped", "steering"]
    assert rows["flipped"] == [[], [], [60.0 - unsteered]]
    assert rows["steering"][-1] == [pytest.approx(steered - unsteered)]
    assert tables.control_rows([report]) == []


def test_the_head_probes_have_a_row_for_the_mean_and_for_the_tail():
    accuracies = [np.where(np.arange(100) < n_tail, 0.8, 0.6) for n_tail in (5, 15)]
    uniform = np.random.default_rng(7).random((400, 100))
    ids = [f"r{i}" for i in range(400)]
    heads = [HeadRows(ids, uniform < accuracy_H, accuracy_H) for accuracy_H in accuracies]
    reports = [fake_sweep.run(ratio)[1] for ratio in (0.0, 0.25)]
    found_tail = comparisons.compare(reports, [items_of(0.0, 0), items_of(0.25, 0)], heads)
    rows = [plain(row) for row in tables.head_probe_rows(found_tail)]
    assert rows[2][0].startswith("heads right in more than ")
    assert rows[2][1:] == ("15 %", "against 5 %", "0.0003")
    assert tables.heads_above_by_seed(found_tail) == ""
    (mean,) = tables.head_probe_rows(compared())
    assert mean.quantity == "mean accuracy of all heads" and mean.p == "0.0001"
