"""the build in passes of Ray tasks: files → units, copies found, ranges of keys → shards of one
size, then the manifest

    file 0 ──tokenize──▶ unit 0  ░░▒▒▓▓██      a unit's segments are sorted by key; a shard reads the same range of keys from
    file 1 ──tokenize──▶ unit 1  ░░▒▒▓▓██      all of them and merges, so the order of the whole stream is that of the keys,
                                 │  │  └─ …    whatever the number of segments, of workers, or of times the build was killed
                          held_out  train-00000

Plain tasks, one committed output each, a bounded number in flight: nothing is kept in Ray, so a
build that was killed goes on from what the store holds. When the manifest is there the units are
removed: they are as large as the stream, and all of them can be made again. Another build may do
that under ours; then its manifest is our result, for the bytes are the same. An error that would
come again (HormesisError) is not retried and arrives as itself.
"""

import os
import posixpath
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from data_prep.build import (
    dedup,
    dropped_samples,
    merge_shards,
    segments,
    stream_paths,
    tokenize_file,
    train_tokenizer,
)
from data_prep.build.dropped_samples import Drop
from data_prep.build.merge_shards import SPLITS, Cut, Run
from data_prep.build.segments import column
from data_prep.cleaning import annotate, clean_document
from data_prep.cleaning.decontaminate import NGrams
from data_prep.config import DataConfig, StreamName, TokenizerConfig
from data_prep.core import ray_tasks, storage, telemetry
from data_prep.core.errors import ArtefactCorrupt, ArtefactMissing, ConfigurationError
from data_prep.core.records import digest
from data_prep.sources import corpus_reader
from data_prep.token_stream import data_card, manifest, megatron_shards, tokenizer
from data_prep.token_stream.manifest import InputFile, Manifest, Shard, Split
from data_prep.token_stream.tokenizer import Tokenizer


class _Made(NamedTuple):
    """One input file after the first pass."""

    uri: str
    n_bytes: int
    unit_uri: str
    unit: tokenize_file.Unit


class _Staying(NamedTuple):
    """What stays of a unit when copies of documents are left out."""

    n_documents: int
    n_tokens: int
    n_text_bytes: int
    drops: dict[str, int]
    samples: tuple[Drop, ...]
    losing_segments: tuple[int, ...]  # those that lose a document
    buckets: dict[Split, np.ndarray]  # tokens in each (merge_shards.py)


def build(config: DataConfig, stream: StreamName, root: str) -> Manifest:
    """The token stream below `root`: built on the first call, checked against settings, input names
    and sizes ever after.
    """
    root = storage.absolute(root)
    uri = storage.join(root, stream_paths.stream_uri(config, stream))
    record_uri = storage.join(uri, manifest.NAME)
    engine = train_tokenizer.build_tokenizer(config, root)
    if not storage.exists(record_uri):
        try:
            _build(config, stream, root, engine)
        except (ArtefactMissing, ArtefactCorrupt):
            if not storage.exists(record_uri):
                raise
            telemetry.logger.info("%s stream: another build has finished it", stream)
    known = manifest.load(uri)
    _check_manifest(known, record_uri, config, engine)
    data_card.ensure(uri, known, config, engine)
    for leftover in storage.glob(storage.join(root, stream_paths.units_uri(config, stream), "**")):
        storage.delete(leftover)
    telemetry.logger.info(
        "%s stream: %s documents, %s tokens at %s",
        stream,
        f"{known.n_documents:,}",
        f"{known.n_tokens:,}",
        uri,
    )
    return known


def _build(config: DataConfig, stream: StreamName, root: str, engine: Tokenizer) -> None:
    uri = storage.join(root, stream_paths.stream_uri(config, stream))
    made = _first_pass(config, stream, root, engine)
    staying = _without_copies(config, stream, root, made)
    written = _second_pass(config, stream, root, engine, made, staying)
    known = _manifest(config, stream, engine, made, staying, written)
    dropped = (
        (one.uri, [*one.unit.samples, *stays.samples], one.unit.bad_rows)
        for one, stays in zip(made, staying, strict=True)
    )
    storage.write(storage.join(uri, dropped_samples.NAME), dropped_samples.encode(dropped))
    storage.save(known, storage.join(uri, manifest.NAME))


