"""multiple-choice questions, answered by the likelihood of each choice

The likeliest choice is the model's answer; in cloze form the choice that is likeliest per character
("norm") is a second one, because long answers are less likely. Every strength is measured, with the
shift at all positions as for cross-entropy, behind the prefix of the condition.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from eval.inputs.benchmarks import Question
from eval.model.eval_session import EvalSession
from eval.model.loaded_model import LoadedModel
from eval.steering import loglikelihood
from eval.steering.conditions import Condition
from eval.steering.loglikelihood import ScoredEnd


class Answers(NamedTuple):
    """Which questions were answered right, [questions, strengths] bool: by the likelihood of a
    choice, and by the likelihood per character (norm).
    """

    ids: tuple[str, ...]
    likely: np.ndarray
    norm: np.ndarray


def answer(
    session: EvalSession,
    questions: Sequence[Question],
    condition: Condition,
) -> Answers:
    """Answer every question at every strength; the progress bar counts choices × strengths."""
    strengths = condition.strengths
    n_choices = np.array([len(question.choices) for question in questions])
    ends = list(_choices_as_ends(session.loaded, questions, condition.prefix))
    result = loglikelihood.loglikelihoods(
        session.loaded, ends, condition.shift, strengths, session.advance
    )
    # questions with fewer choices than the longest are filled with −inf, which never is the largest
    is_choice = np.arange(n_choices.max()) < n_choices[:, None]
    nats = np.full((*is_choice.shape, len(strengths)), -np.inf)
    nats[is_choice] = result.nats_ES
    n_chars = np.ones(is_choice.shape)
    n_chars[is_choice] = [len(choice) for question in questions for choice in question.choices]
    right = np.array([[question.answer] for question in questions])
    return Answers(
        ids=tuple(question.id for question in questions),
        likely=nats.argmax(1) == right,
        norm=(nats / n_chars[:, :, None]).argmax(1) == right,
    )


def _choices_as_ends(
    loaded: LoadedModel, questions: Sequence[Question], prefix: list[int]
) -> Iterator[ScoredEnd]:
    """One scored end per choice: the tokens that context and choice have beyond those of the
    context alone.
    """
    n_contexts = loaded.tokenizer.encode_batch([question.context for question in questions]).lengths
    ids, lengths = loaded.tokenizer.encode_batch(
        [f"{question.context} {choice}" for question in questions for choice in question.choices]
    )
    texts = iter(np.split(ids, np.cumsum(lengths)[:-1]))
    for question, n_context in zip(questions, n_contexts.tolist(), strict=True):
        for _ in question.choices:
            tokens = next(texts).tolist()
            yield ScoredEnd([*loaded.prefix, *prefix, *tokens[:n_context]], tokens[n_context:])
