"""measure the overlap of evaluation texts with the training text of both streams, on Ray

Evaluation texts may be named after the streams were built, so they were not looked for then. Here
the shards are decoded and searched for their n-grams: one pass over a stream for all sets that have
no record of it, one task per shard, each with one part on the store, so that a killed search
continues. The n-grams and the form of the words are those of decontamination
(cleaning/decontaminate.py). Of a set at most MAX_SET_BYTES of text are searched for: a corpus of
held-out text would not fit in memory.

A document belongs to the shard in which it begins; a run of words across two documents is none.
"""

import math
import time
from collections.abc import Iterator, Sequence
from typing import NamedTuple, get_args

import numpy as np

from data_prep.build import stream_paths
from data_prep.cleaning import clean_document
from data_prep.cleaning.decontaminate import NGrams
from data_prep.config import CleaningConfig, DataConfig, StreamName, TokenizerConfig
from data_prep.core import ray_tasks, storage, telemetry
from data_prep.core.ray_tasks import RayTask
from data_prep.core.records import digest, record
from data_prep.overlap import overlap_record
from data_prep.overlap.overlap_record import SetOverlap, SoughtSet
from data_prep.sources import corpus_reader
from data_prep.sources.corpus_reader import Source
from data_prep.sources.uri_options import texts_of
from data_prep.token_stream import manifest, reader, token_bytes, tokenizer
from data_prep.token_stream.manifest import Manifest
from data_prep.token_stream.token_bytes import DecodeAll

MAX_SET_BYTES = 16 << 20
BATCH_TOKENS = 64 << 10  # about 256 KiB of text, as much as n-grams are hashed of at once


class _ReadSet(NamedTuple):
    """What is known of a set's texts after reading them."""

    digest: str
    n_texts: int
    n_searched: int
    is_whole: bool


class _Stream(NamedTuple):
    """A finished stream, and what decodes its documents."""

    uri: str
    manifest: Manifest
    tokenizer_uri: str
    tokenizer: TokenizerConfig


@record
class _SearchedShard:
    """A finished part of a search: the numbers of the evaluation texts that the shard overlaps."""

    found: tuple[int, ...]


def measure(config: DataConfig, root: str, sets: Sequence[SoughtSet]) -> None:
    """Record the overlap of each set with both finished streams of `config` below `root`, unless it
    is recorded or was looked for when they were built.

    Call it within ray_session.session(). data.overlap_search_ratio of the shards are searched.
    """
    ratio = config.overlap_search_ratio
    uris = {texts_of(sought.uri) for sought in sets}
    uris = sorted(uri for uri in uris if not overlap_record.was_looked_for(uri, config))
    if not uris or not ratio:
        return
    read = dict(zip(uris, _read_sets(uris, config), strict=True))
    for name in get_args(StreamName):
        stream = _stream(config, name, root)
        numbers = _searched_shards(stream.manifest, ratio)
        missing = [uri for uri in uris if not _is_recorded(stream, uri, read[uri], numbers)]
        if missing:
            _search(stream, {uri: read[uri] for uri in missing}, numbers, config)


def _stream(config: DataConfig, name: StreamName, root: str) -> _Stream:
    uri = storage.join(root, stream_paths.stream_uri(config, name))
    tokenizer_uri = storage.join(root, stream_paths.tokenizer_uri(config))
    return _Stream(uri, manifest.load(uri), tokenizer_uri, config.tokenizer)


def _searched_shards(known: Manifest, ratio: float) -> range:
    """The first shards, as many as the share asks for: documents are shuffled, so they are a random
    sample.
    """
    return range(math.ceil(ratio * len(known.train)))


def _is_recorded(stream: _Stream, uri: str, read: _ReadSet, numbers: range) -> bool:
    known = overlap_record.find(stream.uri, uri)
    return (
        known is not None
        and (known.manifest_digest, known.texts_digest) == (digest(stream.manifest), read.digest)
        and known.n_tokens_searched >= _n_tokens(stream.manifest, numbers)
    )


def _n_tokens(known: Manifest, numbers: range) -> int:
    return sum(known.train[number].n_tokens for number in numbers)


def _read_sets(uris: Sequence[str], config: DataConfig) -> list[_ReadSet]:
    """Read each set in a task; only counts come back."""
    tasks = [
        RayTask(f"read {uri}", _read_set, (number, _absolute(uri), *_rules(config)), 1)
        for number, uri in enumerate(uris)
    ]
    results = dict(ray_tasks.run(tasks, "evaluation texts", "sets"))
    return [results[number] for number in range(len(uris))]


def _rules(config: DataConfig) -> tuple[int, CleaningConfig]:
    return overlap_record.ngram_of(config), config.cleaning


def _absolute(uri: str) -> list[Source]:
    sources = corpus_reader.expand([uri])
    return [source._replace(uri=storage.absolute(source.uri)) for source in sources]


