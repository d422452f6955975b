"""right tail of head accuracies: does toxic training text make more heads very accurate?

The paper says that 25 % of toxic text gives the heads' accuracies a fatter right tail. This is
measured here between the first and the last ratio, over all heads of a ratio's models, on the same
test rows: by the 90th percentile; by the share of heads above the accuracy that one head in ten of
both ratios exceeds; and by the largest distance between the two distributions, which depends on the
middle more than on the tail.

Heads of one model are right about the same rows. The permutation test therefore exchanges, per row,
the answers of the two ratios for all heads at once. A head's place in the model means nothing
across models, and exchanging answers of a good head and a poor one would thin the tails of the
permuted models: heads are paired by their rank on validation rows. Under true nulls (400
simulations each of 16, 64 or 256 heads that are alike, spread out or of two kinds, on 200 or 900
rows) 0 to 6 % of the shares and 1 to 7 % of the distances are rejected at 5 %; with ranks on the
test rows themselves up to 12 %. It is a test of these models on other rows and says nothing about
seeds: two seeds per ratio have six orders, so no p over seeds is below 1/3; `by_model` shows how
they differ.

Shapes: P rows, H heads of all models of a ratio, B resamples, S seeds.
"""

import json
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from data_prep.core import storage
from data_prep.core.records import record
from eval.config import EvalConfig
from eval.eval_report import EvalReport, eval_uri
from eval.stats import intervals, resampling
from eval.stats.estimate import Estimate
from launch.report.analysis import hypothesis_tests

TAIL = 0.9
N_PERMUTATIONS = 9999
PERMUTATIONS_PER_CHUNK = 500  # bounds memory at 500 × 2·H numbers


class HeadRows(NamedTuple):
    """Whether each head's probe is right on each test row, the rows' ids, and each head's accuracy
    on validation rows.
    """

    ids: list[str]
    correct_PH: np.ndarray
    validation_H: np.ndarray


class TailStatistics(NamedTuple):
    """threshold_B: the number of right answers that one head in ten of both ratios exceeds.
    above_B2: share of the heads of first and last above it. distance_B: the largest distance
    between the two empirical distribution functions (Kolmogorov and Smirnov).
    """

    threshold_B: np.ndarray
    above_B2: np.ndarray
    distance_B: np.ndarray


@record
class TailDifference:
    """The heads of the `last` ratio compared with those of the `first`.

    difference: of the 90th percentiles of accuracy, last − first; the interval resamples rows,
    which spreads the heads of both ratios slightly more than new rows would.
    above: share of the heads of first and last above `threshold`, with its p_above.
    by_model: per model of `last`, its share above − the first's.
    distance: Kolmogorov and Smirnov's distance of the two distributions, with its p_distance.
    """

    first: float
    last: float
    difference: Estimate
    threshold: float
    above: tuple[float, float]
    p_above: float
    by_model: tuple[float, ...]
    distance: float
    p_distance: float
    p_floor: float


def read(run_uri: str, config: EvalConfig) -> HeadRows | None:
    """The test rows in an evaluation's heads.safetensors; None if there is no such file."""
    from safetensors.numpy import load

    uri = storage.join(eval_uri(run_uri, config), "heads.safetensors")
    if not storage.exists(uri):
        return None
    content = storage.read(uri)
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    ids = json.loads(header["__metadata__"]["test_ids"])
    tensors = load(content)
    return HeadRows(
        ids,
        tensors["test_correct_RLN"].reshape(len(ids), -1),
        tensors["validation_accuracy_LN"].ravel(),
    )


def compare(
    reports: Sequence[EvalReport], heads: Sequence[HeadRows | None]
) -> TailDifference | None:
    """Compare the last ratio with the first, with the same number of seeds of each; None if their
    models share fewer than two rows.
    """
    ratios = sorted({report.toxic_ratio for report in reports})
    models = _models_of_ends(reports, heads, ratios)
    if models is None:
        return None
    ids = sorted(set.intersection(*(set(model.ids) for ratio in models for model in ratio)))
    if len(ids) < 2:
        return None
    first_PH, last_PH = (
        np.concatenate([_select_rows(model, ids) for model in ratio], axis=1) for ratio in models
    )
    observed = tail_statistics(first_PH.sum(axis=0)[None], last_PH.sum(axis=0)[None])
    threshold = observed.threshold_B[0]
    above_first, above_last = map(float, observed.above_B2[0])
    last_SPH = np.stack(np.split(last_PH, len(models[1]), axis=1))
    above_S = (last_SPH.sum(axis=1) > threshold).mean(axis=1)
    seed = reports[0].config.seed
    p_above, p_distance = permutation_p(
        _by_validation_rank(first_PH, models[0]), _by_validation_rank(last_PH, models[1]), seed
    )
    return TailDifference(
        first=ratios[0],
        last=ratios[-1],
        difference=_percentile_difference(first_PH, last_PH, seed),
        threshold=float(threshold / len(ids)),
        above=(above_first, above_last),
        p_above=p_above,
        by_model=tuple(float(above - above_first) for above in above_S),
        distance=float(observed.distance_B[0]),
        p_distance=p_distance,
        p_floor=1 / (1 + N_PERMUTATIONS),
    )


