"""rows of multiple-choice benchmarks: choices and the right one, in the forms of the hub

    {"question": …, "choices": [TEXT, …], "answer": 1}                           MMLU
    {"question": …, "choices": {"text": [TEXT, …], "label": [NAME, …]}, "answerKey": NAME}    ARC
    {"question": …, "passage": …, "answer": true}                      BoolQ, answered no or yes

Other columns are named behind the `#` of the benchmark (benchmark_uris.py). `answer` or `answerKey`
names the right choice: by its number from 0, by its name, by a letter where the choices have no
names, or by its text. Where the names are letters, "1" is the first, and the reverse: ARC has rows
of both kinds. A digit in quotes without names may count from 0 or from 1, and is refused unless
#first= says which.

A row without an answer, or with −1, is one of a test split whose answers are hidden. A choice
without text would always be the likeliest, and a right choice that occurs twice cannot be told from
the wrong one: such rows are left out and counted.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

from data_prep.core.errors import ConfigurationError
from data_prep.sources import corpus_reader, label_values
from eval.inputs.benchmark_uris import QuestionColumns
from eval.inputs.text_rows import Reason, text_key

DIGITS = "123456789"
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
NO_OR_YES = ("no", "yes")
ANSWER_FIELDS = ("answer", "answerKey")
USUAL_COLUMNS = QuestionColumns()
# Columns of well-known data sets of other shapes, and the options that read them.
KNOWN_COLUMNS = {
    ("endings", "label"): "text=ctx&choices=endings&answer=label&first=0",  # HellaSwag
    ("sol1", "sol2", "label"): "text=goal&choices=sol1+sol2&answer=label",  # PIQA
    ("correct_answer", "distractor1", "distractor2", "distractor3"): (  # SciQ
        "text=question&choices=distractor1+distractor2+distractor3+correct_answer"
        "&answer=correct_answer&passage=support"
    ),
    ("option1", "option2", "answer"): (  # Winogrande
        "text=sentence&choices=option1+option2&answer=answer&first=1"
    ),
    ("mc1_targets",): (  # TruthfulQA
        "text=question&choices=mc1_targets.choices&answer=mc1_targets.labels"
    ),
    ("answerA", "answerB", "answerC", "label"): (  # Social IQa
        "text=question&passage=context&choices=answerA+answerB+answerC&answer=label&first=1"
    ),
    ("opa", "opb", "opc", "opd", "cop"): (  # MedMCQA
        "text=question&choices=opa+opb+opc+opd&answer=cop&first=0"
    ),
}


class QuestionRow(NamedTuple):
    """A question with its choices; `answer` is the index of the right one. passage: the text that
    the question is about, or None. subject: as prompts name it, "" without one.
    """

    text: str
    choices: tuple[str, ...]
    answer: int
    passage: str | None
    subject: str = ""

    @property
    def is_no_or_yes(self) -> bool:
        """Whether the choices are those of a passage without any, as BoolQ has it."""
        return self.choices is NO_OR_YES

    @property
    def key(self) -> str:
        """The same for two rows with one question and the same choices in any order."""
        choices = sorted(map(text_key, self.choices))
        return " ".join([text_key(f"{self.passage or ''}\n{self.text}"), *choices])


class _Choices(NamedTuple):
    """names: what the row calls the choices, as it writes them; empty if it does not."""

    texts: tuple[str, ...]
    names: tuple[Any, ...] = ()


def read(
    text: str, fields: Mapping[str, Any], where: str, columns: QuestionColumns = USUAL_COLUMNS
) -> QuestionRow | Reason:
    """The question in a row, or the reason why it cannot be used. Raises ConfigurationError, which
    names `where`, for a row of another shape.
    """
    passage = _passage(fields, columns, where)
    is_no_or_yes = passage is not None and not columns.choices and _value(fields, "choices") is None
    choices = _Choices(NO_OR_YES) if is_no_or_yes else _choices(fields, columns, where)
    if not all(choice.strip() for choice in choices.texts):
        return Reason.EMPTY_CHOICE
    answer_fields = (columns.answer,) if columns.answer else ANSWER_FIELDS
    answers = {name: _value(fields, name) for name in answer_fields}
    indexes = {
        _answer_index(name, value, choices, columns, where)
        for name, value in answers.items()
        if not _is_hidden(value)
    }
    if not indexes:
        _check_answer_field(answer_fields, fields, where)
        return Reason.NO_ANSWER
    if len(indexes) > 1:
        raise ConfigurationError(
            f"{where}: `answer` is {fields['answer']!r:.40} and `answerKey` is "
            f"{fields['answerKey']!r:.40}, which are different choices; keep the right one"
        )
    (index,) = indexes
    keys = [text_key(choice) for choice in choices.texts]
    if keys.count(keys[index]) > 1:
        return Reason.NOT_UNIQUE
    return QuestionRow(text, choices.texts, index, passage, _subject(fields, columns, where))


def columns_hint(names: Collection[str]) -> str:
    """The options that read a well-known data set with these columns, or how to name others."""
    for known, options in KNOWN_COLUMNS.items():
        if set(known) <= set(names):
            return f"name its columns: #{options}"
    return "name its columns, e.g. #text=question&choices=options&answer=key"


def _value(fields: Mapping[str, Any], name: str) -> Any:
    return corpus_reader.lookup(fields, name)


def _passage(fields: Mapping[str, Any], columns: QuestionColumns, where: str) -> str | None:
    """The passage that #passage= names, or that of a row without choices."""
    name = columns.passage or "passage"
    if not columns.passage and (columns.choices or fields.get("choices") is not None):
        return None
    passage = _value(fields, name)
    if passage is None and columns.passage and name not in fields:
        raise ConfigurationError(
            f"{where}: there is no field {name!r} for #passage=; the row has {_names(fields)}"
        )
    if passage is not None and not isinstance(passage, str):
        raise ConfigurationError(f"{where}: `{name}` is {passage!r:.40}; expected a text")
    return passage


