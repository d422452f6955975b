import numpy as np
import pytest
from estimate_checks import covers, value
from hypothesis import given
from hypothesis import strategies as st

from launch.report.analysis.pareto_front import (
    hypervolume,
    hypervolumes,
    pareto_front,
    worst_corner,
)
from launch.report.analysis.sweep_items import SweepItems


def test_the_front_holds_the_points_that_no_other_dominates():
    points = [(2.0, 40.0), (2.1, 41.0), (2.2, 30.0), (2.2, 25.0), (3.0, 25.0), (3.1, 5.0)]
    assert pareto_front(points) == [0, 3, 5]


def test_the_hypervolume_is_the_area_to_the_reference():
    points = np.array([[[1.0, 4.0], [2.0, 2.0], [3.0, 3.0]], [[9.0, 1.0], [1.0, 9.0], [9.0, 9.0]]])
    assert hypervolume(points, (4.0, 5.0)).tolist() == [1 * 1 + 2 * 3, 0.0]


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=1, max_size=8))
def test_one_more_point_never_lowers_the_hypervolume(points):
    volume, larger = (
        hypervolume(np.array([some]), (1.0, 1.0))[0] for some in (points, [*points, (0.3, 0.3)])
    )
    assert larger >= volume - 1e-12


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=1, max_size=8))
def test_dominated_points_do_not_change_the_hypervolume(points):
    front = [points[i] for i in pareto_front(points)]
    volume, of_front = (hypervolume(np.array([some]), (1.0, 1.0))[0] for some in (points, front))
    assert of_front == pytest.approx(volume, abs=1e-12)


def items_of_seeds(generator, n_seeds, seed_deviation) -> SweepItems:
    """Two ratios on the path (2.2, 40), (2.3, 30), (2.5, 20); the second is worse by a corner."""
    cost_K, toxicity_K = np.array((2.2, 2.3, 2.5)), np.array((40.0, 30.0, 20.0))
    prompt_P1, sequence_Q1 = generator.normal(0, 10, (80, 1)), generator.normal(0, 0.1, (60, 1))

    def own(deviation, *shape):
        return generator.normal(0, deviation, shape)

    return SweepItems(
        ratios=[0.0, 0.1],
        strengths=[0.0, 4.0, 8.0],
        toxicity=[
            toxicity_K
            + worse
            + prompt_P1
            + own(seed_deviation, n_seeds, 1, 1)
            + own(5, n_seeds, 80, 3)
            for worse in (0.0, 25.0)
        ],
        cross_entropy=[
            cost_K + worse + sequence_Q1 + own(0.01, n_seeds, 60, 3) for worse in (0.0, 0.4)
        ],
        seed=0,
        n_left_out=0,
    )


@pytest.mark.parametrize(("n_seeds", "seed_deviation"), [(1, 0.0), (2, 3.0)])
def test_the_interval_of_a_hypervolume_covers_prompts_and_seeds(n_seeds, seed_deviation):
    path_K2 = np.array([[2.2, 40.0], [2.3, 30.0], [2.5, 20.0]])
    generator = np.random.default_rng(3)
    covered = []
    for _ in range(300):
        items = items_of_seeds(generator, n_seeds, seed_deviation)
        truth = hypervolume(path_K2[None], worst_corner(items))[0]
        covered.append(covers(hypervolumes(items, 300)["0"], truth))
    assert 0.915 <= np.mean(covered) <= 0.985  # 95 % ± 2.8 standard errors of 1.3 %


def test_the_hypervolume_of_a_ratio_is_the_mean_over_its_models():
    items = items_of_seeds(np.random.default_rng(1), 2, 3.0)
    areas = []
    for cost_QK, toxic_PK in zip(items.cross_entropy[0], items.toxicity[0], strict=True):
        path_K2 = np.stack([cost_QK.mean(axis=0), toxic_PK.mean(axis=0)], axis=-1)
        areas.append(hypervolume(path_K2[None], worst_corner(items))[0])
    assert value(hypervolumes(items)["0"]) == pytest.approx(np.mean(areas))
