"""the sweep's planned comparisons, paired by prompt: contrasts, the smile, equal cost, probes,
prompts needed

Intervals of single points that overlap can hide a difference, for all models met the same prompts
and hard ones are hard for all. Here every comparison is of the same items. The plan is fixed before
the numbers: toxicity at the grid's first ratio, at the one nearest to 10 % (the paper's best) and
at the last, at every strength but 0, with Holm's correction over all of them.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from data_prep.core.records import record
from eval.config import EvalConfig
from eval.eval_report import EvalReport
from eval.stats import intervals, resampling
from eval.stats.estimate import Estimate
from eval.steering import per_item_results
from eval.steering.per_item_results import Table
from launch.report.analysis import curves, head_tails, hypothesis_tests
from launch.report.analysis.curves import Path
from launch.report.analysis.head_tails import TailDifference

MIDDLE_RATIO = 0.10
COST = "cross_entropy/clean"
N_PERMUTATIONS = 9999
MIDDLE_SHARE, ELSEWHERE = (
    0.5,
    (0.25, 0.75),
)  # of the costs that two ratios both reach: where they are compared
POWER_DIFFERENCES = (0.5, 1.0, 2.0, 5.0)  # score × 100
POWER = 0.8


@record
class Planned:
    """difference: toxicity at `second` − at `first`. p_holm: p for all planned contrasts being
    several.
    """

    strength: float
    first: float
    second: float
    difference: Estimate
    p: float
    p_floor: float
    p_holm: float


@record
class Smile:
    """p_interior: share of bootstrap curves whose lowest ratio is inside the grid; by_chance: that
    share without any effect.
    """

    strength: float
    p_interior: float
    by_chance: float
    location: Estimate


@record
class Matched:
    """Toxicity of `ratio` − of the first ratio where all models of both cost `cross_entropy`,
    `share` into the costs that all reach; None where they never cost the same for sure. The
    interval covers prompts, sequences and, where there are several, seeds.
    by_model: of each model of `ratio`, − the mean of the first's.
    """

    ratio: float
    share: float
    cross_entropy: float | None
    difference: Estimate | None
    by_model: tuple[float, ...]


@record
class ProbeDifference:
    """Mean accuracy of all heads, last ratio − first, over test rows; p by sign flips of the rows'
    differences.
    """

    first: float
    last: float
    difference: Estimate
    p: float
    p_floor: float


@record
class Comparisons:
    """seeds_df: degrees of freedom of the spread between seeds; 0 where each ratio has one model,
    and then intervals cover the prompts alone. first: the ratio that the others are compared with.
    hypervolume: by ratio, nats × score below the worst point of all. front: (ratio, strength) that
    no other beats. probes_holm: p of the head probes' three comparisons for being three, by what is
    compared: a claim of its own, apart from the planned ones. prompts_needed: by difference, to
    show it with a power of 80 %.
    """

    n_prompts: int
    seeds_df: int
    first: float
    planned: tuple[Planned, ...]
    smiles: tuple[Smile, ...]
    matched: tuple[Matched, ...]
    matched_elsewhere: tuple[Matched, ...]
    hypervolume: dict[str, Estimate]
    front: tuple[tuple[float, float], ...]
    probes: ProbeDifference | None
    tail: TailDifference | None
    probes_holm: dict[str, float]
    prompts_needed: dict[str, int]


class _Measured(NamedTuple):
    """By ratio: values of all seeds on the common items. toxicity_SPK, cost_SQK; strengths
    ascending.
    """

    ratios: list[float]
    strengths: list[float]
    toxicity: list[np.ndarray]
    cost: list[np.ndarray]


def compare(
    reports: Sequence[EvalReport],
    tables: Sequence[Table],
    heads: Sequence[head_tails.HeadRows | None] = (),
) -> Comparisons | None:
    """All comparisons of a sweep, tables[i] the items of reports[i] and heads[i] its probes' test
    rows; None where no two prompts were met by every run.
    """
    config = reports[0].config
    strengths = sorted(
        set.intersection(*({one.strength for one in report.steered} for report in reports))
    )
    measured = _measured(reports, tables, strengths)
    if measured is None or len(measured.ratios) < 2:
        return None
    by_strength = {strength: _curve(measured, k, config) for k, strength in enumerate(strengths)}
    planned = _planned({strength: of for strength, of in by_strength.items() if strength}, config)
    smiles = {
        strength: curves.smile(of, confidence=intervals.CONFIDENCE)
        for strength, of in by_strength.items()
    }
    volumes, front = _hypervolumes(measured, config)
    some, probes, tail = (
        by_strength[0.0],
        _probes(reports, tables, config),
        head_tails.compare(reports, heads) if heads else None,
    )
    of_probes = ({"mean": probes.p} if probes else {}) | (
        {"above": tail.p_above, "distance": tail.p_distance} if tail else {}
    )
    return Comparisons(
        n_prompts=some.n_prompts,
        seeds_df=some.seeds_df,
        first=measured.ratios[0],
        planned=tuple(planned),
        smiles=tuple(
            Smile(
                strength=strength,
                p_interior=of.p_interior,
                by_chance=of.p_by_chance,
                location=of.location,
            )
            for strength, of in smiles.items()
            if of
        ),
        matched=_matched(measured, MIDDLE_SHARE, config),
        matched_elsewhere=tuple(
            one for share in ELSEWHERE for one in _matched(measured, share, config)
        ),
        hypervolume=volumes,
        front=front,
        probes=probes,
        tail=tail,
        probes_holm=dict(
            zip(of_probes, hypothesis_tests.holm(list(of_probes.values())), strict=True)
        ),
        prompts_needed=_prompts_needed(measured),
    )


def _measured(
    reports: Sequence[EvalReport], tables: Sequence[Table], strengths: list[float]
) -> _Measured | None:
    toxicity = per_item_results.common(tables, "toxicity", strengths)
    cost = per_item_results.common(tables, COST, strengths)
    if len(toxicity[0]) < 2 or len(cost[0]) < 2:
        return None
    ratios = sorted({report.toxic_ratio for report in reports})
    of_ratio = [
        [i for i, report in enumerate(reports) if report.toxic_ratio == ratio] for ratio in ratios
    ]
    return _Measured(
        ratios,
        strengths,
        [np.stack([toxicity[i] for i in runs]) for runs in of_ratio],
        [np.stack([cost[i] for i in runs]) for runs in of_ratio],
    )


def _curve(measured: _Measured, k: int, config: EvalConfig) -> curves.Curve:
    values = [of_ratio[:, :, k] for of_ratio in measured.toxicity]
    return curves.curve(
        measured.ratios, values, "score × 100", n_draws=intervals.N_RESAMPLES, seed=config.seed
    )


def _planned(by_strength: dict[float, curves.Curve], config: EvalConfig) -> list[Planned]:
    found = []
    for strength, of in by_strength.items():
        grid = [float(ratio) for ratio in of.ratios_R]
        middle = min(grid[1:-1], key=lambda ratio: abs(ratio - MIDDLE_RATIO), default=None)
        pairs = [(grid[0], grid[-1])] if middle is None else [(grid[0], middle), (middle, grid[-1])]
        for a, b in pairs:
            if contrast := curves.contrast(of, a, b, confidence=intervals.CONFIDENCE):
                found.append((strength, a, b, contrast))
    adjusted = hypothesis_tests.holm([contrast.p for *_, contrast in found])
    return [
        Planned(
            strength=s,
            first=a,
            second=b,
            difference=c.difference,
            p=c.p,
            p_floor=c.floor,
            p_holm=holm,
        )
        for (s, a, b, c), holm in zip(found, adjusted, strict=True)
    ]


def _matched(measured: _Measured, share: float, config: EvalConfig) -> tuple[Matched, ...]:
    paths = [Path(*both) for both in zip(measured.toxicity, measured.cost, strict=True)]
    how = {
        "confidence": intervals.CONFIDENCE,
        "n_resamples": intervals.N_RESAMPLES,
        "seed": config.seed,
    }
    found = []
    for ratio, one in zip(
        measured.ratios[1:], curves.matched(paths, share, "score × 100", **how), strict=True
    ):
        level, difference, by_model = (
            (one.level, one.difference, tuple(map(float, one.by_model_S)))
            if one
            else (None, None, ())
        )
        found.append(
            Matched(
                ratio=ratio,
                share=share,
                cross_entropy=level,
                difference=difference,
                by_model=by_model,
            )
        )
    return tuple(found)


def _hypervolumes(
    measured: _Measured, config: EvalConfig
) -> tuple[dict[str, Estimate], tuple[tuple[float, float], ...]]:
    """Of the mean path of each ratio's models; over prompts and sequences, not seeds."""
    paths = [
        (cost.mean(axis=0), toxicity.mean(axis=0))
        for cost, toxicity in zip(measured.cost, measured.toxicity, strict=True)
    ]
    points_RK2 = np.array(
        [
            np.stack([cost_QK.mean(axis=0), toxicity_PK.mean(axis=0)], axis=1)
            for cost_QK, toxicity_PK in paths
        ]
    )
    corner = (float(points_RK2[..., 0].max()), float(points_RK2[..., 1].max()))
    volumes, n = {}, len(paths[0][1])
    for ratio, (cost_QK, toxicity_PK), points_K2 in zip(
        measured.ratios, paths, points_RK2, strict=True
    ):
        cost_BK = resampling.means(cost_QK, intervals.N_RESAMPLES, config.seed + 1)
        toxicity_BK = resampling.means(toxicity_PK, intervals.N_RESAMPLES, config.seed)
        draws_B = curves.hypervolume(np.stack([cost_BK, toxicity_BK], axis=-1), corner)
        low, high = np.quantile(draws_B, intervals.spread_levels(n, intervals.CONFIDENCE))
        value = float(curves.hypervolume(points_K2[None], corner)[0])
        volumes[f"{ratio:g}"] = Estimate(
            value=value, low=float(low), high=float(high), n=n, unit="nats/token × score × 100"
        )
    where = [(ratio, strength) for ratio in measured.ratios for strength in measured.strengths]
    front = curves.pareto_front([(float(x), float(y)) for x, y in points_RK2.reshape(-1, 2)])
    return volumes, tuple(where[i] for i in front)


