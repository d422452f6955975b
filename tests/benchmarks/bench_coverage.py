"""coverage of 95 % intervals and level of 5 % tests, by longer simulations than in tests

python tests/benchmarks/bench_coverage.py [SAMPLES]
"""

import sys
from collections.abc import Callable

import numpy as np

from eval.stats import intervals
from eval.stats.estimate import Estimate
from launch.report.analysis import hypothesis_tests, matched_cross_entropy, ratio_curves
from launch.report.analysis.matched_cross_entropy import StrengthPath
from launch.report.analysis.ratio_curves import RatioCurve

N_SAMPLES = int(sys.argv[1]) if len(sys.argv) > 1 else 4000
N_RESAMPLES = 1000
CONFIDENCE = 0.95
N_PROMPTS = 150
N_SEQUENCES = 64
RATIOS = [0.05 * k for k in range(6)]


def main() -> None:
    error = (CONFIDENCE * (1 - CONFIDENCE) / N_SAMPLES) ** 0.5
    print(
        f"{N_SAMPLES:,} samples per row; a nominal 95.0 % is measured with a standard error of "
        f"{100 * error:.1f}"
    )
    print("interval                                        covers the truth")
    for name, is_covered in COVERAGE.items():
        covered = np.mean([is_covered(seed) for seed in range(N_SAMPLES)])
        print(f"  {name:<46}{100 * covered:6.1f} %", flush=True)
    print("test at 5 %                                     rejects a true null")
    for name, p_value in NULLS.items():
        rejected = np.mean([p_value(seed) <= 1 - CONFIDENCE for seed in range(N_SAMPLES)])
        print(f"  {name:<46}{100 * rejected:6.1f} %", flush=True)


def covers(estimate: Estimate | None, truth: float) -> bool:
    if estimate is None or estimate.low is None or estimate.high is None:
        return False
    return estimate.low <= truth <= estimate.high


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


def sweep(seed: int, truth: tuple[float, ...], n_seeds: int) -> RatioCurve:
    """A sweep of as many ratios as `truth` has means, with noise per prompt, model and sample."""
    rng = np.random.default_rng(seed)
    prompts = rng.normal(0, 10, N_PROMPTS)
    seed_deviation = 2.0 if n_seeds > 1 else 0.0
    values = [
        mean
        + prompts
        + rng.normal(0, seed_deviation, (n_seeds, 1))
        + rng.normal(0, 6, (n_seeds, N_PROMPTS))
        for mean in truth
    ]
    return ratio_curves.bootstrap_curve(4.0, RATIOS, values, n_draws=N_RESAMPLES, seed=seed)


def contrast(n_seeds: int) -> Callable[[int], bool]:
    truth = (30.0, 25.0, 24.0, 26.0, 27.0, 29.0)

    def is_covered(seed: int) -> bool:
        contrast = ratio_curves.contrast(
            sweep(seed, truth, n_seeds), 0.0, 0.10, confidence=CONFIDENCE
        )
        return contrast is not None and covers(contrast.difference, truth[2] - truth[0])

    return is_covered


def minimum_location(seed: int) -> bool:
    truth = tuple(20 + 900 * (ratio - 0.11) ** 2 for ratio in RATIOS)
    minimum = ratio_curves.interior_minimum(sweep(seed, truth, 1), confidence=CONFIDENCE)
    return minimum is not None and covers(minimum.location, 0.11)


def matched(n_seeds: int) -> Callable[[int], bool]:
    """At the matched cross-entropy, 2.4, ratio 0 has toxicity 25 and the others 10: truth -15."""
    toxicity_by_ratio = ((40.0, 30.0, 20.0), *((42.0, 20.0, 0.0),) * 5)
    cross_entropy = np.array((2.2, 2.3, 2.5))
    seed_deviation = 2.0 if n_seeds > 1 else 0.0

    def is_covered(seed: int) -> bool:
        rng = np.random.default_rng(seed)
        prompts = rng.normal(0, 10, (N_PROMPTS, 1))
        sequences = rng.normal(0, 0.3, (N_SEQUENCES, 1))
        paths = [
            StrengthPath(
                ratio,
                np.array(toxicity)
                + prompts
                + rng.normal(0, seed_deviation, (n_seeds, 1, 1))
                + rng.normal(0, 5, (n_seeds, N_PROMPTS, 3)),
                cross_entropy + sequences + rng.normal(0, 0.01, (n_seeds, N_SEQUENCES, 3)),
            )
            for ratio, toxicity in zip(RATIOS, toxicity_by_ratio, strict=True)
        ]
        matches = matched_cross_entropy.match(
            paths, 2 / 3, confidence=CONFIDENCE, n_resamples=N_RESAMPLES, seed=seed
        )
        return covers(matches[0].difference, -15.0)

    return is_covered


def sign_flip(seed: int) -> float:
    rng = np.random.default_rng(seed)
    differences = rng.beta(0.3, 2, 60) - rng.beta(0.3, 2, 60)
    return hypothesis_tests.sign_flip(differences, n_permutations=499, seed=seed).p


def contrast_null(n_seeds: int) -> Callable[[int], float]:
    def p_value(seed: int) -> float:
        contrast = ratio_curves.contrast(
            sweep(seed, (25.0,) * 6, n_seeds), 0.0, 0.10, confidence=CONFIDENCE
        )
        return contrast.p if contrast else 1.0

    return p_value


COVERAGE = {
    "mean of 30 normal values": mean_of(lambda rng: rng.normal(size=30), 0.0),
    "mean of 60 scores, Beta(0.3, 2)": mean_of(lambda rng: rng.beta(0.3, 2, 60), 0.3 / 2.3),
    "mean of 150 scores, Beta(0.3, 2)": mean_of(lambda rng: rng.beta(0.3, 2, 150), 0.3 / 2.3),
    "mean of 150 scores, Beta(0.1, 1)": mean_of(lambda rng: rng.beta(0.1, 1, 150), 0.1 / 1.1),
    "rate of 8 % of 150, Wilson": rate,
    "contrast of two ratios, one seed": contrast(1),
    "contrast of two ratios, two seeds": contrast(2),
    "location of an interior minimum": minimum_location,
    "difference at equal cost, one seed": matched(1),
    "difference at equal cost, two seeds": matched(2),
}
NULLS = {
    "sign flip, 60 paired scores": sign_flip,
    "contrast of two ratios, one seed": contrast_null(1),
    "contrast of two ratios, two seeds": contrast_null(2),
}

if __name__ == "__main__":
    main()
