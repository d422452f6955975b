"""Toxicity at equal cross-entropy; intervals against simulations with a known truth."""

import numpy as np
import pytest
from estimate_checks import covers, interval, width

from launch.report.analysis import matched_cross_entropy
from launch.report.analysis.matched_cross_entropy import StrengthPath


def test_toxicity_at_a_cross_entropy_is_read_between_the_strengths():
    # two draws of three models
    cost = np.array([[[2.0, 2.2, 2.6], [2.0, 1.9, 2.4], [3.0, 3.1, 3.2]]] * 2)
    toxicity = np.full_like(cost, (40.0, 30.0, 10.0))
    interpolated = matched_cross_entropy.toxicity_at_level(cost, toxicity, np.array([2.4, 2.0]))
    assert np.allclose(interpolated, [[20.0, 10.0, np.nan], [40.0, 40.0, np.nan]], equal_nan=True)


def two_paths(
    generator, *, n_seeds=1, seed_deviation=0.0, hardness=0.02, costs=((2.2, 2.3, 2.5),) * 2
):
    """Two ratios with toxicity 25 and 10 at two thirds of the costs that both reach. Sequences
    differ by `hardness`, for all models alike.
    """
    prompt_P1 = generator.normal(0, 10, (80, 1))
    sequence_Q1 = generator.normal(0, hardness, (60, 1))
    toxicities = ((40.0, 30.0, 20.0), (42.0, 20.0, 0.0))
    return [
        StrengthPath(
            ratio,
            np.array(toxicity_K)
            + prompt_P1
            + generator.normal(0, seed_deviation, (n_seeds, 1, 1))
            + generator.normal(0, 5, (n_seeds, 80, 3)),
            np.array(cost_K) + sequence_Q1 + generator.normal(0, 0.01, (n_seeds, 60, 3)),
        )
        for ratio, toxicity_K, cost_K in zip((0.0, 0.1), toxicities, costs, strict=True)
    ]


def several_paths(generator, costs):
    """Ratios whose toxicity falls from 40 to 20, at these costs."""
    prompt_P1 = generator.normal(0, 10, (80, 1))
    sequence_Q1 = generator.normal(0, 0.02, (60, 1))
    return [
        StrengthPath(
            0.05 * i,
            np.array((40.0, 30.0, 20.0)) + i + prompt_P1 + generator.normal(0, 5, (1, 80, 3)),
            np.array(cost_K) + sequence_Q1 + generator.normal(0, 0.001, (1, 60, 3)),
        )
        for i, cost_K in enumerate(costs)
    ]


def match(paths, seed=0):
    return matched_cross_entropy.match(paths, 2 / 3, seed=seed, n_resamples=400)


def test_one_level_serves_all_ratios_that_reach_it():
    generator = np.random.default_rng(0)
    costs = ((2.2, 2.3, 2.5), (2.1, 2.2, 2.4), (2.25, 2.4, 2.7))
    first, *others = several_paths(generator, costs)
    results = match([first, *others])
    level = 2.25 + 2 / 3 * (2.4 - 2.25)
    assert [result.is_common for result in results] == [True, True]
    for result in results:
        assert result.cross_entropy == pytest.approx(level, abs=0.02)
        assert result.toxicity and results[0].toxicity
        at_first, at_ratio = result.toxicity
        assert at_first == results[0].toxicity[0]
        assert result.difference.value == pytest.approx(at_ratio - at_first)


def test_a_ratio_that_does_not_reach_the_level_is_compared_at_its_own():
    generator = np.random.default_rng(0)
    costs = ((2.2, 2.3, 2.5), (2.0, 2.1, 2.3), (2.1, 2.2, 2.28), (2.4, 2.6, 2.7), (3.0, 3.1, 3.5))
    paths = several_paths(generator, costs)
    results = match(paths)
    assert [result.is_common for result in results] == [True, True, False, False]
    assert results[0].cross_entropy == results[1].cross_entropy
    assert results[2].cross_entropy == pytest.approx(2.4 + 2 / 3 * 0.1, abs=0.02)
    assert results[2].difference is not None
    never = results[3]
    assert (never.cross_entropy, never.toxicity, never.difference) == (None, None, None)
    assert never.by_model == ()
    # the ratios that do not reach it move neither the level nor the differences of the others
    alone = match(paths[:3])
    for one, other in zip(alone, results, strict=False):
        assert interval(one.difference) == pytest.approx(interval(other.difference), rel=0.2)
        assert one.cross_entropy == other.cross_entropy


def test_a_range_that_few_draws_share_is_no_common_range():
    generator = np.random.default_rng(0)
    first, second = two_paths(generator)
    _, barely = two_paths(generator, costs=((2.2, 2.3, 2.5), (2.499, 2.6, 2.7)))
    results = match([first, second, barely])
    assert [result.is_common for result in results] == [True, False]
    assert results[1].difference is None


def test_the_level_is_within_reach_of_all_models_and_moves_with_the_draw():
    # in the second draw all sequences are harder
    cost = np.array([[[2.0, 2.4], [2.1, 2.3]], [[3.0, 3.4], [3.1, 3.3]]])
    level = matched_cross_entropy.common_level([cost, cost[:, :1] + 0.15], 0.5)
    assert np.allclose(level, [2.225, 3.225])
    # between draws, costs move by as much as their whole range
    (result,) = match(two_paths(np.random.default_rng(0), hardness=2.0))
    assert width(result.difference) < 3


@pytest.mark.parametrize(("n_seeds", "seed_deviation", "hardness"), [(1, 0.0, 0.02), (2, 3.0, 0.3)])
def test_the_interval_at_equal_cross_entropy_covers_the_truth(n_seeds, seed_deviation, hardness):
    generator = np.random.default_rng(7)
    covered = []
    for seed in range(1000):
        paths = two_paths(
            generator, n_seeds=n_seeds, seed_deviation=seed_deviation, hardness=hardness
        )
        covered.append(covers(match(paths, seed)[0].difference, 10.0 - 25.0))
    assert 0.93 <= np.mean(covered) <= 0.97


def test_the_interval_at_the_common_cost_of_six_ratios_covers_the_truth():
    """The ratios' ranges differ; all reach 2.25 to 2.4, and the level is two thirds into it."""
    costs = [(2.2 - 0.02 * i, 2.3 - 0.02 * i, 2.6 - 0.04 * i) for i in range(6)]
    costs[3] = (2.25, 2.3, 2.5)
    level = 2.25 + 2 / 3 * 0.15
    toxicity = (40.0, 30.0, 20.0)
    truth = 5 + np.interp(level, costs[5], toxicity) - np.interp(level, costs[0], toxicity)
    generator = np.random.default_rng(8)
    covered = []
    for seed in range(400):
        results = match(several_paths(generator, costs), seed)
        assert all(result.is_common for result in results)
        covered.append(covers(results[4].difference, truth))
    assert 0.92 <= np.mean(covered) <= 0.98  # 95 % ± 2.8 standard errors of 1.1 %
