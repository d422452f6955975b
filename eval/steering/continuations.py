"""continuations of every prompt under a condition, with toxicity scores and fluency

    prompts × samples × strengths ─▶ sampled ids ─▶ texts ─▶ toxicity scores, nats per token

A prompt that is too long loses its beginning, under all conditions alike. All strengths and samples
share the pass over their prompt and decode together, a row that ends makes room for the next
(model/generation.py), and no row depends on the others. The same sample of a prompt draws the same
random numbers at every strength and condition, so these differ in nothing else.

Shapes: B batch.
"""

from collections.abc import Sequence
from functools import partial
from itertools import pairwise, product
from typing import NamedTuple

import numpy as np
import torch

from data_prep.scorers.load_scorer import Scorer
from eval.config import GenerationConfig
from eval.inputs.prompts import Prompt
from eval.model import batch_size, generation
from eval.model.eval_session import EvalSession
from eval.model.measurement_store import Arrays
from eval.steering import intervention, perplexity, score_cache
from eval.steering.conditions import Condition
from eval.steering.perplexity import FluencyJudge

# continuations per stored part: at most so many are lost on interruption; several times the rows
# that decode together, so that rows that end are replaced
PART_ROWS = 4096


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


class _Draw(NamedTuple):
    """One continuation to be sampled: the position of its prompt, sample number and strength."""

    prompt: int
    sample: int
    strength: float


def continue_prompts(
    session: EvalSession,
    prompts: Sequence[Prompt],
    condition: Condition,
    config: GenerationConfig,
    scoring: ContinuationScoring,
) -> list[Continuation]:
    """Every prompt × sample × strength, in that order.

    Raises ArtefactMissing if a scorer leaves out too many.
    """
    samples = range(config.samples_per_prompt)
    draws = list(map(_Draw._make, product(range(len(prompts)), samples, condition.strengths)))
    ids = _sample_all(session, prompts, draws, condition, config)
    texts = [session.loaded.tokenizer.decode(row) for row in ids]
    scores = [_score(scorer, texts, condition, scoring) for scorer in scoring.scorers]
    nats: list[float | None] = [None] * len(draws)
    if scoring.judge:
        prompt_texts = [prompts[draw.prompt].text for draw in draws]
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
            draws, ids, texts, zip(*scores, strict=True), nats, strict=True
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


def _sample_all(
    session: EvalSession,
    prompts: Sequence[Prompt],
    draws: Sequence[_Draw],
    condition: Condition,
    config: GenerationConfig,
) -> list[list[int]]:
    """The new ids of each draw, a part at a time, prompts of similar length together."""
    tokens = _encode(session, prompts, condition, config)
    keys = [
        generation.row_key(prompts[draw.prompt].id, draw.sample, session.seed) for draw in draws
    ]
    sampling = generation.Sampling(
        config.max_new_tokens,
        config.decoding,
        config.top_p,
        session.loaded.tokenizer.eos_id,
        session.loaded.tokenizer.n_ids,
    )
    sampled: dict[int, list[int]] = {}

    def sample_part(part: Sequence[int]) -> Arrays:
        model = session.loaded.model
        prompt_tokens = [tokens[draws[row].prompt] for row in part]
        strengths = torch.tensor([draws[row].strength for row in part])
        rows: list[list[int]] = []

        def sample(n_rows: int) -> None:
            with intervention.steered(
                model, condition.shift, strengths, condition.positions
            ) as steering:
                rows[:] = generation.sample(
                    model,
                    prompt_tokens,
                    [keys[row] for row in part],
                    sampling,
                    steering,
                    generation.Slots(n_rows, session.advance),
                )

        session.loaded.batch_size.with_rows(
            len(part),
            sample,
            bytes_per_row=batch_size.decoding_bytes(
                model.shape,
                max(map(len, prompt_tokens)),
                config.max_new_tokens,
                session.loaded.dtype,
            ),
        )
        return {
            "ids": np.array([i for row in rows for i in row], dtype=np.int32),
            "lengths": np.array(list(map(len, rows))),
        }

    depends_on = (condition.identity, list(prompts), config)
    order = sorted(range(len(draws)), key=lambda i: (len(tokens[draws[i].prompt]), i))
    for start in range(0, len(order), PART_ROWS):
        part = order[start : start + PART_ROWS]
        arrays = session.get_or_measure(
            f"{condition.name}-continuations-{start:08d}",
            depends_on,
            partial(sample_part, part),
            n_rows=len(part),
        )
        rows = np.split(arrays["ids"], np.cumsum(arrays["lengths"])[:-1])
        sampled |= zip(part, (row.tolist() for row in rows), strict=True)
    return [sampled[i] for i in range(len(draws))]


def _encode(
    session: EvalSession,
    prompts: Sequence[Prompt],
    condition: Condition,
    config: GenerationConfig,
) -> list[list[int]]:
    """The ids of each prompt behind the condition's prefix, with room for the new tokens."""
    loaded = session.loaded
    n_positions = loaded.model.shape.max_sequence_length
    room = max(1, n_positions - config.max_new_tokens - loaded.reserved_tokens)
    rows = loaded.encode_ends([prompt.text for prompt in prompts])
    return [[*loaded.prefix, *condition.prefix, *row[-room:]] for row in rows]


def _distinct_ratio(ids: list[int]) -> float | None:
    """Distinct bigrams / bigrams of one continuation; 1 is no repetition."""
    bigrams = list(pairwise(ids))
    return len(set(bigrams)) / len(bigrams) if len(bigrams) > 1 else None
