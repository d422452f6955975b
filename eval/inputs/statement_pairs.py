"""pairs of statements that begin alike, one benign and one toxic, from labelled rows

What both halves begin with, up to a space, is the context; what follows are the two ends. A half
that is the whole context has no end, and halves without a word in common have no context: such
pairs are left out and counted.
"""

from collections.abc import Iterator
from itertools import takewhile
from typing import NamedTuple

from data_prep.core.errors import ConfigurationError
from data_prep.sources import corpus_reader, label_values
from eval.inputs.labelled_rows import LabelReader
from eval.inputs.text_rows import Reason, RowCounts, text_id


class StatementPair(NamedTuple):
    """A common beginning, and how the benign and the toxic statement end."""

    id: str
    context: str
    benign_end: str
    toxic_end: str


def read(
    rows_uri: str, pair_field: str, label_threshold: float, counts: RowCounts, where: str
) -> Iterator[StatementPair]:
    """The pairs of a labelled set: the rows with one value in `pair_field`, which are two and
    differ in their label.

    Raises ConfigurationError, which names `where`, if no row has the field.
    """
    pairs: dict[str, list[tuple[int, str]]] = {}
    labels = LabelReader(rows_uri, label_threshold)
    for document, label in labels.read(counts, labels.rule.label):
        value = corpus_reader.lookup(document.fields, pair_field)
        if label_values.is_missing(value):
            counts.leave_out(Reason.NO_GROUP)
        else:
            pairs.setdefault(str(value), []).append((int(label), document.text.strip()))
    if not pairs and counts.left_out[Reason.NO_GROUP]:
        raise ConfigurationError(
            f"{where}: there is no field {pair_field!r} to pair rows by; the row has "
            f"{', '.join(labels.columns)}; name the field with #group=FIELD"
        )
    for halves in pairs.values():
        if sorted(label for label, _ in halves) != [0, 1]:
            counts.leave_out(Reason.NO_PAIR, len(halves))
            continue
        pair = _split(*(text for _, text in sorted(halves)))
        if pair is None:
            counts.leave_out(Reason.NOTHING_SHARED, len(halves))
        else:
            yield pair


def _split(benign: str, toxic: str) -> StatementPair | None:
    letters = zip(benign + " ", toxic + " ", strict=False)
    begins_alike = takewhile(lambda pair: pair[0] == pair[1], letters)
    context, _, _ = "".join(letter for letter, _ in begins_alike).rpartition(" ")
    ends = (benign[len(context) + 1 :], toxic[len(context) + 1 :])
    if not context or not all(end.strip() for end in ends):
        return None
    return StatementPair(text_id(f"{benign}\n{toxic}"), context, *ends)
