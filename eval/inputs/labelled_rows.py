"""labelled rows from a document URI: for probes, transfer and other attributes

A URI names the fields of a row, `#text=field&label=field`, and is read like any corpus. A row's id
is the digest of its text. Which rows are taken depends on the ids and the seed, not on the order of
the file.
"""

import hashlib
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from data_prep.core import keyed_random
from data_prep.core.errors import ConfigurationError
from data_prep.sources import corpus_reader
from data_prep.sources.corpus_reader import Document
from eval.config import ProbingConfig
from eval.inputs import label_rules
from eval.inputs.label_rules import LabelRule


class LabelledRow(NamedTuple):
    """A row of a labelled set; label 1 is toxic. Rows of one group belong together, such as the
    halves of a matched pair.
    """

    id: str
    text: str
    label: int
    group: str


def text_id(text: str) -> str:
    """16 hex digits that name a text."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def read_labelled_rows(
    uri: str, probing: ProbingConfig, seed: int, *, group_field: str = ""
) -> list[LabelledRow]:
    """At most eval.probing.n_rows rows of a labelled set, each text once. Groups are taken whole,
    but for the last.
    """
    rule = label_rule(uri, probing)
    rows: dict[str, LabelledRow] = {}
    for place, document in read_documents(uri, rule.fields[0]):
        row_id = text_id(document.text)
        if document.text.strip() and row_id not in rows:
            where = f"{uri}, {place}"
            group = _group(document, group_field, where) if group_field else row_id
            label = rule.label(document.fields, where)
            rows[row_id] = LabelledRow(row_id, document.text, label, group)
    in_order = sorted(rows.values())
    order = keyed_random.shuffled_positions([row.group for row in in_order], "probes", seed)
    return [in_order[i] for i in order[: probing.n_rows]]


def label_rule(uri: str, probing: ProbingConfig) -> LabelRule:
    """The rule that decides which rows of a labelled set are toxic."""
    label = corpus_reader.expand([uri])[0].label_field or "label"
    return label_rules.parse_rule(label, probing.label_threshold)


def labels_of(rows: Sequence[LabelledRow]) -> list[int]:
    """The labels of the rows, in order."""
    return [row.label for row in rows]


def read_documents(uri: str, label_field: str | None = None) -> Iterator[tuple[str, Document]]:
    """Every document of a URI with its place, "FILE row N"."""
    for source in corpus_reader.expand([uri]):
        for document in corpus_reader.read(source._replace(label_field=label_field)):
            yield f"{source.uri} row {document.row}", document


def _group(document: Document, field: str, where: str) -> str:
    if field not in document.fields:
        raise ConfigurationError(
            f"{where}: there is no field {field!r} to group rows by; the row has "
            f"{', '.join(sorted(document.fields))}; correct eval.probing.group_field, or set it to "
            '""'
        )
    return str(document.fields[field])
