"""what a sweep's curves say: contrasts, the smile, toxicity at matched cross-entropy, Pareto front
and hypervolume

A curve has one value a ratio: the mean over seeds and prompts. All ratios meet the same prompts, so
the bootstrap draws prompts once for the whole curve. Models are the second source of chance, and
two seeds a ratio are too few to resample. Their spread is taken as one σ for all ratios, estimated
with Σ(seeds − 1) degrees of freedom, and each draw of the curve gets

    mean over drawn prompts  +  σ̂·√(df/χ²)·z/√seeds         one χ² for the draw, one z a ratio

which for a contrast of two ratios is the pooled t interval with seeds as points, widened by the
choice of prompts. With one seed a ratio σ is unknown, df is 0, and a draw varies with the prompts
alone. Whatever is asked of a curve is asked of every draw of it.

Equal cost is an equal cross-entropy, not an equal rise over the unsteered model's: a model that
starts out dearer is dearer to use, and the paper compares so too. Where two ratios are compared is
said as a share of the costs that all their models reach, so that it moves with the held-out
sequences drawn: hard ones are dear for every model, and that is no difference between them. At a
fixed number of nats, 64 sequences of standard deviation 0.3 miss the middle of a range of 0.1 in a
fifth of the draws.

Coverage of the 95 % intervals of both: tests/benchmarks/bench_coverage.py. Seeds that do not differ
are covered too often, 99 %, for what a model does to single prompts counts as prompts and as seeds.

Shapes: R ratios, S seeds, P prompts, Q sequences, K strengths, B draws.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from eval.stats import resampling
from eval.stats.estimate import Estimate
from eval.stats.intervals import spread_levels


class Curve(NamedTuple):
    """value_R, in `unit`, at ascending ratios_R, and draws_BR of it. seeds_df: degrees of freedom
    of the spread over seeds; 0 where it could not be measured, and then the draws leave it out.
    """

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
    """p_interior: share of the draws whose lowest ratio is neither the first nor the last.
    p_by_chance: that share where the ratio has no effect at all, (R − 2)/R: the number to compare
    it with. location: ratio of the minimum, by a parabola through the lowest point and its
    neighbours, or the end that is lowest. Between grid points it is as good as the parabola is.
    """

    p_interior: float
    p_by_chance: float
    location: Estimate


class Path(NamedTuple):
    """The models of one ratio over ascending strengths: toxicity of each prompt and cross-entropy
    of each sequence.
    """

    toxicity_SPK: np.ndarray
    cost_SQK: np.ndarray


class Matched(NamedTuple):
    """Toxicity − the first path's where all models of both cost `level`. by_model_S: each model −
    the mean of the first's.
    """

    level: float
    difference: Estimate
    by_model_S: np.ndarray


def curve(
    ratios: Sequence[float], values: Sequence[np.ndarray], unit: str, *, n_draws: int, seed: int
) -> Curve:
    """The curve of `values`, one array [S, P] a ratio with the same prompts in the same order; S
    may differ.
    """
    n_prompts = values[0].shape[1]
    assert len(ratios) == len(values) and list(ratios) == sorted(set(ratios)), ratios
    assert all(
        of_ratio.shape[1] == n_prompts and np.isfinite(of_ratio).all() for of_ratio in values
    ), [v.shape for v in values]
    by_prompt_PR = np.stack([of_ratio.mean(axis=0) for of_ratio in values], axis=1)
    draws_BR = resampling.means(by_prompt_PR, n_draws, seed)
    draws_BR += other_seeds([of_ratio.mean(axis=1) for of_ratio in values], n_draws, seed)
    df = sum(map(len, values)) - len(values)
    return Curve(
        np.array(ratios, dtype=np.float64), by_prompt_PR.mean(axis=0), draws_BR, n_prompts, df, unit
    )


def other_seeds(models: Sequence[np.ndarray], n_draws: int, seed: int) -> np.ndarray:
    """What other seeds might add to each ratio's mean, [B, R], judged by its `models`, [S] each; 0
    where each ratio has one.
    """
    n_seeds = [len(of_S) for of_S in models]
    df = sum(n_seeds) - len(models)
    if not df:
        return np.zeros((n_draws, len(models)))
    squares = sum(float(((of_S - of_S.mean()) ** 2).sum()) for of_S in models)
    chi2_B = (resampling.normals((n_draws, df), "spread", seed, df) ** 2).sum(axis=1)
    noise_BR = resampling.normals((n_draws, len(models)), "seeds", seed, n_draws, len(models))
    return np.sqrt(squares / chi2_B)[:, None] * noise_BR / np.sqrt(n_seeds)


def contrast(of: Curve, first: float, second: float, *, confidence: float) -> Contrast | None:
    """T(second) − T(first), or None where the curve lacks one of the two ratios."""
    at = [
        int(np.flatnonzero(np.isclose(of.ratios_R, ratio))[0])
        for ratio in (first, second)
        if _has(of, ratio)
    ]
    if len(at) < 2:
        return None
    draws_B = of.draws_BR[:, at[1]] - of.draws_BR[:, at[0]]
    floor = 2 / (1 + len(draws_B))
    p = min(1.0, float(1 + min((draws_B <= 0).sum(), (draws_B >= 0).sum())) * floor)
    value = float(of.value_R[at[1]] - of.value_R[at[0]])
    return Contrast(_estimate(value, draws_B, of.n_prompts, of.unit, confidence), p, floor)


def smile(of: Curve, *, confidence: float) -> Smile | None:
    """Whether and where the curve has a minimum inside the grid; None below three ratios, which
    have no inside.
    """
    n_ratios = len(of.ratios_R)
    if n_ratios < 3:
        return None
    lowest_B = of.draws_BR.argmin(axis=1)
    interior = float(((lowest_B > 0) & (lowest_B < n_ratios - 1)).mean())
    value = float(minimum_at(of.ratios_R, of.value_R[None])[0])
    location = _estimate(
        value, minimum_at(of.ratios_R, of.draws_BR), of.n_prompts, "ratio", confidence
    )
    return Smile(interior, (n_ratios - 2) / n_ratios, location)


def minimum_at(x_R: np.ndarray, y_BR: np.ndarray) -> np.ndarray:
    """Where each row is lowest, [B]: the vertex of the parabola through its lowest point and the
    two beside it.
    """
    lowest_B = y_BR.argmin(axis=1)
    middle_B = lowest_B.clip(1, y_BR.shape[1] - 2)
    (xa, xb, xc), (ya, yb, yc) = (
        [of(middle_B + step) for step in (-1, 0, 1)]
        for of in (lambda i: x_R[i], lambda i: y_BR[np.arange(len(y_BR)), i])
    )
    left, right = (
        (yb - ya) / (xb - xa),
        (yc - yb) / (xc - xb),
    )  # slopes; lowest in the middle means left ≤ 0 ≤ right
    bend = np.where(right > left, (right - left) / (xc - xa), 1.0)
    vertex_B = np.where(right > left, (xa + xb) / 2 - left / (2 * bend), xb)
    return np.where(lowest_B == middle_B, vertex_B, x_R[lowest_B])


def shared_level(costs: Sequence[np.ndarray], share: float) -> np.ndarray:
    """As far as `share` into the costs that every model reaches, [B]; nan where there are none.
    costs: [B, S, K] of each ratio.
    """
    low_B = np.max([cost_BSK.min(axis=2).max(axis=1) for cost_BSK in costs], axis=0)
    high_B = np.min([cost_BSK.max(axis=2).min(axis=1) for cost_BSK in costs], axis=0)
    return np.where(low_B <= high_B, low_B + share * (high_B - low_B), np.nan)


def at_cross_entropy(
    cost_BSK: np.ndarray, toxicity_BSK: np.ndarray, level_B: np.ndarray
) -> np.ndarray:
    """Toxicity where each path of ascending strengths first comes to the level, linear between
    strengths: [B, S]; nan if never.
    """
    below_BSK = cost_BSK - level_B[:, None, None]
    crosses_BSK = below_BSK[..., :-1] * below_BSK[..., 1:] <= 0
    first_BS1 = crosses_BSK.argmax(axis=-1, keepdims=True)
    start, end = (
        np.take_along_axis(below_BSK, first_BS1 + step, axis=-1)[..., 0] for step in (0, 1)
    )
    share_BS = np.where(start == end, 0.0, start / np.where(start == end, 1.0, start - end))
    t_start, t_end = (
        np.take_along_axis(toxicity_BSK, first_BS1 + step, axis=-1)[..., 0] for step in (0, 1)
    )
    return np.where(crosses_BSK.any(axis=-1), t_start + share_BS * (t_end - t_start), np.nan)


def matched(
    paths: Sequence[Path],
    share: float,
    unit: str,
    *,
    confidence: float,
    n_resamples: int,
    seed: int,
) -> list[Matched | None]:
    """Each further path against the first, `share` into the costs that all models of both reach.
    Prompts and sequences are drawn once for all paths; the spread over seeds is pooled over them,
    as a curve's is, each at the cost where it is compared.

    None where two paths have no cost in common, or have one in fewer than `confidence` of the
    resamples.
    """
    costs = _drawn(
        [path.cost_SQK for path in paths], n_resamples, seed + 1
    )  # + 1: apart from prompts, were there as many
    first, *others = zip(
        costs, _drawn([path.toxicity_SPK for path in paths], n_resamples, seed), strict=True
    )
    pairs = [_meet(first, other, share, confidence) for other in others]
    met = [of for of in pairs if of]
    if not met:
        return [None] * len(pairs)
    noise_BR = other_seeds(
        [np.mean([of.first_BS[0] for of in met], axis=0), *(of.own_BS[0] for of in met)],
        n_resamples,
        seed,
    )
    found = []
    for of, noise_B in zip(met, noise_BR.T[1:], strict=True):
        difference_BS = of.own_BS - of.first_BS.mean(axis=1, keepdims=True)
        value, draws_B = (
            float(difference_BS[0].mean()),
            difference_BS[1:].mean(axis=1) + noise_B - noise_BR[:, 0],
        )
        n_prompts = paths[0].toxicity_SPK.shape[1]
        estimate = _estimate(value, draws_B[np.isfinite(draws_B)], n_prompts, unit, confidence)
        found.append(Matched(float(of.level_B[0]), estimate, difference_BS[0]))
    in_order = iter(found)
    return [next(in_order) if of else None for of in pairs]


def pareto_front(points: Sequence[tuple[float, float]]) -> list[int]:
    """Positions of the (cost, toxicity) points that no other beats in one and matches in the other,
    by ascending cost.
    """
    front, lowest = [], np.inf
    for i in sorted(range(len(points)), key=lambda i: points[i]):
        if points[i][1] < lowest:
            front.append(i)
            lowest = points[i][1]
    return front


def hypervolume(points_BK2: np.ndarray, reference: tuple[float, float]) -> np.ndarray:
    """Area between each row's front of (cost, toxicity) and the `reference` corner, which is worse
    than any point that counts: [B], cost × toxicity (Zitzler and Thiele 1999). More is better;
    points beyond the reference add nothing.
    """
    clipped = np.minimum(points_BK2, reference)
    order_BK = clipped[..., 0].argsort(axis=1)
    cost_BK, toxicity_BK = (np.take_along_axis(clipped[..., i], order_BK, axis=1) for i in (0, 1))
    edges = np.concatenate([cost_BK, np.full_like(cost_BK[:, :1], reference[0])], axis=1)
    return (
        np.diff(edges, axis=1) * (reference[1] - np.minimum.accumulate(toxicity_BK, axis=1))
    ).sum(axis=1)


def _drawn(values: Sequence[np.ndarray], n_resamples: int, seed: int) -> list[np.ndarray]:
    """Means over the items of each [S, N, K], all drawn alike, [1 + B, S, K]: the first row is of
    the items as they are.
    """
    items_NC = np.concatenate(
        [of_SNK.swapaxes(0, 1).reshape(of_SNK.shape[1], -1) for of_SNK in values], axis=1
    )
    means_BC = np.concatenate(
        [items_NC.mean(axis=0)[None], resampling.means(items_NC, n_resamples, seed)]
    )
    parts = np.split(
        means_BC, np.cumsum([len(of_SNK) * of_SNK.shape[2] for of_SNK in values])[:-1], axis=1
    )
    return [
        part.reshape(len(part), len(of_SNK), -1) for part, of_SNK in zip(parts, values, strict=True)
    ]


class _Pair(NamedTuple):
    """Where two paths cost the same, and the toxicity of their models there; nan in draws without
    such a cost.
    """

    level_B: np.ndarray
    first_BS: np.ndarray
    own_BS: np.ndarray


def _meet(
    first: tuple[np.ndarray, np.ndarray],
    other: tuple[np.ndarray, np.ndarray],
    share: float,
    confidence: float,
) -> _Pair | None:
    level_B = shared_level([first[0], other[0]], share)
    if np.isnan(level_B[0]) or np.isfinite(level_B[1:]).mean() < confidence:
        return None
    return _Pair(level_B, at_cross_entropy(*first, level_B), at_cross_entropy(*other, level_B))


def _has(of: Curve, ratio: float) -> bool:
    return bool(np.isclose(of.ratios_R, ratio).any())


def _estimate(value: float, draws_B: np.ndarray, n: int, unit: str, confidence: float) -> Estimate:
    low, high = np.quantile(draws_B, spread_levels(n, confidence))
    return Estimate(value=value, low=float(low), high=float(high), n=n, unit=unit)
