"""what makes a labelled row positive: a field from a threshold on, or a published rule by name

A URI says it behind `label=`:

    #label=hate                       the field is at least eval.probing.label_threshold (0/1 labels: 0.5)
    #label=toxicity_human>=2.5        at least, or more than (>), this number
    #label=toxicity_ai+toxicity_human>5.5     the same of a sum of fields
    #label=is_toxic=Toxic             the field is this word, or this number
    #label=toxigen                    that last one by name: ToxiGen's own rule (microsoft/TOXIGEN, its notebook)
    #label=toxigen_human              toxicity_human>=2.5, the paper's (PAPER §4, very likely)

The rule stands in every result in full.
"""

import math
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from data_prep.core.errors import ConfigurationError

NAMED = {"toxigen": "toxicity_ai+toxicity_human>5.5", "toxigen_human": "toxicity_human>=2.5"}
WORDS: dict[str, Any] = {"true": 1, "false": 0}  # CSV has no booleans


class Rule(NamedTuple):
    """Positive where the sum of `fields` is at least `threshold`, or with `strict` more; with
    `word`, where the one field is it.
    name: the rule in words.
    """

    name: str
    fields: tuple[str, ...]
    threshold: float = 0.0
    strict: bool = False
    word: str | None = None

    def label(self, fields: Mapping[str, Any], where: str) -> int:
        """1 or 0, or ConfigurationError naming `where` if a field is missing, or no number where
        one is needed.
        """
        if self.word is not None:
            return int(_word(fields.get(self.fields[0]), self.fields[0], where) == self.word)
        total = sum(_number(fields.get(name), name, where) for name in self.fields)
        return int(total > self.threshold if self.strict else total >= self.threshold)


def parse(text: str, default_threshold: float) -> Rule:
    """The rule in the text behind `label=`."""
    found = re.fullmatch(r"([^=>]+)(>=|>|=)(.+)", NAMED.get(text, text))
    fields, sign, value = found.groups() if found else (text, ">=", f"{default_threshold:g}")
    if sign == "=":
        return Rule(f"{fields} is {value}", (fields,), word=value)
    try:
        threshold = float(value)
    except ValueError as error:
        raise ConfigurationError(
            f"#label={text}: {value!r} is no number; expected a rule such as toxicity_human>=2.5"
        ) from error
    names = tuple(name.strip() for name in fields.split("+")) if found else (fields,)
    words = f"{' + '.join(names)} {'>' if sign == '>' else '≥'} {threshold:g}"
    return Rule(f"{text}: {words}" if text in NAMED else words, names, threshold, sign == ">")


def _word(value: Any, name: str, where: str) -> str:
    if value is None:
        raise ConfigurationError(
            f"{where}: there is no field {name!r}, or it is empty; name the one with the label, #label={name}=WORD"
        )
    return str(value)


def _number(value: Any, name: str, where: str) -> float:
    """A label as a number: 0/1, false/true, or a score."""
    try:
        number = float(WORDS.get(str(value).lower(), value))
    except (TypeError, ValueError):
        number = math.nan
    if math.isnan(number):
        raise ConfigurationError(
            f"{where}: the label in field {name!r} is {value!r}, expected 0, 1 or a number; name the field with #label=FIELD, "
            f"and where labels are words the toxic one, #label={name}=WORD"
        )
    return number