def _first_pass(
    config: DataConfig, stream: StreamName, root: str, engine: Tokenizer
) -> list[_Made]:
    """Every input file's unit, in the order of the files; the largest files are begun first."""
    pinned = (
        storage.join(root, stream_paths.tokenizer_uri(config)),
        replace(config.tokenizer, fingerprint=engine.fingerprint),
    )
    folder = storage.join(root, stream_paths.units_uri(config, stream))
    evaluation = ray_tasks.share(_evaluation(config))
    jobs = [
        ray_tasks.Job(
            f"tokenize {stream} {posixpath.basename(source.uri)}",
            _make_unit,
            (source, storage.absolute(source.uri), config, pinned, evaluation, folder),
            size,
        )
        for source in corpus_reader.expand(getattr(config, stream))
        for size in [corpus_reader.n_bytes(source)]
    ]
    made: list[_Made] = []
    for result in ray_tasks.run(
        sorted(jobs, key=lambda job: -job.weight), f"tokenize {stream}", "B"
    ):
        made.append(result)
        telemetry.emit("hormesis_documents", result.unit.n_rows, stream=stream)
        for reason, n in result.unit.drops.items():
            telemetry.emit("hormesis_documents_dropped", n, stream=stream, reason=reason)
    order = {job.arguments[0].uri: number for number, job in enumerate(jobs)}
    made.sort(key=lambda one: order[one.uri])
    _check_made(made, stream)
    annotate.check(stream, sum(one.unit.n_annotated for one in made), config.annotation)
    return made


def _evaluation(config: DataConfig) -> NGrams | None:
    """The n-grams that no document may share with the evaluation texts: made once a build, read by
    all its tasks.
    """
    if not config.decontamination.uris or not config.decontamination.ngram:
        return None
    sources = [
        source._replace(uri=storage.absolute(source.uri))
        for source in corpus_reader.expand(config.decontamination.uris)
    ]
    (found,) = ray_tasks.run(
        [ray_tasks.Job("n-grams of the evaluation", _ngrams, (sources, config), 1)],
        "n-grams",
        "task",
    )
    return found


def _without_copies(
    config: DataConfig, stream: StreamName, root: str, made: list[_Made]
) -> list[_Staying]:
    """What stays of each unit, in the order of `made`."""
    folder = storage.join(root, stream_paths.units_uri(config, stream))
    in_order = sorted(made, key=_rank)
    places = ray_tasks.share(
        [dedup.Place(one.unit_uri, len(one.unit.segments)) for one in in_order]
    )
    name = f"losers-{_identity(made)}"
    n_hashes, files = sum(one.unit.n_hashes for one in made), list[str]()
    if n_hashes:
        ranges = dedup.ranges(n_hashes)
        files = [
            storage.join(folder, name, f"{i:05}-of-{len(ranges):05}.parquet")
            for i in range(len(ranges))
        ]
        jobs = [
            ray_tasks.Job(
                f"copies {stream} {i}", dedup.find, (places, *bounds, file), n_hashes // len(ranges)
            )
            for i, (bounds, file) in enumerate(zip(ranges, files, strict=True))
        ]
        for _ in ray_tasks.run(jobs, f"copies {stream}", "hashes"):
            pass
    n_buckets = merge_shards.n_buckets(sum(one.unit.n_tokens for one in made), config)
    jobs = [
        ray_tasks.Job(
            f"count {stream} {posixpath.basename(one.uri)}",
            _settle,
            (unit, one, files, name, config, n_buckets),
            one.unit.n_tokens,
        )
        for unit, one in enumerate(in_order)
    ]
    found = dict[str, _Staying]()
    for uri, staying in ray_tasks.run(jobs, f"count {stream}", "tokens"):
        found[uri] = staying
        for reason, n in staying.drops.items():
            telemetry.emit("hormesis_documents_dropped", n, stream=stream, reason=reason)
    return [found[one.uri] for one in made]


def _second_pass(
    config: DataConfig,
    stream: StreamName,
    root: str,
    engine: Tokenizer,
    made: list[_Made],
    staying: list[_Staying],
) -> dict[Split, tuple[Shard, ...]]:
    """The shards of both splits in order of their keys."""
    uri, folder = (
        storage.join(root, part(config, stream))
        for part in (stream_paths.stream_uri, stream_paths.units_uri)
    )
    identity = _identity(made)
    runs = ray_tasks.share(list(_runs(made, staying, f"losers-{identity}")))
    wanted = [
        cut
        for split in SPLITS
        for cut in merge_shards.of_split(
            np.sum([one.buckets[split] for one in staying], axis=0), split, config
        )
    ]
    dtype = megatron_shards.dtype_for(engine.n_ids)
    jobs = [
        ray_tasks.Job(
            f"shard {stream} {cut.name}",
            _make_shard,
            (cut, runs, identity, dtype, uri, folder),
            cut.n_tokens,
        )
        for cut in wanted
    ]
    written: dict[str, Shard] = {}
    for shard in ray_tasks.run(jobs, f"shard {stream}", "tokens"):
        written[shard.name] = shard
        telemetry.emit("hormesis_tokens_written", shard.n_tokens, stream=stream)
    return {
        split: tuple(written[cut.name] for cut in wanted if cut.split == split) for split in SPLITS
    }


