"""the planned comparisons of a sweep, paired by prompt, and the record of their results

Intervals of single points that overlap can hide a difference, because all models are evaluated on
the same prompts, and hard prompts are hard for all of them. Here every comparison is made on the
same items. The plan is fixed before the numbers are known: toxicity at the grid's first ratio, at
the ratio nearest to 10 % (the paper's best) and at the last ratio, at every strength but 0, with
Holm's correction over all of these contrasts.

A continuation that is empty scores 0 (sweep_items.py); where there are any, the plan is also
carried out on the prompts that all models continue, and the report says where the two differ.

Shapes: R ratios, S seeds, P prompts, Q sequences, K strengths, B draws.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from data_prep.core.records import record
from eval.stats import intervals, multiple_tests
from eval.stats.estimate_with_interval import Estimate
from eval.steering import per_item_results
from eval.steering.per_item_results import ItemTable
from launch.report.analysis import (
    head_accuracy_tails,
    hypothesis_tests,
    matched_cross_entropy,
    pareto_front,
    ratio_curves,
    removal,
    sweep_items,
)
from launch.report.analysis.evaluation_view import EvaluationView
from launch.report.analysis.head_accuracy_tails import HeadRows, TailDifference
from launch.report.analysis.matched_cross_entropy import MatchedToxicity, StrengthPath
from launch.report.analysis.ratio_curves import Contrast, InteriorMinimum, RatioCurve
from launch.report.analysis.removal import Removal
from launch.report.analysis.sweep_items import SweepItems

MIDDLE_RATIO = 0.10
# where in the range of cross-entropies that the ratios share they are compared
MIDDLE_SHARE = 0.5
OTHER_SHARES = (0.25, 0.75)
POWER_DIFFERENCES = (0.5, 1.0, 2.0, 5.0)  # score × 100
POWER = 0.8


@record
class ProbeDifference:
    """Mean accuracy of all heads, last ratio − first, over test rows.

    p: over rows and seeds, with p_floor, the smallest that its draws can show; both None with one
    model per ratio, and then the interval is about these two models on other rows.
    """

    first: float
    last: float
    difference: Estimate
    p: float | None
    p_floor: float | None


@record
class SeedMean:
    """The mean over the models of one ratio at one strength, with intervals over items and seeds:
    toxicity (score × 100) and cross-entropy on the text of the cost.
    """

    ratio: float
    strength: float
    toxicity: Estimate
    cross_entropy: Estimate


@record
class ContinuedOnly:
    """The comparisons in the other reading of empty continuations: on the n_prompts prompts that
    all models continue at all strengths. planned and matched are empty below two such prompts.

    toxicity: per run and strength, the mean over the prompts that this model continued.
    """

    n_prompts: int
    planned: tuple[Contrast, ...]
    matched: tuple[MatchedToxicity, ...]
    toxicity: dict[str, dict[str, Estimate]]


@record
class Comparisons:
    """All comparisons of a sweep.

    n_left_out: prompts without a score at some model and strength, which are in no comparison.
    seeds_df: degrees of freedom of the standard deviation between seeds; 0 if each ratio has one
    model, and then intervals cover the prompts alone.
    first: the ratio with which the others are compared.
    points: mean over seeds per ratio and strength; none with one model per ratio, where the models'
    own estimates say the same.
    hypervolume: per ratio, nats × score below the worst point of all.
    front: the (ratio, strength) pairs on the Pareto front.
    removal: of each ratio's models; removal_by_run: of each model alone, by run id.
    probes_holm: p of the head probes' comparisons after Holm's correction over these, a family
    apart from the planned contrasts; empty with one model per ratio.
    prompts_needed: per difference, the prompts that show it with a power of 80 %.
    continued: None if no continuation is empty.
    """

    n_prompts: int
    n_left_out: int
    seeds_df: int
    first: float
    planned: tuple[Contrast, ...]
    minima: tuple[InteriorMinimum, ...]
    matched: tuple[MatchedToxicity, ...]
    matched_elsewhere: tuple[MatchedToxicity, ...]
    points: tuple[SeedMean, ...]
    hypervolume: dict[str, Estimate]
    front: tuple[tuple[float, float], ...]
    removal: tuple[Removal, ...]
    removal_by_run: dict[str, tuple[Removal, ...]]
    probes: ProbeDifference | None
    tail: TailDifference | None
    probes_holm: dict[str, float]
    prompts_needed: dict[str, int]
    continued: ContinuedOnly | None


def compare(
    reports: Sequence[EvaluationView],
    tables: Sequence[ItemTable],
    heads: Sequence[HeadRows | None] = (),
) -> Comparisons | None:
    """All comparisons of a sweep; None if the runs share fewer than two prompts, or there is one
    ratio. tables[i] holds the per-item values of reports[i] (sweep_items.read), heads[i] its
    probes' test rows.
    """
    items = sweep_items.shared(reports, tables)
    if items is None or len(items.ratios) < 2:
        return None
    curves = [_curve(items, k) for k in range(len(items.strengths))]
    minima = [ratio_curves.interior_minimum(curve, seed=items.seed) for curve in curves]
    probes = _compare_probes(reports, tables)
    tail = head_accuracy_tails.compare(reports, heads) if heads else None
    return Comparisons(
        n_prompts=curves[0].n_prompts,
        n_left_out=items.n_left_out,
        seeds_df=curves[0].seeds_df,
        first=items.ratios[0],
        planned=_planned_contrasts(curves),
        minima=tuple(minimum for minimum in minima if minimum),
        matched=_matched(items, MIDDLE_SHARE),
        matched_elsewhere=tuple(
            result for share in OTHER_SHARES for result in _matched(items, share)
        ),
        points=_seed_means(items) if curves[0].seeds_df else (),
        hypervolume=pareto_front.hypervolumes(items),
        front=pareto_front.front_of(items),
        removal=removal.removals(items.ratios, items.strengths, items.toxicity, seed=items.seed),
        removal_by_run=_removal_by_run(reports, items),
        probes=probes,
        tail=tail,
        probes_holm=_holm_of_probes(probes, tail),
        prompts_needed=_prompts_needed(items),
        continued=_continued_only(reports, tables),
    )


def _curve(items: SweepItems, k: int) -> RatioCurve:
    return ratio_curves.bootstrap_curve(
        items.strengths[k],
        items.ratios,
        [toxicity_SPK[:, :, k] for toxicity_SPK in items.toxicity],
        seed=items.seed,
    )


def _matched(items: SweepItems, share: float) -> tuple[MatchedToxicity, ...]:
    paths = [
        StrengthPath(*values)
        for values in zip(items.ratios, items.toxicity, items.cross_entropy, strict=True)
    ]
    return matched_cross_entropy.match(paths, share, seed=items.seed)


def _planned_contrasts(curves: Sequence[RatioCurve]) -> tuple[Contrast, ...]:
    contrasts = []
    for curve in (curve for curve in curves if curve.strength):
        grid = [float(ratio) for ratio in curve.ratios_R]
        middle = min(grid[1:-1], key=lambda ratio: abs(ratio - MIDDLE_RATIO), default=None)
        pairs = [(grid[0], grid[-1])] if middle is None else [(grid[0], middle), (middle, grid[-1])]
        for first, second in pairs:
            if contrast := ratio_curves.contrast(curve, first, second):
                contrasts.append(contrast)
    adjusted = multiple_tests.holm([contrast.p for contrast in contrasts])
    return tuple(
        replace(contrast, p_holm=p_holm)
        for contrast, p_holm in zip(contrasts, adjusted, strict=True)
    )


def _continued_only(
    reports: Sequence[EvaluationView], tables: Sequence[ItemTable]
) -> ContinuedOnly | None:
    continued = sweep_items.continued_only(tables)
    if continued is None:
        return None
    items = sweep_items.shared(reports, continued)
    curves = [_curve(items, k) for k in range(len(items.strengths))] if items else []
    return ContinuedOnly(
        n_prompts=curves[0].n_prompts if curves else 0,
        planned=_planned_contrasts(curves),
        matched=_matched(items, MIDDLE_SHARE) if items else (),
        toxicity={
            report.run_id: sweep_items.toxicity_by_strength(report, table)
            for report, table in zip(reports, continued, strict=True)
        },
    )


def _seed_means(items: SweepItems) -> tuple[SeedMean, ...]:
    points = []
    for k, strength in enumerate(items.strengths):
        toxicity = removal.over_seeds(
            [toxicity_SPK[:, :, k] for toxicity_SPK in items.toxicity],
            "score × 100",
            sweep_items.SCORE_BOUNDS,
            items.seed,
        )
        cross_entropy = removal.over_seeds(
            [cost_SQK[:, :, k] for cost_SQK in items.cross_entropy],
            "nats/token",
            (0.0, np.inf),
            items.seed,
        )
        points += [
            SeedMean(ratio=ratio, strength=strength, toxicity=toxic, cross_entropy=cost)
            for ratio, toxic, cost in zip(items.ratios, toxicity, cross_entropy, strict=True)
        ]
    return tuple(points)


def _removal_by_run(
    reports: Sequence[EvaluationView], items: SweepItems
) -> dict[str, tuple[Removal, ...]]:
    by_run = {}
    for ratio, toxicity_SPK in zip(items.ratios, items.toxicity, strict=True):
        same = [report for report in reports if report.toxic_ratio == ratio]
        for report, toxicity_PK in zip(same, toxicity_SPK, strict=True):
            by_run[report.run_id] = removal.removals(
                [ratio], items.strengths, [toxicity_PK[None]], seed=items.seed
            )
    return by_run


def _compare_probes(
    reports: Sequence[EvaluationView], tables: Sequence[ItemTable]
) -> ProbeDifference | None:
    accuracies = [
        values_P1[:, 0] for values_P1 in per_item_results.common(tables, "probe_accuracy", [0.0])
    ]
    if len(accuracies[0]) < 2:
        return None
    ratios = sorted({report.toxic_ratio for report in reports})
    values = [
        np.stack([a for r, a in zip(reports, accuracies, strict=True) if r.toxic_ratio == ratio])
        for ratio in ratios
    ]
    seed = reports[0].config.seed
    curve = ratio_curves.bootstrap_curve(0.0, ratios, values, seed=seed, unit="ratio")
    contrast = ratio_curves.contrast(curve, ratios[0], ratios[-1])
    assert contrast
    if curve.seeds_df:
        return ProbeDifference(
            first=ratios[0],
            last=ratios[-1],
            difference=contrast.difference,
            p=contrast.p,
            p_floor=contrast.p_floor,
        )
    return ProbeDifference(
        first=ratios[0],
        last=ratios[-1],
        difference=intervals.bootstrap_mean(values[-1][0] - values[0][0], "ratio", seed=seed),
        p=None,
        p_floor=None,
    )


def _holm_of_probes(
    probes: ProbeDifference | None, tail: TailDifference | None
) -> dict[str, float]:
    tests = {
        "mean": probes.p if probes else None,
        "percentile": tail.p_difference if tail else None,
        "above": tail.p_above if tail else None,
    }
    p_values = {name: p for name, p in tests.items() if p is not None}
    adjusted = multiple_tests.holm(list(p_values.values()))
    return dict(zip(p_values, adjusted, strict=True))


def _prompts_needed(items: SweepItems) -> dict[str, int]:
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
