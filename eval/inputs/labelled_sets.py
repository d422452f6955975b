"""read and check the other labelled sets, those for transfer and for entanglement"""

from collections import Counter
from collections.abc import Set
from dataclasses import replace
from typing import NamedTuple

from eval.config import ProbingConfig
from eval.eval_report import TextSet
from eval.inputs.labelled_rows import LabelledSet, check_both_classes, read_labelled_rows
from eval.inputs.text_rows import Reason, text_key


class LabelledSets(NamedTuple):
    """The sets in eval.probing.transfer and eval.probing.attributes, by URI."""

    transfer: dict[str, LabelledSet]
    attributes: dict[str, LabelledSet]

    @property
    def summaries(self) -> tuple[TextSet, ...]:
        return tuple(s.summary for s in (*self.transfer.values(), *self.attributes.values()))


def read(probing: ProbingConfig, seed: int) -> LabelledSets:
    """Read all sets; ConfigurationError if one has too few toxic or benign rows."""
    transfer, attributes = (
        {
            uri: read_labelled_rows(uri, probing, seed, setting=f"eval.probing.{name}")
            for uri in uris
        }
        for name, uris in (("transfer", probing.transfer), ("attributes", probing.attributes))
    )
    for labelled_set in (*transfer.values(), *attributes.values()):
        check_both_classes(labelled_set, "rows")
    return LabelledSets(transfer, attributes)


def without_seen_rows(sets: LabelledSets, seen: Set[str]) -> LabelledSets:
    """The sets without the transfer rows that the probes, or the selection of heads, will have
    seen. seen: text_key of their texts.
    """
    transfer = {
        uri: without_texts(labelled_set, seen, Reason.SEEN)
        for uri, labelled_set in sets.transfer.items()
    }
    for labelled_set in transfer.values():
        check_both_classes(labelled_set, "rows that no probe has seen")
    return sets._replace(transfer=transfer)


def without_texts(labelled_set: LabelledSet, texts: Set[str], reason: Reason) -> LabelledSet:
    """The set without the rows with these texts, which are counted. texts: text_key of each."""
    rows = [row for row in labelled_set.rows if text_key(row.text) not in texts]
    summary = labelled_set.summary
    n_without = len(labelled_set.rows) - len(rows)
    left_out = Counter(summary.left_out) + Counter({reason.value: n_without})
    return labelled_set._replace(
        rows=rows, summary=replace(summary, n_used=len(rows), left_out=dict(left_out))
    )
