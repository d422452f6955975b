"""Holm's correction of p-values for multiple tests"""

from collections.abc import Sequence


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values adjusted for multiple tests, in the given order (Holm 1979). Rejecting adjusted
    values ≤ level keeps the chance of any false rejection below that level, however the tests
    depend on each other.
    """
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    adjusted = [0.0] * len(p_values)
    largest = 0.0
    for rank, i in enumerate(order):
        largest = max(largest, min(1.0, (len(order) - rank) * p_values[i]))
        adjusted[i] = largest
    return adjusted
