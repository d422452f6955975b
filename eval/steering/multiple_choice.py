"""capability on local files: multiple-choice questions, by the likelihood of each answer

Two forms, those of lm-evaluation-harness, whose accuracies these equal on the same rows:

    letter:URI   the choices are listed, the answer is a letter: needs a model that can choose (MMLU as usually reported)
    cloze:URI    the choices are not shown, the answer is their text: tells small models apart, where letters are at chance

Rows are those of the hub: `choices` a list, or a list under `text` with names under `label`;
`answer` or `answerKey` a number from 0 or a name. A row with a passage and no choices is answered
with no or yes (BoolQ). No examples are shown before.

The most likely choice counts, in cloze form also the one most likely per character ("norm"): long
answers are less likely. Every strength is measured, with the shift at all positions as for
cross-entropy.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor

from data_prep.core import keyed_random
from data_prep.core.errors import ConfigurationError
from data_prep.sources import corpus_reader
from eval.config import EvalConfig
from eval.inputs.prompts import text_id
from eval.model.loaded_model import Subject
from eval.steering import loglikelihood
from eval.steering.loglikelihood import Row, likelihoods

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
FORMS = ("letter", "cloze")


class Question(NamedTuple):
    """`answer` is the number of the right one among `choices`."""

    id: str
    context: str
    choices: tuple[str, ...]
    answer: int


class Answers(NamedTuple):
    """Which questions were answered right: [questions, strengths] bool, by the sum and by the mean
    a character.
    """

    ids: tuple[str, ...]
    likely: np.ndarray
    norm: np.ndarray


def read(name: str, config: EvalConfig) -> list[Question]:
    """At most eval.capability.n_questions of a benchmark such as "cloze:arc/*.jsonl.gz#text=question", drawn
    by their ids and the seed.
    """
    form, _, uri = name.partition(":")
    if form not in FORMS or not uri:
        raise ConfigurationError(
            f"eval.capability.benchmarks has {name!r}; expected letter:URI or cloze:URI, a file with a question a row"
        )
    found: dict[str, Question] = {}
    for source in corpus_reader.expand([uri]):
        for document in corpus_reader.read(source):
            question = _question(
                form, document.text, document.fields, f"{source.uri} row {document.row}"
            )
            found[question.id] = question
    questions = sorted(found.values())
    order = keyed_random.shuffled([question.id for question in questions], "questions", config.seed)
    return [questions[i] for i in order[: config.capability.n_questions]]


def answer(
    subject: Subject,
    questions: Sequence[Question],
    shift_LD: Tensor,
    strengths: tuple[float, ...],
    config: EvalConfig,
    advance: Callable[[int], object],
) -> Answers:
    """Answer every question at every strength; advance counts what is read (choices × strengths)."""
    n_choices = [len(each.choices) for each in questions]
    rows = [
        row._replace(strength=strength)
        for row in _rows(subject, questions)
        for strength in strengths
    ]
    found = likelihoods(subject.model, rows, shift_LD, config.probing.site, subject.batch, advance)
    logs = np.full((len(questions), max(n_choices), len(strengths)), -np.inf)
    logs[np.arange(max(n_choices)) < np.array(n_choices)[:, None]] = np.reshape(
        [each.log for each in found], (-1, len(strengths))
    )
    lengths = np.ones(logs.shape[:2])
    lengths[np.isfinite(logs[:, :, 0])] = [
        len(choice) for each in questions for choice in each.choices
    ]
    right = np.array([[each.answer] for each in questions])
    likely, norm = (by.argmax(1) == right for by in (logs, logs / lengths[:, :, None]))
    return Answers(tuple(each.id for each in questions), likely, norm)


def _question(form: str, text: str, fields: dict[str, Any], where: str) -> Question:
    given, wanted = fields.get("choices"), fields.get("answer", fields.get("answerKey"))
    listed = given.get("text") if isinstance(given, dict) else given
    names = given.get("label") if isinstance(given, dict) else None
    if listed is None and "passage" in fields:
        listed, text = ["no", "yes"], f"{fields['passage']}\nQuestion: {text}?"
    else:
        text = f"Question: {text.strip()}" if form == "cloze" else text.strip()
    if (
        not isinstance(listed, list)
        or not 2 <= len(listed) <= len(LETTERS)
        or not all(isinstance(each, str) for each in listed)
    ):
        raise ConfigurationError(
            f"{where}: `choices` is {listed!r:.80}; expected 2 to {len(LETTERS)} texts (as ARC and MMLU have them), or a passage "
            "to be answered with no or yes"
        )
    at = names.index(wanted) if names and wanted in names else wanted
    if not isinstance(at, int) or not 0 <= at < len(listed):
        raise ConfigurationError(
            f"{where}: the answer is {wanted!r}, which is none of {names or list(range(len(listed)))}; name the right choice in "
            "`answer` or `answerKey`"
        )
    if form == "letter":
        options = "".join(
            f"\n{letter}. {choice}" for letter, choice in zip(LETTERS, listed, strict=False)
        )
        text, choices = text + options, tuple(LETTERS[: len(listed)])
    else:
        choices = tuple(listed)
    return Question(text_id("\n".join([text, *listed])), f"{text}\nAnswer:", choices, int(at))


def _rows(subject: Subject, questions: Sequence[Question]) -> Iterator[Row]:
    """A row a choice; its tokens are those that the whole text has more than the context alone."""
    n_contexts = subject.tokenizer.encode_batch([each.context for each in questions]).lengths
    ids, lengths = subject.tokenizer.encode_batch(
        [f"{each.context} {choice}" for each in questions for choice in each.choices]
    )
    wholes = iter(np.split(ids, np.cumsum(lengths)[:-1]))
    for question, n_context in zip(questions, n_contexts.tolist(), strict=True):
        for _ in question.choices:
            whole = next(wholes).tolist()
            yield loglikelihood.row(whole[:n_context], whole[n_context:], subject.model)
