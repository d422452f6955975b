"""values over toxic ratios as a curve with bootstrap draws: contrasts, interior minimum

A curve has one value per ratio: the mean over seeds and prompts (or probe rows). All ratios
are measured on the same prompts, so the bootstrap draws prompts once for the whole curve. Models
are the second source of variation, and two seeds per ratio are too few to resample. Their standard
deviation σ is assumed equal at all ratios, estimated with Σ(seeds − 1) degrees of freedom, and each
draw of the curve gets

    mean over drawn prompts  +  σ̂·√(df/χ²)·z/√seeds         one χ² per draw, one z per ratio

For a contrast of two ratios this is the pooled t interval with seeds as points, widened by the
choice of prompts. With one seed per ratio σ is unknown, df is 0, and draws vary with the prompts
alone. Every statistic of the curve is computed on each draw, and its interval is read off the
draws.

Whether the curve turns inside the grid is asked of models, not of prompts. Without an effect the
share of draws with an inner minimum exceeds 90 % in a quarter of sweeps with one seed per ratio and
in an eighth with two, because one lucky model lies lowest in nearly all draws. Its p therefore
comes from permuting the models over the ratios, and with one seed per ratio there is none.

Coverage of the 95 % intervals: tests/benchmarks/bench_coverage.py. When seeds do not differ,
coverage is too high (99 %), because a model's effect on single prompts is counted both as variation
of prompts and as variation of seeds.

Shapes: R ratios, S seeds, P prompts, B draws.
"""

import math
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from data_prep.core.records import record
from eval.stats import intervals, resampling
from eval.stats.estimate_with_interval import Estimate
from launch.report.analysis import hypothesis_tests

N_PERMUTATIONS = 9999


class RatioCurve(NamedTuple):
    """Toxicity at one steering strength over ascending ratios, in `unit`.

    model_means: per ratio the mean of each model, [S].
    draws_BR: bootstrap draws of value_R. seeds_df: degrees of freedom of the standard deviation
    between seeds; 0 if each ratio has one seed, and then the draws do not include it.
    """

    strength: float
    ratios_R: np.ndarray
    value_R: np.ndarray
    model_means: list[np.ndarray]
    draws_BR: np.ndarray
    n_prompts: int
    seeds_df: int
    unit: str


@record
class Contrast:
    """difference: toxicity at ratio `second` − at `first`, at one strength.

    p: two-sided, from the draws. p_floor: the smallest p that this number of draws can show.
    p_holm: p after Holm's correction over all planned contrasts; p itself before the correction.
    """

    strength: float
    first: float
    second: float
    difference: Estimate
    p: float
    p_floor: float
    p_holm: float


@record
class InteriorMinimum:
    """Whether the curve of one strength has its minimum inside the grid: the paper's "smile".

    p_interior: share of draws whose lowest ratio is neither the first nor the last. by_chance: that
    share if the ratio had no effect, (R − 2)/R. location: the ratio of the minimum, by a parabola
    through the lowest point and its neighbours; at an end of the grid, that end.
    p: how often models permuted over the ratios put the lowest inner ratio as far below the lower
    end, in standard deviations between seeds. p_floor: the smallest p that these permutations can
    show.
    """

    strength: float
    p_interior: float
    by_chance: float
    location: Estimate
    p: float
    p_floor: float


def bootstrap_curve(
    strength: float,
    ratios: Sequence[float],
    values: Sequence[np.ndarray],
    *,
    seed: int,
    n_draws: int = intervals.N_RESAMPLES,
    unit: str = "score × 100",
) -> RatioCurve:
    """The curve of `values`: per ratio an array [S, P], with the same prompts in the same order; S
    may differ between ratios.
    """
    n_prompts = values[0].shape[1]
    assert len(ratios) == len(values) and list(ratios) == sorted(set(ratios)), ratios
    for values_SP in values:
        assert values_SP.shape[1] == n_prompts and np.isfinite(values_SP).all(), values_SP.shape
    by_prompt_PR = np.stack([values_SP.mean(axis=0) for values_SP in values], axis=1)
    model_means = [values_SP.mean(axis=1) for values_SP in values]
    draws_BR = resampling.means(by_prompt_PR, n_draws, seed)
    return RatioCurve(
        strength=strength,
        ratios_R=np.array(ratios, dtype=np.float64),
        value_R=by_prompt_PR.mean(axis=0),
        model_means=model_means,
        draws_BR=draws_BR + seed_noise(model_means, n_draws, seed),
        n_prompts=n_prompts,
        seeds_df=sum(map(len, values)) - len(values),
        unit=unit,
    )


def curve_of_draws(
    strength: float,
    ratios: Sequence[float],
    statistics: Sequence[np.ndarray],
    *,
    n_items: int,
    seed: int,
    unit: str,
) -> RatioCurve:
    """The curve of a statistic that is no mean of items: per ratio [1 + B, S], the statistic of
    each model on the items as they are, row 0, and on resampled items, the same for all models.
    """
    model_means = [statistic_BS[0] for statistic_BS in statistics]
    mean_BR = np.stack([statistic_BS.mean(axis=1) for statistic_BS in statistics], axis=1)
    return RatioCurve(
        strength=strength,
        ratios_R=np.array(ratios, dtype=np.float64),
        value_R=mean_BR[0],
        model_means=model_means,
        draws_BR=mean_BR[1:] + seed_noise(model_means, len(mean_BR) - 1, seed),
        n_prompts=n_items,
        seeds_df=sum(map(len, model_means)) - len(model_means),
        unit=unit,
    )


