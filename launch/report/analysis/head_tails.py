"""the right tail of the head probes: are more heads very accurate with toxic text, and how far
apart do all heads lie?

The paper says that a quarter of toxic text gives the heads' accuracies a fatter right tail.
Measured here between the first and the last ratio, all heads of a ratio's models together, on the
same test rows: by the 90th percentile; by the share of heads above the accuracy that one head in
ten of both exceeds; and by the largest distance between the two distributions, which looks at the
middle more than at the tail.

Heads of one model are right about the same rows, so what is permuted is whose answers to a row are
whose, all heads at once. Place in the model means nothing across models, and mixing a good head
with a poor one would thin the tails of the permuted models: heads are matched by their rank on
validation rows. Of true nulls, 400 simulations each of 16, 64 or 256 heads that are alike, spread
out or of two kinds, on 200 or 900 rows, 0 to 6 % of the shares and 1 to 7 % of the distances are
rejected at 5 %; with ranks on the test rows themselves up to 12 %. It is a test of these models on
other rows. Of seeds it says nothing: two a ratio have six orders, so no p of theirs is below 1/3;
`by_model` shows how they differ.

Shapes: P rows, H heads of all models of a ratio, B resamples.
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


class HeadRows(NamedTuple):
    """Whether each head's probe had each test row right, the rows' ids, and how the heads did on
    validation rows.
    """

    ids: list[str]
    correct_PH: np.ndarray
    validation_H: np.ndarray


@record
class TailDifference:
    """difference: of the 90th percentiles of the heads' accuracies, `last` ratio − `first`; the
    interval draws rows, which spreads the heads of both a little more than new rows would. above:
    share of the heads of first and last above `threshold`, with its p_above; by_model: of each
    model of `last`, − the first's. distance: of the two ECDFs (Kolmogorov and Smirnov), with its p.
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
    """From an evaluation's heads.safetensors; None where there is none."""
    from safetensors.numpy import load

    uri = storage.join(eval_uri(run_uri, config), "heads.safetensors")
    if not storage.exists(uri):
        return None
    content = storage.read(uri)
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    found, ids = load(content), json.loads(header["__metadata__"]["test_ids"])
    return HeadRows(
        ids,
        found["test_correct_RLN"].reshape(len(ids), -1),
        found["validation_accuracy_LN"].ravel(),
    )


def compare(
    reports: Sequence[EvalReport], heads: Sequence[HeadRows | None]
) -> TailDifference | None:
    """The last ratio against the first, as many seeds of each; None without rows that all of their
    models met.
    """
    ratios = sorted({report.toxic_ratio for report in reports})
    ends = [
        [h for r, h in zip(reports, heads, strict=True) if r.toxic_ratio == ratio]
        for ratio in (ratios[0], ratios[-1])
    ]
    n_seeds = min(map(len, ends))
    known = [[one for one in of_ratio[:n_seeds] if one] for of_ratio in ends]
    if len(ratios) < 2 or min(map(len, known)) < n_seeds:
        return None
    ids = sorted(set.intersection(*(set(one.ids) for of_ratio in known for one in of_ratio)))
    if len(ids) < 2:
        return None
    first_PH, last_PH = (
        np.concatenate([_rows(one, ids) for one in of_ratio], axis=1) for of_ratio in known
    )
    threshold, above, distance = (
        of[0] for of in _apart(first_PH.sum(axis=0)[None], last_PH.sum(axis=0)[None])
    )
    by_model_S = (np.stack(np.split(last_PH, n_seeds, axis=1)).sum(axis=1) > threshold).mean(axis=1)
    by_rank = (
        np.concatenate([one.validation_H for one in of_ratio]).argsort(kind="stable")
        for of_ratio in known
    )
    ranked = [of_PH[:, order] for of_PH, order in zip((first_PH, last_PH), by_rank, strict=True)]
    p_above, p_distance = _permuted(ranked[0], ranked[1], reports[0].config.seed)
    return TailDifference(
        first=ratios[0],
        last=ratios[-1],
        difference=_percentiles(first_PH, last_PH, reports[0].config),
        threshold=float(threshold / len(ids)),
        above=(float(above[0]), float(above[1])),
        p_above=p_above,
        by_model=tuple(float(share - above[0]) for share in by_model_S),
        distance=float(distance),
        p_distance=p_distance,
        p_floor=1 / (1 + N_PERMUTATIONS),
    )


def _rows(of: HeadRows, ids: Sequence[str]) -> np.ndarray:
    at = {row: i for i, row in enumerate(of.ids)}
    return of.correct_PH[[at[i] for i in ids]].astype(np.float64)


def _percentiles(first_PH: np.ndarray, last_PH: np.ndarray, config: EvalConfig) -> Estimate:
    value = float(np.subtract(*(np.quantile(of.mean(axis=0), TAIL) for of in (last_PH, first_PH))))
    drawn = (
        np.quantile(resampling.means(of, intervals.N_RESAMPLES, config.seed), TAIL, axis=1)
        for of in (last_PH, first_PH)
    )
    low, high = np.quantile(
        np.subtract(*drawn), intervals.spread_levels(len(first_PH), intervals.CONFIDENCE)
    )
    return Estimate(value=value, low=float(low), high=float(high), n=len(first_PH), unit="ratio")


def _apart(first_BH: np.ndarray, last_BH: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of right answers a head: the number that one head in ten of both exceeds [B], the share of
    heads above it [B, 2], and the largest distance of the ECDFs [B].
    """
    both = np.concatenate([first_BH, last_BH], axis=1)
    threshold_B = np.quantile(both, TAIL, axis=1)
    above_B2 = np.stack(
        [(of > threshold_B[:, None]).mean(axis=1) for of in (first_BH, last_BH)], axis=1
    )
    order = np.argsort(both, axis=1)
    ordered, n = np.take_along_axis(both, order, axis=1), first_BH.shape[1]
    gap = np.cumsum(np.where(order < n, 1.0, -1.0), axis=1) / n
    inside = (
        ordered[:, :-1] < ordered[:, 1:]
    )  # between equal heads an ECDF has no value; behind the last the gap is 0
    return threshold_B, above_B2, np.abs(np.where(inside, gap[:, :-1], 0.0)).max(axis=1)


def _permuted(first_PH: np.ndarray, last_PH: np.ndarray, seed: int) -> tuple[float, float]:
    """p of the difference in shares above and of the distance: rows exchanged between heads in the
    same column.
    """
    change_PH, total_H = last_PH - first_PH, (first_PH + last_PH).sum(axis=0)
    seen = np.vstack(
        [change_PH.sum(axis=0), resampling.sign_sums(change_PH, N_PERMUTATIONS, seed)]
    )  # first as observed
    parts = [
        _apart((total_H - change) / 2, (total_H + change) / 2)[1:]
        for change in np.array_split(seen, 1 + len(seen) // 500)
    ]
    above_B2, distance_B = (np.concatenate(of) for of in zip(*parts, strict=True))
    p_above, p_distance = (
        float(np.mean(of >= of[0] - hypothesis_tests.TIE))
        for of in (np.abs(above_B2[:, 1] - above_B2[:, 0]), distance_B)
    )
    return p_above, p_distance
