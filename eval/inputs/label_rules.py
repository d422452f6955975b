"""label rules: a threshold on fields, a word, or a published rule decides what is toxic

A document URI names the rule behind `label=`:

    #label=hate                              hate ≥ eval.probing.label_threshold (0/1 labels: 0.5)
    #label=toxicity_human>=2.5               at least this number; > is more than it
    #label=toxicity_ai+toxicity_human>5.5    the same for a sum of fields
    #label=score>0.5[-9:7]                   the field's scale is −9 to 7
    #label=is_toxic=Toxic                    the field is this word, or this number
    #label=toxigen                           ToxiGen's own rule (its notebook): the sum above
    #label=toxigen_human                     toxicity_human>=2.5, very likely the paper's (PAPER §4)

No value is benign by default. A row without a label, and one with a negative label (−1 is the usual
mark of a row that was not judged), has no class: it is left out and counted. A negative threshold,
or a scale in brackets, says that values below 0 are labels. Anything else that is not a number on
the scale is refused: a field alone with a threshold of at most 1 is read on a scale from 0 to 1,
because a class number or a percentage would make every row toxic. Words are compared folded
(data_prep/sources/label_values.py). The report holds the rule in full.
"""

import math
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from data_prep.core.errors import ConfigurationError
from data_prep.sources import corpus_reader, label_values
from eval.inputs.text_rows import Reason

PUBLISHED_RULES = {
    "toxigen": "toxicity_ai+toxicity_human>5.5",
    "toxigen_human": "toxicity_human>=2.5",
}
FORMS = "FIELD, FIELD>=NUMBER, FIELD>NUMBER, FIELD>NUMBER[LOW:HIGH], FIELD+FIELD>NUMBER, FIELD=WORD"


SCALE_REMEDY = (
    "if values below 0 are labels here, state the scale, e.g. #label=score>0.5[-9:7], or for −1 "
    "and 1 #label=FIELD>0[-1:1]"
)


class Scale(NamedTuple):
    """The values that a label may have. is_stated: a value outside is left out, not refused."""

    low: float
    high: float
    is_stated: bool = False


class LabelRule(NamedTuple):
    """A row is toxic if the sum of `fields` is at least `threshold`, or with `strict` more than it;
    with `word`, if the only field is this word. name: the rule in words.
    """

    name: str
    fields: tuple[str, ...]
    threshold: float = 0.0
    strict: bool = False
    word: str | None = None
    scale: Scale = Scale(0.0, math.inf)

    def label(self, fields: Mapping[str, Any], where: str) -> int | Reason:
        """1 for a toxic row, 0 for a benign one, or the reason why it has no label. Raises
        ConfigurationError, which names `where`, for a value that is no label of this rule.
        """
        if self.word is not None:
            word = self.word_in(fields, where)
            return word if isinstance(word, Reason) else int(word == _as_word(self.word))
        total = self.score(fields, where)
        if isinstance(total, Reason):
            return total
        return int(total > self.threshold if self.strict else total >= self.threshold)

    def score(self, fields: Mapping[str, Any], where: str) -> float | Reason:
        """The sum of the fields, or the reason why there is none; errors as in `label`."""
        numbers = [
            self._number(corpus_reader.lookup(fields, name), name, where) for name in self.fields
        ]
        # no label before a negative one: the reason does not depend on the order of the fields
        reasons = sorted(number for number in numbers if isinstance(number, Reason))
        return reasons[-1] if reasons else sum(n for n in numbers if not isinstance(n, Reason))

    def word_in(self, fields: Mapping[str, Any], where: str) -> str | Reason:
        """The folded word of a rule with a word, or the reason why there is none."""
        assert self.word is not None
        value = corpus_reader.lookup(fields, self.fields[0])
        wanted = _as_word(self.word)
        word = label_values.as_word(value)
        if word is not None and word == wanted:
            return word
        if label_values.is_missing(value):
            return Reason.NO_LABEL
        if word is None:
            raise ConfigurationError(
                f"{where}: the label in field {self.fields[0]!r} is {label_values.describe(value)};"
                f" {_ONE_LABEL}"
            )
        number = label_values.as_number(value)
        wanted_number = label_values.as_number(self.word)
        if number is not None and number < 0 <= (wanted_number or 0.0):
            return Reason.NEGATIVE
        return word

    def _number(self, value: Any, field: str, where: str) -> float | Reason:
        """A label as a number: 0/1, false/true, or a score."""
        if label_values.is_missing(value, label_values.NO_NUMBER):
            return Reason.NO_LABEL
        number = label_values.as_number(value)
        if number is None:
            raise ConfigurationError(
                f"{where}: the label in field {field!r} is {label_values.describe(value)}, "
                f"expected 0, 1 or a number; {_remedy(field, value)}"
            )
        if number < self.scale.low and not self.scale.is_stated:
            return Reason.NEGATIVE
        if self.scale.low <= number <= self.scale.high:
            return number
        if self.scale.is_stated:
            return Reason.OFF_SCALE
        raise ConfigurationError(
            f"{where}: the label in field {field!r} is {number:g}, expected 0 to "
            f"{self.scale.high:g}; state what is toxic on another scale: #label={field}>=NUMBER, "
            f"or #label={field}=WORD for a class"
        )


