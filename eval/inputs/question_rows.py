"""rows of multiple-choice benchmarks: choices and the right one, in the forms of the hub

    {"question": …, "choices": [TEXT, …], "answer": 1}                           MMLU
    {"question": …, "choices": {"text": [TEXT, …], "label": [NAME, …]}, "answerKey": NAME}    ARC
    {"question": …, "passage": …, "answer": true}                      BoolQ, answered no or yes

`answer` or `answerKey` names the right choice: by its number from 0, by its name, by a letter where
the choices have no names, or by its text. Where the names are letters, "1" is the first, and the
reverse: ARC has rows of both kinds. A digit in quotes without names is refused, because it may
count from 0 or from 1.

A row without an answer, or with −1, is one of a test split whose answers are hidden. A choice
without text would always be the likeliest, and a right choice that occurs twice cannot be told from
the wrong one: such rows are left out and counted.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

from data_prep.core.errors import ConfigurationError
from data_prep.sources import label_values
from eval.inputs.text_rows import Reason, text_key

DIGITS = "123456789"
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
NO_OR_YES = ("no", "yes")
ANSWER_FIELDS = ("answer", "answerKey")


class QuestionRow(NamedTuple):
    """A question with its choices; `answer` is the index of the right one. passage: the text that
    the question is about, or None.
    """

    text: str
    choices: tuple[str, ...]
    answer: int
    passage: str | None

    @property
    def key(self) -> str:
        """The same for two rows with one question and the same choices in any order."""
        choices = sorted(map(text_key, self.choices))
        return " ".join([text_key(f"{self.passage or ''}\n{self.text}"), *choices])


class _Choices(NamedTuple):
    """names: what the row calls the choices, as it writes them; empty if it does not."""

    texts: tuple[str, ...]
    names: tuple[Any, ...] = ()


def read(text: str, fields: Mapping[str, Any], where: str) -> QuestionRow | Reason:
    """The question in a row, or the reason why it cannot be used. Raises ConfigurationError, which
    names `where`, for a row of another shape.
    """
    passage = fields.get("passage") if fields.get("choices") is None else None
    choices = _Choices(NO_OR_YES) if passage is not None else _choices(fields, where)
    if passage is not None and not isinstance(passage, str):
        raise ConfigurationError(f"{where}: `passage` is {passage!r:.40}; expected a text")
    if not all(choice.strip() for choice in choices.texts):
        return Reason.EMPTY_CHOICE
    indexes = {
        _answer_index(fields[field], choices, where)
        for field in ANSWER_FIELDS
        if not _is_hidden(fields.get(field))
    }
    if not indexes:
        _check_answer_field(fields, where)
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
    return QuestionRow(text, choices.texts, index, passage)


def _choices(fields: Mapping[str, Any], where: str) -> _Choices:
    value = fields.get("choices")
    texts, names = value, None
    if isinstance(value, dict):
        texts, names = value.get("text"), value.get("label")
    if (
        not isinstance(texts, list)
        or not 2 <= len(texts) <= len(LETTERS)
        or not all(isinstance(choice, str) for choice in texts)
    ):
        raise ConfigurationError(
            f"{where}: `choices` is {value!r:.80}; expected 2 to {len(LETTERS)} texts (as ARC and "
            "MMLU have them), or a passage to be answered with no or yes; the row has "
            f"{', '.join(sorted(fields)) or 'no other fields'}"
        )
    if names is None:
        return _Choices(tuple(texts))
    words = {label_values.as_word(name) for name in names} if isinstance(names, list) else set()
    if not isinstance(names, list) or not len(words) == len(names) == len(texts) or None in words:
        raise ConfigurationError(
            f"{where}: `choices.label` is {names!r:.80}; expected {len(texts)} different names, "
            "one per choice"
        )
    return _Choices(tuple(texts), tuple(names))


def _is_hidden(value: Any) -> bool:
    """Whether an answer is not given; data sets write null, an empty text or −1."""
    return label_values.is_missing(value) or label_values.as_number(value) == -1


def _check_answer_field(fields: Mapping[str, Any], where: str) -> None:
    if not any(field in fields for field in ANSWER_FIELDS):
        raise ConfigurationError(
            f"{where}: the answer is missing: there is no field `answer` or `answerKey`; the row "
            f"has {', '.join(sorted(fields))}; name the right choice in one of them"
        )


def _answer_index(wanted: Any, choices: _Choices, where: str) -> int:
    n = len(choices.texts)
    indexes = sorted({index for index in _possible_indexes(wanted, choices) if 0 <= index < n})
    if len(indexes) == 1:
        return indexes[0]
    if indexes:
        raise ConfigurationError(
            f"{where}: the answer is {wanted!r:.40}, which may mean any of the choices {indexes}; "
            "name the right choice by its number, from 0 and without quotes"
        )
    raise ConfigurationError(
        f"{where}: the answer is {wanted!r:.40}, which is none of "
        f"{list(choices.names or range(n))}; name the right choice in `answer` or `answerKey`, by "
        "its number from 0 or by its name"
    )


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
