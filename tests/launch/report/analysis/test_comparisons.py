"""Paired comparisons of a sweep, on made-up items whose truth is known."""

import functools
from pathlib import Path

import fake_sweep
import numpy as np
import pytest
from fake_sweep import RATIOS
from fake_sweep import items_of as table
from safetensors.numpy import save
from scipy.stats import ks_2samp

from eval.eval_report import eval_uri
from launch.report.analysis import comparisons, head_tails
from launch.report.text import paired_findings


@functools.cache
def compared(ratios=RATIOS, seeds=(0,), **how):
    runs = [(ratio, seed) for ratio in ratios for seed in seeds]
    reports = [fake_sweep.run(ratio, seed)[1] for ratio, seed in runs]
    return comparisons.compare(reports, [table(ratio, seed, **how) for ratio, seed in runs])


def test_a_planted_smile_is_found_by_every_comparison():
    found = compared()
    assert (found.n_prompts, found.seeds_df) == (150, 0)
    assert [(one.strength, one.first, one.second) for one in found.planned] == [
        (strength, *pair) for strength in (4.0, 8.0, 12.0) for pair in ((0.0, 0.10), (0.10, 0.25))
    ]
    for one in found.planned:
        sign = -1 if one.first == 0.0 else 1
        assert sign * one.difference.value > 0 and one.p <= one.p_holm <= 0.05
    assert [one.p_interior > 0.99 for one in found.minima] == [
        False,
        True,
        True,
        True,
    ]  # unsteered toxicity only rises
    lowest = 0.10 - 20 * 0.06**2 / (
        2 * 8
    )  # the rise with the ratio pulls the dip's lowest point a little to the left
    assert found.minima[2].location.low <= lowest <= found.minima[2].location.high
    best = next(one for one in found.matched if one.ratio == 0.10)
    assert best.difference.high < 0
    assert found.probes.difference.low > 0 and found.probes.p == found.probes.p_floor == 1e-4
    assert max(found.hypervolume, key=lambda ratio: found.hypervolume[ratio].value) == "0.1"
    assert (0.10, 12.0) in found.front
    assert found.prompts_needed["0.5"] > 3.5 * found.prompts_needed["1"] > 0


def test_a_sweep_without_a_smile_is_not_given_one():
    found = compared(dip=0.0)
    assert all(one.p_holm > 0.05 or one.difference.value > 0 for one in found.planned)
    assert all(one.p_interior < 0.9 for one in found.minima)


def test_seeds_that_differ_widen_what_prompts_alone_would_claim():
    one, two = compared(), compared(seeds=(0, 1), of_seed=4.0)
    assert (one.seeds_df, two.seeds_df) == (0, 6)
    width = [
        found.planned[0].difference.high - found.planned[0].difference.low for found in (one, two)
    ]
    assert width[1] > 3 * width[0]


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


def test_runs_without_common_items_are_not_compared():
    reports = [fake_sweep.run(ratio)[1] for ratio in (0.0, 0.1)]
    assert comparisons.compare(reports, [{}, {}]) is None
    assert comparisons.compare(reports[:1], [table(0.0, 0)]) is None
    assert (
        compared((0.0, 0.1)).planned[0].second == 0.1
    )  # two ratios have one contrast, and no inside
    assert compared((0.0, 0.1)).minima == ()


def test_a_ratio_that_costs_too_much_cannot_be_matched():
    reports, tables = (
        [fake_sweep.run(ratio)[1] for ratio in (0.0, 0.1)],
        [table(0.0, 0), table(0.1, 0)],
    )
    dear = {
        k: ({i: v + 9 for i, v in of.items()} if k[0] == "cross_entropy/clean" else of)
        for k, of in tables[1].items()
    }
    (one,) = comparisons.compare(reports, [tables[0], dear]).matched
    assert one.cross_entropy is None and one.difference is None
    assert "nothing can be compared" in paired_findings.at_equal_cost(
        comparisons.compare(reports, [tables[0], dear])
    )


def test_no_comparison_is_made_of_two_kinds_of_prompts():
    other = {
        (q, s): {f"other {i}": v for i, v in of.items()} for (q, s), of in table(0.1, 0).items()
    }
    assert (
        comparisons.compare(
            [fake_sweep.run(ratio)[1] for ratio in (0.0, 0.1)], [table(0.0, 0), other]
        )
        is None
    )


def head_rows(share_of_heads: float, ids=range(400), seed=7) -> head_tails.HeadRows:
    """A hundred heads of accuracy 0.6, of which a share has 0.8."""
    rng = np.random.default_rng(seed)
    accuracy_H = np.where(np.arange(100) < 100 * share_of_heads, 0.8, 0.6)
    return head_tails.HeadRows(
        [f"r{i}" for i in ids], rng.random((len(ids), 100)) < accuracy_H, accuracy_H
    )


