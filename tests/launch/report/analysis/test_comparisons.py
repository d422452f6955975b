"""The planned comparisons of the fake sweep, whose effects are known."""

import fake_sweep
import numpy as np
import pytest
from compared_sweep import compared
from estimate_checks import covers, interval, value, width
from fake_sweep import items_of

from launch.report.analysis import comparisons
from launch.report.analysis.head_tails import HeadRows


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
    # unsteered toxicity only rises
    assert [minimum.p_interior > 0.99 for minimum in result.minima] == [False, True, True, True]
    # the rise with the ratio moves the minimum a little to the left
    assert covers(result.minima[2].location, 0.10 - 20 * 0.06**2 / (2 * 8))
    (at_ten_percent,) = (match for match in result.matched if match.ratio == 0.10)
    assert interval(at_ten_percent.difference)[1] < 0
    assert max(result.hypervolume, key=lambda ratio: value(result.hypervolume[ratio])) == "0.1"
    assert (0.10, 12.0) in result.front
    assert result.prompts_needed["0.5"] > 3.5 * result.prompts_needed["1"] > 0


def test_the_probes_difference_is_found_with_p_at_its_floor():
    probes = compared().probes
    assert probes is not None and interval(probes.difference)[0] > 0
    assert probes.p == probes.p_floor == 1e-4


def test_no_comparison_finds_a_minimum_where_there_is_none():
    result = compared(dip=0.0)
    assert all(c.p_holm > 0.05 or value(c.difference) > 0 for c in result.planned)
    assert all(minimum.p_interior < 0.9 for minimum in result.minima)


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
    assert match.cross_entropy is None and match.difference is None


def test_the_three_p_of_the_probes_are_corrected_together():
    rng = np.random.default_rng(7)
    first, last = (np.where(np.arange(100) < n_tail, 0.8, 0.6) for n_tail in (5, 15))
    uniform = rng.random((400, 100))
    ids = [f"r{i}" for i in range(400)]
    heads = [HeadRows(ids, uniform < accuracy_H, accuracy_H) for accuracy_H in (first, last)]
    reports = [fake_sweep.run(ratio)[1] for ratio in (0.0, 0.25)]
    result = comparisons.compare(reports, [items_of(0.0, 0), items_of(0.25, 0)], heads)
    assert result is not None and result.probes is not None and result.tail is not None
    p = {
        "mean": result.probes.p,
        "above": result.tail.p_above,
        "distance": result.tail.p_distance,
    }
    assert list(result.probes_holm) == list(p)
    assert result.probes_holm["above"] == pytest.approx(3e-4)
    assert all(result.probes_holm[name] >= p[name] for name in p)
