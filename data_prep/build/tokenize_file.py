"""one input file → its tokenized form: sorted segments of bounded size, named by content

    work/<stream>-<digest>/<name>/segment-00000.…   the file's documents, in order of their shuffle
                                  segment-00001.…   keys within each segment
                                  file.json         the record, written last

Sorting by the shuffle key within segments and merging across all segments of all files shuffles all
documents globally, whoever did the work and however it was cut into segments. A shard is a range of
keys, so it reads one contiguous piece of each segment. The name is a digest of everything that
decides the content, and a file whose record exists is done. A killed task continues after its last
segment: it reads the input again, which is cheap, and tokenizes only the rest.

Memory: a segment's tokens three times (as tokenized, sorted, as bytes to write), the provenance of
its documents, and a batch.
"""

import gc
import os
import posixpath
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from data_prep.build import sorted_segments
from data_prep.build.sorted_segments import Segment, TokenizedDocuments
from data_prep.build.tokenize_batch import TokenizedBatch, TokenizeTask, tokenize_batch
from data_prep.cleaning import annotate_toxicity, clean_document, dropped_samples
from data_prep.cleaning.decontaminate import NGrams
from data_prep.cleaning.dropped_samples import DropCounter, DroppedDocument
from data_prep.config import DataConfig, TokenizerConfig
from data_prep.core import storage, telemetry
from data_prep.core.records import Sha256, digest, record
from data_prep.sources import corpus_reader, input_files
from data_prep.sources.corpus_reader import Document, Source
from data_prep.token_stream import tokenizer
from data_prep.token_stream.megatron_shards import TokenDtype, dtype_for
from data_prep.token_stream.tokenizer import EnginesDiffer

if TYPE_CHECKING:
    import pyarrow

FORMAT_VERSION = 5
SEGMENT_TOKENS = 64 << 20
SEGMENT_DOCUMENTS = 1 << 20
BATCH_CHARS = 4 << 20  # of text tokenized at once: bounds the engine's memory
BATCH_DOCUMENTS = 4096


@record
class TokenizedFile:
    """What one input file became. Counts are of documents kept and their tokens, eos included.

    bad_rows: line and fault of the first rows that could not be read.
    fell_back: the fast engine differed from the reference on a document, so the reference engine
        encoded the whole file.
    """

    input_sha256: Sha256
    dtype: TokenDtype
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
        return dropped_samples.add_counts(segment.drops for segment in self.segments)

    @property
    def samples(self) -> tuple[DroppedDocument, ...]:
        return tuple(drop for segment in self.segments for drop in segment.samples)


class BuildInput(NamedTuple):
    """One input file of a build: its URI, size and version, and the folder of its tokenized
    form.
    """

    uri: str
    n_bytes: int
    version: str
    tokenized_uri: str
    tokenized: TokenizedFile


def by_content(inputs: Sequence[BuildInput]) -> list[BuildInput]:
    """In the order that decides between documents of equal keys; file names play no part."""
    return sorted(inputs, key=lambda file: file.tokenized.input_sha256)


def identity(inputs: Sequence[BuildInput], excluded_digest: str = "") -> str:
    """Names everything that the passes after tokenization depend on, provenance included.

    excluded_digest: of the manifest of the stream whose documents are left out.
    """
    names = sorted((posixpath.basename(file.tokenized_uri), file.uri) for file in inputs)
    return digest(names, excluded_digest) if excluded_digest else digest(names)


def tokenize_input(
    source: Source,
    location: str,
    config: DataConfig,
    pinned: tuple[str, TokenizerConfig],
    evaluation: NGrams | None,
    work_uri: str,
) -> BuildInput:
    """The Ray task: tokenize one input file into a folder below `work_uri`.

    location: the absolute form of the source's URI. pinned: URI and settings of the tokenizer.
    """
    # The task has one CPU, but the fast tokenizer would use all of the machine's.
    os.environ["RAYON_NUM_THREADS"] = "1"
    absolute = source._replace(uri=location)
    (before,) = input_files.of_sources([absolute])
    sha256 = corpus_reader.checksum(absolute)
    task = TokenizeTask(absolute, sha256, tokenizer.load(*pinned), config, evaluation, before)
    uri = storage.join(work_uri, name_of(task))
    return BuildInput(source.uri, before.n_bytes, before.version, uri, tokenize_file(task, uri))


def name_of(task: TokenizeTask) -> str:
    """A digest of everything that decides the content."""
    config = task.config
    annotation = None
    if config.annotation.is_on:
        annotation = (annotate_toxicity.identity(config.annotation), config.held_out_ratio)
    return digest(
        (FORMAT_VERSION, clean_document.VERSION),
        task.input_sha256,
        (*corpus_reader.reading_settings(task.source), config.shuffle_seed, config.dedup),
        config.cleaning,
        task.tokenizer.fingerprint,
        task.evaluation.identity if task.evaluation else None,
        annotation,
    )


