"""multiple-choice benchmarks from files: the questions, and the prompts that ask them

Two forms, those of lm-evaluation-harness, whose accuracies ours equal on the same rows:

    letter:URI   the choices are listed, the answer is a letter: needs a model that can choose (MMLU
                 as usually reported)
    cloze:URI    the choices are not shown, the answer is their text: separates small models, which
                 are at chance with letters

The rows are read by question_rows.py. The prompt holds no solved examples.
"""

from typing import NamedTuple

from data_prep.core import keyed_random
from data_prep.core.errors import ConfigurationError
from data_prep.sources import corpus_reader
from eval.config import CapabilityConfig
from eval.eval_report import TextSet
from eval.inputs import question_rows, text_rows
from eval.inputs.question_rows import LETTERS, QuestionRow
from eval.inputs.text_rows import OneOfEach, Reason, RowCounts, text_id, text_key

BENCHMARKS = "eval.capability.benchmarks"
# Faults of single questions; a file with many of them has another shape. The hidden answers of a
# test split are no fault, and are counted alone.
QUESTION_FAULTS = (Reason.EMPTY_CHOICE, Reason.NOT_UNIQUE)
MAX_FAULTY_RATIO = 0.1  # of the rows of a benchmark


class Question(NamedTuple):
    """A question; `answer` is the index of the right one of the `choices`."""

    id: str
    context: str
    choices: tuple[str, ...]
    answer: int


class Benchmark(NamedTuple):
    """The questions of one benchmark, and what was left out."""

    questions: list[Question]
    summary: TextSet


def read_all(capability: CapabilityConfig, seed: int) -> dict[str, Benchmark]:
    """The benchmarks of eval.capability.benchmarks, by name."""
    return {
        name: read_questions(name, capability.n_questions, seed) for name in capability.benchmarks
    }


def read_questions(name: str, n_questions: int, seed: int) -> Benchmark:
    """At most `n_questions` of a benchmark such as "cloze:arc/*.jsonl.gz#text=question", drawn by
    their ids and the seed; each question once.

    Raises ConfigurationError for a row of another shape, and if no question is left.
    """
    form, _, uri = name.partition(":")
    where = f"{BENCHMARKS} {name}"
    counts = RowCounts()
    distinct: OneOfEach[Question] = OneOfEach(Reason.OTHER_ANSWER)
    for source in corpus_reader.expand([uri]):
        for place, document in text_rows.read_rows(source, counts):
            row = question_rows.read(document.text, document.fields, place)
            if isinstance(row, Reason):
                counts.leave_out(row)
                continue
            question = _question(form, row)
            right = text_key(row.choices[row.answer])
            distinct.add(row.key, right, question, variant=question.id)
    questions = sorted(distinct.items(counts, where))
    n_faulty = sum(counts.left_out[reason] for reason in QUESTION_FAULTS)
    if not questions and counts.left_out[Reason.NO_ANSWER]:
        raise ConfigurationError(
            f"{where}: no question is left: {counts.in_words}; expected questions with their "
            "answers; name a split that has them, such as validation"
        )
    if not questions or n_faulty > MAX_FAULTY_RATIO * counts.n_read:
        raise ConfigurationError(
            f"{where}: {counts.in_words}; expected distinct choices with text, and at most "
            f"{MAX_FAULTY_RATIO:.0%} of the rows without; check the fields of its rows, or leave "
            "these rows out of the file"
        )
    order = keyed_random.shuffled_positions(
        [question.id for question in questions], "questions", seed
    )
    chosen = [questions[i] for i in order[:n_questions]]
    return Benchmark(chosen, counts.text_set(BENCHMARKS, name, len(chosen)))


def _question(form: str, row: QuestionRow) -> Question:
    text, choices = row.text, row.choices
    if row.passage is not None:
        text = f"{row.passage}\nQuestion: {text}?"
    else:
        text = f"Question: {text.strip()}" if form == "cloze" else text.strip()
    if form == "letter":
        for letter, choice in zip(LETTERS, choices, strict=False):
            text += f"\n{letter}. {choice}"
    question_id = text_id("\n".join([text, *choices]))
    shown = tuple(LETTERS[: len(choices)]) if form == "letter" else choices
    return Question(question_id, f"{text}\nAnswer:", shown, row.answer)
