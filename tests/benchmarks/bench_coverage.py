"""coverage of 95 % intervals and level of 5 % tests, by longer simulations than in tests

python tests/benchmarks/bench_coverage.py [SAMPLES] [PART OF A ROW'S NAME]
"""

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import NormalDist

import numpy as np

sys.path[:0] = [str(Path(__file__).resolve().parents[1] / folder) for folder in ("launch", "eval")]
import simulated_sweep
from estimate_checks import covers
from simulated_sweep import RATIOS

from eval.stats import intervals, seed_spread
from eval.stats.estimate_with_interval import Estimate
from launch.report.analysis import (
    hypothesis_tests,
    matched_cross_entropy,
    pareto_front,
    ratio_curves,
    removal,
)
from launch.report.analysis.head_accuracy_tails import HeadRows, curves_of_heads
from launch.report.analysis.matched_cross_entropy import StrengthPath
from launch.report.analysis.ratio_curves import RatioCurve
from launch.report.analysis.removal import Removal
from launch.report.analysis.sweep_items import SweepItems

N_SAMPLES = int(sys.argv[1]) if len(sys.argv) > 1 else 2000
ONLY = sys.argv[2] if len(sys.argv) > 2 else ""
N_RESAMPLES = 1000
CONFIDENCE = 0.95
N_PROMPTS = 150
N_SEQUENCES = 64
SMILE = (30.0, 25.0, 24.0, 26.0, 27.0, 29.0)
SCORE_BOUNDS = (0.0, 100.0)
STRENGTHS = [0.0, 4.0, 8.0]


def main() -> None:
    error = (CONFIDENCE * (1 - CONFIDENCE) / N_SAMPLES) ** 0.5
    print(
        f"{N_SAMPLES:,} samples per row; a nominal 95.0 % is measured with a standard error of "
        f"{100 * error:.1f}"
    )
    print("interval                                        covers the truth")
    for name, is_covered in COVERAGE.items():
        if ONLY in name:
            results = [is_covered(seed) for seed in range(N_SAMPLES)]
            given = [covered for covered in results if covered is not None]
            missing = f", given in {len(given) / N_SAMPLES:.0%}" if len(given) < N_SAMPLES else ""
            print(f"  {name:<50}{100 * np.mean(given):6.1f} %{missing}", flush=True)
    print("test at 5 %                                     rejects a true null")
    for name, p_value in NULLS.items():
        if ONLY in name:
            rejected = np.mean([p_value(seed) <= 1 - CONFIDENCE for seed in range(N_SAMPLES)])
            print(f"  {name:<50}{100 * rejected:6.1f} %", flush=True)


def mean_of(
    draw: Callable[[np.random.Generator], np.ndarray], truth: float
) -> Callable[[int], bool]:
    def is_covered(seed: int) -> bool:
        values = draw(np.random.default_rng(seed))
        estimate = intervals.bootstrap_mean(
            values, "u", confidence=CONFIDENCE, n_resamples=N_RESAMPLES, seed=seed
        )
        return covers(estimate, truth)

    return is_covered


def rate(seed: int) -> bool:
    n = int(np.random.default_rng(seed).binomial(N_PROMPTS, 0.08))
    return covers(intervals.wilson(n, N_PROMPTS, "u", confidence=CONFIDENCE), 0.08)


def noisy_scores(
    seed: int, n_seeds: int, seed_deviation: float | Sequence[float]
) -> list[np.ndarray]:
    """Per ratio the scores of all seeds' models around SMILE, [S, P]."""
    return simulated_sweep.scores(
        np.random.default_rng(seed),
        SMILE,
        n_seeds=n_seeds,
        seed_deviation=seed_deviation,
        noise=6.0,
    )


def mean_over_seeds(
    n_seeds: int, seed_deviation: float | Sequence[float], position: int = 2
) -> Callable[[int], bool]:
    """The bar of one ratio, prompts resampled once for all of its models."""

    def is_covered(seed: int) -> bool:
        values = noisy_scores(seed, n_seeds, seed_deviation)
        means = removal.over_seeds(values, "u", (-np.inf, np.inf), seed, N_RESAMPLES)
        return covers(means[position], SMILE[position])

    return is_covered


def mean_of_seeds_own_intervals(n_seeds: int, seed_deviation: float) -> Callable[[int], bool]:
    """The bar of a quantity without items: its part over items is the mean of the seeds' own."""

    def is_covered(seed: int) -> bool:
        values = noisy_scores(seed, n_seeds, seed_deviation)
        spread = seed_spread.pooled([values_SP.mean(axis=1) for values_SP in values])
        own = [
            intervals.bootstrap_mean(values_P, "u", seed=seed, n_resamples=N_RESAMPLES)
            for values_P in values[2]
        ]
        ends = (float(np.mean([getattr(e, end) for e in own])) for end in ("value", "low", "high"))
        value, low, high = ends
        mean = Estimate(value=value, low=low, high=high, n=N_PROMPTS, unit="u")
        return covers(seed_spread.widened(mean, spread, n_seeds), SMILE[2])

    return is_covered


