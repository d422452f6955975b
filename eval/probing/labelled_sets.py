"""read and check the other labelled sets, those for transfer and for entanglement"""

from collections.abc import Set
from typing import NamedTuple

from data_prep.core.errors import ConfigurationError
from eval.config import ProbingConfig
from eval.inputs.labelled_rows import LabelledRow, labels_of, read_labelled_rows


class LabelledSets(NamedTuple):
    """The rows of each set in eval.probing.transfer and eval.probing.attributes, by URI."""

    transfer: dict[str, list[LabelledRow]]
    attributes: dict[str, list[LabelledRow]]


def read(probing: ProbingConfig, seed: int) -> LabelledSets:
    """Read all sets; ConfigurationError if the rows of one are all toxic or all benign."""
    sets = LabelledSets(
        transfer={uri: read_labelled_rows(uri, probing, seed) for uri in probing.transfer},
        attributes={uri: read_labelled_rows(uri, probing, seed) for uri in probing.attributes},
    )
    for name, rows_by_uri in sets._asdict().items():
        for uri, rows in rows_by_uri.items():
            _check_both_classes(rows, f"eval.probing.{name} {uri}", "rows")
    return sets


def without_seen_rows(sets: LabelledSets, seen: Set[str]) -> LabelledSets:
    """The sets without the transfer rows that the probes, or the selection of heads, will have
    seen.
    """
    transfer = {
        uri: [row for row in rows if row.id not in seen] for uri, rows in sets.transfer.items()
    }
    for uri, rows in transfer.items():
        _check_both_classes(rows, f"eval.probing.transfer {uri}", "rows that no probe has seen")
    return sets._replace(transfer=transfer)


def _check_both_classes(rows: list[LabelledRow], name: str, kind_of_rows: str) -> None:
    n_toxic = sum(labels_of(rows))
    if not 0 < n_toxic < len(rows):
        raise ConfigurationError(
            f"{name}: {n_toxic} of its {len(rows)} {kind_of_rows} are toxic; expected some of both "
            "classes; check its #label="
        )
