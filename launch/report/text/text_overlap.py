"""how many evaluation texts share a run of words with the training text, a line per set"""

from collections.abc import Sequence
from typing import NamedTuple

from data_prep.build import stream_paths
from data_prep.config import StreamName
from data_prep.core import storage
from data_prep.overlap import overlap_record
from data_prep.overlap.overlap_record import SetOverlap
from eval.inputs import named_texts
from launch.experiment import Experiment
from launch.report.text import display_names, text_sets
from launch.report.text.number_format import listed, percent

STREAMS: tuple[StreamName, ...] = ("clean", "toxic")


class TextOverlap(NamedTuple):
    """The overlap of a set with each stream, None where it is not measured. was_looked_for: the
    streams were built without documents that overlap with it.
    """

    setting: str
    uri: str
    ngram: int
    was_looked_for: bool
    by_stream: dict[str, SetOverlap | None]


def read(root: str, sweep: Experiment) -> list[TextOverlap]:
    """What is recorded of every set that the evaluation names."""
    folders = {
        name: storage.join(root, stream_paths.stream_uri(sweep.data, name)) for name in STREAMS
    }
    return [
        TextOverlap(
            sought.setting,
            sought.uri,
            overlap_record.ngram_of(sweep.data),
            overlap_record.was_looked_for(sought.uri, sweep.data),
            {name: overlap_record.find(uri, sought.uri) for name, uri in folders.items()},
        )
        for sought in named_texts.evaluation_sets(sweep.eval)
    ]


def is_missing(overlaps: Sequence[TextOverlap], ratio: float) -> bool:
    """Whether the overlap of a set is not measured on this share of a stream's tokens."""
    records = [
        record
        for overlap in overlaps
        if not overlap.was_looked_for
        for record in overlap.by_stream.values()
    ]
    return ratio > 0 and any(
        record is None or record.n_tokens_searched < ratio * record.n_tokens for record in records
    )


def lines(overlaps: Sequence[TextOverlap]) -> list[str]:
    """A line for each set of texts."""
    return [_line(overlap) for overlap in overlaps]


def _line(overlap: TextOverlap) -> str:
    named = f"{text_sets.kind(overlap.setting)}, {display_names.source(overlap.uri)}"
    if overlap.was_looked_for:
        return (
            f"{named}: looked for when the streams were built; no training document has "
            f"{overlap.ngram} words in a row of one of its texts"
        )
    records = [record for record in overlap.by_stream.values() if record]
    if not records:
        return f"{named}: overlap with the training text not measured"
    counts = [_count(name, record) for name, record in overlap.by_stream.items() if record]
    too_short = records[0].n_texts - records[0].n_searched
    note = f"; {too_short:,} too short to be looked for" if too_short else ""
    return (
        f"{named}: texts that share {overlap.ngram} words in a row with a training document: "
        f"{listed(counts)}{note}"
    )


def _count(stream: str, record: SetOverlap) -> str:
    """`12 of 3,000 (0.4 %) in the clean stream`, with what was searched if it was a part."""
    of_set = "" if record.is_whole_set else "the first "
    text = (
        f"{record.n_found:,} of {of_set}{record.n_texts:,} "
        f"({100 * record.n_found / max(1, record.n_texts):.2g}\u00a0%) in the {stream} stream"
    )
    if record.n_tokens_searched < record.n_tokens:
        text += f", of which {percent(record.n_tokens_searched / record.n_tokens)} was searched"
    return text