def rare_mean(n_seeds: int, seed_deviation: float) -> Callable[[int], bool]:
    """The bar of a ratio whose samples are toxic in 8 %, 4 samples per prompt."""
    rates = [[0.04 + 0.02 * k] for k in range(6)]

    def is_covered(seed: int) -> bool:
        values = simulated_sweep.rare_scores(
            np.random.default_rng(seed),
            rates,
            n_seeds=n_seeds,
            seed_deviation=seed_deviation,
            n_samples=4,
        )
        columns = [values_SPK[:, :, 0] for values_SPK in values]
        means = removal.over_seeds(columns, "u", SCORE_BOUNDS, seed, N_RESAMPLES)
        return covers(means[2], 100 * rates[2][0])

    return is_covered


RATES = [[0.06 + 0.02 * k, 0.04 + 0.01 * k, 0.02 + 0.005 * k] for k in range(6)]


def removals(
    n_seeds: int, seed_deviation: float, read: Callable[[Removal], Estimate], truth: float
) -> Callable[[int], bool | None]:
    """At ratio 10 % and strength 8, where 10 % of the samples are toxic unsteered and 3 % steered;
    None where no value is given.
    """

    def is_covered(seed: int) -> bool | None:
        values = simulated_sweep.rare_scores(
            np.random.default_rng(seed),
            RATES,
            n_seeds=n_seeds,
            seed_deviation=seed_deviation,
            n_samples=4,
        )
        rows = removal.removals(RATIOS, STRENGTHS, values, seed=seed, n_resamples=N_RESAMPLES)
        (row,) = (r for r in rows if r.ratio == RATIOS[2] and r.strength == STRENGTHS[2])
        return None if read(row).value is None else covers(read(row), truth)

    return is_covered


def more_toxic_truth(seed_deviation: float) -> float:
    """The share of prompts that score higher steered, over many prompts and seeds."""
    (values_SPK,) = simulated_sweep.rare_scores(
        np.random.default_rng(0),
        RATES[2:3],
        n_seeds=1000,
        n_prompts=400,
        seed_deviation=seed_deviation,
        n_samples=4,
    )
    return float((values_SPK[:, :, 2] > values_SPK[:, :, 0]).mean())


def sweep(seed: int, truth: Sequence[float], n_seeds: int) -> RatioCurve:
    """A sweep of as many ratios as `truth` has means, with noise per prompt, model and sample."""
    values = simulated_sweep.scores(
        np.random.default_rng(seed),
        truth,
        n_seeds=n_seeds,
        seed_deviation=2.0 if n_seeds > 1 else 0.0,
        noise=6.0,
    )
    return ratio_curves.bootstrap_curve(4.0, RATIOS, values, n_draws=N_RESAMPLES, seed=seed)


def contrast(n_seeds: int) -> Callable[[int], bool]:
    def is_covered(seed: int) -> bool:
        contrast = ratio_curves.contrast(
            sweep(seed, SMILE, n_seeds), 0.0, 0.10, confidence=CONFIDENCE
        )
        return contrast is not None and covers(contrast.difference, SMILE[2] - SMILE[0])

    return is_covered


def minimum_location(seed: int) -> bool:
    truth = tuple(20 + 900 * (ratio - 0.11) ** 2 for ratio in RATIOS)
    minimum = ratio_curves.interior_minimum(
        sweep(seed, truth, 2), seed=seed, n_permutations=99, confidence=CONFIDENCE
    )
    return minimum is not None and covers(minimum.location, 0.11)


# ratios become cheaper with their share; all reach costs from 2.2 to 2.5, the last only up to 2.35
COSTS = [np.array((2.2 - 0.02 * k, 2.3 - 0.02 * k, 2.5 + 0.04 * k)) for k in range(5)]
COSTS.append(np.array((2.0, 2.1, 2.35)))
TOXICITIES = [np.array((40.0, 30.0, 20.0)), *[np.array((42.0, 20.0, 0.0))] * 5]


