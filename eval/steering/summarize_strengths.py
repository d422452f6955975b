"""summary of a condition: a mean with its interval per strength, and the items behind it"""

import math
from dataclasses import replace

import numpy as np

from data_prep.token_stream import parquet_files
from eval.eval_report import TOXIC_SCORE, StrengthResult
from eval.stats import intervals
from eval.stats.estimate_with_interval import Estimate
from eval.steering import score_cache
from eval.steering.continuations import Continuation
from eval.steering.measure_strengths import ConditionResult
from eval.steering.per_item_results import ItemValue

SCORE_UNIT = "score × 100"
SCORE_BOUNDS = (0.0, 100.0)


def summarize(result: ConditionResult, seed: int) -> tuple[StrengthResult, ...]:
    """The numbers of every strength; `seed` keys the resamples."""
    return tuple(_strength_result(result, column, seed) for column in range(len(result.strengths)))


def item_values(result: ConditionResult) -> list[ItemValue]:
    """The values behind the means."""
    items = []
    for column, strength in enumerate(result.strengths):
        continued = [row for row in result.continuations if row.strength == strength]
        for prompt_id, scores in _scores_by_prompt(continued).items():
            items.append(ItemValue("toxicity", prompt_id, strength, _percent_mean(scores)))
        for stream, losses in result.cross_entropy.items():
            quantity = f"cross_entropy/{stream}"
            items += [
                ItemValue(quantity, f"{r:06d}", strength, float(loss))
                for r, loss in enumerate(losses[:, column])
            ]
        for name, right in _right_answers(result).items():
            question_ids = result.answers[name.removesuffix(" norm")].ids
            items += [
                ItemValue(f"accuracy/{name}", question_id, strength, float(is_right))
                for question_id, is_right in zip(question_ids, right[:, column], strict=True)
            ]
    return items


def generations_file(rows: list[Continuation]) -> bytes:
    """The content of generations.parquet: every continuation with its score, length and fluency."""
    import pyarrow

    columns = {
        "prompt_id": pyarrow.array([row.prompt_id for row in rows], pyarrow.string()),
        "sample": pyarrow.array([row.sample for row in rows], pyarrow.int32()),
        "strength": pyarrow.array([row.strength for row in rows], pyarrow.float64()),
        "continuation": pyarrow.array([row.text for row in rows], pyarrow.string()),
        "score": pyarrow.array([row.score for row in rows], pyarrow.float64()),
        "n_tokens": pyarrow.array([row.n_tokens for row in rows], pyarrow.int32()),
        "nats_per_token": pyarrow.array([row.nats_per_token for row in rows], pyarrow.float64()),
    }
    return parquet_files.encode(pyarrow.table(columns))


def _strength_result(result: ConditionResult, column: int, seed: int) -> StrengthResult:
    """One strength's numbers. A prompt is one item: its samples are averaged first, without those
    that have no score.
    """
    strength = result.strengths[column]
    rows = [row for row in result.continuations if row.strength == strength]
    scores = list(_scores_by_prompt(rows).values())
    coverage = score_cache.coverage([row.text for row in rows], [row.score for row in rows])
    n_toxic = sum(max(of_prompt) >= TOXIC_SCORE for of_prompt in scores)
    lengths = _means_by_prompt([(row.prompt_id, row.n_tokens) for row in rows])
    distinct = _means_by_prompt([(row.prompt_id, row.distinct_ratio) for row in rows])
    nats = _means_by_prompt([(row.prompt_id, row.nats_per_token) for row in rows])

    def score_estimate(values: list[float]) -> Estimate:
        return intervals.bootstrap_mean(values, SCORE_UNIT, seed=seed, bounds=SCORE_BOUNDS)

    return StrengthResult(
        strength=strength,
        toxicity=score_estimate([_percent_mean(of_prompt) for of_prompt in scores]),
        expected_maximum=score_estimate([100 * max(of_prompt) for of_prompt in scores]),
        any_toxic=intervals.wilson(n_toxic, len(scores), "ratio"),
        n_continuations=coverage.n,
        n_empty=coverage.n_empty,
        coverage_ratio=coverage.ratio,
        cross_entropy={
            name: intervals.bootstrap_mean(losses[:, column], "nats/token", seed=seed)
            for name, losses in result.cross_entropy.items()
        },
        distinct_ratio=intervals.bootstrap_mean(distinct, "ratio", seed=seed),
        n_tokens=intervals.bootstrap_mean(lengths, "tokens", seed=seed),
        perplexity=_perplexity(intervals.bootstrap_mean(nats, "nats/token", seed=seed)),
        accuracy={
            name: intervals.wilson(int(right[:, column].sum()), len(right), "ratio")
            for name, right in _right_answers(result).items()
        },
    )


def _perplexity(nats: Estimate) -> Estimate:
    """exp of a mean in nats per token and of the ends of its interval."""
    value, low, high = (
        None if number is None else math.exp(number) for number in (nats.value, nats.low, nats.high)
    )
    return replace(nats, value=value, low=low, high=high, unit="perplexity")


def _right_answers(result: ConditionResult) -> dict[str, np.ndarray]:
    """Which questions were answered right, by benchmark, [questions, strengths]; cloze benchmarks
    also by likelihood per character, as "… norm".
    """
    right = {}
    for name, answers in result.answers.items():
        right[name] = answers.likely
        if name.startswith("cloze:"):
            right[f"{name} norm"] = answers.norm
    return right


def _scores_by_prompt(rows: list[Continuation]) -> dict[str, list[float]]:
    return _group_by_prompt([(row.prompt_id, row.score) for row in rows])


def _percent_mean(scores: list[float]) -> float:
    return 100 * float(np.mean(scores))


def _means_by_prompt(pairs: list[tuple[str, float | None]]) -> list[float]:
    return [float(np.mean(values)) for values in _group_by_prompt(pairs).values()]


def _group_by_prompt(pairs: list[tuple[str, float | None]]) -> dict[str, list[float]]:
    """The values of each prompt that has any, prompts in their first order."""
    by_prompt: dict[str, list[float]] = {}
    for prompt_id, value in pairs:
        if value is not None:
            by_prompt.setdefault(prompt_id, []).append(value)
    return by_prompt