def _read_set(
    number: int, sources: list[Source], n: int, cleaning: CleaningConfig
) -> tuple[int, _ReadSet]:
    """The Ray task."""
    texts, is_whole = _texts(sources, cleaning)
    grams = NGrams.of(texts, n)
    return number, _ReadSet(grams.identity, len(texts), grams.n_searched, is_whole)


def _texts(sources: list[Source], cleaning: CleaningConfig) -> tuple[list[str], bool]:
    """The first texts of a set, MAX_SET_BYTES at most, masked as the documents are that they are
    searched for in; and whether these are all.
    """
    texts: list[str] = []
    n_bytes = 0
    for source in sources:
        for document in corpus_reader.read(source, columns=()):
            text = clean_document.without_drops(document.text, cleaning)
            n_bytes += len(text.encode(errors="replace"))
            if n_bytes > MAX_SET_BYTES:
                return texts, False
            texts.append(text)
    return texts, True


def _search(stream: _Stream, read: dict[str, _ReadSet], numbers: range, config: DataConfig) -> None:
    """Search the shards for the texts of all sets in `read`, and record each set."""
    started = time.monotonic()
    known = stream.manifest
    n_tokens = _n_tokens(known, numbers)
    telemetry.logger.info(
        "%s stream: searching %s tokens for %s evaluation texts of %d sets",
        known.stream,
        f"{n_tokens:,}",
        f"{sum(each.n_searched for each in read.values()):,}",
        len(read),
    )
    arguments = ([_absolute(uri) for uri in read], *_rules(config))
    (grams,) = ray_tasks.run([RayTask("n-grams", _ngrams, arguments, 1)], "n-grams", "task")
    identity = digest(digest(known), [each.digest for each in read.values()])
    parts = storage.join(stream.uri, overlap_record.FOLDER, "parts")
    shared = (ray_tasks.share(grams), ray_tasks.share(stream))
    tasks = [
        RayTask(
            f"overlap {known.stream} {known.train[number].name}",
            _search_shard,
            (*shared, number, storage.join(parts, identity, f"{known.train[number].name}.json")),
            known.train[number].n_tokens,
        )
        for number in numbers
    ]
    found: set[int] = set()
    for shard in ray_tasks.run(tasks, f"overlap {known.stream}", "tokens"):
        found.update(shard.found)
    _record(stream, read, found, n_tokens, config)
    storage.delete_below(parts, storage.list_files(parts))
    telemetry.logger.info("%s stream: searched in %.0f s", known.stream, time.monotonic() - started)


def _ngrams(sets: list[list[Source]], n: int, cleaning: CleaningConfig) -> NGrams:
    """The n-grams of the texts of all sets, one set behind the other."""
    return NGrams.of([text for sources in sets for text in _texts(sources, cleaning)[0]], n)


def _search_shard(grams: NGrams, stream: _Stream, number: int, part_uri: str) -> _SearchedShard:
    """The Ray task."""
    if storage.exists(part_uri):
        return storage.load(_SearchedShard, part_uri)
    documents = reader.documents_of_shard(stream.uri, stream.manifest, "train", number)
    engine = tokenizer.load(stream.tokenizer_uri, stream.tokenizer)
    is_found = np.zeros(len(grams.texts), bool)
    decode: DecodeAll | None = None
    for batch in _batches(documents):
        decode = decode or token_bytes.decoder(engine, batch)
        grams.mark_found(decode(batch), is_found)
    part = _SearchedShard(found=tuple(np.flatnonzero(is_found).tolist()))
    storage.save(part, part_uri)
    return part


def _batches(documents: Iterator[np.ndarray]) -> Iterator[list[np.ndarray]]:
    """The documents in batches of about BATCH_TOKENS."""
    batch: list[np.ndarray] = []
    n_tokens = 0
    for ids in documents:
        batch.append(ids)
        n_tokens += len(ids)
        if n_tokens >= BATCH_TOKENS:
            yield batch
            batch, n_tokens = [], 0
    if batch:
        yield batch


def _record(
    stream: _Stream,
    read: dict[str, _ReadSet],
    found: set[int],
    n_tokens_searched: int,
    config: DataConfig,
) -> None:
    known = stream.manifest
    first = 0
    for uri, each in read.items():
        first += each.n_texts
        overlap = SetOverlap(
            format_version=overlap_record.FORMAT_VERSION,
            manifest_digest=digest(known),
            texts_digest=each.digest,
            uri=uri,
            ngram=overlap_record.ngram_of(config),
            n_texts=each.n_texts,
            n_searched=each.n_searched,
            n_found=sum(first - each.n_texts <= text < first for text in found),
            is_whole_set=each.is_whole,
            n_tokens_searched=n_tokens_searched,
            n_tokens=known.split_tokens("train"),
        )
        storage.save(overlap, overlap_record.record_uri(stream.uri, uri))
