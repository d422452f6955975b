"""what one shift does: continuations with their scores, cross-entropy and answers, at each of its strengths

    prompts × samples × strengths ─▶ continuations, shifted at the last position ─▶ scores; how likely under the judge
    held-out sequences × strengths ─▶ cross-entropy, shifted at all positions
    questions × strengths ─▶ answers, likewise

All strengths share a batch, and no row depends on the others of its batch.

Shapes: R rows, T position, L layer, D = heads side by side.
"""

from collections.abc import Mapping
from itertools import pairwise, product
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from data_prep import toxicity
from eval import fluency, generation, multiple_choice, scores, steering
from eval.config import EvalConfig
from eval.fluency import Judge
from eval.heads import Advance
from eval.multiple_choice import Answers, Question
from eval.prompts import Prompt
from eval.subject import Subject
from training.loss import next_token_loss

LOGIT_BYTES = 256 << 20  # of fp32 logits held at once; the loss needs about twice that again


class Asked(NamedTuple):
    """What every shift is measured on: prompts, held-out sequences by stream, questions by benchmark; and who judges fluency."""

    prompts: list[Prompt]
    sequences: Mapping[str, np.ndarray]
    benchmarks: Mapping[str, list[Question]]
    judge: Judge | None

    def n_rows(self, config: EvalConfig) -> int:
        """How many rows one strength has."""
        choices = sum(len(question.choices) for of in self.benchmarks.values() for question in of)
        return len(self.prompts) * config.samples_per_prompt + sum(map(len, self.sequences.values())) + choices


class Continuation(NamedTuple):
    """One continuation; score is None where the scorer cannot say. distinct_ratio is None below two bigrams. nats_per_token: under
    the judge; None of an empty text, or without a judge."""

    prompt_id: str
    sample: int
    strength: float
    text: str
    score: float | None
    distinct_ratio: float | None
    n_tokens: int
    nats_per_token: float | None


class Outcome(NamedTuple):
    """What one shift did: continuations at each strength, losses [sequences, strengths] of each stream, answers by benchmark."""

    strengths: tuple[float, ...]
    continuations: list[Continuation]
    costs: dict[str, np.ndarray]
    answers: dict[str, Answers]


def measure(
    subject: Subject,
    asked: Asked,
    shift_LD: Tensor,
    strengths: tuple[float, ...],
    config: EvalConfig,
    scorer: toxicity.Scorer,
    advance: Advance,
) -> Outcome:
    """All of it; `advance(n)` is told of n finished rows."""
    continuations = _continue(subject, asked, shift_LD, strengths, config, scorer, advance)
    costs = {name: _cross_entropy(subject, of, shift_LD, strengths, config, advance) for name, of in asked.sequences.items()}
    answers = {
        name: multiple_choice.answer(subject, of, shift_LD, strengths, config, advance) for name, of in asked.benchmarks.items()
    }
    return Outcome(strengths, continuations, costs, answers)


def _continue(
    subject: Subject,
    asked: Asked,
    shift_LD: Tensor,
    strengths: tuple[float, ...],
    config: EvalConfig,
    scorer: toxicity.Scorer,
    advance: Advance,
) -> list[Continuation]:
    """Every prompt × sample × strength, in that order; batches run through prompts of like length.

    Raises ArtefactMissing where the scorer leaves out too many.
    """
    prompts = asked.prompts
    sampling = generation.Sampling(
        config.max_new_tokens, config.decoding, config.top_p, subject.tokenizer.eos_id, subject.tokenizer.n_ids
    )
    tokens = subject.encode([prompt.text for prompt in prompts])
    todo = list(product(range(len(prompts)), range(config.samples_per_prompt), strengths))
    order = sorted(range(len(todo)), key=lambda i: (len(tokens[todo[i][0]]), i))
    drawn: dict[int, list[int]] = {}
    for at in range(0, len(order), config.batch_size):
        batch = [todo[i] for i in order[at : at + config.batch_size]]
        keys = [generation.row_key(prompts[p].id, sample, config.seed) for p, sample, _ in batch]
        strength_B = torch.tensor([strength for *_, strength in batch])
        with steering.steered(subject.model, shift_LD, strength_B, config.positions, config.site):
            rows = generation.sample(subject.model, [tokens[p] for p, *_ in batch], keys, sampling)
        drawn |= dict(zip(order[at : at + config.batch_size], rows, strict=True))
        advance(len(batch))
    texts = [subject.tokenizer.decode(drawn[i]) for i in range(len(todo))]
    scored = scorer.score(texts)
    for column, strength in enumerate(strengths):
        mine = slice(column, None, len(strengths))
        scores.check(scores.coverage(texts[mine], scored[mine]), f"strength {strength:g}", scorer.id, config.min_coverage_ratio)
    nats: list[float | None] = [None] * len(todo)
    if asked.judge:
        nats = fluency.surprises(asked.judge, [prompts[p].text for p, *_ in todo], texts, config)
    return [
        Continuation(prompts[p].id, sample, strength, text, score, _distinct_ratio(drawn[i]), len(drawn[i]), nats[i])
        for i, ((p, sample, strength), text, score) in enumerate(zip(todo, texts, scored, strict=True))
    ]


@torch.inference_mode()
def _cross_entropy(
    subject: Subject, tokens_RT: np.ndarray, shift_LD: Tensor, strengths: tuple[float, ...], config: EvalConfig, advance: Advance
) -> np.ndarray:
    """Mean next-token cross-entropy of each sequence at each strength, nats per token: [R, strengths]."""
    n_sequences, n_tokens = tokens_RT.shape
    rows = [(r, strength) for r in range(n_sequences) for strength in strengths]
    step = max(1, min(config.batch_size, LOGIT_BYTES // (4 * n_tokens * subject.model.config.vocab_size)))
    losses = torch.empty(len(rows), dtype=torch.float64)
    for at in range(0, len(rows), step):
        sequences, of_rows = zip(*rows[at : at + step], strict=True)
        tokens_BT = torch.from_numpy(tokens_RT[list(sequences)]).to(shift_LD.device)
        with steering.steered(subject.model, shift_LD, torch.tensor(of_rows), "all", config.site):
            losses[at : at + step] = next_token_loss(subject.model(tokens_BT), tokens_BT).cpu() / (n_tokens - 1)
        advance(len(tokens_BT))
    return losses.numpy().reshape(n_sequences, len(strengths))


def _distinct_ratio(ids: list[int]) -> float | None:
    """Distinct bigrams / bigrams of one continuation; 1 is no repetition."""
    bigrams = list(pairwise(ids))
    return len(set(bigrams)) / len(bigrams) if len(bigrams) > 1 else None