def _rank(one: _Made) -> str:
    """Where a unit stands among documents of equal keys."""
    return one.unit.input_sha256


def _identity(made: list[_Made]) -> str:
    """Names all that the second pass depends on, provenance included."""
    return digest(sorted((posixpath.basename(one.unit_uri), one.uri) for one in made))


def _runs(made: list[_Made], staying: list[_Staying], name: str) -> Iterator[Run]:
    stays = {one.uri: stays for one, stays in zip(made, staying, strict=True)}
    for one in sorted(made, key=_rank):
        for number, segment in enumerate(one.unit.segments):
            if segment.n_documents:
                losing = number in stays[one.uri].losing_segments
                yield Run(segments.uri_of(one.unit_uri, number), one.uri, name if losing else None)


def _manifest(
    config: DataConfig,
    stream: StreamName,
    engine: Tokenizer,
    made: list[_Made],
    staying: list[_Staying],
    written: dict[Split, tuple[Shard, ...]],
) -> Manifest:
    _check_complete(stream, made, staying, [shard for split in written.values() for shard in split])
    if not written["train"]:
        raise ConfigurationError(
            f"the {stream} corpus: all its documents fell into the held-out split; add documents"
        )
    if not written["held_out"]:
        telemetry.logger.warning(
            "the %s corpus: no document fell into the held-out split; add documents", stream
        )
    return Manifest(
        format_version=manifest.FORMAT_VERSION,
        stream=stream,
        settings_digest=stream_paths.stream_digest(config, stream),
        tokenizer_fingerprint=engine.fingerprint,
        vocab_size=engine.n_ids,
        eos_id=engine.eos_id,
        dtype=megatron_shards.dtype_for(engine.n_ids),
        cleaning_version=clean_document.VERSION,
        n_documents=sum(one.n_documents for one in staying),
        n_tokens=sum(one.n_tokens for one in staying),
        n_text_bytes=sum(one.n_text_bytes for one in staying),
        drops=_sum(
            drops
            for one, stays in zip(made, staying, strict=True)
            for drops in (one.unit.drops, stays.drops)
        ),
        train=written["train"],
        held_out=written["held_out"],
        inputs=tuple(
            InputFile(
                uri=one.uri,
                sha256=one.unit.input_sha256,
                n_bytes=one.n_bytes,
                n_documents=stays.n_documents,
                n_tokens=stays.n_tokens,
                n_bad_rows=one.unit.n_bad_rows,
                fell_back=one.unit.fell_back,
            )
            for one, stays in zip(made, staying, strict=True)
        ),
    )


# The work of one task, run in a Ray worker.


def _ngrams(sources: list[corpus_reader.Source], config: DataConfig) -> NGrams:
    return NGrams.of(
        [document.text for source in sources for document in corpus_reader.read(source)],
        config.decontamination.ngram,
    )


def _make_unit(
    source: corpus_reader.Source,
    location: str,
    config: DataConfig,
    pinned: tuple[str, TokenizerConfig],
    evaluation: NGrams | None,
    folder: str,
) -> _Made:
    os.environ["RAYON_NUM_THREADS"] = "1"  # the task has one CPU; the fast engine would take all
    here = source._replace(uri=location)
    task = tokenize_file.Task(
        here, corpus_reader.checksum(here), tokenizer.load(*pinned), config, evaluation
    )
    uri = storage.join(folder, tokenize_file.name_of(task))
    return _Made(source.uri, corpus_reader.n_bytes(here), uri, tokenize_file.make(task, uri))


