"""Sentences chosen by arithmetic: what intervals allow, and what was not measured. All numbers here are made up."""

from dataclasses import replace

import pytest
from fake_sweep import estimate, run, with_toxicity

from eval.eval_report import ControlResult, Lens
from launch.report.analysis import per_ratio_series
from launch.report.text import findings


def test_intervals_that_overlap_are_not_told_apart():
    found = findings.findings(
        with_toxicity({0.0: (13.0, 2.0), 0.10: (12.1, 2.5), 0.25: (20.0, 2.0)})
    )
    assert found[0].replace("\u00a0", " ") == (
        "The lowest steered toxicity at strength 8 was 12.1 [9.6, 14.6], at 10 % toxic text, against 13.0 [11.0, 15.0] at 0 %: "
        "the intervals overlap, so this sweep does not tell 0 % and 10 % apart."
    )


def test_a_minimum_inside_the_grid_is_claimed_only_when_both_ends_are_apart_from_it():
    inside = findings.findings(
        with_toxicity({0.0: (13.0, 1.0), 0.10: (8.0, 1.0), 0.25: (20.0, 2.0)})
    )[0]
    assert inside.endswith(
        "neither interval overlaps its own, so here the minimum lies inside the grid."
    )
    open_end = findings.findings(
        with_toxicity({0.0: (13.0, 1.0), 0.10: (8.0, 1.0), 0.25: (9.0, 2.0)})
    )[0]
    assert open_end.endswith(
        "Those of 10\u00a0% and 25\u00a0% do, so where the curve turns is not settled."
    )
    falling = findings.findings(
        with_toxicity({0.0: (13.0, 1.0), 0.10: (9.0, 1.0), 0.25: (5.0, 1.0)})
    )[0]
    assert falling.endswith("It is the largest ratio tested, so the minimum may lie beyond it.")


def test_a_sweep_whose_cleanest_corpus_wins_says_so():
    found = findings.findings(
        with_toxicity({0.0: (3.0, 1.0), 0.10: (8.0, 1.0), 0.25: (20.0, 2.0)})
    )[0]
    assert "at 0\u00a0% toxic text, the smallest share tested" in found and found.endswith(
        "the intervals do not overlap."
    )


def test_one_seed_leaves_seed_variation_unmeasured_and_several_widen_the_interval():
    one, other = (
        replace(run(0.1, seed)[1], probe_accuracy=estimate(0.6 + 0.2 * seed, 0.05))
        for seed in (0, 1)
    )
    assert "variation between seeds is unmeasured" in findings.findings([one])[-1]
    assert "2 seeds" in findings.findings([one, other])[-1]
    (point,) = per_ratio_series.by_ratio([one, other], lambda report: report.probe_accuracy)
    assert (point.value, point.low, point.high, point.n_runs) == pytest.approx((0.7, 0.55, 0.85, 2))


def test_text_that_falls_apart_and_scores_that_are_missing_are_mentioned():
    report_ = run(0.1)[1]
    last = replace(
        report_.steered[-1], distinct_ratio=estimate(0.3, 0.1), coverage_ratio=0.5, n_empty=30
    )
    last = replace(last, perplexity=estimate(3000.0, 9.0))
    found = findings.findings([replace(report_, steered=(*report_.steered[:-1], last))])
    assert any(
        sentence.startswith("At strength 12 the continuations of at least one model")
        for sentence in found
    )
    assert any(
        "are more than 10 times as perplexing to the judge as unsteered ones (at most 100 times)."
        in one
        for one in found
    )
    assert findings.garbled([report_], [4.0, 8.0, 12.0]) == ""
    assert any("only 50\u00a0% of the continuations got a score" in sentence for sentence in found)
    assert any(
        "15\u00a0% of the continuations were empty and are in no toxicity" in sentence
        for sentence in found
    )
    assert findings.coverage([report_]) == ""


def test_chance_controls_and_the_lens_are_told_where_they_were_measured():
    lens = Lens(
        group="all steered heads",
        toxic_tokens=(" a",) * 50,
        benign_tokens=(" b",) * 50,
        toxic_share=0.2,
        benign_share=0.0,
        random_share=0.02,
        random_high=0.06,
    )
    base = run(0.1)[1]
    flipped = replace(base.steered[-1], toxicity=estimate(60.0, 2.0))
    full = replace(
        base, lens=(lens,), controls=(ControlResult(control="flipped", steered=(flipped,)),)
    )
    found = [sentence.replace("\u00a0", " ") for sentence in findings.findings([full])]
    change = base.steered[-1].toxicity.value - base.steered[0].toxicity.value
    rise = 60.0 - base.steered[0].toxicity.value
    changed = f"the direction flipped {rise:+.1f}; steering \u2212{-change:.1f}"
    assert f"At strength 12 toxicity changed, depending on the run, by: {changed}." in found
    assert any(
        sentence.startswith("Of 16 probes 11 a model are above chance") for sentence in found
    )
    assert any("At 10 % toxic text, more of the 50 tokens" in sentence for sentence in found)
    silent = findings.findings([replace(base, probe_null=None)])
    assert not any(
        "chance" in sentence or "vocabulary" in sentence or "depending on the run, by:" in sentence
        for sentence in silent
    )


def test_a_cleanest_model_at_the_floor_is_named_and_what_steering_changes_counts():
    ratios = {0.0: (0.4, 0.5), 0.25: (12.0, 4.0)}
    steered = with_toxicity({0.0: (0.3, 0.4), 0.25: (3.0, 2.0)})
    reports = []
    for (value, half), report in zip(ratios.values(), steered, strict=True):
        unsteered = replace(report.steered[0], toxicity=estimate(value, half))
        reports.append(replace(report, steered=(unsteered, report.steered[1])))
    found = [sentence.replace("\u00a0", " ") for sentence in findings.findings(reports, ["first"])]
    assert found[0] == "first"
    assert found[1].startswith(
        "The model with 0 % toxic text scores 0.4 [\u22120.1, 0.9] before any steering: its interval reaches the floor"
    )
    assert found[3] == "Steering at strength 8 changed toxicity by −75 % at 25 % toxic text."
    assert (
        findings.floor(reports[1:]) == ""
        and findings.floor(with_toxicity({0.0: (5.0, 1.0), 0.1: (4.0, 1.0)})) == ""
    )
