"""Sentences and tables of the paired comparisons, on the fake sweep, whose effects are known."""

import fake_sweep
import numpy as np
import pytest
from compared_sweep import compared
from fake_sweep import RATIOS
from fake_sweep import items_of as table

from launch.report.analysis import comparisons
from launch.report.analysis.head_tails import HeadRows
from launch.report.text import paired_findings


def test_the_first_claim_is_at_equal_cost_and_the_second_is_the_smile_beside_chance():
    cost, smile = (sentence.replace("\u00a0", " ") for sentence in paired_findings.lead(compared()))
    assert (
        cost.startswith("At equal cross-entropy on clean text, the models with 5 %")
        and "came out less toxic than the one with 0 %" in cost
    )
    assert (
        "(toxicity lower at 10 % than at 0 % and at 25 %, both p ≤ 0.05 after Holm) is seen at strength 4, 8 and 12."
        in smile
    )
    assert smile.endswith("if the share had no effect it would in 66.7 %.")
    flat = paired_findings.lead(compared(dip=0.0))
    assert (
        "no share of toxic text made the steered model less toxic than 0\u00a0%" in flat[0]
        and "is seen at no strength" in flat[1]
    )
    assert paired_findings.smile(compared((0.0, 0.1))) == "" and paired_findings.lead(None) == []


def test_at_equal_cost_seeds_that_differ_widen_the_interval_and_can_take_the_claim_away():
    alike, apart = compared(seeds=(0, 1)), compared(seeds=(0, 1), of_seed=4.0)
    for found in (alike, apart):
        one = next(one for one in found.matched if one.ratio == 0.10)
        assert len(one.by_model) == 2 and np.mean(one.by_model) == pytest.approx(
            one.difference.value
        )
    assert "came out less toxic" in paired_findings.at_equal_cost(alike)
    assert (
        "no share of toxic text made the steered model less toxic"
        in paired_findings.at_equal_cost(apart)
    )
    assert (
        "with 6 degrees of freedom" in paired_findings.caveat(apart)
        and paired_findings.caveat(compared()) == paired_findings.caveat(None) == ""
    )


def test_the_first_claim_is_repeated_at_a_lower_and_a_higher_cost():
    rows = dict(paired_findings.at_costs(compared()))
    assert list(rows) == list(RATIOS[1:])
    for ratio, cells in rows.items():
        assert [one.share for one in cells] == [0.25, 0.5, 0.75] and {
            one.ratio for one in cells
        } == {ratio}
        low, middle, high = (one.cross_entropy for one in cells)
        assert low < middle < high and middle == pytest.approx((low + high) / 2)
    assert rows[0.10][1] == next(one for one in compared().matched if one.ratio == 0.10)
    assert all(
        one.difference.high < 0 for one in rows[0.10][1:]
    )  # the planted smile deepens with the strength


def test_the_table_has_a_row_a_strength_with_its_contrasts_and_its_lowest_point():
    reports, found = [fake_sweep.run(ratio)[1] for ratio in RATIOS], compared()
    rows = paired_findings.rows(reports, found)
    assert [(row.strength, len(row.planned), row.lowest.ratio) for row in rows] == [
        (0, 0, 0.0),
        (4, 2, 0.1),
        (8, 2, 0.1),
        (12, 2, 0.1),
    ]
    assert [row.smile.strength for row in rows] == [0, 4, 8, 12]
    assert [(row.planned, row.smile) for row in paired_findings.rows(reports, None)] == [
        ([], None)
    ] * 4


def test_the_sentences_name_what_the_intervals_cover_and_every_p():
    text = [sentence.replace("\u00a0", " ") for sentence in paired_findings.sentences(compared())]
    assert text[0].startswith(
        "Compared on the same 150 prompts; intervals and p cover prompts, for these models only"
    )
    assert paired_findings.probes(compared()).endswith("points on the same test rows, p = 0.0001")
    assert text[-1].startswith("To show a difference of 0.5 takes ") and text[-1].endswith(
        "and a two-sided 5 %."
    )
    both = paired_findings.sentences(compared(seeds=(0, 1)))[0]
    assert "cover prompts, seeds and, at equal cost, held-out sequences." in both


def test_where_no_cost_is_common_nothing_is_claimed():
    reports, tables = (
        [fake_sweep.run(ratio)[1] for ratio in (0.0, 0.1)],
        [table(0.0, 0), table(0.1, 0)],
    )
    dear = {
        k: ({i: v + 9 for i, v in of.items()} if k[0] == "cross_entropy/clean" else of)
        for k, of in tables[1].items()
    }
    assert "nothing can be compared" in paired_findings.at_equal_cost(
        comparisons.compare(reports, [tables[0], dear])
    )


def test_the_tail_of_the_heads_has_its_rows_in_the_table():
    accuracies = [np.where(np.arange(100) < n_tail, 0.8, 0.6) for n_tail in (5, 15)]
    uniform = np.random.default_rng(7).random((400, 100))
    ids = [f"r{i}" for i in range(400)]
    heads = [HeadRows(ids, uniform < accuracy_H, accuracy_H) for accuracy_H in accuracies]
    reports = [fake_sweep.run(ratio)[1] for ratio in (0.0, 0.25)]
    found = comparisons.compare(reports, [table(0.0, 0), table(0.25, 0)], heads)
    rows = [
        tuple(cell.replace("\u00a0", " ") for cell in row)
        for row in paired_findings.of_heads(found)
    ]
    assert rows[2][0].startswith("heads right in more than ") and rows[2][1:] == (
        "15 %",
        "against 5 %",
        "0.0003",
    )
    assert (
        paired_findings.by_seed(found) == ""
        and paired_findings.of_heads(compared())[0][0] == "mean accuracy of all heads"
    )
