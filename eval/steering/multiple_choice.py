"""multiple-choice questions from local files, answered by the likelihood of each choice

Two forms, those of lm-evaluation-harness, whose accuracies these equal on the same rows:

    letter:URI   the choices are listed, the answer is a letter: needs a model that can choose (MMLU
                 as usually reported)
    cloze:URI    the choices are not shown, the answer is their text: separates small models, which
                 are at chance with letters

Rows are those of the hub: `choices` is a list, or a list under `text` with names under `label`;
`answer` or `answerKey` is a number from 0 or a name. A row with a passage and no choices is
answered with no or yes (BoolQ). The prompt holds no solved examples.

The likeliest choice is the model's answer; in cloze form the choice that is likeliest per character
("norm") is a second one, because long answers are less likely. Every strength is measured, with the
shift at all positions as for cross-entropy.
"""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from data_prep.core import keyed_random
from data_prep.core.errors import ConfigurationError
from data_prep.sources import corpus_reader
from eval.inputs.labelled_rows import text_id
from eval.model.loaded_model import LoadedModel
from eval.model.session import EvalSession
from eval.steering import loglikelihood
from eval.steering.intervention import Shift
from eval.steering.loglikelihood import ScoredEnd

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
FORMS = ("letter", "cloze")


class Question(NamedTuple):
    """A question; `answer` is the index of the right one of the `choices`."""

    id: str
    context: str
    choices: tuple[str, ...]
    answer: int


class Answers(NamedTuple):
    """Which questions were answered right, [questions, strengths] bool: by the likelihood of a
    choice, and by the likelihood per character (norm).
    """

    ids: tuple[str, ...]
    likely: np.ndarray
    norm: np.ndarray


def read_questions(name: str, n_questions: int, seed: int) -> list[Question]:
    """At most `n_questions` of a benchmark such as "cloze:arc/*.jsonl.gz#text=question", drawn by
    their ids and the seed.
    """
    form, _, uri = name.partition(":")
    if form not in FORMS or not uri:
        raise ConfigurationError(
            f"eval.capability.benchmarks has {name!r}; expected letter:URI or cloze:URI, a file "
            "with one question per row"
        )
    by_id: dict[str, Question] = {}
    for source in corpus_reader.expand([uri]):
        for document in corpus_reader.read(source):
            where = f"{source.uri} row {document.row}"
            question = _question(form, document.text, document.fields, where)
            by_id[question.id] = question
    questions = sorted(by_id.values())
    order = keyed_random.shuffled_positions(
        [question.id for question in questions], "questions", seed
    )
    return [questions[i] for i in order[:n_questions]]


def answer(
    session: EvalSession,
    questions: Sequence[Question],
    shift: Shift,
    strengths: tuple[float, ...],
) -> Answers:
    """Answer every question at every strength; the progress bar counts choices × strengths."""
    n_choices = np.array([len(question.choices) for question in questions])
    ends = [
        end._replace(strength=strength)
        for end in _choices_as_ends(session.loaded, questions)
        for strength in strengths
    ]
    results = loglikelihood.loglikelihoods(session.loaded, ends, shift, session.advance)
    # questions with fewer choices than the longest are filled with −inf, which never is the largest
    is_choice = np.arange(n_choices.max()) < n_choices[:, None]
    nats = np.full((*is_choice.shape, len(strengths)), -np.inf)
    nats[is_choice] = np.reshape([result.nats for result in results], (-1, len(strengths)))
    n_chars = np.ones(is_choice.shape)
    n_chars[is_choice] = [len(choice) for question in questions for choice in question.choices]
    right = np.array([[question.answer] for question in questions])
    return Answers(
        ids=tuple(question.id for question in questions),
        likely=nats.argmax(1) == right,
        norm=(nats / n_chars[:, :, None]).argmax(1) == right,
    )


def _question(form: str, text: str, fields: dict[str, Any], where: str) -> Question:
    choices_field = fields.get("choices")
    is_named = isinstance(choices_field, dict)
    choices = choices_field.get("text") if is_named else choices_field
    names = choices_field.get("label") if is_named else None
    if choices is None and "passage" in fields:
        choices = ["no", "yes"]
        text = f"{fields['passage']}\nQuestion: {text}?"
    else:
        text = f"Question: {text.strip()}" if form == "cloze" else text.strip()
    choices = _checked_choices(choices, where)
    answer = _answer_index(fields.get("answer", fields.get("answerKey")), names, choices, where)
    if form == "letter":
        for letter, choice in zip(LETTERS, choices, strict=False):
            text += f"\n{letter}. {choice}"
    question_id = text_id("\n".join([text, *choices]))
    shown = tuple(LETTERS[: len(choices)]) if form == "letter" else tuple(choices)
    return Question(question_id, f"{text}\nAnswer:", shown, answer)


def _checked_choices(choices: Any, where: str) -> list[str]:
    if (
        not isinstance(choices, list)
        or not 2 <= len(choices) <= len(LETTERS)
        or not all(isinstance(choice, str) for choice in choices)
    ):
        raise ConfigurationError(
            f"{where}: `choices` is {choices!r:.80}; expected 2 to {len(LETTERS)} texts (as ARC "
            "and MMLU have them), or a passage to be answered with no or yes"
        )
    return choices
    return choices


def _answer_index(wanted: Any, names: Any, choices: list[str], where: str) -> int:
    index = names.index(wanted) if names and wanted in names else wanted
    if not isinstance(index, int) or not 0 <= index < len(choices):
        raise ConfigurationError(
            f"{where}: the answer is {wanted!r}, which is none of "
            f"{names or list(range(len(choices)))}; name the right choice in `answer` or "
            "`answerKey`"
        )
    return int(index)


def _choices_as_ends(loaded: LoadedModel, questions: Sequence[Question]) -> Iterator[ScoredEnd]:
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
            yield loglikelihood.end_after_context(
                tokens[:n_context], tokens[n_context:], loaded.model
            )
