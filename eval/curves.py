"""what a sweep's curves say: contrasts, the smile, toxicity at matched cross-entropy, Pareto front and hypervolume

A curve has one value a ratio: the mean over seeds and prompts. All ratios meet the same prompts, so the bootstrap draws
prompts once for the whole curve. Models are the second source of chance, and two seeds a ratio are too few to resample.
Their spread is taken as one σ for all ratios, estimated with Σ(seeds − 1) degrees of freedom, and each draw of the curve gets

    mean over drawn prompts  +  σ̂·√(df/χ²)·z/√seeds         one χ² for the draw, one z a ratio

which for a contrast of two ratios is the pooled t interval with seeds as points, widened by the choice of prompts. With one
seed a ratio σ is unknown, df is 0, and a draw varies with the prompts alone. Whatever is asked of a curve is asked of every
draw of it.

Shapes: R ratios, S seeds, P prompts, Q sequences, K strengths, B draws.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from eval import resampling
from eval.intervals import spread_levels
from eval.record import Estimate


class Curve(NamedTuple):
    """value_R, in `unit`, at ascending ratios_R, and draws_BR of it. seeds_df: degrees of freedom of the spread over seeds; 0
    where it could not be measured, and then the draws leave it out."""

    ratios_R: np.ndarray
    value_R: np.ndarray
    draws_BR: np.ndarray
    n_prompts: int
    seeds_df: int
    unit: str


class Contrast(NamedTuple):
    """second − first, with the two-sided p of the draws and the least p they could show."""

    difference: Estimate
    p: float
    floor: float


class Smile(NamedTuple):
    """p_interior: share of the draws whose lowest ratio is neither the first nor the last. p_by_chance: that share where the
    ratio has no effect at all, (R − 2)/R: the number to compare it with. location: ratio of the minimum, by a parabola through
    the lowest point and its neighbours, or the end that is lowest. Between grid points it is as good as the parabola is."""

    p_interior: float
    p_by_chance: float
    location: Estimate


class Path(NamedTuple):
    """One model over the strengths: toxicity of each prompt and cross-entropy of each sequence."""

    toxicity_PK: np.ndarray
    cost_QK: np.ndarray


def curve(ratios: Sequence[float], values: Sequence[np.ndarray], unit: str, *, n_draws: int, seed: int) -> Curve:
    """The curve of `values`, one array [S, P] a ratio with the same prompts in the same order; S may differ."""
    n_prompts = values[0].shape[1]
    assert len(ratios) == len(values) and list(ratios) == sorted(set(ratios)), ratios
    assert all(of_ratio.shape[1] == n_prompts and np.isfinite(of_ratio).all() for of_ratio in values), [v.shape for v in values]
    by_prompt_PR = np.stack([of_ratio.mean(axis=0) for of_ratio in values], axis=1)
    draws_BR = resampling.means(by_prompt_PR, n_draws, seed)
    n_seeds_R = np.array([len(of_ratio) for of_ratio in values])
    df = int((n_seeds_R - 1).sum())
    if df:
        squares = sum(float(((of_ratio.mean(axis=1) - of_ratio.mean()) ** 2).sum()) for of_ratio in values)
        chi2_B = (resampling.normals((n_draws, df), "spread", seed, df) ** 2).sum(axis=1)
        noise_BR = resampling.normals(draws_BR.shape, "seeds", seed, *draws_BR.shape)
        draws_BR = draws_BR + np.sqrt(squares / chi2_B)[:, None] * noise_BR / np.sqrt(n_seeds_R)
    return Curve(np.array(ratios, dtype=np.float64), by_prompt_PR.mean(axis=0), draws_BR, n_prompts, df, unit)


def contrast(of: Curve, first: float, second: float, *, confidence: float) -> Contrast | None:
    """T(second) − T(first), or None where the curve lacks one of the two ratios."""
    at = [int(np.flatnonzero(np.isclose(of.ratios_R, ratio))[0]) for ratio in (first, second) if _has(of, ratio)]
    if len(at) < 2:
        return None
    draws_B = of.draws_BR[:, at[1]] - of.draws_BR[:, at[0]]
    floor = 2 / (1 + len(draws_B))
    p = min(1.0, float(1 + min((draws_B <= 0).sum(), (draws_B >= 0).sum())) * floor)
    value = float(of.value_R[at[1]] - of.value_R[at[0]])
    return Contrast(_estimate(value, draws_B, of.n_prompts, of.unit, confidence), p, floor)


def smile(of: Curve, *, confidence: float) -> Smile | None:
    """Whether and where the curve has a minimum inside the grid; None below three ratios, which have no inside."""
    n_ratios = len(of.ratios_R)
    if n_ratios < 3:
        return None
    lowest_B = of.draws_BR.argmin(axis=1)
    interior = float(((lowest_B > 0) & (lowest_B < n_ratios - 1)).mean())
    value = float(minimum_at(of.ratios_R, of.value_R[None])[0])
    location = _estimate(value, minimum_at(of.ratios_R, of.draws_BR), of.n_prompts, "ratio", confidence)
    return Smile(interior, (n_ratios - 2) / n_ratios, location)


def minimum_at(x_R: np.ndarray, y_BR: np.ndarray) -> np.ndarray:
    """Where each row is lowest, [B]: the vertex of the parabola through its lowest point and the two beside it."""
    lowest_B = y_BR.argmin(axis=1)
    middle_B = lowest_B.clip(1, y_BR.shape[1] - 2)
    (xa, xb, xc), (ya, yb, yc) = (
        [of(middle_B + step) for step in (-1, 0, 1)] for of in (lambda i: x_R[i], lambda i: y_BR[np.arange(len(y_BR)), i])
    )
    left, right = (yb - ya) / (xb - xa), (yc - yb) / (xc - xb)  # slopes; lowest in the middle means left ≤ 0 ≤ right
    bend = np.where(right > left, (right - left) / (xc - xa), 1.0)
    vertex_B = np.where(right > left, (xa + xb) / 2 - left / (2 * bend), xb)
    return np.where(lowest_B == middle_B, vertex_B, x_R[lowest_B])


def shared_level(paths: Sequence[Path], share: float = 0.5) -> float | None:
    """The middle of the cross-entropies that every path reaches, or as far into them as `share`; None where there are none."""
    costs_RK = [path.cost_QK.mean(axis=0) for path in paths]
    low, high = max(cost_K.min() for cost_K in costs_RK), min(cost_K.max() for cost_K in costs_RK)
    return float(low + share * (high - low)) if low <= high else None


def at_cross_entropy(cost_BK: np.ndarray, toxicity_BK: np.ndarray, level: float) -> np.ndarray:
    """Toxicity where each path of ascending strengths first comes to `level`, linear between strengths: [B], nan where never."""
    below_BK = cost_BK - level
    crosses_BK = below_BK[:, :-1] * below_BK[:, 1:] <= 0
    first_B = crosses_BK.argmax(axis=1)[:, None]
    start, end = (np.take_along_axis(below_BK, first_B + step, axis=1)[:, 0] for step in (0, 1))
    share_B = np.where(start == end, 0.0, start / np.where(start == end, 1.0, start - end))
    t_start, t_end = (np.take_along_axis(toxicity_BK, first_B + step, axis=1)[:, 0] for step in (0, 1))
    return np.where(crosses_BK.any(axis=1), t_start + share_B * (t_end - t_start), np.nan)


def matched(
    first: Path, second: Path, level: float, unit: str, *, confidence: float, n_resamples: int, seed: int
) -> Estimate | None:
    """Toxicity of `second` − `first` at equal cross-entropy `level` (nats/token), over prompts and sequences drawn once for both.

    None where a path does not come to the level, or comes to it in fewer than `confidence` of the resamples: there the
    curves do not overlap, and there is nothing to compare.
    """
    n_k = first.cost_QK.shape[1]
    toxicity_P, cost_Q = (np.concatenate([a, b], axis=1) for a, b in zip(first, second, strict=True))

    def difference(toxicity_B: np.ndarray, cost_B: np.ndarray) -> np.ndarray:
        a, b = (at_cross_entropy(cost_B[:, part], toxicity_B[:, part], level) for part in (slice(n_k), slice(n_k, None)))
        return b - a

    value = float(difference(toxicity_P.mean(axis=0)[None], cost_Q.mean(axis=0)[None])[0])
    draws_B = difference(
        resampling.means(toxicity_P, n_resamples, seed), resampling.means(cost_Q, n_resamples, seed + 1)
    )  # seed + 1: the two kinds of items are drawn apart even where there are equally many
    known_B = draws_B[np.isfinite(draws_B)]
    if not np.isfinite(value) or len(known_B) < confidence * len(draws_B):
        return None
    return _estimate(value, known_B, len(toxicity_P), unit, confidence)


def pareto_front(points: Sequence[tuple[float, float]]) -> list[int]:
    """Positions of the (cost, toxicity) points that no other beats in one and matches in the other, by ascending cost."""
    front, lowest = [], np.inf
    for i in sorted(range(len(points)), key=lambda i: points[i]):
        if points[i][1] < lowest:
            front.append(i)
            lowest = points[i][1]
    return front


def hypervolume(points_BK2: np.ndarray, reference: tuple[float, float]) -> np.ndarray:
    """Area between each row's front of (cost, toxicity) and the `reference` corner, which is worse than any point that
    counts: [B], cost × toxicity (Zitzler and Thiele 1999). More is better; points beyond the reference add nothing."""
    clipped = np.minimum(points_BK2, reference)
    order_BK = clipped[..., 0].argsort(axis=1)
    cost_BK, toxicity_BK = (np.take_along_axis(clipped[..., i], order_BK, axis=1) for i in (0, 1))
    edges = np.concatenate([cost_BK, np.full_like(cost_BK[:, :1], reference[0])], axis=1)
    return (np.diff(edges, axis=1) * (reference[1] - np.minimum.accumulate(toxicity_BK, axis=1))).sum(axis=1)


def _has(of: Curve, ratio: float) -> bool:
    return bool(np.isclose(of.ratios_R, ratio).any())


def _estimate(value: float, draws_B: np.ndarray, n: int, unit: str, confidence: float) -> Estimate:
    low, high = np.quantile(draws_B, spread_levels(n, confidence))
    return Estimate(value=value, low=float(low), high=float(high), n=n, unit=unit)
