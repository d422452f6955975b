"""one input file → one unit of work: read, clean, tokenize, sort by key; published in bounded
segments, named by content

    units/<stream>-<digest>/<unit>/segment-00000.…   sorted runs of the file's documents, in the order of the file
                                   segment-00001.…
                                   unit.json         this record, written last

The key is a hash of (seed, file's sha256, row, part): sorting by it within segments and merging
across all segments shuffles all documents globally and once, whoever did the work and however it
was cut. A shard is a run of keys, so it reads one contiguous piece of each segment. The unit's name
is a digest of everything that decides the content; a unit whose record exists is done. A killed one
goes on after its last segment: it reads the file again, which is cheap, and tokenizes the rest.

Memory: a segment's tokens three times (as they come, sorted, as bytes to write), its documents'
origins, and a batch.
"""

import gc
import json
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from data_prep.build import dropped_samples, duplicates, segments
from data_prep.build.dropped_samples import Drop
from data_prep.build.segments import Documents, Segment
from data_prep.cleaning import annotate, clean_document
from data_prep.cleaning.decontaminate import NGrams
from data_prep.config import DataConfig
from data_prep.core import keyed_random, storage, telemetry
from data_prep.core.records import digest, record
from data_prep.sources import corpus_reader
from data_prep.sources.corpus_reader import Document
from data_prep.token_stream import megatron_shards
from data_prep.token_stream.tokenizer import EnginesDiffer, Tokenizer

if TYPE_CHECKING:
    import pyarrow

FORMAT_VERSION = 3
SEGMENT_TOKENS = 64 << 20
SEGMENT_DOCUMENTS = 1 << 20
BATCH_BYTES = 4 << 20  # of text tokenized at once: bounds the engine's memory
BATCH_DOCUMENTS = 4096
CHECK_EVERY_DOCUMENTS = 1021  # prime, so that it follows no period of the corpus
FIRST_CHECKED = 3  # documents of a file that are compared with the reference in any case
KEY_SPACE = 1 << 64
ROW, PART = Document._fields.index("row"), Document._fields.index("part")


@record
class Unit:
    """What one input file became. Counts are of documents kept and their tokens, eos included.

    bad_rows: line and fault of the first rows that could not be read.
    fell_back: the fast engine made other ids of a sample, so the reference made all.
    """

    input_sha256: str
    dtype: megatron_shards.TokenDtype
    n_rows: int
    n_bad_rows: int
    bad_rows: tuple[str, ...]
    fell_back: bool
    segments: tuple[Segment, ...]

    @property
    def n_documents(self) -> int:
        return sum(segment.n_documents for segment in self.segments)

    @property
    def n_tokens(self) -> int:
        return sum(segment.n_tokens for segment in self.segments)

    @property
    def n_text_bytes(self) -> int:
        return sum(segment.n_text_bytes for segment in self.segments)

    @property
    def n_hashes(self) -> int:
        return sum(segment.n_hashes for segment in self.segments)

    @property
    def n_annotated(self) -> int:
        return sum(segment.n_annotated for segment in self.segments)

    @property
    def drops(self) -> dict[str, int]:
        return dict(
            sorted(
                sum((Counter(segment.drops) for segment in self.segments), Counter[str]()).items()
            )
        )

    @property
    def samples(self) -> tuple[Drop, ...]:
        return tuple(drop for segment in self.segments for drop in segment.samples)


class Task(NamedTuple):
    """All that decides a unit: the file, and what is done to it."""

    source: corpus_reader.Source
    input_sha256: str
    tokenizer: Tokenizer
    config: DataConfig
    evaluation: NGrams | None  # what documents must not share with evaluation texts


def key_of(
    input_sha256: str, row: np.ndarray | int, part: np.ndarray | int, shuffle_seed: int
) -> np.ndarray:
    """The documents' places in [0, 2^64): uniform, and the same whatever else is in the corpus.
    uint64.
    """
    file = np.uint64(keyed_random.key("order of documents", shuffle_seed, input_sha256))
    return keyed_random.hashes(keyed_random.hashes(file, row), part)


