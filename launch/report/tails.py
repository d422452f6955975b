"""the right tail of the head probes: is the accuracy that one head in ten exceeds higher with toxic text?

The paper says that a quarter of toxic text gives the heads' accuracies a fatter right tail. Measured here as the 90th percentile
over heads, last ratio minus first, on the same test rows. The interval draws rows; drawing spreads the heads of both models a
little more than new rows would, alike.
"""

import json
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from data_prep import storage
from data_prep.records import record
from eval import intervals, resampling
from eval.config import EvalConfig
from eval.record import Estimate, EvalReport, eval_uri

TAIL = 0.9


class HeadRows(NamedTuple):
    """Whether each head's probe had each test row right, [R, P], and the rows' ids."""

    ids: list[str]
    correct_RP: np.ndarray


@record
class TailDifference:
    """The 90th percentile of the heads' accuracies, `last` ratio − `first`."""

    first: float
    last: float
    difference: Estimate


def read(run_uri: str, config: EvalConfig) -> HeadRows | None:
    """From an evaluation's heads.safetensors; None where there is none."""
    from safetensors.numpy import load

    uri = storage.join(eval_uri(run_uri, config), "heads.safetensors")
    if not storage.exists(uri):
        return None
    content = storage.read(uri)
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    correct_RLN = load(content)["test_correct_RLN"]
    return HeadRows(json.loads(header["__metadata__"]["test_ids"]), correct_RLN.reshape(len(correct_RLN), -1))


def compare(reports: Sequence[EvalReport], heads: Sequence[HeadRows | None]) -> TailDifference | None:
    """The last ratio against the first, each the mean over its seeds; None without rows that all of their models met."""
    ratios = sorted({report.toxic_ratio for report in reports})
    ends = [[h for r, h in zip(reports, heads, strict=True) if r.toxic_ratio == ratio] for ratio in (ratios[0], ratios[-1])]
    known = [one for of_ratio in ends for one in of_ratio if one]
    if len(ratios) < 2 or len(known) < sum(map(len, ends)):
        return None
    ids = sorted(set.intersection(*(set(one.ids) for one in known)))
    if len(ids) < 2:
        return None
    config = reports[0].config
    draws, values = [], []
    for of_ratio in ends:
        rows = [one.correct_RP[[one.ids.index(i) for i in ids]].astype(np.float64) for one in of_ratio if one]
        values.append(np.mean([np.quantile(one.mean(axis=0), TAIL) for one in rows]))
        drawn = [np.quantile(resampling.means(one, config.n_resamples, config.seed), TAIL, axis=1) for one in rows]
        draws.append(np.mean(drawn, axis=0))
    low, high = np.quantile(draws[1] - draws[0], intervals.spread_levels(len(ids), config.confidence))
    difference = Estimate(value=float(values[1] - values[0]), low=float(low), high=float(high), n=len(ids), unit="ratio")
    return TailDifference(first=ratios[0], last=ratios[-1], difference=difference)
