"""continuations of every prompt under a condition, with toxicity scores and fluency

    prompts × samples × strengths ─▶ sampled ids ─▶ texts ─▶ toxicity scores, nats per token

Conditions and strengths share passes and random numbers (prompt_draws.py).
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from data_prep.scorers.load_scorer import Scorer
from data_prep.token_stream.tokenizer import Tokenizer
from eval.config import GenerationConfig
from eval.model import generation
from eval.model.generation import RowSteering, Slots
from eval.model.loaded_model import LoadedModel
from eval.model.measurement_store import Arrays
from eval.steering.conditions import Condition
from eval.steering.measures import perplexity, score_cache
from eval.steering.measures.perplexity import FluencyJudge
from eval.steering.measures.prompt_draws import PromptDraws


class ContinuationScoring(NamedTuple):
    """How continuations are judged: by one or two toxicity scorers, each of which must score a
    share of at least `min_coverage_ratio` of those with text, and by a fluency judge if there is
    one.
    """

    scorers: tuple[Scorer, ...]
    judge: FluencyJudge | None
    min_coverage_ratio: float


class Continuation(NamedTuple):
    """One continuation of a prompt.

    scores: by scorer; None if it gave none. distinct_ratio: None below two bigrams. nats_per_token:
    under the judge; None for an empty text, or without a judge.
    """

    prompt_id: str
    sample: int
    strength: float
    text: str
    scores: tuple[float | None, ...]
    distinct_ratio: float | None
    n_tokens: int
    nats_per_token: float | None


def continue_prompts(
    draws: PromptDraws[list[int]],
    tokenizer: Tokenizer,
    condition: Condition,
    scoring: ContinuationScoring,
) -> list[Continuation]:
    """Every prompt × sample × strength of one condition, in that order.

    Raises ArtefactMissing if a scorer leaves out too many.
    """
    prompts = draws.prompts
    rows = draws.rows_of(condition)
    ids = draws.values(condition)
    texts = [tokenizer.decode(row) for row in ids]
    scores = [_score(scorer, texts, condition, scoring) for scorer in scoring.scorers]
    nats: list[float | None] = [None] * len(rows)
    if scoring.judge:
        prompt_texts = [prompts[draw.prompt].text for draw in rows]
        nats = perplexity.nats_per_token(scoring.judge, prompt_texts, texts)
    return [
        Continuation(
            prompt_id=prompts[draw.prompt].id,
            sample=draw.sample,
            strength=draw.strength,
            text=text,
            scores=scores_of_row,
            distinct_ratio=_distinct_ratio(row),
            n_tokens=len(row),
            nats_per_token=nats_of_row,
        )
        for draw, row, text, scores_of_row, nats_of_row in zip(
            rows, ids, texts, zip(*scores, strict=True), nats, strict=True
        )
    ]


def _score(
    scorer: Scorer, texts: list[str], condition: Condition, scoring: ContinuationScoring
) -> list[float | None]:
    """The checked scores of one scorer."""
    scores = scorer.score(texts)
    score_cache.check_range(scores, scorer.id)
    for column, strength in enumerate(condition.strengths):
        own = slice(column, None, len(condition.strengths))
        score_cache.check_coverage(
            score_cache.coverage(texts[own], scores[own]),
            f"condition {condition.name} at strength {strength:g}",
            scorer.id,
            scoring.min_coverage_ratio,
        )
    return scores


class Continuing:
    """Continuations as prompt_draws.Decoding: the new ids of each row."""

    name = "continuations"

    def __init__(self, config: GenerationConfig) -> None:
        self.identity = config
        self.n_samples = config.samples_per_prompt
        self.max_new_tokens = config.max_new_tokens

    def decode(
        self,
        loaded: LoadedModel,
        prompts: Sequence[Sequence[int]],
        keys: Sequence[int],
        steering: RowSteering,
        slots: Slots,
    ) -> list[list[int]]:
        sampling = generation.Sampling(
            self.max_new_tokens,
            self.identity.decoding,
            self.identity.top_p,
            loaded.tokenizer.eos_id,
            loaded.tokenizer.n_ids,
        )
        return generation.sample(loaded.model, prompts, keys, sampling, steering, slots)

    def pack(self, values: Sequence[list[int]]) -> Arrays:
        return {
            "ids": np.array([i for row in values for i in row], dtype=np.int32),
            "lengths": np.array(list(map(len, values))),
        }

    def unpack(self, arrays: Arrays) -> list[list[int]]:
        rows = np.split(arrays["ids"], np.cumsum(arrays["lengths"])[:-1])
        return [row.tolist() for row in rows]


def _distinct_ratio(ids: list[int]) -> float | None:
    """Distinct bigrams / bigrams of one continuation; 1 is no repetition."""
    bigrams = list(pairwise(ids))
    return len(set(bigrams)) / len(bigrams) if len(bigrams) > 1 else None