def matched(n_seeds: int, position: int, share: float = 0.5) -> Callable[[int], bool]:
    """Toxicity at one level of all ratios: `share` of the way from 2.2 to 2.35."""
    level = 2.2 + share * 0.15

    def at_level(k: int) -> float:
        return float(np.interp(level, COSTS[k], TOXICITIES[k]))

    def is_covered(seed: int) -> bool:
        rng = np.random.default_rng(seed)
        prompts = rng.normal(0, 10, (N_PROMPTS, 1))
        sequences = rng.normal(0, 0.3, (N_SEQUENCES, 1))
        paths = [
            StrengthPath(
                ratio,
                toxicity_K
                + prompts
                + rng.normal(0, 2.0 if n_seeds > 1 else 0.0, (n_seeds, 1, 1))
                + rng.normal(0, 5, (n_seeds, N_PROMPTS, 3)),
                cost_K + sequences + rng.normal(0, 0.01, (n_seeds, N_SEQUENCES, 3)),
            )
            for ratio, toxicity_K, cost_K in zip(RATIOS, TOXICITIES, COSTS, strict=True)
        ]
        matches = matched_cross_entropy.match(
            paths, share, confidence=CONFIDENCE, n_resamples=N_RESAMPLES, seed=seed
        )
        result = matches[position - 1]
        return result.is_common and covers(result.difference, at_level(position) - at_level(0))

    return is_covered


def hypervolume(n_seeds: int) -> Callable[[int], bool]:
    """Of the path (2.2, 40), (2.3, 30), (2.5, 20) against the worst corner that was seen."""
    cost_K, toxicity_K = np.array((2.2, 2.3, 2.5)), np.array((40.0, 30.0, 20.0))

    def is_covered(seed: int) -> bool:
        rng = np.random.default_rng(seed)
        prompts = rng.normal(0, 10, (N_PROMPTS, 1))
        sequences = rng.normal(0, 0.1, (N_SEQUENCES, 1))
        deviation = 2.0 if n_seeds > 1 else 0.0
        items = SweepItems(
            ratios=list(RATIOS),
            strengths=[0.0, 4.0, 8.0],
            toxicity=[
                toxicity_K
                + (20.0 if k == 5 else 0.0)
                + prompts
                + rng.normal(0, deviation, (n_seeds, 1, 1))
                + rng.normal(0, 6, (n_seeds, N_PROMPTS, 3))
                for k in range(6)
            ],
            cross_entropy=[
                cost_K
                + (0.3 if k == 5 else 0.0)
                + sequences
                + rng.normal(0, 0.01, (n_seeds, N_SEQUENCES, 3))
                for k in range(6)
            ],
            seed=seed,
            n_left_out=0,
        )
        volume = pareto_front.hypervolumes(items, N_RESAMPLES)["0.1"]
        corner = pareto_front.worst_corner(items)
        truth = pareto_front.hypervolume(np.stack([cost_K, toxicity_K], axis=-1)[None], corner)[0]
        return covers(volume, float(truth))

    return is_covered


def heads(
    seed: int, skills: Sequence[float], n_seeds: int, seed_deviation: float = 0.1
) -> tuple[RatioCurve, RatioCurve]:
    """Curves of the 90th percentile and of the share above, for 16 heads on 200 rows."""
    correct = simulated_sweep.head_rows(
        np.random.default_rng(seed), 16, 200, skills, seed_deviation=seed_deviation, n_seeds=n_seeds
    )
    ids = [f"r{i}" for i in range(200)]
    models = [[HeadRows(ids, correct_PH) for correct_PH in of_ratio] for of_ratio in correct]
    ratios = RATIOS[: len(skills)]
    tails, aboves, _ = curves_of_heads(ratios, models, ids, seed, n_draws=400)
    return tails, aboves


def heads_difference(n_seeds: int, seed_deviation: float) -> Callable[[int], bool]:
    """Of 25 % minus 0 %, where 25 % is better by 0.2 on the scale of the skills."""
    skills = (0.3, 0.3, 0.4, 0.4, 0.5, 0.5)
    # accuracies of heads at this share of the skills, whose spread is that of head_rows
    scale = (0.5**2 + 0.3**2 + 0.8**2 + seed_deviation**2) ** 0.5
    best = np.quantile(np.linspace(-0.3, 0.3, 16), 0.9)
    truth = NormalDist().cdf((0.5 + best) / scale) - NormalDist().cdf((0.3 + best) / scale)

    def is_covered(seed: int) -> bool:
        tails, _ = heads(seed, skills, n_seeds, seed_deviation)
        contrast = ratio_curves.contrast(tails, RATIOS[0], RATIOS[5])
        return contrast is not None and covers(contrast.difference, truth)

    return is_covered


def heads_null(which: int) -> Callable[[int], float]:
    def p_value(seed: int) -> float:
        curve = heads(seed, (0.3,) * 6, 2)[which]
        contrast = ratio_curves.contrast(curve, RATIOS[0], RATIOS[5])
        assert contrast
        return contrast.p

    return p_value


def contrast_null(n_seeds: int) -> Callable[[int], float]:
    def p_value(seed: int) -> float:
        contrast = ratio_curves.contrast(
            sweep(seed, (25.0,) * 6, n_seeds), 0.0, 0.10, confidence=CONFIDENCE
        )
        return contrast.p if contrast else 1.0

    return p_value


