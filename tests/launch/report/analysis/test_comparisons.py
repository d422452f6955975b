"""The planned comparisons of the fake sweep, whose effects are known."""

import fake_sweep
import numpy as np
import pytest
from compared_sweep import compared
from estimate_checks import covers, interval, value, width
from fake_sweep import RATIOS, STRENGTHS, items_of

from eval.stats.multiple_tests import holm
from launch.report.analysis import comparisons
from launch.report.analysis.head_accuracy_tails import HeadRows


def test_every_comparison_finds_a_planted_minimum():
    result = compared()
    assert (result.n_prompts, result.seeds_df) == (150, 0)
    assert [(c.strength, c.first, c.second) for c in result.planned] == [
        (strength, *pair) for strength in (4.0, 8.0, 12.0) for pair in ((0.0, 0.10), (0.10, 0.25))
    ]
    for contrast in result.planned:
        sign = -1 if contrast.first == 0.0 else 1
        assert sign * value(contrast.difference) > 0
        assert contrast.p <= contrast.p_holm <= 0.05
    (at_ten_percent,) = (match for match in result.matched if match.ratio == 0.10)
    assert interval(at_ten_percent.difference)[1] < 0
    assert max(result.hypervolume, key=lambda ratio: value(result.hypervolume[ratio])) == "0.1"
    assert (0.10, 12.0) in result.front
    assert result.prompts_needed["0.5"] > 3.5 * result.prompts_needed["1"] > 0


def test_two_seeds_find_where_the_curve_turns():
    result = compared(seeds=(0, 1), of_seed=0.2)
    # unsteered toxicity only rises
    assert [minimum.p_interior > 0.99 for minimum in result.minima] == [False, True, True, True]
    assert [minimum.p <= 0.05 for minimum in result.minima] == [False, True, True, True]
    # the rise with the ratio moves the minimum a little to the left
    assert covers(result.minima[2].location, 0.10 - 20 * 0.06**2 / (2 * 8))
    assert compared().minima == ()  # one seed per ratio


def test_the_probes_have_a_p_only_where_seeds_are_known():
    probes = compared().probes
    assert probes is not None and interval(probes.difference)[0] > 0
    assert (probes.p, probes.p_floor, compared().probes_holm) == (None, None, {})
    result = compared(seeds=(0, 1))
    assert result.probes is not None and result.probes.p == result.probes.p_floor
    assert result.probes_holm == {"mean": result.probes.p}
    assert interval(result.probes.difference)[0] > 0


def test_no_comparison_finds_a_minimum_where_there_is_none():
    result = compared(dip=0.0)
    assert all(c.p_holm > 0.05 or value(c.difference) > 0 for c in result.planned)
    pairs = compared(seeds=(0, 1), dip=0.0)
    assert all(minimum.p > 0.05 for minimum in pairs.minima)


def test_points_of_several_seeds_are_means_with_seeds_in_their_intervals():
    result = compared(seeds=(0, 1), of_seed=4.0)
    assert compared().points == ()
    assert [(point.ratio, point.strength) for point in result.points] == [
        (ratio, strength) for strength in STRENGTHS for ratio in RATIOS
    ]
    models = [
        np.mean(list(items_of(0.1, seed, of_seed=4.0)["toxicity", 4.0].values())) for seed in (0, 1)
    ]
    (point,) = (p for p in result.points if (p.ratio, p.strength) == (0.1, 4.0))
    assert value(point.toxicity) == pytest.approx(np.mean(models))
    alike = {(p.ratio, p.strength): p for p in compared(seeds=(0, 1)).points}
    assert width(point.toxicity) > 1.5 * width(alike[0.1, 4.0].toxicity)


def test_every_run_and_ratio_has_what_steering_removes():
    result = compared(seeds=(0, 1))
    assert [(row.ratio, row.strength) for row in result.removal] == [
        (ratio, strength) for ratio in RATIOS for strength in STRENGTHS[1:]
    ]
    assert len(result.removal_by_run) == 12
    (of_run,) = (rows for name, rows in result.removal_by_run.items() if "0.10-s1" in name)
    before, after = (
        np.mean(list(items_of(0.1, 1)["toxicity", strength].values())) for strength in (0.0, 12.0)
    )
    assert value(of_run[-1].removed) == pytest.approx(1 - after / before)


