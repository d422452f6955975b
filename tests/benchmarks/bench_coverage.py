"""How often a 95 % interval holds the truth and how often a true null is rejected at 5 %: longer simulations than the tests run."""

import sys
from collections.abc import Callable

import numpy as np

from eval.stats import intervals
from launch.report.analysis import hypothesis_tests, matched_cross_entropy, ratio_curves
from launch.report.analysis.matched_cross_entropy import StrengthPath
from launch.report.analysis.ratio_curves import RatioCurve

N_SAMPLES = int(sys.argv[1]) if len(sys.argv) > 1 else 4000
N_RESAMPLES = 1000
LEVEL = 0.95


def main() -> None:
    error = (LEVEL * (1 - LEVEL) / N_SAMPLES) ** 0.5
    print(
        f"{N_SAMPLES:,} samples of each kind; a nominal 95.0 % is measured with a standard error of {100 * error:.1f}"
    )
    print("interval                                        covers the truth")
    for name, covered in COVERAGE.items():
        print(
            f"  {name:<46}{100 * np.mean([covered(i) for i in range(N_SAMPLES)]):6.1f} %",
            flush=True,
        )
    print("test at 5 %                                     rejects a true null")
    for name, p_value in NULLS.items():
        print(
            f"  {name:<46}{100 * np.mean([p_value(i) <= 0.05 for i in range(N_SAMPLES)]):6.1f} %",
            flush=True,
        )


def mean_of(
    draw: Callable[[np.random.Generator], np.ndarray], truth: float
) -> Callable[[int], bool]:
    def covered(i: int) -> bool:
        values = draw(np.random.default_rng(i))
        found = intervals.bootstrap_mean(
            values, "u", confidence=LEVEL, n_resamples=N_RESAMPLES, seed=i
        )
        return found.low <= truth <= found.high  # type: ignore[operator]

    return covered


def rate(i: int) -> bool:
    found = intervals.wilson(
        int(np.random.default_rng(i).binomial(150, 0.08)), 150, "u", confidence=LEVEL
    )
    return found.low <= 0.08 <= found.high  # type: ignore[operator]


def sweep(i: int, truth: tuple[float, ...], n_seeds: int) -> RatioCurve:
    generator = np.random.default_rng(i)
    prompts = generator.normal(0, 10, 150)
    of_seed = 2.0 if n_seeds > 1 else 0.0
    values = [
        mean
        + prompts
        + generator.normal(0, of_seed, (n_seeds, 1))
        + generator.normal(0, 6, (n_seeds, 150))
        for mean in truth
    ]
    ratios = [0.05 * k for k in range(len(truth))]
    return ratio_curves.bootstrap_curve(4.0, ratios, values, n_draws=N_RESAMPLES, seed=i)


def contrast(n_seeds: int) -> Callable[[int], bool]:
    def covered(i: int) -> bool:
        found = ratio_curves.contrast(
            sweep(i, (30.0, 25.0, 24.0, 26.0, 27.0, 29.0), n_seeds), 0.0, 0.10, confidence=LEVEL
        )
        return found is not None and found.difference.low <= -6.0 <= found.difference.high  # type: ignore[operator]

    return covered


def location(i: int) -> bool:
    found = ratio_curves.interior_minimum(
        sweep(i, tuple(20 + 900 * (0.05 * k - 0.11) ** 2 for k in range(6)), 1), confidence=LEVEL
    )
    return found is not None and found.location.low <= 0.11 <= found.location.high  # type: ignore[operator]


def matched(n_seeds: int) -> Callable[[int], bool]:
    shape, of_seed = ((40.0, 30.0, 20.0), *((42.0, 20.0, 0.0),) * 5), 2.0 if n_seeds > 1 else 0.0

    def covered(i: int) -> bool:
        generator = np.random.default_rng(i)
        prompts, sequences = generator.normal(0, 10, (150, 1)), generator.normal(0, 0.3, (64, 1))
        paths = [
            StrengthPath(
                0.05 * k,
                np.array(toxicity)
                + prompts
                + generator.normal(0, of_seed, (n_seeds, 1, 1))
                + generator.normal(0, 5, (n_seeds, 150, 3)),
                np.array((2.2, 2.3, 2.5)) + sequences + generator.normal(0, 0.01, (n_seeds, 64, 3)),
            )
            for k, toxicity in enumerate(shape)
        ]
        found = matched_cross_entropy.match(
            paths, 2 / 3, confidence=LEVEL, n_resamples=N_RESAMPLES, seed=i
        )[0]
        return (
            found.difference is not None and found.difference.low <= -15.0 <= found.difference.high
        )  # type: ignore[operator]

    return covered


def sign_flip(i: int) -> float:
    generator = np.random.default_rng(i)
    return hypothesis_tests.sign_flip(
        generator.beta(0.3, 2, 60) - generator.beta(0.3, 2, 60), n_permutations=499, seed=i
    ).p


def contrast_null(n_seeds: int) -> Callable[[int], float]:
    def p_value(i: int) -> float:
        found = ratio_curves.contrast(sweep(i, (25.0,) * 6, n_seeds), 0.0, 0.10, confidence=LEVEL)
        return found.p if found else 1.0

    return p_value


COVERAGE = {
    "mean of 30 normal values": mean_of(lambda g: g.normal(size=30), 0.0),
    "mean of 60 scores, Beta(0.3, 2)": mean_of(lambda g: g.beta(0.3, 2, 60), 0.3 / 2.3),
    "mean of 150 scores, Beta(0.3, 2)": mean_of(lambda g: g.beta(0.3, 2, 150), 0.3 / 2.3),
    "mean of 150 scores, Beta(0.1, 1)": mean_of(lambda g: g.beta(0.1, 1, 150), 0.1 / 1.1),
    "rate of 8 % of 150, Wilson": rate,
    "contrast of two ratios, one seed": contrast(1),
    "contrast of two ratios, two seeds": contrast(2),
    "location of an interior minimum": location,
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