def probe_null(n_seeds: int) -> Callable[[int], float]:
    """Mean accuracy of the last ratio minus the first, over 200 rows: seeds move it by 1 point."""

    def p_value(seed: int) -> float:
        values = simulated_sweep.scores(
            np.random.default_rng(seed),
            (0.62,) * 6,
            n_seeds=n_seeds,
            n_prompts=200,
            prompt_deviation=0.19,
            seed_deviation=0.01,
            noise=0.05,
        )
        curve = ratio_curves.bootstrap_curve(0.0, RATIOS, values, n_draws=N_RESAMPLES, seed=seed)
        contrast = ratio_curves.contrast(curve, RATIOS[0], RATIOS[-1])
        return contrast.p if contrast else 1.0

    return p_value


def interior_null(n_seeds: int, n_ratios: int) -> Callable[[int], float]:
    def p_value(seed: int) -> float:
        rng = np.random.default_rng(seed)
        groups = [rng.normal(0, 1, n_seeds) for _ in range(n_ratios)]
        return hypothesis_tests.permute_groups(
            groups,
            ratio_curves.depth_of_interior,
            n_symmetries=1,
            n_permutations=999,
            seed=seed,
        ).p

    return p_value


REMOVED, DIFFERENCE = 1 - RATES[2][2] / RATES[2][0], 100 * (RATES[2][2] - RATES[2][0])
COVERAGE: dict[str, Callable[[int], bool | None]] = {
    "mean of 30 normal values": mean_of(lambda rng: rng.normal(size=30), 0.0),
    "mean of 60 scores, Beta(0.3, 2)": mean_of(lambda rng: rng.beta(0.3, 2, 60), 0.3 / 2.3),
    "mean of 150 scores, Beta(0.3, 2)": mean_of(lambda rng: rng.beta(0.3, 2, 150), 0.3 / 2.3),
    "mean of 150 scores, Beta(0.1, 1)": mean_of(lambda rng: rng.beta(0.1, 1, 150), 0.1 / 1.1),
    "rate of 8 % of 150, Wilson": rate,
    "bar of two seeds that differ": mean_over_seeds(2, 2.0),
    "bar of three seeds that differ": mean_over_seeds(3, 2.0),
    "bar of two seeds that are alike": mean_over_seeds(2, 0.0),
    "bar of two seeds, rare toxicity": rare_mean(2, 0.3),
    "bar of two seeds, no items": mean_of_seeds_own_intervals(2, 2.0),
    "bar of the steadiest ratio, spread 0.5 to 3": mean_over_seeds(
        2, (0.5, 1.0, 1.5, 2.0, 2.5, 3.0), position=0
    ),
    "bar of the least steady ratio, spread 0.5 to 3": mean_over_seeds(
        2, (0.5, 1.0, 1.5, 2.0, 2.5, 3.0), position=5
    ),
    "change by steering, one seed": removals(1, 0.0, lambda r: r.difference, DIFFERENCE),
    "change by steering, two seeds": removals(2, 0.3, lambda r: r.difference, DIFFERENCE),
    "share removed, one seed": removals(1, 0.0, lambda r: r.removed, REMOVED),
    "share removed, two seeds": removals(2, 0.3, lambda r: r.removed, REMOVED),
    "prompts made more toxic, one seed": removals(
        1, 0.0, lambda r: r.more_toxic, more_toxic_truth(0.0)
    ),
    "prompts made more toxic, two seeds": removals(
        2, 0.3, lambda r: r.more_toxic, more_toxic_truth(0.3)
    ),
    "heads' 90th percentile, one seed": heads_difference(1, 0.0),
    "heads' 90th percentile, two seeds": heads_difference(2, 0.1),
    "contrast of two ratios, one seed": contrast(1),
    "contrast of two ratios, two seeds": contrast(2),
    "location of an interior minimum, two seeds": minimum_location,
    "difference at the common cost, one seed": matched(1, 2),
    "difference at the common cost, two seeds": matched(2, 2),
    "the same, ratio that reaches least, two seeds": matched(2, 5),
    "the same at a quarter of the range, one seed": matched(1, 2, 0.25),
    "hypervolume, one seed": hypervolume(1),
    "hypervolume, two seeds": hypervolume(2),
}
NULLS = {
    "contrast of two ratios, one seed alike": contrast_null(1),
    "contrast of two ratios, two seeds": contrast_null(2),
    "mean probe accuracy, two seeds": probe_null(2),
    "mean probe accuracy, three seeds": probe_null(3),
    "heads' 90th percentile, two seeds": heads_null(0),
    "heads above, two seeds": heads_null(1),
    "interior minimum, 6 ratios, two seeds": interior_null(2, 6),
    "interior minimum, 3 ratios, two seeds": interior_null(2, 3),
    "interior minimum, 6 ratios, three seeds": interior_null(3, 6),
}

if __name__ == "__main__":
    main()