def _settle(
    number: int, one: _Made, loser_files: list[str], name: str, config: DataConfig, n_buckets: int
) -> tuple[str, _Staying]:
    """What stays of unit `number` without its copies; which go is published beside each segment
    that loses one.
    """
    lost = dedup.of_unit(loser_files, number) if loser_files else None
    totals, losing = Counter[str](), list[int]()
    dropped, samples = Counter[str](), dropped_samples.Samples()
    buckets: dict[Split, np.ndarray] = {split: np.zeros(n_buckets, np.int64) for split in SPLITS}
    for i, segment in enumerate(one.unit.segments):
        if not segment.n_documents:
            continue
        uri = segments.uri_of(one.unit_uri, i)
        table = segments.rows(
            f"{uri}.documents.parquet",
            0,
            tokenize_file.KEY_SPACE,
            ["at", "row", "part", "n_tokens", "n_bytes"],
        )
        stays = np.ones(table.num_rows, bool)
        if lost is not None and len(gone := np.flatnonzero(column(lost, "segment") == i)):
            dedup.publish(lost, uri, i, name)
            losing.append(i)
            at, near = column(lost, "at")[gone], column(lost, "near")[gone]
            stays[at] = False
            origin = zip(
                column(table, "row")[at].tolist(),
                column(table, "part")[at].tolist(),
                near.tolist(),
                strict=True,
            )
            for row, part, is_near in sorted(origin):
                reason = "near_duplicate" if is_near else "exact_duplicate"
                dropped[reason] += 1
                samples.note(reason, row, part, "")
        keys, n_tokens = column(table, "key")[stays], column(table, "n_tokens")[stays]
        totals.update(
            documents=len(keys),
            tokens=int(n_tokens.sum()),
            bytes=int(column(table, "n_bytes")[stays].sum()),
        )
        for split, counts in buckets.items():
            counts += merge_shards.histogram(keys, n_tokens, split, n_buckets, config)
    counts = totals["documents"], totals["tokens"], totals["bytes"]
    return one.uri, _Staying(*counts, dict(dropped), tuple(samples.kept), tuple(losing), buckets)


def _make_shard(
    cut: Cut,
    runs: list[Run],
    identity: str,
    dtype: megatron_shards.TokenDtype,
    uri: str,
    folder: str,
) -> Shard:
    """Publish one shard; the record of it among the units makes a second call cheap."""
    record_uri = storage.join(
        folder, "shards", f"{cut.name}-{digest(identity, cut.low, cut.high, cut.n_skipped)}.json"
    )
    if storage.exists(record_uri):
        shard = storage.load(Shard, record_uri)
        try:
            megatron_shards.check_shard(uri, shard)
            return shard
        except (ArtefactCorrupt, ArtefactMissing):
            telemetry.logger.warning("%s/%s is not what its record says; made again", uri, cut.name)
    shard = megatron_shards.write_shard(uri, cut.name, *merge_shards.merged(cut, runs, dtype))
    storage.save(shard, record_uri)
    return shard


def _check_manifest(
    known: Manifest, record_uri: str, config: DataConfig, engine: Tokenizer
) -> None:
    if known.tokenizer_fingerprint != engine.fingerprint:
        raise ConfigurationError(
            f"{record_uri}: was built with tokenizer {known.tokenizer_fingerprint}, the one below this root is "
            f"{engine.fingerprint}; bring that file back, or delete the manifest to build again"
        )
    inputs = tuple((file.uri, file.n_bytes) for file in known.inputs)
    corpus = config.clean if known.stream == "clean" else config.toxic
    asked = (
        stream_paths.stream_digest(config, known.stream),
        train_tokenizer.names_and_sizes(corpus),
    )
    stream_paths.check_unchanged(record_uri, (known.settings_digest, inputs), asked)


def _check_made(made: list[_Made], stream: StreamName) -> None:
    first: dict[str, str] = {}
    for one in made:
        twin = first.setdefault(one.unit.input_sha256, one.uri)
        if twin != one.uri:
            raise ConfigurationError(
                f"the {stream} corpus: {twin} and {one.uri} have the same bytes (sha256 {one.unit.input_sha256[:16]}…), so every "
                "document would come twice; name one of them"
            )
    if not sum(one.unit.n_documents for one in made):
        rows, bad = sum(one.unit.n_rows for one in made), sum(one.unit.n_bad_rows for one in made)
        raise ConfigurationError(
            f"the {stream} corpus: no document is left of {rows:,} rows in {len(made)} files; unreadable: {bad:,}, dropped: "
            f"{_sum(one.unit.drops for one in made)}; check the text field (URI#text=FIELD) and data.cleaning"
        )


def _check_complete(
    stream: StreamName, made: list[_Made], staying: list[_Staying], written: list[Shard]
) -> None:
    expected = (sum(one.n_documents for one in staying), sum(one.n_tokens for one in staying))
    got = (sum(shard.n_documents for shard in written), sum(shard.n_tokens for shard in written))
    if got != expected:
        raise ArtefactCorrupt(
            f"the {stream} stream: its shards hold {got[0]:,} documents and {got[1]:,} tokens, its units {expected[0]:,} and "
            f"{expected[1]:,}; delete {posixpath.dirname(made[0].unit_uri)} and build again"
        )


def _sum(counts: Iterable[dict[str, int]]) -> dict[str, int]:
    return dict(sorted(sum((Counter(each) for each in counts), Counter[str]()).items()))
