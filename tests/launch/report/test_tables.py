"""Rows of the report's tables, on the fake sweep, whose effects are known."""

from dataclasses import replace

import fake_sweep
import numpy as np
import pytest
from compared_sweep import compared
from fake_data_cards import cards
from fake_sweep import RATIOS, estimate, items_of, run, value_of, with_toxicity

from launch.report import tables
from launch.report.analysis import comparisons
from launch.report.analysis.evaluation_view import ControlResult
from launch.report.analysis.head_accuracy_tails import HeadRows


def plain(cells) -> tuple[str, ...]:
    return tuple(cell.replace("\u00a0", " ") for cell in cells)


def test_the_main_table_has_a_row_per_ratio_with_its_change_and_cost():
    doses = {ratio: tables.dose(run(ratio)[0], cards()) for ratio in RATIOS}
    table = tables.main_table([run(ratio)[1] for ratio in RATIOS], compared(), doses)
    assert [plain(row)[0] for row in table.rows] == ["0 %", "5 %", "10 %", "15 %", "20 %", "25 %"]
    assert all(len(row) == len(table.columns) for row in table.rows)
    report = run(0.1)[1]
    unsteered, steered = (value_of(report.steered[i].toxicity) for i in (0, -1))
    row = plain(table.rows[2])
    assert row[1].startswith("444,416 (about ") and row[1].endswith(" documents)")
    assert row[2].startswith(f"{unsteered:.1f} [") and row[3].startswith(f"{steered:.1f} [")
    (removal,) = (r for r in compared().removal if (r.ratio, r.strength) == (0.1, 12.0))
    assert row[4].startswith(f"{100 * value_of(removal.removed):.0f} % [")
    assert row[5] == "+0.39"
    assert table.rows[0][6] == "–" and row[6].startswith("\u2212")  # the planted dip


def test_without_common_items_and_cards_nothing_is_made_up():
    reports = with_toxicity({0.0: (0.3, 0.4), 0.25: (3.0, 2.0)})
    rows = [plain(row) for row in tables.main_table(reports, None).rows]
    assert [(row[1], row[4]) for row in rows] == [("not measured", "not measured")] * 2
    assert tables.dose(run(0.25)[0], {}) == (run(0.25)[0].config.mixture.n_toxic * 128, None)


def test_a_cost_of_its_own_is_marked_in_the_main_table():
    (matched,) = (match for match in compared().matched if match.ratio == 0.10)
    own = replace(matched, is_common=False, cross_entropy=1.924)
    assert tables.at_level(own) == f"{tables.at_level(matched)} (at 1.92)"
    never = replace(matched, difference=None, cross_entropy=None)
    assert tables.at_level(never) == "no equal cost"


def test_what_steering_removes_has_a_cell_per_ratio_and_strength():
    rows = dict(tables.removal_rows(compared()))
    assert list(rows) == list(RATIOS) and {len(cells) for cells in rows.values()} == {3}
    strongest = rows[0.10][-1]
    assert strongest.difference.startswith("\u2212") and "%" in strongest.more_toxic
    assert tables.removal_rows(None) == []


def test_each_strength_has_its_contrasts_and_its_lowest_point():
    reports = [run(ratio)[1] for ratio in RATIOS]
    rows = tables.strength_rows(reports, compared())
    assert [(row.strength, len(row.planned), row.lowest.ratio) for row in rows if row.lowest] == [
        (0, 0, 0.0),
        (4, 2, 0.1),
        (8, 2, 0.1),
        (12, 2, 0.1),
    ]
    pairs = tables.strength_rows(reports, compared(seeds=(0, 1)))
    assert [row.minimum.strength for row in pairs if row.minimum] == [0, 4, 8, 12]
    assert [row.minimum for row in rows] == [None] * 4
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


def tail_heads(ratio: float, seed: int) -> HeadRows:
    accuracy_H = np.where(np.arange(100) < (15 if ratio else 5), 0.8, 0.6)
    uniform = np.random.default_rng([7, seed]).random((400, 100))
    return HeadRows([f"r{i}" for i in range(400)], uniform < accuracy_H)


def probe_rows(*seeds: int):
    runs = [(ratio, seed) for ratio in (0.0, 0.25) for seed in seeds]
    result = comparisons.compare(
        [fake_sweep.run(*run)[1] for run in runs],
        [items_of(*run) for run in runs],
        [tail_heads(*run) for run in runs],
    )
    return result, [plain(row) for row in tables.head_probe_rows(result)]


def test_the_head_probes_of_two_models_have_no_p():
    result, rows = probe_rows(0)
    assert rows[2][0].startswith("heads right in more than ")
    assert rows[2][1] == "+10.00 points" and rows[2][2].endswith("; 15 % against 5 %")
    assert [row[3] for row in rows] == ["–"] * 4
    assert tables.heads_above_by_seed(result) == ""


def test_the_head_probes_of_several_seeds_have_a_p_per_tested_row():
    result, rows = probe_rows(0, 1, 2)
    assert [row[3] == "–" for row in rows] == [False, False, False, True]
    assert rows[2][3].startswith("≤ 0.00")
    assert tables.heads_above_by_seed(result).startswith("In heads above, the models at 25")