def _subject(fields: Mapping[str, Any], columns: QuestionColumns, where: str) -> str:
    """The subject as MMLU's prompts name it, "abstract algebra" of abstract_algebra."""
    if not columns.subject:
        return ""
    subject = _value(fields, columns.subject)
    if not isinstance(subject, str) or not subject.strip():
        raise ConfigurationError(
            f"{where}: `{columns.subject}` is {subject!r:.40}; expected the name of a subject; the "
            f"row has {_names(fields)}; correct #subject=, or leave it out"
        )
    return subject.replace("_", " ").strip()


def _choices(fields: Mapping[str, Any], columns: QuestionColumns, where: str) -> _Choices:
    name = columns.choices[0] if columns.choices else "choices"
    value = _value(fields, name)
    texts, names = value, None
    if len(columns.choices) > 1:
        name = "+".join(columns.choices)
        texts = value = [_value(fields, column) for column in columns.choices]
    elif isinstance(value, dict):
        texts, names = value.get("text"), value.get("label")
    if (
        not isinstance(texts, list)
        or not 2 <= len(texts) <= len(LETTERS)
        or not all(isinstance(choice, str) for choice in texts)
    ):
        raise ConfigurationError(
            f"{where}: `{name}` is {value!r:.80}; expected 2 to {len(LETTERS)} texts (as ARC and "
            "MMLU have them), or a passage to be answered with no or yes; the row has "
            f"{_names(fields)}; {columns_hint(fields)}"
        )
    if names is None:
        return _Choices(tuple(texts))
    words = {label_values.as_word(name) for name in names} if isinstance(names, list) else set()
    if not isinstance(names, list) or not len(words) == len(names) == len(texts) or None in words:
        raise ConfigurationError(
            f"{where}: `{name}.label` is {names!r:.80}; expected {len(texts)} different names, "
            "one per choice"
        )
    return _Choices(tuple(texts), tuple(names))


def _names(fields: Mapping[str, Any]) -> str:
    return ", ".join(sorted(fields)) or "no other fields"