def test_a_fatter_right_tail_is_told_from_the_same_tail():
    reports = [fake_sweep.run(ratio)[1] for ratio in (0.0, 0.1, 0.25)]
    fatter = head_tails.compare(reports, [head_rows(0.05), None, head_rows(0.15)])
    assert (fatter.first, fatter.last, fatter.difference.n) == (0.0, 0.25, 400)
    assert fatter.difference.low > 0.1 and fatter.difference.value == pytest.approx(0.18, abs=0.04)
    assert 0.6 < fatter.threshold < 0.85 and fatter.above == pytest.approx((0.05, 0.15), abs=0.011)
    assert fatter.p_above == fatter.p_floor == 1e-4 and fatter.by_model == pytest.approx(
        [0.1], abs=0.02
    )
    assert fatter.distance == pytest.approx(0.1, abs=0.03)
    same = head_tails.compare(reports, [head_rows(0.3), None, head_rows(0.3)])
    assert same.difference.low <= same.difference.value == 0.0 <= same.difference.high
    assert (same.p_above, same.distance, same.p_distance) == (1.0, 0.0, 1.0)
    assert head_tails.compare(reports, [None, None, head_rows(0.3)]) is None
    assert (
        head_tails.compare(reports, [head_rows(0.3), None, head_rows(0.3, range(1000, 1400))])
        is None
    )


@pytest.mark.slow
def test_heads_that_are_as_good_and_err_together_are_told_apart_in_five_percent(monkeypatch):
    monkeypatch.setattr(head_tails, "N_PERMUTATIONS", 99)
    rng, found = np.random.default_rng(3), []
    skill_H = np.sort(rng.normal(0.3, 0.2, 60))
    for _ in range(400):
        row_P1 = rng.normal(0, 0.5, (150, 1))
        made = [
            row_P1 + rng.normal(0, 0.3, (150, 1)) + rng.normal(0, 0.8, (150, 60)) < skill_H
            for _ in range(2)
        ]
        found.append(head_tails.permutation_p(*(of.astype(np.float64) for of in made), seed=0))
    rejected = np.mean(np.array(found) <= 0.05, axis=0)
    assert all(0.01 <= share <= 0.07 for share in rejected), rejected


def test_where_in_the_model_heads_are_makes_no_difference_to_their_p():
    reports, rng = [fake_sweep.run(ratio)[1] for ratio in (0.0, 0.25)], np.random.default_rng(0)
    first, last = head_rows(0.1), head_rows(0.2, seed=8)
    last = last._replace(validation_H=last.validation_H + np.arange(100) / 1e4)
    order = rng.permutation(100)
    elsewhere = last._replace(
        correct_PH=last.correct_PH[:, order], validation_H=last.validation_H[order]
    )
    found = head_tails.compare(reports, [first, last])
    assert head_tails.compare(reports, [first, elsewhere]) == found and found.p_above < 0.05


def test_the_distance_of_two_groups_of_heads_is_scipys():
    rng = np.random.default_rng(0)
    first, last = (
        rng.integers(0, 30, (4, 20)).astype(float),
        rng.integers(5, 40, (4, 20)).astype(float),
    )
    expected = [ks_2samp(a, b).statistic for a, b in zip(first, last, strict=True)]
    assert head_tails.tail_statistics(first, last).distance_B == pytest.approx(expected)


def test_the_probes_three_p_are_corrected_for_being_three():
    reports, tables = (
        [fake_sweep.run(ratio)[1] for ratio in (0.0, 0.25)],
        [table(0.0, 0), table(0.25, 0)],
    )
    found = comparisons.compare(reports, tables, [head_rows(0.05), head_rows(0.15)])
    p = {"mean": found.probes.p, "above": found.tail.p_above, "distance": found.tail.p_distance}
    assert list(found.probes_holm) == list(p) and found.probes_holm["above"] == pytest.approx(3e-4)
    assert all(found.probes_holm[name] >= p[name] for name in p)
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


def test_the_rows_of_heads_are_read_back_by_their_ids(tmp_path):
    _, evaluated = fake_sweep.run(0.1)
    folder = Path(eval_uri(str(tmp_path), evaluated.config))
    folder.mkdir()
    assert head_tails.read(str(tmp_path), evaluated.config) is None
    correct_RLN, accuracy_LN = (
        np.arange(12, dtype=np.uint8).reshape(3, 2, 2) % 2,
        np.array([[0.5, 0.6], [0.7, 0.8]], np.float32),
    )
    made = save(
        {"test_correct_RLN": correct_RLN, "validation_accuracy_LN": accuracy_LN},
        {"test_ids": '["a", "b", "c"]'},
    )
    (folder / "heads.safetensors").write_bytes(made)
    found = head_tails.read(str(tmp_path), evaluated.config)
    assert (
        found.ids == ["a", "b", "c"]
        and found.correct_PH.tolist() == correct_RLN.reshape(3, 4).tolist()
    )
    assert found.validation_H.tolist() == accuracy_LN.ravel().tolist()
