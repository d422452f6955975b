"""summary of a condition: a mean with its interval per strength, and the items behind it"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np

from data_prep.token_stream import parquet_files
from eval.eval_report import TOXIC_SCORE, OperatingPoint, PromptSetResult, ScorerResult
from eval.stats import intervals, scorer_agreement
from eval.stats.estimate_with_interval import Estimate
from eval.stats.scorer_agreement import ScorerAgreement
from eval.steering import per_item_results
from eval.steering.measure_strengths import ConditionResult
from eval.steering.measures import multiple_choice, score_cache
from eval.steering.measures.continuations import Continuation
from eval.steering.per_item_results import ItemValue

SCORE_UNIT = "score × 100"
SCORE_BOUNDS = (0.0, 100.0)

Value = tuple[str, str, float]  # quantity, item id, value


def summarize(result: ConditionResult, seed: int) -> tuple[OperatingPoint, ...]:
    """The numbers of every strength; `seed` keys the resamples."""
    return tuple(_operating_point(result, column, seed) for column in range(len(result.strengths)))


def item_values(condition: str, result: ConditionResult) -> list[ItemValue]:
    """The values behind the means."""
    items = []
    for column, strength in enumerate(result.strengths):
        values = [
            *_toxicity_of_prompts(result, strength),
            *_expected_scores_of_prompts(result, column),
            *_losses_of_sequences(result, column),
            *(
                value
                for name, answers in result.answers.items()
                for value in multiple_choice.item_values(name, answers, column)
            ),
        ]
        items += [ItemValue(condition, *value[:2], strength, value[2]) for value in values]
    return items


def _toxicity_of_prompts(result: ConditionResult, strength: float) -> Iterator[Value]:
    for name, continuations in result.continuations.items():
        rows = [row for row in continuations if row.strength == strength]
        for scorer in range(_n_scorers(rows)):
            quantity = per_item_results.toxicity(name, scorer)
            for prompt_id, scores in _scores_by_prompt(rows, scorer).items():
                yield quantity, prompt_id, _percent_mean(scores)


def _expected_scores_of_prompts(result: ConditionResult, column: int) -> Iterator[Value]:
    for name, expected in result.expected_scores.items():
        quantity = per_item_results.expected_toxicity(name)
        for prompt_id, score in zip(
            expected.prompt_ids, expected.scores_PS[:, column], strict=True
        ):
            yield quantity, prompt_id, 100 * float(score)


def _losses_of_sequences(result: ConditionResult, column: int) -> Iterator[Value]:
    for text, losses in result.cross_entropy.items():
        for r, loss in enumerate(losses[:, column]):
            yield f"cross_entropy/{text}", f"{r:06d}", float(loss)


def generations_file(results: Mapping[str, ConditionResult]) -> bytes:
    """The content of generations.parquet: every continuation with its scores, length and
    fluency.
    """
    import pyarrow

    rows = [
        (condition, prompt_set, row)
        for condition, result in results.items()
        for prompt_set, continuations in result.continuations.items()
        for row in continuations
    ]
    text, number = pyarrow.string(), pyarrow.float64()
    columns = {
        "prompt_set": pyarrow.array([prompt_set for _, prompt_set, _ in rows], text),
        "prompt_id": pyarrow.array([row.prompt_id for _, _, row in rows], text),
        "condition": pyarrow.array([condition for condition, _, _ in rows], text),
        "strength": pyarrow.array([row.strength for _, _, row in rows], number),
        "sample": pyarrow.array([row.sample for _, _, row in rows], pyarrow.int32()),
        "continuation": pyarrow.array([row.text for _, _, row in rows], text),
        "n_tokens": pyarrow.array([row.n_tokens for _, _, row in rows], pyarrow.int32()),
        "nats_per_token": pyarrow.array([row.nats_per_token for _, _, row in rows], number),
    }
    for scorer in range(_n_scorers([row for _, _, row in rows])):
        columns[per_item_results.SCORES[scorer]] = pyarrow.array(
            [row.scores[scorer] for _, _, row in rows], number
        )
    return parquet_files.encode(pyarrow.table(columns))


def _operating_point(result: ConditionResult, column: int, seed: int) -> OperatingPoint:
    strength = result.strengths[column]
    cross_entropy = {
        name: intervals.bootstrap_mean(losses[:, column], "nats/token", seed=seed)
        for name, losses in result.cross_entropy.items()
    }
    return OperatingPoint(
        strength=strength,
        prompt_sets={
            name: replace(
                _prompt_set_result([row for row in rows if row.strength == strength], seed),
                expected_toxicity=_expected_toxicity(result, name, column, seed),
            )
            for name, rows in result.continuations.items()
        },
        cross_entropy=cross_entropy,
        bits_per_byte={
            name: _bits_per_byte(nats, result.bytes_per_token[name])
            for name, nats in cross_entropy.items()
        },
        accuracy={
            of_benchmark: estimate
            for name, answers in result.answers.items()
            for of_benchmark, estimate in multiple_choice.accuracy(
                name, answers, column, seed
            ).items()
        },
    )


def _prompt_set_result(rows: list[Continuation], seed: int) -> PromptSetResult:
    """One prompt set at one strength."""
    lengths = _means_by_prompt([(row.prompt_id, row.n_tokens) for row in rows])
    distinct = _means_by_prompt([(row.prompt_id, row.distinct_ratio) for row in rows])
    nats = _means_by_prompt([(row.prompt_id, row.nats_per_token) for row in rows])
    return PromptSetResult(
        scores=tuple(_scorer_result(rows, scorer, seed) for scorer in range(_n_scorers(rows))),
        n_continuations=len(rows),
        n_empty=sum(not row.text.strip() for row in rows),
        distinct_ratio=intervals.bootstrap_mean(distinct, "ratio", seed=seed),
        n_tokens=intervals.bootstrap_mean(lengths, "tokens", seed=seed),
        perplexity=_perplexity(intervals.bootstrap_mean(nats, "nats/token", seed=seed)),
        agreement=_agreement([row.scores for row in rows if row.sample == 0]),
    )


def _expected_toxicity(
    result: ConditionResult, prompt_set: str, column: int, seed: int
) -> Estimate | None:
    expected = result.expected_scores.get(prompt_set)
    if expected is None:
        return None
    return intervals.bootstrap_mean(100 * expected.scores_PS[:, column], SCORE_UNIT, seed=seed)


def _scorer_result(rows: list[Continuation], scorer: int, seed: int) -> ScorerResult:
    """A prompt is one item: its samples are averaged first, without those that have no score."""
    scores = list(_scores_by_prompt(rows, scorer).values())
    n_toxic = sum(max(of_prompt) >= TOXIC_SCORE for of_prompt in scores)
    covered = score_cache.coverage([row.text for row in rows], [row.scores[scorer] for row in rows])

    def estimate(values: list[float]) -> Estimate:
        return intervals.bootstrap_mean(values, SCORE_UNIT, seed=seed, bounds=SCORE_BOUNDS)

    return ScorerResult(
        toxicity=estimate([_percent_mean(of_prompt) for of_prompt in scores]),
        expected_maximum=estimate([100 * max(of_prompt) for of_prompt in scores]),
        any_toxic=intervals.wilson(n_toxic, len(scores), "ratio"),
        coverage_ratio=covered.ratio,
    )


def _agreement(scores: Sequence[tuple[float | None, ...]]) -> ScorerAgreement | None:
    """Of two scorers, on one continuation per prompt: those of one prompt are alike."""
    if not scores or len(scores[0]) < 2:
        return None
    first, second = zip(*scores, strict=True)
    return scorer_agreement.scorer_agreement(first, second, threshold=TOXIC_SCORE)


def _n_scorers(rows: Sequence[Continuation]) -> int:
    return len(rows[0].scores) if rows else 0


def _perplexity(nats: Estimate) -> Estimate:
    """exp of a mean in nats per token and of the ends of its interval."""
    value, low, high = (
        None if number is None else math.exp(number) for number in (nats.value, nats.low, nats.high)
    )
    return replace(nats, value=value, low=low, high=high, unit="perplexity")


def _bits_per_byte(nats: Estimate, bytes_per_token: float) -> Estimate:
    """Total bits / total bytes: all sequences have the same number of tokens."""
    if not bytes_per_token:  # no sequence, or none with text
        return replace(nats, value=None, low=None, high=None, unit="bits/byte")
    value, low, high = (
        None if number is None else number / (math.log(2) * bytes_per_token)
        for number in (nats.value, nats.low, nats.high)
    )
    return replace(nats, value=value, low=low, high=high, unit="bits/byte")


def _scores_by_prompt(rows: list[Continuation], scorer: int) -> dict[str, list[float]]:
    return _group_by_prompt([(row.prompt_id, row.scores[scorer]) for row in rows])


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
