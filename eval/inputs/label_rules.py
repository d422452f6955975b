"""label rules: a threshold on fields, a word, or a published rule decides what is toxic

A document URI names the rule behind `label=`:

    #label=hate                              hate ≥ eval.probing.label_threshold (0/1 labels: 0.5)
    #label=toxicity_human>=2.5               at least this number; > is more than it
    #label=toxicity_ai+toxicity_human>5.5    the same for a sum of fields
    #label=is_toxic=Toxic                    the field is this word, or this number
    #label=toxigen                           ToxiGen's own rule (its notebook): the sum above
    #label=toxigen_human                     toxicity_human>=2.5, very likely the paper's (PAPER §4)

The report holds the rule in full.
"""

import math
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from data_prep.core.errors import ConfigurationError

PUBLISHED_RULES = {
    "toxigen": "toxicity_ai+toxicity_human>5.5",
    "toxigen_human": "toxicity_human>=2.5",
}
TRUTH_VALUES: dict[str, Any] = {"true": 1, "false": 0}  # CSV has no booleans


class LabelRule(NamedTuple):
    """A row is toxic if the sum of `fields` is at least `threshold`, or with `strict` more than it;
    with `word`, if the only field is this word. name: the rule in words.
    """

    name: str
    fields: tuple[str, ...]
    threshold: float = 0.0
    strict: bool = False
    word: str | None = None

    def label(self, fields: Mapping[str, Any], where: str) -> int:
        """1 for a toxic row, else 0. Raises ConfigurationError, which names `where`, if a field is
        missing or is not a number where one is needed.
        """
        if self.word is not None:
            return int(_word(fields.get(self.fields[0]), self.fields[0], where) == self.word)
        total = sum(_number(fields.get(name), name, where) for name in self.fields)
        return int(total > self.threshold if self.strict else total >= self.threshold)


def parse_rule(text: str, default_threshold: float) -> LabelRule:
    """The rule in the text behind `label=`."""
    match = re.fullmatch(r"([^=>]+)(>=|>|=)(.+)", PUBLISHED_RULES.get(text, text))
    if match is None:  # a field alone, whose name may hold any character
        return LabelRule(f"{text} ≥ {default_threshold:g}", (text,), default_threshold)
    fields, sign, value = match.groups()
    if sign == "=":
        return LabelRule(f"{fields} is {value}", (fields,), word=value)
    try:
        threshold = float(value)
    except ValueError as error:
        raise ConfigurationError(
            f"#label={text}: {value!r} is not a number; expected a rule such as toxicity_human>=2.5"
        ) from error
    names = tuple(name.strip() for name in fields.split("+"))
    in_words = f"{' + '.join(names)} {'>' if sign == '>' else '≥'} {threshold:g}"
    name = f"{text}: {in_words}" if text in PUBLISHED_RULES else in_words
    return LabelRule(name, names, threshold, strict=sign == ">")


def _word(value: Any, field: str, where: str) -> str:
    if value is None:
        raise ConfigurationError(
            f"{where}: there is no field {field!r}, or it is empty; name the field with the label, "
            f"#label={field}=WORD"
        )
    return str(value)


def _number(value: Any, field: str, where: str) -> float:
    """A label as a number: 0/1, false/true, or a score."""
    try:
        number = float(TRUTH_VALUES.get(str(value).lower(), value))
    except (TypeError, ValueError):
        number = math.nan
    if math.isnan(number):
        raise ConfigurationError(
            f"{where}: the label in field {field!r} is {value!r}, expected 0, 1 or a number; name "
            "the field with #label=FIELD, and if labels are words also the toxic word, "
            f"#label={field}=WORD"
        )
    return number
