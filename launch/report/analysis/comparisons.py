"""the planned comparisons of a sweep, paired by prompt, and the record of their results

Intervals of single points that overlap can hide a difference, because all models are evaluated on
the same prompts, and hard prompts are hard for all of them. Here every comparison is made on the
same items. The plan is fixed before the numbers are known: toxicity at the grid's first ratio, at
the ratio nearest to 10 % (the paper's best) and at the last ratio, at every strength but 0, with
Holm's correction over all of these contrasts.

Shapes: R ratios, S seeds, P prompts, Q sequences, K strengths, B draws.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from data_prep.core.records import record
from eval.eval_report import EvalReport
from eval.stats import intervals, resampling
from eval.stats.estimate import Estimate
from eval.steering import per_item_results
from eval.steering.per_item_results import ItemTable
from launch.report.analysis import (
    head_tails,
    hypothesis_tests,
    matched_cross_entropy,
    pareto_front,
    ratio_curves,
)
from launch.report.analysis.head_tails import HeadRows, TailDifference
from launch.report.analysis.matched_cross_entropy import MatchedToxicity, StrengthPath
from launch.report.analysis.ratio_curves import Contrast, InteriorMinimum, RatioCurve

MIDDLE_RATIO = 0.10
COST = "cross_entropy/clean"
N_PERMUTATIONS = 9999
# where in the range of cross-entropies that two ratios share they are compared
MIDDLE_SHARE = 0.5
OTHER_SHARES = (0.25, 0.75)
POWER_DIFFERENCES = (0.5, 1.0, 2.0, 5.0)  # score × 100
POWER = 0.8


@record
class ProbeDifference:
    """Mean accuracy of all heads, last ratio − first, over test rows; p by sign flips of the rows'
    differences. p_floor: the smallest p that this number of flips can show.
    """

    first: float
    last: float
    difference: Estimate
    p: float
    p_floor: float


@record
class Comparisons:
    """All comparisons of a sweep.

    seeds_df: degrees of freedom of the standard deviation between seeds; 0 if each ratio has one
    model, and then intervals cover the prompts alone.
    first: the ratio with which the others are compared.
    hypervolume: per ratio, nats × score below the worst point of all.
    front: the (ratio, strength) pairs on the Pareto front.
    probes_holm: p of the head probes' comparisons after Holm's correction over these three, a
    family apart from the planned contrasts.
    prompts_needed: per difference, the prompts that show it with a power of 80 %.
    """

    n_prompts: int
    seeds_df: int
    first: float
    planned: tuple[Contrast, ...]
    minima: tuple[InteriorMinimum, ...]
    matched: tuple[MatchedToxicity, ...]
    matched_elsewhere: tuple[MatchedToxicity, ...]
    hypervolume: dict[str, Estimate]
    front: tuple[tuple[float, float], ...]
    probes: ProbeDifference | None
    tail: TailDifference | None
    probes_holm: dict[str, float]
    prompts_needed: dict[str, int]


class _SweepItems(NamedTuple):
    """Values of all seeds on the items that all runs share: per ratio toxicity [S, P, K] and
    cross-entropy [S, Q, K]. Ratios and strengths ascend; seed is that of the resamples.
    """

    ratios: list[float]
    strengths: list[float]
    toxicity: list[np.ndarray]
    cross_entropy: list[np.ndarray]
    seed: int


def compare(
    reports: Sequence[EvalReport],
    tables: Sequence[ItemTable],
    heads: Sequence[HeadRows | None] = (),
) -> Comparisons | None:
    """All comparisons of a sweep; None if the runs share fewer than two prompts, or there is one
    ratio. tables[i] holds the per-item values of reports[i], heads[i] its probes' test rows.
    """
    items = _shared_items(reports, tables)
    if items is None or len(items.ratios) < 2:
        return None
    curves = [_curve(items, k) for k in range(len(items.strengths))]
    minima = [ratio_curves.interior_minimum(curve) for curve in curves]
    paths = [
        StrengthPath(*values)
        for values in zip(items.ratios, items.toxicity, items.cross_entropy, strict=True)
    ]
    hypervolume, front = _hypervolumes(items)
    probes = _compare_probes(reports, tables)
    tail = head_tails.compare(reports, heads) if heads else None
    return Comparisons(
        n_prompts=curves[0].n_prompts,
        seeds_df=curves[0].seeds_df,
        first=items.ratios[0],
        planned=_planned_contrasts([curve for curve in curves if curve.strength]),
        minima=tuple(minimum for minimum in minima if minimum),
        matched=matched_cross_entropy.match(paths, MIDDLE_SHARE, seed=items.seed),
        matched_elsewhere=tuple(
            result
            for share in OTHER_SHARES
            for result in matched_cross_entropy.match(paths, share, seed=items.seed)
        ),
        hypervolume=hypervolume,
        front=front,
        probes=probes,
        tail=tail,
        probes_holm=_holm_of_probes(probes, tail),
        prompts_needed=_prompts_needed(items),
    )


def _shared_items(reports: Sequence[EvalReport], tables: Sequence[ItemTable]) -> _SweepItems | None:
    strengths = sorted(
        set.intersection(*({row.strength for row in report.steered} for report in reports))
    )
    toxicity = per_item_results.common(tables, "toxicity", strengths)
    cross_entropy = per_item_results.common(tables, COST, strengths)
    if len(toxicity[0]) < 2 or len(cross_entropy[0]) < 2:
        return None
    ratios = sorted({report.toxic_ratio for report in reports})
    runs_of_ratio = [
        [i for i, report in enumerate(reports) if report.toxic_ratio == ratio] for ratio in ratios
    ]
    return _SweepItems(
        ratios,
        strengths,
        [np.stack([toxicity[i] for i in runs]) for runs in runs_of_ratio],
        [np.stack([cross_entropy[i] for i in runs]) for runs in runs_of_ratio],
        reports[0].config.seed,
    )


def _curve(items: _SweepItems, k: int) -> RatioCurve:
    return ratio_curves.bootstrap_curve(
        items.strengths[k],
        items.ratios,
        [toxicity_SPK[:, :, k] for toxicity_SPK in items.toxicity],
        seed=items.seed,
    )


def _planned_contrasts(curves: Sequence[RatioCurve]) -> tuple[Contrast, ...]:
    contrasts = []
    for curve in curves:
        grid = [float(ratio) for ratio in curve.ratios_R]
        middle = min(grid[1:-1], key=lambda ratio: abs(ratio - MIDDLE_RATIO), default=None)
        pairs = [(grid[0], grid[-1])] if middle is None else [(grid[0], middle), (middle, grid[-1])]
        for first, second in pairs:
            if contrast := ratio_curves.contrast(curve, first, second):
                contrasts.append(contrast)
    adjusted = hypothesis_tests.holm([contrast.p for contrast in contrasts])
    return tuple(
        replace(contrast, p_holm=p_holm)
        for contrast, p_holm in zip(contrasts, adjusted, strict=True)
    )


def _hypervolumes(
    items: _SweepItems,
) -> tuple[dict[str, Estimate], tuple[tuple[float, float], ...]]:
    """Hypervolume per ratio and the Pareto front, of the mean path of each ratio's models. The
    intervals cover prompts and sequences, not seeds.
    """
    paths = [
        (cross_entropy_SQK.mean(axis=0), toxicity_SPK.mean(axis=0))
        for cross_entropy_SQK, toxicity_SPK in zip(items.cross_entropy, items.toxicity, strict=True)
    ]
    points_RK2 = np.array(
        [
            np.stack([cost_QK.mean(axis=0), toxic_PK.mean(axis=0)], axis=1)
            for cost_QK, toxic_PK in paths
        ]
    )
    corner = (float(points_RK2[..., 0].max()), float(points_RK2[..., 1].max()))
    volumes = {}
    for ratio, (cost_QK, toxic_PK), points_K2 in zip(items.ratios, paths, points_RK2, strict=True):
        cost_BK = resampling.means(cost_QK, intervals.N_RESAMPLES, items.seed + 1)
        toxic_BK = resampling.means(toxic_PK, intervals.N_RESAMPLES, items.seed)
        draws_B = pareto_front.hypervolume(np.stack([cost_BK, toxic_BK], axis=-1), corner)
        volumes[f"{ratio:g}"] = intervals.percentile(
            float(pareto_front.hypervolume(points_K2[None], corner)[0]),
            draws_B,
            len(toxic_PK),
            "nats/token × score × 100",
        )
    labels = [(ratio, strength) for ratio in items.ratios for strength in items.strengths]
    front = pareto_front.pareto_front([(float(x), float(y)) for x, y in points_RK2.reshape(-1, 2)])
    return volumes, tuple(labels[i] for i in front)


def _compare_probes(
    reports: Sequence[EvalReport], tables: Sequence[ItemTable]
) -> ProbeDifference | None:
    accuracies = [
        values_P1[:, 0] for values_P1 in per_item_results.common(tables, "probe_accuracy", [0.0])
    ]
    if len(accuracies[0]) < 2:
        return None
    ratios = sorted({report.toxic_ratio for report in reports})
    first, last = (
        np.mean(
            [a for r, a in zip(reports, accuracies, strict=True) if r.toxic_ratio == ratio], axis=0
        )
        for ratio in (ratios[0], ratios[-1])
    )
    seed = reports[0].config.seed
    test = hypothesis_tests.sign_flip(last - first, n_permutations=N_PERMUTATIONS, seed=seed)
    return ProbeDifference(
        first=ratios[0],
        last=ratios[-1],
        difference=intervals.bootstrap_mean(last - first, "ratio", seed=seed),
        p=test.p,
        p_floor=test.p_floor,
    )


def _holm_of_probes(
    probes: ProbeDifference | None, tail: TailDifference | None
) -> dict[str, float]:
    p_values = {}
    if probes:
        p_values["mean"] = probes.p
    if tail:
        p_values["above"] = tail.p_above
        p_values["distance"] = tail.p_distance
    adjusted = hypothesis_tests.holm(list(p_values.values()))
    return dict(zip(p_values, adjusted, strict=True))


def _prompts_needed(items: _SweepItems) -> dict[str, int]:
    """From the largest standard deviation of paired differences between neighbouring ratios, at any
    strength but 0; empty if they do not vary.
    """
    by_prompt_RPK = np.stack([toxicity_SPK.mean(axis=0) for toxicity_SPK in items.toxicity])
    steered = [k for k, strength in enumerate(items.strengths) if strength]
    if not steered:
        return {}
    deviation = float(np.diff(by_prompt_RPK[:, :, steered], axis=0).std(axis=1).max())
    if not deviation:
        return {}
    return {
        f"{difference:g}": hypothesis_tests.items_needed(difference, deviation, power=POWER)
        for difference in POWER_DIFFERENCES
    }
