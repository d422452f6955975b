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


def match(paths, seed=0):
    return matched_cross_entropy.match(paths, 2 / 3, seed=seed, n_resamples=400)


def test_paths_without_a_common_cost_are_left_out_and_change_no_other():
    generator = np.random.default_rng(0)
    first, second = two_paths(generator)
    _, too_dear = two_paths(generator, costs=((2.2, 2.3, 2.5), (3.0, 3.1, 3.5)))
    _, barely = two_paths(generator, costs=((2.2, 2.3, 2.5), (2.499, 2.6, 2.7)))
    (alone,) = match([first, too_dear])
    assert alone.cross_entropy is None and alone.difference is None and alone.by_model == ()
    results = match([first, too_dear, second, barely])
    assert [result.difference is None for result in results] == [True, False, True]
    (expected,) = match([first, second])
    assert interval(results[1].difference) == pytest.approx(interval(expected.difference))


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
