"""score texts by a lexicon: words and phrases with weights

The score of a text is 1 − Π(1 − weight) over the entries that occur in it, each as often as it
occurs. Case does not matter, word boundaries do, and where two entries overlap the longer one
counts.
"""

import re
from collections.abc import Sequence
from typing import Any

from data_prep.core.errors import ConfigurationError
from data_prep.core.records import digest
from data_prep.sources import corpus_reader, label_values

TOKEN = re.compile(r"\w+|[^\w\s]")


def read_lexicon(uri: str) -> dict[str, float]:
    """Weight by entry, from documents `{text, weight}` in any format that a corpus may have.

    A document without a weight is a plain list, one entry per line, each with weight 1. Raises
    ConfigurationError for a weight that is no number, and for an entry with two weights.
    """
    weights: dict[str, float] = {}
    first: dict[tuple[str, ...], tuple[float, str]] = {}  # weight and place, by what is compared
    for source in corpus_reader.expand([uri]):
        for document in corpus_reader.read(source):
            place = f"{source.uri} row {document.row}"
            weight = _weight(document.fields.get("weight", 1.0), place)
            for entry in filter(None, map(str.strip, document.text.splitlines())):
                known, elsewhere = first.setdefault(_tokens(entry), (weight, place))
                if known != weight:  # the place stands for the entry, which may be a slur
                    raise ConfigurationError(
                        f"{place}: the entry has the weight {weight:g}, and in {elsewhere} the "
                        f"weight {known:g}; expected one weight per entry, whatever its case"
                    )
                weights[entry] = weight
    return weights


def _weight(value: Any, place: str) -> float:
    weight = label_values.as_number(value)
    if weight is None:
        raise ConfigurationError(
            f"{place}: the weight of an entry is {value!r}; expected a number in [0, 1]"
        )
    return weight


class Lexicon:
    """A scorer with the weight of each entry, in [0, 1]."""

    costly = False

    def __init__(self, weights: dict[str, float]) -> None:
        wrong = [weight for weight in weights.values() if not 0 <= weight <= 1]
        if wrong or not weights:
            raise ConfigurationError(
                f"the lexicon has {len(weights)} entries, {len(wrong)} of them with a weight "
                f"outside [0, 1] ({wrong[0] if wrong else 'none'}); "
                "expected at least one entry, and every weight in [0, 1]"
            )
        tokenized = {_tokens(entry): weight for entry, weight in weights.items()}
        # by the words and marks of an entry, in lower case
        self.weights = {tokens: weight for tokens, weight in tokenized.items() if tokens}
        self._lengths = sorted({len(tokens) for tokens in self.weights}, reverse=True)
        self.id = f"lexicon-{digest(sorted(weights.items()))}"

    def score(self, texts: Sequence[str]) -> list[float | None]:
        return [self._score(_tokens(text)) if text.strip() else None for text in texts]

    def _score(self, tokens: tuple[str, ...]) -> float:
        harmless = 1.0
        position = 0
        while position < len(tokens):
            n_matched = next(
                (n for n in self._lengths if tokens[position : position + n] in self.weights), 0
            )
            if n_matched:
                harmless *= 1 - self.weights[tokens[position : position + n_matched]]
            position += n_matched or 1
        return 1 - harmless


def _tokens(text: str) -> tuple[str, ...]:
    return tuple(TOKEN.findall(text.casefold()))