def _is_hidden(value: Any) -> bool:
    """Whether an answer is not given; data sets write null, an empty text or −1."""
    return label_values.is_missing(value) or label_values.as_number(value) == -1


def _check_answer_field(names: Sequence[str], fields: Mapping[str, Any], where: str) -> None:
    if not any(name in fields or _value(fields, name) is not None for name in names):
        raise ConfigurationError(
            f"{where}: the answer is missing: there is no field {' or '.join(map(repr, names))}; "
            f"the row has {_names(fields)}; name the field of the right choice with #answer=FIELD"
        )


def _answer_index(
    name: str, wanted: Any, choices: _Choices, columns: QuestionColumns, where: str
) -> int:
    n = len(choices.texts)
    if isinstance(wanted, list):
        return _marked_index(name, wanted, n, where)
    if name in columns.choices:
        return columns.choices.index(name)
    number = label_values.as_number(wanted)
    if columns.first is not None and number is not None and not isinstance(wanted, bool):
        indexes = [int(number) - columns.first] if number.is_integer() else []
    else:
        indexes = _possible_indexes(wanted, choices)
    indexes = sorted({index for index in indexes if 0 <= index < n})
    if len(indexes) == 1:
        return indexes[0]
    if indexes:
        raise ConfigurationError(
            f"{where}: the answer is {wanted!r:.40}, which may mean any of the choices {indexes}; "
            "say which number the first choice has, #first=0 or #first=1, or name the right choice "
            "by its number, from 0 and without quotes"
        )
    first = columns.first or 0
    raise ConfigurationError(
        f"{where}: the answer is {wanted!r:.40}, which is none of "
        f"{list(choices.names or range(first, first + n))}; name the right choice in `{name}`, by "
        "its number from 0 or by its name"
    )


def _marked_index(name: str, marks: list[Any], n: int, where: str) -> int:
    """The index of the only 1 in a list of 0 and 1."""
    numbers = [label_values.as_number(mark) for mark in marks]
    if len(numbers) != n or sorted(map(str, numbers)) != ["0.0"] * (n - 1) + ["1.0"]:
        raise ConfigurationError(
            f"{where}: the answer in `{name}` is {marks!r:.60}; expected {n} numbers, one per "
            "choice: 1 for the right one and 0 for the others"
        )
    return numbers.index(1.0)


def _possible_indexes(wanted: Any, choices: _Choices) -> list[int]:
    """The choices that an answer may mean."""
    word = label_values.as_word(wanted)
    if choices.texts == NO_OR_YES and word in ("0", "1"):  # also true and false
        return [int(word)]
    if word is None or isinstance(wanted, bool):
        return []
    if choices.names:
        return _by_name(wanted, word, choices)
    if isinstance(wanted, str):
        n_from = [int(word), int(word) - 1] if word.isdecimal() else []
        return [*n_from, *_by_letter(word), *_by_text(wanted, choices)]
    return [int(word)] if word.isdecimal() else []


def _by_name(wanted: Any, word: str, choices: _Choices) -> list[int]:
    """By name; else by place, if the names count the choices in the other alphabet; else by text
    or by number.
    """
    names = [label_values.as_word(name) or "" for name in choices.names]
    if word in names:
        return [names.index(word)]
    are_digits = "".join(names) == DIGITS[: len(names)]
    if not isinstance(wanted, str):
        return [int(word)] if word.isdecimal() and not are_digits else []
    by_place: list[int] = []
    if are_digits:
        by_place = _by_letter(word)
    elif "".join(names) == LETTERS.lower()[: len(names)]:
        by_place = [DIGITS.index(word)] if len(word) == 1 and word in DIGITS else []
    return by_place or _by_text(wanted, choices)


def _by_letter(word: str) -> list[int]:
    return [LETTERS.lower().index(word)] if len(word) == 1 and word in LETTERS.lower() else []


def _by_text(wanted: str, choices: _Choices) -> list[int]:
    folded = [label_values.fold(choice) for choice in choices.texts]
    return [i for i, choice in enumerate(folded) if choice == label_values.fold(wanted)]
