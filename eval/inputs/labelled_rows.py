"""labelled rows from a document URI: for probes, transfer and other attributes

A URI names the fields of a row, `#text=field&label=field`, and is read like any corpus. A row's id
is the digest of its text. Which rows are taken depends on the ids and the seed, not on the order of
the file.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

from data_prep.core import keyed_random
from data_prep.core.errors import ConfigurationError
from data_prep.sources import corpus_reader, label_values
from data_prep.sources.corpus_reader import Document, Source
from eval.config import ProbingConfig
from eval.eval_report import TextSet
from eval.inputs import label_rules, text_rows
from eval.inputs.text_rows import OneOfEach, Reason, RowCounts, text_id, text_key

MAX_WORDS = 10  # words that errors and reports name; the others are counted
MAX_WORD_CHARS = 40
MIN_ROWS_PER_CLASS = 2  # of a set whose classes are compared

Label = TypeVar("Label", int, float)


class LabelledRow(NamedTuple):
    """A row of a labelled set; label 1 is toxic. Rows of one group belong together, such as the
    halves of a matched pair.
    """

    id: str
    text: str
    label: int
    group: str


class LabelledSet(NamedTuple):
    """The rows of one set, its rule in words, and what was left out. n_test: so many rows at the
    end come from a test file of their own.
    """

    rows: list[LabelledRow]
    rule: str
    summary: TextSet
    n_test: int = 0


def read_labelled_rows(
    uri: str, probing: ProbingConfig, seed: int, *, setting: str, group_field: str = ""
) -> LabelledSet:
    """At most eval.probing.n_rows rows of a labelled set, each text once. Groups are taken whole,
    but for the last.

    setting: names the set in errors and records, e.g. eval.probes.toxigen. Raises
    ConfigurationError for values that are no labels, and if no row is left.
    """
    where = f"{setting} {uri}"
    counts = RowCounts()
    distinct: OneOfEach[LabelledRow] = OneOfEach()
    labels = LabelReader(uri, probing.label_threshold)
    group_field = labels.group_field or group_field
    for document, label in labels.read(counts, labels.rule.label):
        row_id = text_id(document.text)
        group = _group(document, group_field) if group_field else row_id
        if group is None:
            counts.leave_out(Reason.NO_GROUP)
        else:
            row = LabelledRow(row_id, document.text, label, group)
            distinct.add(text_key(document.text), label, row)
    in_order = sorted(distinct.items(counts, where))
    if not in_order and counts.left_out[Reason.NO_GROUP]:
        raise ConfigurationError(
            f"{where}: there is no field {group_field!r} to group rows by; the row has "
            f"{', '.join(labels.columns)}; correct #group= or eval.probing.group_field, or leave "
            "it out"
        )
    if not in_order:
        raise ConfigurationError(
            f"{where}: no row can be used: {counts.in_words}; expected rows with a text and a "
            f"label; {label_rules.SCALE_REMEDY}"
        )
    order = keyed_random.shuffled_positions([row.group for row in in_order], "probes", seed)
    rows = [in_order[i] for i in order[: probing.n_rows]]
    summary = counts.text_set(setting, uri, len(rows), labels.other_words)
    return LabelledSet(rows, labels.rule.name, summary)


class LabelReader:
    """Reads the rows of a set with their labels, by the rule that its URI names."""

    def __init__(self, uri: str, default_threshold: float) -> None:
        self._sources = corpus_reader.expand([uri])
        self._label = self._sources[0].label_field or "label"
        self.rule = label_rules.parse_rule(self._label, default_threshold)
        self.group_field = self._sources[0].group_field
        self._words: Counter[str] = Counter()
        self.columns: list[str] = []  # of the row read last

    @property
    def is_score(self) -> bool:
        """Whether the URI names a field alone, without a rule."""
        return self.rule.word is None and self.rule.fields == (self._label,)

    @property
    def other_words(self) -> Counter[str]:
        """Rows by word, of the words that the rule makes benign; the rarest together."""
        wanted = label_values.as_word(self.rule.word)
        words = Counter({word: n for word, n in self._words.items() if word != wanted})
        named = Counter(
            dict(sorted(words.items(), key=lambda item: (-item[1], item[0]))[:MAX_WORDS])
        )
        shown: Counter[str] = Counter()
        for word, n in named.items():
            shown[word if len(word) <= MAX_WORD_CHARS else f"{word[:MAX_WORD_CHARS]}…"] += n
        if len(words) > len(named):
            shown[f"{len(words) - len(named)} other words"] = words.total() - named.total()
        return shown

    def read(
        self, counts: RowCounts, judge: Callable[[Mapping[str, Any], str], Label | Reason]
    ) -> Iterator[tuple[Document, Label]]:
        """Every row that has a label, and its label; the others are counted.

        judge: `label` or `score` of the rule. Raises ConfigurationError if no row of a file has a
        label, and if no row of the set has the word of the rule.
        """
        for source in self._sources:
            n_rows, n_unlabelled = 0, 0
            for place, document in text_rows.read_rows(source, counts):
                self.columns = sorted(document.fields)
                n_rows += 1
                label = judge(document.fields, place)
                if self.rule.word is not None:
                    word = self.rule.word_in(document.fields, place)
                    self._words.update([] if isinstance(word, Reason) else [word])
                if isinstance(label, Reason):
                    n_unlabelled += label is Reason.NO_LABEL
                    counts.leave_out(label)
                else:
                    yield document, label
            if n_rows and n_rows == n_unlabelled:
                raise self._no_label(source, n_rows)
        self._check_word()

    def _no_label(self, source: Source, n_rows: int) -> ConfigurationError:
        fields = " and ".join(map(repr, self.rule.fields))
        return ConfigurationError(
            f"{source.uri}: none of its {n_rows} rows has a label in field {fields}; the rows have "
            f"{', '.join(self.columns) or 'no fields besides the text'}; name the field with "
            "#label=FIELD, or leave the file out"
        )

    def _check_word(self) -> None:
        if self.rule.word is None or self._words[label_values.as_word(self.rule.word) or ""]:
            return
        words = ", ".join(f"{word!r} in {n} rows" for word, n in self.other_words.items())
        raise ConfigurationError(
            f"#label={self._label}: no row has {self.rule.word!r} in field "
            f"{self.rule.fields[0]!r}; it has {words or 'no words'}; name one of them"
        )


def check_both_classes(labelled_set: LabelledSet, kind_of_rows: str) -> None:
    """Raise ConfigurationError unless a set has at least MIN_ROWS_PER_CLASS rows of each class."""
    summary, labels = labelled_set.summary, labels_of(labelled_set.rows)
    n_toxic = sum(labels)
    if min(n_toxic, len(labels) - n_toxic) < MIN_ROWS_PER_CLASS:
        is_below_zero = Reason.NEGATIVE.value in summary.left_out
        raise ConfigurationError(
            f"{summary.setting} {summary.uri}: {n_toxic} of its {len(labels)} {kind_of_rows} are "
            f"toxic; expected some of both classes, at least {MIN_ROWS_PER_CLASS} of each; "
            f"{text_rows.in_words(summary.n_read, summary.left_out)}; check its #label="
            + (f"; {label_rules.SCALE_REMEDY}" if is_below_zero else "")
        )


def labels_of(rows: Sequence[LabelledRow]) -> list[int]:
    """The labels of the rows, in order."""
    return [row.label for row in rows]


def _group(document: Document, field: str) -> str | None:
    """The name of a row's group; None if it has none."""
    value = corpus_reader.lookup(document.fields, field)
    return None if label_values.is_missing(value) else str(value)