_ONE_LABEL = (
    "expected one label per row; reduce the labels of several annotators to one, such as their "
    "mean or majority, in a field of its own"
)


def _remedy(field: str, value: Any) -> str:
    if isinstance(value, dict):
        return f"name a field inside it, #label={field}.{min(map(str, value), default='FIELD')}"
    if isinstance(value, list | tuple):
        return _ONE_LABEL
    if isinstance(value, str) and any(character.isdecimal() for character in value):
        return "write numbers with a point, without % and signs of thousands"
    return (
        "name the field with #label=FIELD, and if labels are words also the toxic word, "
        f"#label={field}=WORD"
    )


def parse_rule(text: str, default_threshold: float) -> LabelRule:
    """The rule in the text behind `label=`."""
    match = re.fullmatch(r"([^=>]+)(>=|>|=)(.+)", PUBLISHED_RULES.get(text, text))
    if match is None:  # a field alone, whose name may hold any character
        high = 1.0 if default_threshold <= 1 else math.inf
        name = f"{text} ≥ {default_threshold:g}"
        scale = Scale(_lowest(default_threshold), high)
        return LabelRule(name, (text,), default_threshold, scale=scale)
    fields, sign, value = match.groups()
    if fields.endswith(("<", "!")) or value.startswith("="):
        raise ConfigurationError(f"#label={text}: expected one of {FORMS}")
    if sign == "=":
        return LabelRule(f"{fields} is {value}", (fields,), word=value)
    value, scale = _split_scale(text, value)
    threshold = label_values.as_number(value)
    if threshold is None:
        raise ConfigurationError(
            f"#label={text}: {value!r} is not a number; expected a rule such as toxicity_human>=2.5"
        )
    names = tuple(name.strip() for name in fields.split("+"))
    in_words = f"{' + '.join(names)} {'>' if sign == '>' else '≥'} {threshold:g}"
    if scale is not None:
        in_words += f", on a scale from {scale.low:g} to {scale.high:g}"
    name = f"{text}: {in_words}" if text in PUBLISHED_RULES else in_words
    scale = scale or Scale(_lowest(threshold), math.inf)
    return LabelRule(name, names, threshold, strict=sign == ">", scale=scale)


def _lowest(threshold: float) -> float:
    """The low end of a scale that is not stated: a negative threshold lies on one with values below
    0.
    """
    return 0.0 if threshold >= 0 else -math.inf


def _split_scale(text: str, value: str) -> tuple[str, Scale | None]:
    """The number and the scale in `0.5[-9:7]`."""
    match = re.fullmatch(r"([^\[]*)\[(.*):(.*)\]", value)
    if match is None:
        return value, None
    number, *ends = match.groups()
    low, high = map(label_values.as_number, ends)
    if low is None or high is None or low >= high:
        raise ConfigurationError(
            f"#label={text}: expected a scale [LOW:HIGH] of two numbers, such as score>0.5[-9:7]"
        )
    return number, Scale(low, high, is_stated=True)


def _as_word(word: str) -> str:
    return label_values.as_word(word) or ""
