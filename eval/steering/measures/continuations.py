"""continuations of every prompt under a condition, with toxicity scores and fluency

    prompts × samples × strengths ─▶ sampled ids ─▶ texts ─▶ toxicity scores, nats per token

A prompt that is too long loses its beginning, under all conditions alike. All conditions with the
same text before the prompt share the pass over it and decode together, a row that ends makes room
for the next (model/generation.py), and no row depends on the others. The same sample of a prompt
draws the same random numbers at every strength and condition, so these differ in nothing else.

Shapes: B batch.
"""

from collections.abc import Iterable, Sequence
from functools import cached_property, partial
from itertools import pairwise, product
from typing import Any, NamedTuple

import numpy as np
import torch

from data_prep.core import telemetry
from data_prep.scorers.load_scorer import Scorer
from eval.config import PLAIN, GenerationConfig
from eval.inputs.prompts import Prompt
from eval.model import batch_size, generation
from eval.model.eval_session import EvalSession
from eval.model.measurement_store import Arrays
from eval.steering import intervention
from eval.steering.conditions import Condition
from eval.steering.intervention import SteeredRows
from eval.steering.measures import perplexity, score_cache
from eval.steering.measures.perplexity import FluencyJudge

# continuations at one strength per stored part: at most so many are lost on interruption. With
# several strengths they are more than decode together, so that rows that end are replaced.
PART_SAMPLES = 1024


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
    draws: "PromptDraws", condition: Condition, scoring: ContinuationScoring
) -> list[Continuation]:
    """Every prompt × sample × strength of one condition, in that order.

    Raises ArtefactMissing if a scorer leaves out too many.
    """
    prompts = draws.prompts
    rows = draws.rows_of(condition)
    ids = draws.sampled(condition)
    texts = [draws.decode(row) for row in ids]
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


