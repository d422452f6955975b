"""Pareto front and hypervolume of (cost, toxicity) points: lower is better in both

Shapes: B draws, K points.
"""

from collections.abc import Sequence

import numpy as np


def pareto_front(points: Sequence[tuple[float, float]]) -> list[int]:
    """Positions of the (cost, toxicity) points that no other point dominates, by ascending cost: no
    other is lower in one and at most equal in the other.
    """
    front = []
    lowest = np.inf
    for i in sorted(range(len(points)), key=lambda i: points[i]):
        if points[i][1] < lowest:
            front.append(i)
            lowest = points[i][1]
    return front


def hypervolume(points_BK2: np.ndarray, reference: tuple[float, float]) -> np.ndarray:
    """Area between each row's front of (cost, toxicity) and the `reference` corner, in units of
    cost × toxicity: [B] (Zitzler and Thiele 1999). More is better. Points beyond the reference add
    nothing.
    """
    clipped = np.minimum(points_BK2, reference)
    order_BK = clipped[..., 0].argsort(axis=1)
    cost_BK, toxicity_BK = (np.take_along_axis(clipped[..., i], order_BK, axis=1) for i in (0, 1))
    edges = np.concatenate([cost_BK, np.full_like(cost_BK[:, :1], reference[0])], axis=1)
    height_BK = reference[1] - np.minimum.accumulate(toxicity_BK, axis=1)
    return (np.diff(edges, axis=1) * height_BK).sum(axis=1)
