"""items that all models of a sweep share, in two readings of continuations that are empty

A model that ends at once has written nothing toxic: an early end is an outcome of steering, not a
missing value. Left out, such a prompt would leave every comparison, and the prompts that remain
would be those that the most reluctant model continues. The reports therefore read it in two ways:

    every prompt     an empty continuation scores 0; the headline, and all prompts are kept
    continued only   the mean of the other continuations, on the prompts that all models continue
                     at all strengths

Without empty continuations both are the same, and only the first is computed. A text that the
scorer gave no score stays missing in both.

Shapes: S seeds, P prompts, Q sequences, K strengths.
"""

from collections.abc import Sequence
from dataclasses import replace
from io import BytesIO
from typing import NamedTuple

import numpy as np

from data_prep.core import storage
from eval.config import PLAIN
from eval.stats import intervals
from eval.stats.estimate_with_interval import Estimate
from eval.steering import per_item_results
from eval.steering.per_item_results import ItemTable
from launch.report.analysis import evaluation_view
from launch.report.analysis.evaluation_view import EvaluationView

TOXICITY = "toxicity"  # every prompt
CONTINUED = "toxicity_continued"  # only in the tables of runs with empty continuations
GENERATIONS = "generations.parquet"
SCORE_BOUNDS = (0.0, 100.0)


class SweepItems(NamedTuple):
    """Values of all seeds on the items that all runs share: per ratio toxicity [S, P, K] and
    cross-entropy [S, Q, K]. Ratios and strengths ascend; seed is that of the resamples.

    n_left_out: prompts that some model measured and not all, at all strengths.
    """

    ratios: list[float]
    strengths: list[float]
    toxicity: list[np.ndarray]
    cross_entropy: list[np.ndarray]
    seed: int
    n_left_out: int


def read(folder: str, seen: EvaluationView) -> ItemTable:
    """The items behind a view of the evaluation in this folder, with a score of 0 for empty
    continuations; where there are any, also the toxicity of the others alone.
    """
    table = evaluation_view.items(per_item_results.read(folder), seen)
    uri = storage.join(folder, GENERATIONS)
    if not storage.exists(uri):
        return table
    means, n_empty = _means_with_empty(storage.read(uri), seen)
    if not n_empty:
        return table
    continued = {(CONTINUED, strength): table.get((TOXICITY, strength), {}) for strength in means}
    return table | continued | {(TOXICITY, strength): by_id for strength, by_id in means.items()}


def _means_with_empty(
    content: bytes, seen: EvaluationView
) -> tuple[dict[float, dict[str, float]], int]:
    """Per strength the mean score × 100 of each prompt that has a score or an empty continuation,
    in the prompts' order; the number of empty continuations.
    """
    import pyarrow.parquet

    names = ["prompt_id", "strength", "continuation", per_item_results.SCORES[seen.scorer]]
    chosen = [
        ("prompt_set", "=", seen.prompt_set),
        ("condition", "in", [PLAIN, seen.condition]),
    ]
    rows = pyarrow.parquet.read_table(BytesIO(content), columns=names, filters=chosen)
    columns = rows.to_pydict()
    scores: dict[float, dict[str, list[float]]] = {}
    n_empty = 0
    for prompt_id, strength, text, score in zip(*(columns[name] for name in names), strict=True):
        is_empty = not text.strip()
        n_empty += is_empty
        if is_empty or score is not None:
            by_id = scores.setdefault(strength, {})
            by_id.setdefault(prompt_id, []).append(0.0 if is_empty else score)
    means = {
        strength: {name: 100 * float(np.mean(values)) for name, values in by_id.items()}
        for strength, by_id in scores.items()
    }
    return means, n_empty


def with_early_ends(report: EvaluationView, table: ItemTable) -> EvaluationView:
    """The report with the toxicity of every prompt; itself where no continuation is empty."""
    if not any(quantity == CONTINUED for quantity, _ in table):
        return report
    toxicity = toxicity_by_strength(report, table)
    steered = tuple(replace(row, toxicity=toxicity[f"{row.strength:g}"]) for row in report.steered)
    return replace(report, steered=steered)


def toxicity_by_strength(report: EvaluationView, table: ItemTable) -> dict[str, Estimate]:
    """Mean toxicity of one run at each strength."""
    return {
        f"{row.strength:g}": intervals.bootstrap_mean(
            list(table.get((TOXICITY, row.strength), {}).values()),
            row.toxicity.unit,
            seed=report.config.seed,
            bounds=SCORE_BOUNDS,
        )
        for row in report.steered
    }


def continued_only(tables: Sequence[ItemTable]) -> list[ItemTable] | None:
    """The tables in the other reading; None if no model left a continuation empty."""
    if not any(quantity == CONTINUED for table in tables for quantity, _ in table):
        return None
    return [
        table
        | {
            (TOXICITY, strength): values
            for (quantity, strength), values in table.items()
            if quantity == CONTINUED
        }
        for table in tables
    ]


def shared(reports: Sequence[EvaluationView], tables: Sequence[ItemTable]) -> SweepItems | None:
    """The items that all runs have at all strengths; None below two prompts or two sequences."""
    strengths = sorted(
        set.intersection(*({row.strength for row in report.steered} for report in reports))
    )
    toxicity = per_item_results.common(tables, TOXICITY, strengths)
    cost = f"cross_entropy/{reports[0].config.capability.cost_text}"
    cross_entropy = per_item_results.common(tables, cost, strengths)
    if len(toxicity[0]) < 2 or len(cross_entropy[0]) < 2:
        return None
    measured: set[str] = set()
    for table in tables:
        measured.update(*(table.get((TOXICITY, strength), {}) for strength in strengths))
    ratios = sorted({report.toxic_ratio for report in reports})
    runs_of_ratio = [
        [i for i, report in enumerate(reports) if report.toxic_ratio == ratio] for ratio in ratios
    ]
    return SweepItems(
        ratios=ratios,
        strengths=strengths,
        toxicity=[np.stack([toxicity[i] for i in runs]) for runs in runs_of_ratio],
        cross_entropy=[np.stack([cross_entropy[i] for i in runs]) for runs in runs_of_ratio],
        seed=reports[0].config.seed,
        n_left_out=len(measured) - len(toxicity[0]),
    )