def held_out_bound(held_out_ratio: float) -> int:
    """Documents with a key below this are held out."""
    return max(1, int(held_out_ratio * KEY_SPACE))


def name_of(task: Task) -> str:
    config = task.config
    chosen = (*corpus_reader.settings(task.source), config.shuffle_seed, config.dedup)
    evaluation = task.evaluation.identity if task.evaluation else None
    versions = (FORMAT_VERSION, clean_document.VERSION)
    annotation = (
        (annotate.identity(config.annotation), config.held_out_ratio)
        if config.annotation.is_on
        else None
    )
    return digest(
        versions,
        task.input_sha256,
        chosen,
        config.cleaning,
        task.tokenizer.fingerprint,
        evaluation,
        annotation,
    )


def make(task: Task, uri: str) -> Unit:
    """Publish the unit in the folder `uri`, or read its record if it is there."""
    dtype = megatron_shards.dtype_for(task.tokenizer.n_ids)
    record_uri = storage.join(uri, "unit.json")
    if storage.exists(record_uri):
        unit = storage.load(Unit, record_uri)
        if all(
            segments.is_whole(segments.uri_of(uri, i), segment, dtype)
            for i, segment in enumerate(unit.segments)
        ):
            return unit
    bad, fell_back = corpus_reader.BadRows(), False
    with _no_search_for_cycles():
        try:
            made = _segments(task, uri, bad)
        except EnginesDiffer as error:
            if task.config.tokenizer.on_difference == "stop":
                raise
            telemetry.logger.warning(
                "%s: %s; encoded with tokenizers instead", task.source.uri, error
            )
            bad, fell_back = corpus_reader.BadRows(), True
            made = _segments(task._replace(tokenizer=task.tokenizer.by_reference()), uri, bad)
    unit = Unit(
        input_sha256=task.input_sha256,
        dtype=dtype,
        n_rows=bad.n_rows,
        n_bad_rows=bad.count,
        bad_rows=tuple(
            place.removeprefix(f"{task.source.uri}:")
            for place in bad.places[: dropped_samples.PER_FILE]
        ),
        fell_back=fell_back,
        segments=tuple(made),
    )
    storage.save(unit, record_uri)
    return unit


@contextmanager
def _no_search_for_cycles() -> Iterator[None]:
    """Rows make containers by the thousand and no cycles; looking for some takes a tenth of a
    unit's time.
    """
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


class _Batch(NamedTuple):
    """Tokenized documents: a row of `table` each, their tokens end to end."""

    table: "pyarrow.Table"
    tokens: np.ndarray
    hashes: "pyarrow.Table | None"


class _Kept(NamedTuple):
    """Documents of a batch that stay, their texts as cleaned, and whether something personal was
    masked in them.
    """

    documents: list[Document]
    texts: list[str]
    masked: list[bool]


class _Tally:
    """What is counted on the way to one segment."""

    def __init__(self, before: list[Segment]) -> None:
        self.drops = Counter[str]()
        self.samples = dropped_samples.Samples(
            drop for segment in before for drop in segment.samples
        )

    def drop(self, reason: str, document: Document, text: str) -> None:
        self.drops[reason] += 1
        self.samples.note(reason, document.row, document.part, text)


def _segments(task: Task, uri: str, bad: corpus_reader.BadRows) -> list[Segment]:
    """The file's segments: those found in the folder, and the others made now."""
    made, pending = _finished(task, uri), list[_Batch]()
    last = (made[-1].last_row, made[-1].last_part) if made else (-1, 0)
    n_seen, tally = sum(segment.n_documents for segment in made), _Tally(made)
    documents = corpus_reader.read(
        task.source, bad, max_bad_rows_ratio=task.config.cleaning.max_bad_rows_ratio
    )
    for batch in _batches(
        document for document in documents if (document.row, document.part) > last
    ):
        kept = _cleaned(batch, task, tally)
        pending.append(_tokenized(kept, n_seen, task))
        n_seen, last = n_seen + len(kept.texts), (batch[-1].row, batch[-1].part)
        n_documents = sum(one.table.num_rows for one in pending)
        if (
            n_documents >= SEGMENT_DOCUMENTS
            or sum(len(one.tokens) for one in pending) >= SEGMENT_TOKENS
        ):
            made.append(_published(pending, last, tally, task, segments.uri_of(uri, len(made))))
            pending, tally = [], _Tally(made)
    if pending:
        made.append(_published(pending, last, tally, task, segments.uri_of(uri, len(made))))
    return made


