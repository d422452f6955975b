"""Simulated models of a sweep with a known truth, for coverage of intervals and level of tests."""

from collections.abc import Sequence

import numpy as np

RATIOS = (0.0, 0.05, 0.10, 0.15, 0.20, 0.25)


def scores(
    generator,
    means,
    *,
    n_seeds=1,
    n_prompts=150,
    prompt_deviation=10.0,
    seed_deviation: float | Sequence[float] = 0.0,
    noise=8.0,
):
    """Toxicity [S, P] per ratio: the ratio's mean, the prompt's own level (shared by all ratios),
    the model's level and noise.
    """
    prompt_P = generator.normal(0, prompt_deviation, n_prompts)
    deviations = np.broadcast_to(seed_deviation, len(means))
    return [
        mean
        + prompt_P
        + generator.normal(0, deviation, (n_seeds, 1))
        + generator.normal(0, noise, (n_seeds, n_prompts))
        for mean, deviation in zip(means, deviations, strict=True)
    ]


def rare_scores(generator, rates, *, n_seeds=1, n_prompts=150, seed_deviation=0.0, n_samples=1):
    """Toxicity [S, P, K] per ratio, 0 or 100 per sample: rates [ratio][strength], at each strength
    a model's rate multiplied by a factor with this deviation (in logarithms, mean 1); hard prompts
    are hard for all.
    """
    hard_P1 = generator.beta(1.0, 3.0, (n_prompts, 1)) * 4  # mean 1
    results = []
    for rates_K in rates:
        deviations_S1K = generator.normal(0, seed_deviation, (n_seeds, 1, len(rates_K)))
        factor_S1K = np.exp(deviations_S1K - seed_deviation**2 / 2)
        p_SPK = np.minimum(factor_S1K * hard_P1 * np.array(rates_K), 1.0)
        hits = generator.random((n_samples, *p_SPK.shape)) < p_SPK
        results.append(100 * hits.mean(axis=0))
    return results


def head_rows(generator, n_heads, n_rows, skills, *, seed_deviation, n_seeds):
    """Whether each head is right on each row, [rows, heads] per ratio and seed. Rows are hard for
    all heads and models, a model's heads share a level, and heads differ in skill.
    """
    row_P1 = generator.normal(0, 0.5, (n_rows, 1))
    heads_H = np.linspace(-0.3, 0.3, n_heads)
    return [
        [
            row_P1
            + generator.normal(0, 0.3, (n_rows, 1))
            + generator.normal(0, 0.8, (n_rows, n_heads))
            < skill + heads_H + generator.normal(0, seed_deviation)
            for _ in range(n_seeds)
        ]
        for skill in skills
    ]