def tokenize_file(task: TokenizeTask, uri: str) -> TokenizedFile:
    """Publish the tokenized file in the folder `uri`, or read its record if it is complete."""
    dtype = dtype_for(task.tokenizer.n_ids)
    record_uri = storage.join(uri, "file.json")
    if storage.exists(record_uri):
        tokenized = storage.load(TokenizedFile, record_uri)
        if all(
            sorted_segments.is_whole(sorted_segments.uri_of(uri, number), segment, dtype)
            for number, segment in enumerate(tokenized.segments)
        ):
            _check_input(task)
            return tokenized
    bad_rows = corpus_reader.BadRows()
    fell_back = False
    with _without_garbage_collection():
        try:
            written = _write_segments(task, uri, bad_rows)
        except EnginesDiffer as error:
            if task.config.tokenizer.on_difference == "stop":
                raise
            telemetry.logger.warning(
                "%s: %s; encoding the file with the reference engine", task.source.uri, error
            )
            bad_rows = corpus_reader.BadRows()
            fell_back = True
            by_reference = task._replace(tokenizer=task.tokenizer.by_reference())
            written = _write_segments(by_reference, uri, bad_rows)
    tokenized = TokenizedFile(
        input_sha256=task.input_sha256,
        dtype=dtype,
        n_rows=bad_rows.n_rows,
        n_bad_rows=bad_rows.count,
        bad_rows=tuple(
            place.removeprefix(f"{task.source.uri}:")
            for place in bad_rows.places[: dropped_samples.PER_FILE]
        ),
        fell_back=fell_back,
        segments=tuple(written),
    )
    storage.save(tokenized, record_uri)
    return tokenized


def _check_input(task: TokenizeTask) -> None:
    """Called before anything is published, because a checksum of the input names it."""
    if task.input:
        input_files.check_unchanged_while_read(task.input, task.source)


@contextmanager
def _without_garbage_collection() -> Iterator[None]:
    """Documents make thousands of containers and no cycles; the search for cycles would take a
    tenth of the time.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def _write_segments(task: TokenizeTask, uri: str, bad_rows: corpus_reader.BadRows) -> list[Segment]:
    """All segments of the file: those already in the folder, then the others."""
    written = _published_segments(task, uri)
    last = (written[-1].last_row, written[-1].last_part) if written else (-1, 0)
    n_kept = sum(segment.n_documents for segment in written)
    documents = corpus_reader.read(
        task.source,
        bad_rows,
        max_bad_rows_ratio=task.config.cleaning.max_bad_rows_ratio,
        columns=(),
    )
    remaining = (document for document in documents if (document.row, document.part) > last)
    pending = list[TokenizedBatch]()
    drops = _drop_counter(written)
    for batch in _batches(remaining):
        tokenized = tokenize_batch(batch, n_kept, task, drops)
        pending.append(tokenized)
        n_kept += tokenized.documents.table.num_rows
        last = (batch[-1].row, batch[-1].part)
        if _is_full(pending):
            _check_input(task)
            segment_uri = sorted_segments.uri_of(uri, len(written))
            written.append(_publish(pending, last, drops, task.tokenizer.engine, segment_uri))
            pending = []
            drops = _drop_counter(written)
    _check_input(task)
    if pending:
        segment_uri = sorted_segments.uri_of(uri, len(written))
        written.append(_publish(pending, last, drops, task.tokenizer.engine, segment_uri))
    return written


def _published_segments(task: TokenizeTask, uri: str) -> list[Segment]:
    """The segments that an earlier attempt published, up to the first gap."""
    published = list[Segment]()
    dtype = dtype_for(task.tokenizer.n_ids)
    while segment := sorted_segments.load(sorted_segments.uri_of(uri, len(published)), dtype):
        if segment.engine != task.tokenizer.engine:
            break
        published.append(segment)
    return published


def _drop_counter(written: list[Segment]) -> DropCounter:
    return DropCounter(drop for segment in written for drop in segment.samples)


def _batches(documents: Iterator[Document]) -> Iterator[list[Document]]:
    batch = list[Document]()
    n_chars = 0
    for document in documents:
        batch.append(document)
        n_chars += len(document.text)
        if n_chars >= BATCH_CHARS or len(batch) == BATCH_DOCUMENTS:
            yield batch
            batch = []
            n_chars = 0
    if batch:
        yield batch


def _is_full(pending: list[TokenizedBatch]) -> bool:
    n_documents = sum(batch.documents.table.num_rows for batch in pending)
    n_tokens = sum(len(batch.documents.tokens) for batch in pending)
    return n_documents >= SEGMENT_DOCUMENTS or n_tokens >= SEGMENT_TOKENS


def _publish(
    pending: list[TokenizedBatch], last: tuple[int, int], drops: DropCounter, engine: str, uri: str
) -> Segment:
    """Write the batches as one segment, and empty `pending`."""
    import pyarrow as pa

    tokens = np.concatenate([batch.documents.tokens for batch in pending])
    table = pa.concat_tables(batch.documents.table for batch in pending)
    hashes = _concat_hashes(pending)
    pending.clear()  # the tokens are copied, and a segment is large
    segment = Segment(
        engine=engine,
        last_row=last[0],
        last_part=last[1],
        n_documents=table.num_rows,
        n_tokens=len(tokens),
        n_text_bytes=int(sorted_segments.column(table, "n_bytes").sum()),
        n_hashes=0 if hashes is None else hashes.num_rows,
        drops=dict(sorted(drops.counts.items())),
        samples=tuple(drops.samples),
        n_annotated=int(sorted_segments.column(table, "annotated").sum()),
    )
    sorted_segments.write(uri, TokenizedDocuments(table, tokens), hashes, segment)
    return segment


def _concat_hashes(pending: list[TokenizedBatch]) -> "pyarrow.Table | None":
    """The hashes of the batches, `document` counted from the first batch on; None without dedup."""
    import pyarrow as pa

    tables = [batch.hashes for batch in pending if batch.hashes is not None]
    if not tables:
        return None
    sizes = [batch.documents.table.num_rows for batch in pending]
    joined = pa.concat_tables(tables)
    n_before = np.repeat(np.cumsum(sizes) - sizes, [hashes.num_rows for hashes in tables])
    document = sorted_segments.column(joined, "document") + n_before
    return joined.set_column(1, "document", pa.array(document))