def _finished(task: Task, uri: str) -> list[Segment]:
    """The segments that an earlier attempt has published, as far as they follow each other."""
    found, dtype = list[Segment](), megatron_shards.dtype_for(task.tokenizer.n_ids)
    while segment := segments.load(segments.uri_of(uri, len(found)), dtype):
        if segment.engine != task.tokenizer.engine:
            break
        found.append(segment)
    return found


def _batches(documents: Iterator[Document]) -> Iterator[list[Document]]:
    batch, n_chars = list[Document](), 0
    for document in documents:
        batch.append(document)
        n_chars += len(document.text)
        if n_chars >= BATCH_BYTES or len(batch) == BATCH_DOCUMENTS:
            yield batch
            batch, n_chars = [], 0
    if batch:
        yield batch


def _cleaned(batch: list[Document], task: Task, tally: _Tally) -> _Kept:
    kept, chosen = _Kept([], [], []), task.config.cleaning
    for document in batch:
        cleaned = clean_document.clean(document.text, chosen, document.scores)
        if cleaned.text is None:
            tally.drop(cleaned.reason, document, document.text)
        else:
            kept.documents.append(document)
            kept.texts.append(cleaned.text)
            kept.masked.append(cleaned.is_masked)
    if task.evaluation is None or not kept.texts:
        return kept
    hits = task.evaluation.hits(kept.texts)
    for at in np.flatnonzero(hits).tolist():
        tally.drop("evaluation_overlap", kept.documents[at], kept.texts[at])
    stay = np.flatnonzero(~hits).tolist()
    return _Kept(
        [kept.documents[at] for at in stay],
        [kept.texts[at] for at in stay],
        [kept.masked[at] for at in stay],
    )


def _tokenized(kept: _Kept, n_before: int, task: Task) -> _Batch:
    """A batch's documents; the first few of the file, and one in CHECK_EVERY_DOCUMENTS, are compared
    with the reference.
    """
    before = _annotations(kept, task)
    texts = (
        [prefix + text for prefix, text in zip(before, kept.texts, strict=True)]
        if before
        else kept.texts
    )
    ids, lengths = task.tokenizer.encode_batch(texts)
    ends = np.cumsum(lengths)
    for at in {
        *range(min(FIRST_CHECKED - n_before, len(texts))),
        *range(-n_before % CHECK_EVERY_DOCUMENTS, len(texts), CHECK_EVERY_DOCUMENTS),
    }:
        task.tokenizer.check_sample(texts[at], ids[ends[at] - lengths[at] : ends[at]])
    tokens = np.full(
        len(ids) + len(texts),
        task.tokenizer.eos_id,
        np.dtype(megatron_shards.dtype_for(task.tokenizer.n_ids)).newbyteorder("<"),
    )
    is_text = np.ones(len(tokens), bool)
    is_text[ends + np.arange(len(texts))] = False
    tokens[is_text] = ids
    annotated = np.array([bool(prefix) for prefix in before] or [False] * len(texts), bool)
    return _Batch(
        _origins(kept, lengths + 1, annotated, task), tokens, _hashes(kept.texts, task.config)
    )


def _annotations(kept: _Kept, task: Task) -> list[str]:
    """What is put before each text, for documents held out nothing; no list at all when the streams
    are plain.
    """
    annotation = task.config.annotation
    if not annotation.is_on:
        return []
    keys, bound = _keys(kept, task), held_out_bound(task.config.held_out_ratio)
    scores, labels = [document.scores for document in kept.documents], _labels(kept, task)
    found = annotate.prefixes(kept.texts, keys, scores, labels, annotation)
    return [
        prefix if key >= bound else "" for prefix, key in zip(found, keys.tolist(), strict=True)
    ]


