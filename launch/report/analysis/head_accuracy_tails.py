"""right tail of head accuracies: does toxic training text make more heads very accurate?

The paper says that 25 % of toxic text gives the heads' accuracies a fatter right tail. This is
measured here between the first and the last ratio, on the same test rows, model by model: by the
90th percentile of a model's heads; by its share of heads above the accuracy that one head in ten of
both ratios exceeds; and by the largest distance between the two distributions, which depends on the
middle more than on the tail.

Heads of one model are right about the same rows and share one training run, so the unit is the
model: the differences of the first two get intervals over rows and the spread between seeds, pooled
over all ratios (ratio_curves.py), and a p from the same draws. With one model per ratio the spread
is unknown. Then the intervals are about these two models on other rows, and there is no p: a test
that exchanges rows or heads of two models rejects every third true null about the ratio.

Shapes: P rows, H heads of a model, S seeds, R ratios, B resamples.
"""

import json
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from data_prep.core import storage
from data_prep.core.records import record
from eval.config import EvalConfig
from eval.eval_report import eval_uri
from eval.stats import intervals, resampling
from eval.stats.estimate_with_interval import Estimate
from launch.report.analysis import ratio_curves
from launch.report.analysis.evaluation_view import EvaluationView
from launch.report.analysis.ratio_curves import Contrast, RatioCurve

TAIL = 0.9


class HeadRows(NamedTuple):
    """Whether each head's probe is right on each test row, and the rows' ids."""

    ids: list[str]
    correct_PH: np.ndarray


@record
class TailDifference:
    """The heads of the `last` ratio compared with those of the `first`.

    difference: of the 90th percentiles of accuracy, the mean over models, last − first. threshold:
    the accuracy that one head in ten of both exceeds. above: share of the heads of first and last
    above it; above_difference: last − first. by_model: per model of `last`, its share − the
    first's. distance: Kolmogorov and Smirnov's distance of the two distributions.

    p_difference, p_above: over rows and seeds; None with one model per ratio. Intervals resample
    rows, which spreads the heads of both ratios slightly more than new rows would.
    """

    first: float
    last: float
    difference: Estimate
    p_difference: float | None
    threshold: float
    above: tuple[float, float]
    above_difference: Estimate
    p_above: float | None
    by_model: tuple[float, ...]
    distance: float
    p_floor: float | None


def read(run_uri: str, config: EvalConfig) -> HeadRows | None:
    """The test rows in the file of an evaluation's heads; None if there is no such file."""
    from safetensors.numpy import load

    uri = storage.join(eval_uri(run_uri, config), f"heads-{config.steering_probes}.safetensors")
    if not storage.exists(uri):
        return None
    content = storage.read(uri)
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    ids = json.loads(header["__metadata__"]["test_ids"])
    return HeadRows(ids, load(content)["test_correct_RLN"].reshape(len(ids), -1))


def compare(
    reports: Sequence[EvaluationView], heads: Sequence[HeadRows | None]
) -> TailDifference | None:
    """Compare the last ratio with the first; None if one of them has no model with rows, or all
    models share fewer than two.
    """
    ratios = sorted({report.toxic_ratio for report in reports})
    models = [
        [
            rows
            for report, rows in zip(reports, heads, strict=True)
            if report.toxic_ratio == ratio and rows
        ]
        for ratio in ratios
    ]
    if len(ratios) < 2 or not (models[0] and models[-1]):
        return None
    ids = sorted(set.intersection(*(set(model.ids) for of_ratio in models for model in of_ratio)))
    if len(ids) < 2:
        return None
    measured = [i for i, of_ratio in enumerate(models) if of_ratio]
    tails, aboves, threshold = curves_of_heads(
        [ratios[i] for i in measured], [models[i] for i in measured], ids, reports[0].config.seed
    )
    tail, above = (ratio_curves.contrast(curve, ratios[0], ratios[-1]) for curve in (tails, aboves))
    assert tail and above
    shares = aboves.model_means
    return TailDifference(
        first=ratios[0],
        last=ratios[-1],
        difference=tail.difference,
        p_difference=_p_over_seeds(tails, tail),
        threshold=threshold,
        above=(float(shares[0].mean()), float(shares[-1].mean())),
        above_difference=above.difference,
        p_above=_p_over_seeds(aboves, above),
        by_model=tuple(map(float, shares[-1] - shares[0].mean())),
        distance=distance(_accuracies(models[0], ids), _accuracies(models[-1], ids)),
        p_floor=above.p_floor if aboves.seeds_df else None,
    )


def curves_of_heads(
    ratios: Sequence[float],
    models: Sequence[Sequence[HeadRows]],
    ids: Sequence[str],
    seed: int,
    n_draws: int = intervals.N_RESAMPLES,
) -> tuple[RatioCurve, RatioCurve, float]:
    """The models' 90th percentiles and shares above the threshold as curves on the rows `ids`, and
    the threshold; models: those of each ratio.
    """
    draws = [
        [_accuracy_draws(_select_rows(model, ids), seed, n_draws) for model in of_ratio]
        for of_ratio in models
    ]
    ends_BH = np.concatenate([*draws[0], *draws[-1]], axis=1)
    threshold_B = np.quantile(ends_BH, TAIL, axis=1)
    percentiles = [
        np.stack([np.quantile(model_BH, TAIL, axis=1) for model_BH in of_ratio], axis=1)
        for of_ratio in draws
    ]
    shares = [
        np.stack([(model_BH > threshold_B[:, None]).mean(axis=1) for model_BH in of_ratio], axis=1)
        for of_ratio in draws
    ]
    tails, aboves = (
        ratio_curves.curve_of_draws(0.0, ratios, values, n_items=len(ids), seed=seed, unit="ratio")
        for values in (percentiles, shares)
    )
    return tails, aboves, float(threshold_B[0])


def _accuracy_draws(correct_PH: np.ndarray, seed: int, n_draws: int) -> np.ndarray:
    """Accuracy of each head on the rows as they are, row 0, and on resampled rows: [1 + B, H]."""
    return np.vstack([correct_PH.mean(axis=0), resampling.means(correct_PH, n_draws, seed)])


def _p_over_seeds(curve: RatioCurve, contrast: Contrast) -> float | None:
    return contrast.p if curve.seeds_df else None


def _accuracies(models: Sequence[HeadRows], ids: Sequence[str]) -> np.ndarray:
    return np.concatenate([_select_rows(model, ids).mean(axis=0) for model in models])


def distance(first_H: np.ndarray, last_H: np.ndarray) -> float:
    """The largest distance between two empirical distribution functions."""
    steps = np.concatenate([first_H, last_H])
    below_first, below_last = (
        np.searchsorted(np.sort(heads_H), steps, side="right") / len(heads_H)
        for heads_H in (first_H, last_H)
    )
    return float(np.abs(below_first - below_last).max())


def _select_rows(model: HeadRows, ids: Sequence[str]) -> np.ndarray:
    position = {row_id: i for i, row_id in enumerate(model.ids)}
    return model.correct_PH[[position[row_id] for row_id in ids]].astype(np.float64)