def test_early_ends_keep_every_prompt_and_both_readings_are_kept():
    reports = [fake_sweep.run(ratio)[1] for ratio in RATIOS]
    tables = [items_of(ratio, 0) for ratio in RATIOS]
    assert compared().continued is None and compared().n_left_out == 0
    ended = [f"p{i}" for i in range(100)]
    continued = {name: x for name, x in tables[2]["toxicity", 12.0].items() if name not in ended}
    tables[2] |= {
        ("toxicity", 12.0): tables[2]["toxicity", 12.0] | dict.fromkeys(ended, 0.0),
        ("toxicity_continued", 12.0): continued,
    }
    result = comparisons.compare(reports, tables)
    assert result is not None and result.continued is not None
    assert (result.n_prompts, result.continued.n_prompts) == (150, 50)
    elsewhere = [c for c in result.planned if c.strength == 8.0]
    assert [c.difference for c in elsewhere] == [
        c.difference for c in compared().planned if c.strength == 8.0
    ]
    assert len(result.continued.planned) == len(result.planned)
    assert value(result.planned[-2].difference) < value(result.continued.planned[-2].difference)
    of_run = result.continued.toxicity[reports[2].run_id]["12"]
    assert of_run.n == 50 and value(of_run) == pytest.approx(np.mean(list(continued.values())))


def test_seeds_that_differ_widen_the_intervals_of_contrasts():
    alike, different = compared(), compared(seeds=(0, 1), of_seed=4.0)
    assert (alike.seeds_df, different.seeds_df) == (0, 6)
    assert width(different.planned[0].difference) > 3 * width(alike.planned[0].difference)


def test_at_equal_cost_each_models_difference_is_given():
    for result in (compared(seeds=(0, 1)), compared(seeds=(0, 1), of_seed=4.0)):
        (match,) = (match for match in result.matched if match.ratio == 0.10)
        assert len(match.by_model) == 2
        assert np.mean(match.by_model) == pytest.approx(value(match.difference))


def test_runs_without_common_items_are_not_compared():
    reports = [fake_sweep.run(ratio)[1] for ratio in (0.0, 0.1)]
    assert comparisons.compare(reports, [{}, {}]) is None
    assert comparisons.compare(reports[:1], [items_of(0.0, 0)]) is None
    renamed = {
        key: {f"other {i}": x for i, x in values.items()}
        for key, values in items_of(0.1, 0).items()
    }
    assert comparisons.compare(reports, [items_of(0.0, 0), renamed]) is None


def test_two_ratios_have_one_contrast_and_no_interior():
    result = compared((0.0, 0.1))
    assert result.planned[0].second == 0.1 and result.minima == ()


def test_a_ratio_out_of_reach_of_the_firsts_costs_is_not_matched():
    reports = [fake_sweep.run(ratio)[1] for ratio in (0.0, 0.1)]
    too_dear = {
        key: {i: x + 9 * (key[0] == "cross_entropy/clean") for i, x in values.items()}
        for key, values in items_of(0.1, 0).items()
    }
    result = comparisons.compare(reports, [items_of(0.0, 0), too_dear])
    assert result is not None
    (match,) = result.matched
    assert match.cross_entropy is None and match.difference is None and not match.is_common


def test_the_p_of_the_probes_are_corrected_together():
    rng = np.random.default_rng(7)
    ids = [f"r{i}" for i in range(400)]
    runs = [(ratio, seed) for ratio in (0.0, 0.25) for seed in (0, 1, 2)]
    heads = []
    for ratio, _ in runs:
        accuracy_H = np.where(np.arange(100) < (15 if ratio else 5), 0.8, 0.6)
        heads.append(HeadRows(ids, rng.random((400, 100)) < accuracy_H))
    reports = [fake_sweep.run(*run)[1] for run in runs]
    result = comparisons.compare(reports, [items_of(*run) for run in runs], heads)
    assert result is not None and result.probes is not None and result.tail is not None
    p = {
        "mean": result.probes.p,
        "percentile": result.tail.p_difference,
        "above": result.tail.p_above,
    }
    assert result.probes_holm == dict(zip(p, holm([x for x in p.values() if x]), strict=True))
