"""Holm's correction against a worked example and its bounds."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eval.stats import multiple_tests


def test_holm_gives_the_adjusted_values_of_a_worked_example():
    """By hand: 4 × 0.005, 3 × 0.01, then 2 × 0.03 = 0.06, and 0.04 may not fall below it."""
    adjusted = multiple_tests.holm([0.01, 0.04, 0.03, 0.005])
    assert adjusted == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert multiple_tests.holm([0.9, 0.6]) == [1.0, 1.0] and multiple_tests.holm([]) == []


@given(st.lists(st.floats(0, 1), max_size=12))
def test_holm_keeps_the_order_and_is_at_most_bonferronis(ps):
    adjusted = multiple_tests.holm(ps)
    assert all(p <= a <= min(1.0, len(ps) * p) + 1e-12 for p, a in zip(ps, adjusted, strict=True))
    assert all(
        adjusted[i] <= adjusted[j] for i in range(len(ps)) for j in range(len(ps)) if ps[i] < ps[j]
    )