def _keys(kept: _Kept, task: Task) -> np.ndarray:
    rows, parts = (
        np.array([document[at] for document in kept.documents], np.int64) for at in (ROW, PART)
    )
    return key_of(task.input_sha256, rows, parts, task.config.shuffle_seed)


def _labels(kept: _Kept, task: Task) -> list[str | None]:
    label = task.source.label_field
    return [_as_text(document.fields[label]) if label else None for document in kept.documents]


def _origins(
    kept: _Kept, n_tokens: np.ndarray, annotated: np.ndarray, task: Task
) -> "pyarrow.Table":
    import pyarrow as pa

    rows, parts = (
        np.array([document[at] for document in kept.documents], np.int64) for at in (ROW, PART)
    )
    scores = [
        None if document.scores is None else list(document.scores.items())
        for document in kept.documents
    ]
    columns = {
        "key": pa.array(_keys(kept, task), pa.uint64()),
        "row": pa.array(rows),
        "part": pa.array(parts, pa.int32()),
        "id": pa.array([document.id for document in kept.documents], pa.string()),
        "n_tokens": pa.array(n_tokens, pa.int64()),
        "n_bytes": pa.array(
            [len(text) if text.isascii() else len(text.encode()) for text in kept.texts], pa.int64()
        ),
        "label": pa.array(_labels(kept, task), pa.string()),
        "scores": pa.array(scores, pa.map_(pa.string(), pa.float32())),
        "masked": pa.array(kept.masked, pa.bool_()),
        "annotated": pa.array(annotated),
    }
    return pa.table(columns)


def _as_text(label: object) -> str | None:
    return label if label is None or isinstance(label, str) else json.dumps(label)


def _hashes(texts: list[str], config: DataConfig) -> "pyarrow.Table | None":
    """Texts that share a hash are the same, or nearly the same (column near); `document` is the
    text's place in the batch.
    """
    if config.dedup == "keep":
        return None
    import pyarrow as pa

    hashes = duplicates.exact(texts)[:, None]
    if config.dedup == "near":
        bands = duplicates.bands(texts)
        bands = keyed_random.hashes(
            bands, np.arange(bands.shape[1])
        )  # equal values in two columns say nothing
        hashes = np.concatenate([hashes, bands], axis=1)
    n_texts, n_each = hashes.shape
    columns = {
        "hash": pa.array(hashes.reshape(-1), pa.uint64()),
        "document": pa.array(np.repeat(np.arange(n_texts), n_each), pa.int64()),
        "near": pa.array(np.tile(np.arange(n_each) > 0, n_texts)),
    }
    return pa.table(columns)


def _joined_hashes(pending: list[_Batch]) -> "pyarrow.Table":
    """The batches' hashes, `document` counted from the first batch on."""
    import pyarrow as pa

    each, sizes = (
        [one.hashes for one in pending if one.hashes is not None],
        [one.table.num_rows for one in pending],
    )
    joined = pa.concat_tables(each)
    before = np.repeat(np.cumsum(sizes) - sizes, [hashes.num_rows for hashes in each])
    return joined.set_column(1, "document", pa.array(segments.column(joined, "document") + before))


def _published(
    pending: list[_Batch], last: tuple[int, int], tally: _Tally, task: Task, uri: str
) -> Segment:
    import pyarrow as pa

    tokens, table = (
        np.concatenate([one.tokens for one in pending]),
        pa.concat_tables(one.table for one in pending),
    )
    hashes = _joined_hashes(pending) if task.config.dedup != "keep" else None
    pending.clear()  # their tokens are copied, and a segment is large
    segment = Segment(
        engine=task.tokenizer.engine,
        last_row=last[0],
        last_part=last[1],
        n_documents=table.num_rows,
        n_tokens=len(tokens),
        n_text_bytes=int(segments.column(table, "n_bytes").sum()),
        n_hashes=0 if hashes is None else hashes.num_rows,
        drops=dict(sorted(tally.drops.items())),
        samples=tuple(tally.samples.kept),
        n_annotated=int(segments.column(table, "annotated").sum()),
    )
    segments.write(uri, Documents(table, tokens), hashes, segment)
    return segment
