import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from launch.report.analysis.pareto_front import hypervolume, pareto_front


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