class PromptDraws:
    """The continuations of a prompt set under all conditions, sampled as they are asked for.

    Conditions with the same text before the prompt are sampled together, so that they share the
    pass over it. What is stored is not sampled again, and each condition is stored apart, so that
    one more condition samples its own rows alone.
    """

    def __init__(
        self,
        session: EvalSession,
        prompts: Sequence[Prompt],
        conditions: Sequence[Condition],
        config: GenerationConfig,
    ) -> None:
        self.prompts = prompts
        self._session = session
        self._conditions = conditions
        self._config = config
        self._sampled_beside: set[tuple[str, int]] = set()  # (condition, part) of other ones

    def rows_of(self, condition: Condition) -> list[_Draw]:
        """Every prompt × sample × strength."""
        return self._rows(condition, range(len(self.prompts)))

    def decode(self, ids: Sequence[int]) -> str:
        return self._session.loaded.tokenizer.decode(ids)

    def sampled(self, condition: Condition) -> list[list[int]]:
        """The new ids of each of `rows_of`; prompts of similar length are sampled together."""
        tokens = self._encoded(condition)
        order = sorted(range(len(tokens)), key=lambda i: (len(tokens[i]), i))
        n_prompts = max(1, PART_SAMPLES // self._config.samples_per_prompt)
        ids: dict[_Draw, list[int]] = {}
        for start in range(0, len(order), n_prompts):
            part = order[start : start + n_prompts]
            is_counted = (condition.name, start) in self._sampled_beside
            rows = self._rows(condition, part)
            arrays = self._session.get_or_measure(
                *self._key(condition, start),
                partial(self._sample_part, condition, start, part),
                n_rows=0 if is_counted else len(rows),
            )
            split = np.split(arrays["ids"], np.cumsum(arrays["lengths"])[:-1])
            ids |= zip(rows, (row.tolist() for row in split), strict=True)
        return [ids[row] for row in self.rows_of(condition)]

    def _sample_part(self, condition: Condition, start: int, part: Sequence[int]) -> Arrays:
        """The arrays of the condition; those of the others that are sampled with it are stored."""
        others = [
            other
            for other in self._conditions
            if other.name != condition.name
            and (other.prefix, other.positions) == (condition.prefix, condition.positions)
            and not self._session.has_measured(*self._key(other, start))
        ]
        arrays, *of_others = self._sample([condition, *others], part)
        for other, of_other in zip(others, of_others, strict=True):
            self._session.get_or_measure(
                *self._key(other, start), lambda of_other=of_other: of_other
            )
            self._sampled_beside.add((other.name, start))
        return arrays

    def _sample(self, conditions: Sequence[Condition], part: Sequence[int]) -> list[Arrays]:
        session, config, loaded = self._session, self._config, self._session.loaded
        tokens = self._encoded(conditions[0])
        rows = [
            (number, row)
            for number, condition in enumerate(conditions)
            for row in self._rows(condition, part)
        ]
        # rows of a prompt beside each other, the shortest prompts first
        place = {prompt: i for i, prompt in enumerate(part)}
        rows.sort(key=lambda numbered: (place[numbered[1].prompt], numbered[0]))
        steered_rows = SteeredRows(
            torch.tensor([number for number, _ in rows]),
            torch.tensor([row.strength for _, row in rows]),
        )
        sampling = generation.Sampling(
            config.max_new_tokens,
            config.decoding,
            config.top_p,
            loaded.tokenizer.eos_id,
            loaded.tokenizer.n_ids,
        )
        prompt_tokens = [tokens[row.prompt] for _, row in rows]
        keys = [
            generation.row_key(self.prompts[row.prompt].id, row.sample, session.seed)
            for _, row in rows
        ]
        shifts = [condition.shift for condition in conditions]
        ids: list[list[int]] = []

        def sample(n_rows: int) -> None:
            with intervention.steered_apart(
                loaded.model, shifts, steered_rows, conditions[0].positions
            ) as steering:
                slots = generation.Slots(n_rows, session.advance)
                ids[:] = generation.sample(
                    loaded.model, prompt_tokens, keys, sampling, steering, slots
                )

        loaded.batch_size.with_rows(
            len(rows),
            sample,
            bytes_per_row=batch_size.decoding_bytes(
                loaded.model.shape,
                max(map(len, prompt_tokens)),
                config.max_new_tokens,
                loaded.dtype,
            ),
        )
        by_row = dict(zip(rows, ids, strict=True))
        return [
            _arrays([by_row[number, row] for row in self._rows(condition, part)])
            for number, condition in enumerate(conditions)
        ]

    def _rows(self, condition: Condition, part: Iterable[int]) -> list[_Draw]:
        samples = range(self._config.samples_per_prompt)
        return list(map(_Draw._make, product(part, samples, condition.strengths)))

    def _key(self, condition: Condition, start: int) -> tuple[str, Sequence[Any]]:
        """Name and dependencies of a stored part."""
        return (
            f"{condition.name}-continuations-{start:08d}",
            (condition.identity, list(self.prompts), self._config),
        )

    def _encoded(self, condition: Condition) -> list[list[int]]:
        """The ids of each prompt behind the condition's prefix, with room for the new tokens."""
        loaded = self._session.loaded
        n_positions = loaded.model.shape.max_sequence_length
        room = max(1, n_positions - self._config.max_new_tokens - loaded.reserved_tokens)
        n_cut = sum(len(row) > room for row in self._ends)
        if n_cut and condition.name == PLAIN:  # it is the same under every condition
            telemetry.logger.warning(
                "%d of %d prompts are longer than the %d tokens that the model's %d positions "
                "leave to a prompt: they lose their beginning, under every condition",
                n_cut,
                len(self._ends),
                room,
                n_positions,
            )
        return [[*loaded.prefix, *condition.prefix, *row[-room:]] for row in self._ends]

    @cached_property
    def _ends(self) -> list[list[int]]:
        return self._session.loaded.encode_ends([prompt.text for prompt in self.prompts])


def _arrays(ids: Sequence[Sequence[int]]) -> Arrays:
    return {
        "ids": np.array([i for row in ids for i in row], dtype=np.int32),
        "lengths": np.array(list(map(len, ids))),
    }


def _distinct_ratio(ids: list[int]) -> float | None:
    """Distinct bigrams / bigrams of one continuation; 1 is no repetition."""
    bigrams = list(pairwise(ids))
    return len(set(bigrams)) / len(bigrams) if len(bigrams) > 1 else None
