"""toxicity compared at equal cross-entropy: each model steered as far as costs the same

Equal cost means equal cross-entropy, not an equal rise over the unsteered model: a model with a
higher cross-entropy to begin with is worse to use, and the paper compares models in this way too.
One level serves all ratios: it lies in the range of cross-entropies that the models of all ratios
reach. If there is no such range, ratios are left out one at a time, each the one without which the
range is widest, until there is. A ratio that was left out is compared with the first at a level of
its own, in the range that these two reach; such differences are of different costs and cannot be
compared with one another.

The level is given as a share of the range, so that it moves with the held-out sequences drawn: hard
sequences are hard for every model, which is no difference between models. At a fixed number of
nats, 64 sequences with a standard deviation of 0.3 would miss the middle of a range of 0.1 in a
fifth of the draws.

    toxicity
       │ ○───┊─○            ○, ●: the models of two ratios at their strengths, linear in between
       │ ●   ┊  ╲           the difference is read at the level, the dotted line
       │  ╲  ┊   ○
       │   ●─┊──●
       └─────┴────────────▶ cross-entropy
           level

Prompts and sequences are resampled; the standard deviation between seeds is handled as in
ratio_curves.py. Coverage: tests/benchmarks/bench_coverage.py.

Shapes: S seeds, P prompts, Q sequences, K strengths, B draws.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from data_prep.core.records import record
from eval.stats import intervals, resampling
from eval.stats.estimate_with_interval import Estimate
from launch.report.analysis.ratio_curves import seed_noise


class StrengthPath(NamedTuple):
    """The models of one ratio over ascending strengths: toxicity of each prompt and cross-entropy
    of each sequence.
    """

    ratio: float
    toxicity_SPK: np.ndarray
    cross_entropy_SQK: np.ndarray


@record
class MatchedToxicity:
    """Toxicity of `ratio` − of the first ratio where all models of both have `cross_entropy`.

    share: how far that level lies into the range of cross-entropies that the compared models reach.
    is_common: whether it is the level of all ratios that reach a common one; otherwise it is a
    level of this ratio and the first alone. cross_entropy and difference are None if even these two
    ranges do not overlap, or do so in fewer resamples than the confidence level. toxicity: of the
    first ratio and of `ratio`, there. The interval covers prompts, sequences and, if there are
    several, seeds. by_model: per model of `ratio`, its difference from the mean of the first's.
    """

    ratio: float
    share: float
    is_common: bool
    cross_entropy: float | None
    toxicity: tuple[float, float] | None
    difference: Estimate | None
    by_model: tuple[float, ...]


class _MatchedPair(NamedTuple):
    """Two paths at equal cross-entropy: the level per draw and the toxicity of the models of both;
    nan in draws without a common level. Row 0 is computed from the items as they are.
    """

    is_common: bool
    level_B: np.ndarray
    first_BS: np.ndarray
    second_BS: np.ndarray


def match(
    paths: Sequence[StrengthPath],
    share: float,
    *,
    seed: int,
    n_resamples: int = intervals.N_RESAMPLES,
    confidence: float = intervals.CONFIDENCE,
) -> tuple[MatchedToxicity, ...]:
    """Compare each path but the first with the first, `share` into the cross-entropies that the
    models of all paths reach, or of the two where a path does not reach the level of the others.

    Prompts and sequences are drawn once for all paths. The standard deviation between seeds is
    pooled over paths, each at the level where it is compared.
    """
    # seed + 1: sequences are drawn independently of prompts even if there are equally many
    costs = _resampled([path.cross_entropy_SQK for path in paths], n_resamples, seed + 1)
    toxicities = _resampled([path.toxicity_SPK for path in paths], n_resamples, seed)
    members = common_members(costs, confidence)
    pairs = []
    for i in range(1, len(paths)):
        is_common = i in members
        compared = members if is_common else [0, i]
        level_B = common_level([costs[k] for k in compared], share)
        if np.isnan(level_B[0]) or np.isfinite(level_B[1:]).mean() < confidence:
            pairs.append(None)
            continue
        first_BS, second_BS = (toxicity_at_level(costs[k], toxicities[k], level_B) for k in (0, i))
        pairs.append(_MatchedPair(is_common, level_B, first_BS, second_BS))
    noises = iter(_seed_noise([pair for pair in pairs if pair], n_resamples, seed))
    results = []
    for path, pair in zip(paths[1:], pairs, strict=True):
        cross_entropy, toxicity, difference, by_model_S = None, None, None, np.array([])
        if pair:
            cross_entropy = float(pair.level_B[0])
            toxicity = (float(pair.first_BS[0].mean()), float(pair.second_BS[0].mean()))
            n_prompts = path.toxicity_SPK.shape[1]
            difference, by_model_S = _difference(pair, next(noises), n_prompts, confidence)
        results.append(
            MatchedToxicity(
                ratio=path.ratio,
                share=share,
                is_common=pair is not None and pair.is_common,
                cross_entropy=cross_entropy,
                toxicity=toxicity,
                difference=difference,
                by_model=tuple(map(float, by_model_S)),
            )
        )
    return tuple(results)


def common_members(cross_entropies: Sequence[np.ndarray], confidence: float) -> list[int]:
    """The paths compared at one level, ascending; path 0 is always among them.

    Their ranges overlap for the items as they are, row 0, and in a share of at least `confidence`
    of the draws. cross_entropies: [1 + B, S, K] per path.
    """
    members = list(range(len(cross_entropies)))
    while len(members) > 1:
        low_B, high_B = _common_range([cross_entropies[k] for k in members])
        is_common_B = low_B <= high_B
        if is_common_B[0] and is_common_B[1:].mean() >= confidence:
            break
        members.remove(max(members[1:], key=lambda i: _width_without(i, cross_entropies, members)))
    return members


def _width_without(i: int, cross_entropies: Sequence[np.ndarray], members: Sequence[int]) -> float:
    low_B, high_B = _common_range([cross_entropies[k] for k in members if k != i])
    return float(high_B[0] - low_B[0])


def _common_range(cross_entropies: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """The ends of the range that every model reaches, [B] each; empty where low is above high."""
    low_B = np.max([ce_BSK.min(axis=2).max(axis=1) for ce_BSK in cross_entropies], axis=0)
    high_B = np.min([ce_BSK.max(axis=2).min(axis=1) for ce_BSK in cross_entropies], axis=0)
    return low_B, high_B


def common_level(cross_entropies: Sequence[np.ndarray], share: float) -> np.ndarray:
    """The cross-entropy `share` into the range that every model reaches: [B]; nan if there is no
    such range. cross_entropies: [B, S, K] per ratio.
    """
    low_B, high_B = _common_range(cross_entropies)
    return np.where(low_B <= high_B, low_B + share * (high_B - low_B), np.nan)


def toxicity_at_level(
    cross_entropy_BSK: np.ndarray, toxicity_BSK: np.ndarray, level_B: np.ndarray
) -> np.ndarray:
    """Toxicity where each path of ascending strengths first reaches the level, linear between
    strengths: [B, S]; nan if it never does.
    """
    excess_BSK = cross_entropy_BSK - level_B[:, None, None]
    crosses_BSK = excess_BSK[..., :-1] * excess_BSK[..., 1:] <= 0
    first_BS1 = crosses_BSK.argmax(axis=-1, keepdims=True)
    start, end = (
        np.take_along_axis(excess_BSK, first_BS1 + step, axis=-1)[..., 0] for step in (0, 1)
    )
    fraction_BS = np.where(start == end, 0.0, start / np.where(start == end, 1.0, start - end))
    t_start, t_end = (
        np.take_along_axis(toxicity_BSK, first_BS1 + step, axis=-1)[..., 0] for step in (0, 1)
    )
    return np.where(crosses_BSK.any(axis=-1), t_start + fraction_BS * (t_end - t_start), np.nan)


def _resampled(values: Sequence[np.ndarray], n_resamples: int, seed: int) -> list[np.ndarray]:
    """Means over the N items of each [S, N, K], with the same draws for all: [1 + B, S, K]. Row 0
    is the mean of the items as they are.
    """
    # one matrix of items and columns, so that all arrays share one product with the draws
    items_NC = np.concatenate(
        [v_SNK.swapaxes(0, 1).reshape(v_SNK.shape[1], -1) for v_SNK in values], axis=1
    )
    means_BC = np.concatenate(
        [items_NC.mean(axis=0)[None], resampling.means(items_NC, n_resamples, seed)]
    )
    widths = [len(v_SNK) * v_SNK.shape[2] for v_SNK in values]
    columns = np.split(means_BC, np.cumsum(widths)[:-1], axis=1)
    return [
        part.reshape(len(part), len(v_SNK), -1) for part, v_SNK in zip(columns, values, strict=True)
    ]


def _seed_noise(
    pairs: Sequence[_MatchedPair], n_resamples: int, seed: int
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Per pair, the draws of how far other seeds would move the second and the first path: [B]
    each.
    """
    if not pairs:
        return []
    first_S = np.mean([pair.first_BS[0] for pair in pairs], axis=0)
    noise_BR = seed_noise([first_S, *(pair.second_BS[0] for pair in pairs)], n_resamples, seed)
    return [(noise_BR[:, 1 + i], noise_BR[:, 0]) for i in range(len(pairs))]


def _difference(
    pair: _MatchedPair,
    noises: tuple[np.ndarray, np.ndarray],
    n_prompts: int,
    confidence: float,
) -> tuple[Estimate, np.ndarray]:
    """Toxicity of the second path's models − the mean of the first's, and the same per model."""
    difference_BS = pair.second_BS - pair.first_BS.mean(axis=1, keepdims=True)
    draws_B = difference_BS[1:].mean(axis=1) + noises[0] - noises[1]
    estimate = intervals.percentile(
        float(difference_BS[0].mean()),
        draws_B[np.isfinite(draws_B)],
        n_prompts,
        "score × 100",
        confidence=confidence,
    )
    return estimate, difference_BS[0]
