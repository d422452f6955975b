"""what steering removes: the share of a model's own toxicity, and prompts made worse

A model that writes little toxic text has little to lose: compared in points, it wins and loses
nothing. The share removed compares each ratio's models with themselves unsteered, on the same
prompts. It is given only where the unsteered toxicity is above 0 for sure.

Intervals resample prompts, with both strengths of a prompt together, and include the spread between
seeds (eval/stats/seed_spread.py); that of a share, which is a ratio of two means, is the spread of
the models' residuals t − ρ·t₀ / mean t₀ around the common ρ. Coverage:
tests/benchmarks/bench_coverage.py.

Shapes: R ratios, S seeds, P prompts, K strengths, B draws.
"""

import math
from collections.abc import Sequence

import numpy as np

from data_prep.core.records import record
from eval.stats import intervals, resampling, seed_spread
from eval.stats.estimate_with_interval import Estimate, not_measured
from eval.stats.seed_spread import SeedSpread

TIE = 1e-9  # a smaller rise of a score × 100 is none
MIN_DEFINED = 0.995  # of the draws: in the others no prompt is toxic unsteered
DIFFERENCE_BOUNDS = (-100.0, 100.0)
SCORE_BOUNDS = (0.0, 100.0)


@record
class Removal:
    """Steering at one strength beside the same models unsteered, on the same prompts.

    difference: steered − unsteered, score × 100. removed: the share of the unsteered toxicity that
    is gone, below 0 if there is more; without a value where the unsteered toxicity may be 0.
    more_toxic: share of prompts whose continuations score higher than unsteered ones.
    """

    ratio: float
    strength: float
    difference: Estimate
    removed: Estimate
    more_toxic: Estimate


def removals(
    ratios: Sequence[float],
    strengths: Sequence[float],
    toxicity: Sequence[np.ndarray],
    *,
    seed: int,
    n_resamples: int = intervals.N_RESAMPLES,
) -> tuple[Removal, ...]:
    """Every ratio at every strength but 0; toxicity: [S, P, K] per ratio."""
    if 0.0 not in strengths:
        return ()
    unsteered = [toxicity_SPK[:, :, list(strengths).index(0.0)] for toxicity_SPK in toxicity]
    results = []
    for k, strength in enumerate(strengths):
        if not strength:
            continue
        pairs = [
            (before_SP, toxicity_SPK[:, :, k])
            for before_SP, toxicity_SPK in zip(unsteered, toxicity, strict=True)
        ]
        columns = (
            _differences(pairs, seed, n_resamples),
            _shares_removed(pairs, seed, n_resamples),
            _shares_more_toxic(pairs, seed, n_resamples),
        )
        for ratio, difference, removed, more_toxic in zip(ratios, *columns, strict=True):
            results.append(
                Removal(
                    ratio=ratio,
                    strength=strength,
                    difference=difference,
                    removed=removed,
                    more_toxic=more_toxic,
                )
            )
    return tuple(sorted(results, key=lambda result: (result.ratio, result.strength)))


Pair = tuple[np.ndarray, np.ndarray]  # unsteered and steered toxicity, [S, P] each


def _differences(pairs: Sequence[Pair], seed: int, n_resamples: int) -> list[Estimate]:
    changes = [steered_SP - before_SP for before_SP, steered_SP in pairs]
    return over_seeds(changes, "score × 100", DIFFERENCE_BOUNDS, seed, n_resamples)


def _shares_more_toxic(pairs: Sequence[Pair], seed: int, n_resamples: int) -> list[Estimate]:
    rises = [(steered_SP - before_SP > TIE).astype(float) for before_SP, steered_SP in pairs]
    if all(len(rises_SP) == 1 for rises_SP in rises):
        return [intervals.wilson(int(rise.sum()), rise.size, "ratio") for rise in rises]
    return over_seeds(rises, "ratio", (0.0, 1.0), seed, n_resamples)


def over_seeds(
    values: Sequence[np.ndarray],
    unit: str,
    bounds: tuple[float, float],
    seed: int,
    n_resamples: int = intervals.N_RESAMPLES,
) -> list[Estimate]:
    """Per ratio the mean of its [S, P] values, with an interval over prompts and seeds."""
    spread = seed_spread.pooled([values_SP.mean(axis=1) for values_SP in values])
    return [
        seed_spread.widened(
            intervals.bootstrap_mean(
                values_SP.mean(axis=0), unit, seed=seed, n_resamples=n_resamples, bounds=bounds
            ),
            spread,
            len(values_SP),
            bounds=bounds,
        )
        for values_SP in values
    ]


def _shares_removed(pairs: Sequence[Pair], seed: int, n_resamples: int) -> list[Estimate]:
    unsteered = over_seeds(
        [before_SP for before_SP, _ in pairs], "score × 100", SCORE_BOUNDS, seed, n_resamples
    )
    # the residual of a model that loses the same share as the mean of its ratio is 0
    residuals = [
        (steered_SP.mean(axis=1) - before_SP.mean(axis=1) * steered_SP.mean() / before_SP.mean())
        / before_SP.mean()
        if before_SP.mean()
        else np.zeros(len(before_SP))
        for before_SP, steered_SP in pairs
    ]
    spread = seed_spread.pooled(residuals)
    return [
        _share_removed(pair, spread, seed, n_resamples)
        if (before.low or 0.0) > 0
        else not_measured("ratio")
        for pair, before in zip(pairs, unsteered, strict=True)
    ]


def _share_removed(pair: Pair, spread: SeedSpread, seed: int, n_resamples: int) -> Estimate:
    before_P, steered_P = (values_SP.mean(axis=0) for values_SP in pair)
    draws_B2 = resampling.means(np.stack([before_P, steered_P], axis=1), n_resamples, seed)
    is_defined_B = draws_B2[:, 0] > 0
    if np.mean(is_defined_B) < MIN_DEFINED:
        return not_measured("ratio")
    draws_B2 = draws_B2[is_defined_B]
    before, kept = float(before_P.mean()), float(steered_P.mean() / before_P.mean())
    influence_P = (kept * before_P - steered_P) / before
    if influence_P.any():
        over_prompts = intervals.bca(
            1 - kept, influence_P, 1 - draws_B2[:, 1] / draws_B2[:, 0], "ratio"
        )
    else:  # all prompts lose the same share: all of it, or nothing
        steered = intervals.bootstrap_mean(steered_P, "", seed=seed, bounds=SCORE_BOUNDS)
        low = 1 - (steered.high or 0.0) / before
        over_prompts = Estimate(
            value=1 - kept, low=low, high=1 - kept, n=len(before_P), unit="ratio"
        )
    return seed_spread.widened(over_prompts, spread, len(pair[0]), bounds=(-math.inf, 1.0))