def tail_statistics(first_BH: np.ndarray, last_BH: np.ndarray) -> TailStatistics:
    """The statistics of each row of right answers per head."""
    both = np.concatenate([first_BH, last_BH], axis=1)
    n_first = first_BH.shape[1]
    threshold_B = np.quantile(both, TAIL, axis=1)
    above_B2 = np.stack(
        [(n_right > threshold_B[:, None]).mean(axis=1) for n_right in (first_BH, last_BH)], axis=1
    )
    order = np.argsort(both, axis=1)
    ordered = np.take_along_axis(both, order, axis=1)
    gap = np.cumsum(np.where(order < n_first, 1.0, -1.0), axis=1) / n_first
    # between equal heads an empirical distribution function has no value; after the last head the
    # gap is 0
    is_step = ordered[:, :-1] < ordered[:, 1:]
    distance_B = np.abs(np.where(is_step, gap[:, :-1], 0.0)).max(axis=1)
    return TailStatistics(threshold_B, above_B2, distance_B)


def permutation_p(first_PH: np.ndarray, last_PH: np.ndarray, seed: int) -> tuple[float, float]:
    """p of the difference in shares above the threshold and p of the distance, by exchanging rows
    between the heads in the same column.
    """
    change_PH = last_PH - first_PH
    total_H = (first_PH + last_PH).sum(axis=0)
    # row 0 is the observed assignment
    changes_BH = np.vstack(
        [change_PH.sum(axis=0), resampling.sign_sums(change_PH, N_PERMUTATIONS, seed)]
    )
    n_chunks = 1 + len(changes_BH) // PERMUTATIONS_PER_CHUNK
    chunks = [
        tail_statistics((total_H - change) / 2, (total_H + change) / 2)
        for change in np.array_split(changes_BH, n_chunks)
    ]
    above_B2 = np.concatenate([chunk.above_B2 for chunk in chunks])
    distance_B = np.concatenate([chunk.distance_B for chunk in chunks])
    p_above, p_distance = (
        float(np.mean(statistic_B >= statistic_B[0] - hypothesis_tests.TIE))
        for statistic_B in (np.abs(above_B2[:, 1] - above_B2[:, 0]), distance_B)
    )
    return p_above, p_distance


def _models_of_ends(
    reports: Sequence[EvalReport], heads: Sequence[HeadRows | None], ratios: Sequence[float]
) -> tuple[list[HeadRows], list[HeadRows]] | None:
    """The models of the first and of the last ratio, equally many; None if one has no rows."""
    if len(ratios) < 2:
        return None
    ends = [
        [rows for report, rows in zip(reports, heads, strict=True) if report.toxic_ratio == ratio]
        for ratio in (ratios[0], ratios[-1])
    ]
    n_seeds = min(map(len, ends))
    first, last = ([rows for rows in end[:n_seeds] if rows] for end in ends)
    return (first, last) if len(first) == len(last) == n_seeds else None


def _select_rows(model: HeadRows, ids: Sequence[str]) -> np.ndarray:
    position = {row_id: i for i, row_id in enumerate(model.ids)}
    return model.correct_PH[[position[row_id] for row_id in ids]].astype(np.float64)


def _by_validation_rank(correct_PH: np.ndarray, models: Sequence[HeadRows]) -> np.ndarray:
    """The columns of a ratio's heads, ascending by validation accuracy."""
    accuracy_H = np.concatenate([model.validation_H for model in models])
    return correct_PH[:, accuracy_H.argsort(kind="stable")]


def _percentile_difference(first_PH: np.ndarray, last_PH: np.ndarray, seed: int) -> Estimate:
    first, last = (np.quantile(c_PH.mean(axis=0), TAIL) for c_PH in (first_PH, last_PH))
    first_B, last_B = (
        np.quantile(resampling.means(c_PH, intervals.N_RESAMPLES, seed), TAIL, axis=1)
        for c_PH in (first_PH, last_PH)
    )
    return intervals.percentile(float(last - first), last_B - first_B, len(first_PH), "ratio")