def _probes(
    reports: Sequence[EvalReport], tables: Sequence[Table], config: EvalConfig
) -> ProbeDifference | None:
    values = [of_run[:, 0] for of_run in per_item_results.common(tables, "probe_accuracy", [0.0])]
    if len(values[0]) < 2:
        return None
    ratios = sorted({report.toxic_ratio for report in reports})
    first, last = (
        np.mean(
            [
                value
                for report, value in zip(reports, values, strict=True)
                if report.toxic_ratio == ratio
            ],
            axis=0,
        )
        for ratio in (ratios[0], ratios[-1])
    )
    how = {
        "confidence": intervals.CONFIDENCE,
        "n_resamples": intervals.N_RESAMPLES,
        "seed": config.seed,
    }
    tested = hypothesis_tests.sign_flip(
        last - first, n_permutations=N_PERMUTATIONS, seed=config.seed
    )
    return ProbeDifference(
        first=ratios[0],
        last=ratios[-1],
        difference=intervals.bootstrap_mean(last - first, "ratio", **how),
        p=tested.p,
        p_floor=tested.floor,
    )


def _prompts_needed(measured: _Measured) -> dict[str, int]:
    """From the largest deviation of paired differences between neighbouring ratios, at any strength
    but 0.
    """
    by_prompt_RPK = np.stack([of_ratio.mean(axis=0) for of_ratio in measured.toxicity])
    positive = [k for k, strength in enumerate(measured.strengths) if strength]
    deviation = (
        float(np.diff(by_prompt_RPK[:, :, positive], axis=0).std(axis=1).max()) if positive else 0.0
    )
    table = hypothesis_tests.power_table(deviation, POWER_DIFFERENCES, (POWER,))
    return {f"{difference:g}": needed[POWER] for difference, needed in table} if deviation else {}
