"""Pareto front and hypervolume of (cost, toxicity) points: lower is better in both

A ratio's hypervolume is the mean over its models, each with its own path, and its interval covers
prompts, sequences and, where there are several, seeds.

Shapes: B draws, K points or strengths, R ratios, S seeds, P prompts, Q sequences.
"""

from collections.abc import Sequence

import numpy as np

from eval.stats import intervals, resampling, seed_spread
from eval.stats.estimate_with_interval import Estimate
from launch.report.analysis.sweep_items import SweepItems

UNIT = "nats/token × score × 100"


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


def worst_corner(items: SweepItems) -> tuple[float, float]:
    """The highest cost and the highest toxicity of any model at any strength."""
    return (
        max(float(cost_SQK.mean(axis=1).max()) for cost_SQK in items.cross_entropy),
        max(float(toxic_SPK.mean(axis=1).max()) for toxic_SPK in items.toxicity),
    )


def hypervolumes(
    items: SweepItems, n_resamples: int = intervals.N_RESAMPLES
) -> dict[str, Estimate]:
    """Per ratio, the area between its models' paths and the worst corner of all models."""
    corner = worst_corner(items)
    areas = [
        hypervolume(np.stack([cost_SQK.mean(axis=1), toxic_SPK.mean(axis=1)], axis=-1), corner)
        for cost_SQK, toxic_SPK in zip(items.cross_entropy, items.toxicity, strict=True)
    ]
    spread = seed_spread.pooled(areas)
    volumes = {}
    for i, (ratio, areas_S) in enumerate(zip(items.ratios, areas, strict=True)):
        draws_B = np.mean(
            [
                hypervolume(_path_draws(cost_QK, toxic_PK, items.seed, n_resamples), corner)
                for cost_QK, toxic_PK in zip(items.cross_entropy[i], items.toxicity[i], strict=True)
            ],
            axis=0,
        )
        n_prompts = items.toxicity[i].shape[1]
        over_items = intervals.percentile(float(areas_S.mean()), draws_B, n_prompts, UNIT)
        volumes[f"{ratio:g}"] = seed_spread.widened(
            over_items, spread, len(areas_S), bounds=(0.0, np.inf)
        )
    return volumes


def _path_draws(
    cost_QK: np.ndarray, toxic_PK: np.ndarray, seed: int, n_resamples: int
) -> np.ndarray:
    # seed + 1: sequences are drawn independently of prompts even if there are equally many
    cost_BK = resampling.means(cost_QK, n_resamples, seed + 1)
    toxic_BK = resampling.means(toxic_PK, n_resamples, seed)
    return np.stack([cost_BK, toxic_BK], axis=-1)


def front_of(items: SweepItems) -> tuple[tuple[float, float], ...]:
    """The (ratio, strength) pairs on the Pareto front of the means over each ratio's models."""
    points = [
        (float(cost_SQK[:, :, k].mean()), float(toxic_SPK[:, :, k].mean()))
        for cost_SQK, toxic_SPK in zip(items.cross_entropy, items.toxicity, strict=True)
        for k in range(len(items.strengths))
    ]
    labels = [(ratio, strength) for ratio in items.ratios for strength in items.strengths]
    return tuple(labels[i] for i in pareto_front(points))