def seed_noise(model_means: Sequence[np.ndarray], n_draws: int, seed: int) -> np.ndarray:
    """Draws of how far other seeds would move each ratio's mean: [B, R].

    model_means: per ratio the mean of each model, [S]. All 0 if each ratio has one model.
    """
    n_seeds = [len(means_S) for means_S in model_means]
    df = sum(n_seeds) - len(model_means)
    if not df:
        return np.zeros((n_draws, len(model_means)))
    squares = sum(float(((means_S - means_S.mean()) ** 2).sum()) for means_S in model_means)
    chi2_B = (resampling.normals((n_draws, df), "spread", seed, df) ** 2).sum(axis=1)
    shape = (n_draws, len(model_means))
    noise_BR = resampling.normals(shape, "seeds", seed, *shape)
    return np.sqrt(squares / chi2_B)[:, None] * noise_BR / np.sqrt(n_seeds)


def contrast(
    curve: RatioCurve, first: float, second: float, *, confidence: float = intervals.CONFIDENCE
) -> Contrast | None:
    """Toxicity at `second` − at `first`; None if the curve lacks one of the two ratios."""
    a = _position(curve, first)
    b = _position(curve, second)
    if a is None or b is None:
        return None
    draws_B = curve.draws_BR[:, b] - curve.draws_BR[:, a]
    p_floor = 2 / (1 + len(draws_B))
    n_other_side = min((draws_B <= 0).sum(), (draws_B >= 0).sum())
    p = min(1.0, float(1 + n_other_side) * p_floor)
    value = float(curve.value_R[b] - curve.value_R[a])
    difference = intervals.percentile(
        value, draws_B, curve.n_prompts, curve.unit, confidence=confidence
    )
    return Contrast(
        strength=curve.strength,
        first=first,
        second=second,
        difference=difference,
        p=p,
        p_floor=p_floor,
        p_holm=p,
    )


def interior_minimum(
    curve: RatioCurve,
    *,
    seed: int,
    n_permutations: int = N_PERMUTATIONS,
    confidence: float = intervals.CONFIDENCE,
) -> InteriorMinimum | None:
    """Whether and where the curve has a minimum inside the grid.

    None if it has fewer than three ratios, and so no inside, or one seed per ratio.
    """
    n_ratios = len(curve.ratios_R)
    if n_ratios < 3 or not curve.seeds_df:
        return None
    test = hypothesis_tests.permute_groups(
        curve.model_means,
        depth_of_interior,
        n_symmetries=_n_symmetries([len(means_S) for means_S in curve.model_means]),
        n_permutations=n_permutations,
        seed=seed,
    )
    lowest_B = curve.draws_BR.argmin(axis=1)
    value = float(minimum_location(curve.ratios_R, curve.value_R[None])[0])
    draws_B = minimum_location(curve.ratios_R, curve.draws_BR)
    return InteriorMinimum(
        strength=curve.strength,
        p_interior=float(((lowest_B > 0) & (lowest_B < n_ratios - 1)).mean()),
        by_chance=(n_ratios - 2) / n_ratios,
        location=intervals.percentile(
            value, draws_B, curve.n_prompts, "ratio", confidence=confidence
        ),
        p=test.p,
        p_floor=test.p_floor,
    )


def depth_of_interior(groups: Sequence[np.ndarray]) -> np.ndarray:
    """How far the lowest inner group lies below the lower of the two end groups, in pooled standard
    deviations: [B]; below 0 where an end is lowest. groups: [B, S] each.
    """
    means_BR = np.stack([group_BS.mean(axis=1) for group_BS in groups], axis=1)
    df = sum(group_BS.shape[1] - 1 for group_BS in groups)
    squares_B = sum(group_BS.var(axis=1) * group_BS.shape[1] for group_BS in groups)
    depth_B = means_BR[:, [0, -1]].min(axis=1) - means_BR[:, 1:-1].min(axis=1)
    deviation_B = np.sqrt(squares_B / df)
    return depth_B / np.where(deviation_B > 0, deviation_B, 1.0)


def _n_symmetries(sizes: Sequence[int]) -> int:
    """Assignments with the same depth: equal ends may change places, and equal inner ratios."""
    inner = Counter(sizes[1:-1]).values()
    return (2 if sizes[0] == sizes[-1] else 1) * math.prod(map(math.factorial, inner))


def minimum_location(x_R: np.ndarray, y_BR: np.ndarray) -> np.ndarray:
    """Where each row is lowest, [B]: the vertex of the parabola through its lowest point and the
    two points beside it; at an end of the grid, that end.
    """
    lowest_B = y_BR.argmin(axis=1)
    middle_B = lowest_B.clip(1, y_BR.shape[1] - 2)
    rows = np.arange(len(y_BR))
    xa, xb, xc = (x_R[middle_B + step] for step in (-1, 0, 1))
    ya, yb, yc = (y_BR[rows, middle_B + step] for step in (-1, 0, 1))
    # slopes on either side: if the middle point is the lowest, left ≤ 0 ≤ right
    left = (yb - ya) / (xb - xa)
    right = (yc - yb) / (xc - xb)
    curvature = np.where(right > left, (right - left) / (xc - xa), 1.0)
    vertex_B = np.where(right > left, (xa + xb) / 2 - left / (2 * curvature), xb)
    return np.where(lowest_B == middle_B, vertex_B, x_R[lowest_B])


def _position(curve: RatioCurve, ratio: float) -> int | None:
    positions = np.flatnonzero(np.isclose(curve.ratios_R, ratio))
    return int(positions[0]) if len(positions) else None
