"""what one shift does: continuations with their scores, cross-entropy and answers, at each of its
strengths

    prompts × samples × strengths ─▶ continuations, shifted at the last position ─▶ scores; how likely under the judge
    held-out sequences × strengths ─▶ cross-entropy, shifted at all positions
    questions × strengths ─▶ answers, likewise

All strengths share a batch, and no row depends on the others of its batch.

Shapes: R rows, T position, L layer, D = heads side by side.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from itertools import pairwise, product
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from data_prep.core.records import digest
from data_prep.scorers import registry
from eval.config import EvalConfig
from eval.inputs.prompts import Prompt
from eval.model import generation
from eval.model.loaded_model import Subject
from eval.probing.probe_heads import Advance
from eval.resume import Arrays, Parts
from eval.steering import intervention, multiple_choice, perplexity, score_cache
from eval.steering.multiple_choice import Answers, Question
from eval.steering.perplexity import Judge
from training.model.loss import next_token_loss

GROUP_ROWS = 1024  # continuations in a part
LOGIT_BYTES = 256 << 20  # of fp32 logits held at once; the loss needs about twice that again


class Asked(NamedTuple):
    """What every shift is measured on: prompts, held-out sequences by stream, questions by
    benchmark; and who judges fluency.
    """

    prompts: list[Prompt]
    sequences: Mapping[str, np.ndarray]
    benchmarks: Mapping[str, list[Question]]
    judge: Judge | None

    def n_rows(self, config: EvalConfig) -> int:
        """How many rows one strength has."""
        choices = sum(len(question.choices) for of in self.benchmarks.values() for question in of)
        return (
            len(self.prompts) * config.generation.samples_per_prompt
            + sum(map(len, self.sequences.values()))
            + choices
        )


class Shift(NamedTuple):
    """A shift for α = 1 and the strengths that it is measured at."""

    name: str
    shift_LD: Tensor
    strengths: tuple[float, ...]


class Continuation(NamedTuple):
    """One continuation; score is None where the scorer cannot say. distinct_ratio is None below two
    bigrams. nats_per_token: under the judge; None of an empty text, or without a judge.
    """

    prompt_id: str
    sample: int
    strength: float
    text: str
    score: float | None
    distinct_ratio: float | None
    n_tokens: int
    nats_per_token: float | None


class Outcome(NamedTuple):
    """What one shift did: continuations at each strength, losses [sequences, strengths] of each
    stream, answers by benchmark.
    """

    strengths: tuple[float, ...]
    continuations: list[Continuation]
    costs: dict[str, np.ndarray]
    answers: dict[str, Answers]


def measure(
    subject: Subject,
    asked: Asked,
    shift: Shift,
    config: EvalConfig,
    scorer: registry.Scorer,
    parts: Parts,
    advance: Advance,
) -> Outcome:
    """All of it; `advance(n)` is told of n finished rows."""
    continuations = _continue(subject, asked, shift, config, scorer, parts, advance)
    costs = {}
    for name, tokens_RT in asked.sequences.items():
        resumed = partial(advance, len(tokens_RT) * len(shift.strengths))
        made = parts.once(
            f"{shift.name}-cost-{name}",
            partial(_cross_entropy, subject, tokens_RT, shift, config, advance),
            resumed,
        )
        costs[name] = made["losses"]
    answers = {}
    for name, of in asked.benchmarks.items():
        resumed = partial(
            advance, sum(len(question.choices) for question in of) * len(shift.strengths)
        )
        made = parts.once(
            f"{shift.name}-answers-{digest(name)[:8]}",
            partial(_answers, subject, of, shift, config, advance),
            resumed,
        )
        answers[name] = Answers(tuple(question.id for question in of), made["likely"], made["norm"])
    return Outcome(shift.strengths, continuations, costs, answers)


def _continue(
    subject: Subject,
    asked: Asked,
    shift: Shift,
    config: EvalConfig,
    scorer: registry.Scorer,
    parts: Parts,
    advance: Advance,
) -> list[Continuation]:
    """Every prompt × sample × strength, in that order.

    Raises ArtefactMissing where the scorer leaves out too many.
    """
    prompts, strengths = asked.prompts, shift.strengths
    todo = list(
        product(range(len(prompts)), range(config.generation.samples_per_prompt), strengths)
    )
    drawn = _drawn(subject, prompts, todo, shift, config, parts, advance)
    texts = [subject.tokenizer.decode(drawn[i]) for i in range(len(todo))]
    scored = scorer.score(texts)
    for column, strength in enumerate(strengths):
        mine = slice(column, None, len(strengths))
        score_cache.check(
            score_cache.coverage(texts[mine], scored[mine]),
            f"strength {strength:g}",
            scorer.id,
            config.scoring.min_coverage_ratio,
        )
    nats: list[float | None] = [None] * len(todo)
    if asked.judge:
        nats = perplexity.surprises(asked.judge, [prompts[p].text for p, *_ in todo], texts)
    return [
        Continuation(
            prompts[p].id,
            sample,
            strength,
            text,
            score,
            _distinct_ratio(drawn[i]),
            len(drawn[i]),
            nats[i],
        )
        for i, ((p, sample, strength), text, score) in enumerate(
            zip(todo, texts, scored, strict=True)
        )
    ]


def _drawn(
    subject: Subject,
    prompts: list[Prompt],
    todo: list[tuple[int, int, float]],
    shift: Shift,
    config: EvalConfig,
    parts: Parts,
    advance: Advance,
) -> list[list[int]]:
    """The new ids of each (prompt, sample, strength); batches run through prompts of like length."""
    sampling = generation.Sampling(
        config.generation.max_new_tokens,
        config.generation.decoding,
        config.generation.top_p,
        subject.tokenizer.eos_id,
        subject.tokenizer.n_ids,
    )
    tokens, drawn = subject.encode([prompt.text for prompt in prompts]), dict[int, list[int]]()

    def work(batch: Sequence[int]) -> None:
        rows = [todo[i] for i in batch]
        keys = [generation.row_key(prompts[p].id, sample, config.seed) for p, sample, _ in rows]
        strength_B = torch.tensor([strength for *_, strength in rows])
        with intervention.steered(
            subject.model,
            shift.shift_LD,
            strength_B,
            config.steering.positions,
            config.probing.site,
        ):
            drawn.update(
                zip(
                    batch,
                    generation.sample(subject.model, [tokens[p] for p, *_ in rows], keys, sampling),
                    strict=True,
                )
            )
        advance(len(batch))

    def make(group: Sequence[int]) -> Arrays:
        subject.batch.each(group, work)
        ids = [i for row in group for i in drawn[row]]
        return {
            "ids": np.array(ids, dtype=np.int32),
            "lengths": np.array([len(drawn[row]) for row in group]),
        }

    order = sorted(range(len(todo)), key=lambda i: (len(tokens[todo[i][0]]), i))
    for at in range(0, len(order), GROUP_ROWS):
        group = order[at : at + GROUP_ROWS]
        made = parts.once(
            f"{shift.name}-drawn-{at:08d}", partial(make, group), partial(advance, len(group))
        )
        rows = np.split(made["ids"], np.cumsum(made["lengths"])[:-1])
        drawn |= zip(group, (row.tolist() for row in rows), strict=True)
    return [drawn[i] for i in range(len(todo))]


@torch.inference_mode()
def _cross_entropy(
    subject: Subject, tokens_RT: np.ndarray, shift: Shift, config: EvalConfig, advance: Advance
) -> Arrays:
    """Mean next-token cross-entropy of each sequence at each strength, nats per token: losses [R,
    strengths].
    """
    n_sequences, n_tokens = tokens_RT.shape
    rows = [(r, strength) for r in range(n_sequences) for strength in shift.strengths]
    losses, device = (
        torch.empty(len(rows), dtype=torch.float64),
        subject.model.embedding.weight.device,
    )

    def work(batch: Sequence[int]) -> None:
        sequences, of_rows = zip(*(rows[i] for i in batch), strict=True)
        tokens_BT = torch.from_numpy(tokens_RT[list(sequences)]).to(device)
        with intervention.steered(
            subject.model, shift.shift_LD, torch.tensor(of_rows), "all", config.probing.site
        ):
            losses[list(batch)] = next_token_loss(
                subject.model(tokens_BT), tokens_BT
            ).cpu().double() / (n_tokens - 1)
        advance(len(batch))

    step = max(1, LOGIT_BYTES // (4 * n_tokens * subject.model.config.vocab_size))
    for at in range(0, len(rows), step):
        subject.batch.each(range(at, min(at + step, len(rows))), work)
    return {"losses": losses.numpy().reshape(n_sequences, len(shift.strengths))}


def _answers(
    subject: Subject, questions: list[Question], shift: Shift, config: EvalConfig, advance: Advance
) -> Arrays:
    answers = multiple_choice.answer(
        subject, questions, shift.shift_LD, shift.strengths, config, advance
    )
    return {"likely": answers.likely, "norm": answers.norm}


def _distinct_ratio(ids: list[int]) -> float | None:
    """Distinct bigrams / bigrams of one continuation; 1 is no repetition."""
    bigrams = list(pairwise(ids))
    return len(set(bigrams)) / len(bigrams) if len(bigrams) > 1 else None
