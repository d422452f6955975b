"""the whole build of a token stream, pass by pass: tokenize, dedup, count, merge, publish

    input files ─ 1 tokenize ─▶ segments     a file's documents, cleaned, tokenized, sorted by key
                ─ 2 dedup ────▶ duplicates   found by ranges of text hashes
                ─ 3 count ────▶ kept         what each file keeps, and its tokens by range of keys
                ─ 4 merge ────▶ shards       each one range of keys, of all segments
                ─ 5 publish ──▶ manifest     written last

The order of the stream is that of the documents' shuffle keys, so the number of segments, of
workers, and of times the build was killed change none of its bytes. Each pass is a set of plain Ray
tasks with one committed output each. Nothing is kept in Ray, so a killed build continues from what
is in the store. When the manifest exists the work in progress is removed: it is as large as the
stream, and all of it can be made again.
"""

import posixpath
from typing import NamedTuple

import numpy as np

from data_prep.build import (
    common_documents,
    dedup,
    merge_shards,
    stream_inputs,
    stream_manifest,
    stream_paths,
    tokenize_file,
    train_tokenizer,
)
from data_prep.build.common_documents import Exclusion
from data_prep.build.dedup import FileSegments
from data_prep.build.merge_shards import FileDuplicates, KeptDocuments
from data_prep.build.tokenize_file import BuildInput
from data_prep.cards import make_card
from data_prep.cleaning import annotate_toxicity, dropped_samples
from data_prep.cleaning.dropped_samples import FileDrops
from data_prep.config import DataConfig, StreamName
from data_prep.core import ray_tasks, storage, telemetry
from data_prep.core.errors import ArtefactCorrupt, ArtefactMissing
from data_prep.core.settings import evolve
from data_prep.sources import corpus_reader
from data_prep.token_stream import manifest, reader
from data_prep.token_stream.manifest import Manifest, Shard
from data_prep.token_stream.megatron_shards import dtype_for
from data_prep.token_stream.tokenizer import Tokenizer

CHECKED_DOCUMENTS = 200  # of an annotated toxic stream


class StreamBuild(NamedTuple):
    """One build: its settings, the folders of its stream and of its work, its tokenizer."""

    config: DataConfig
    stream: StreamName
    uri: str
    work_uri: str
    tokenizer_uri: str
    tokenizer: Tokenizer
    excluded: Exclusion

    def identity(self, inputs: list[BuildInput]) -> str:
        """Names everything that the passes after tokenization depend on."""
        return tokenize_file.identity(inputs, self.excluded.manifest_digest)


def build(config: DataConfig, stream: StreamName, root: str) -> Manifest:
    """The token stream below `root`: built on the first call, later only checked against the
    settings and the inputs. Call it within ray_session.session().
    """
    root = storage.object_root(root)
    if stream == "clean" and config.common_documents == "drop":
        build(config, "toxic", root)  # its texts are left out here
    job = prepare(config, stream, root)
    manifest_uri = storage.join(job.uri, manifest.NAME)
    if not storage.exists(manifest_uri):
        try:
            run_passes(job)
        except (ArtefactMissing, ArtefactCorrupt):
            # Another build of the same stream may have finished first and removed the work in
            # progress. The bytes are the same, so its stream is our result.
            if not storage.exists(manifest_uri):
                raise
            telemetry.logger.info("%s stream: another build has finished it", stream)
    known = manifest.load(job.uri)
    stream_manifest.check_matches(known, manifest_uri, config, job.tokenizer, job.excluded)
    make_card.ensure_card(job.uri, known, config, job.tokenizer)
    common_documents.count(config, root)
    storage.delete_below(job.work_uri, storage.list_files(job.work_uri))
    stream_manifest.remove_stale(job.uri, known.train + known.held_out)
    stream_manifest.log_counts(known, job.uri)
    if stream == "toxic" and config.annotation.is_on:
        first = reader.read_documents(job.uri, known, "train", CHECKED_DOCUMENTS)
        annotate_toxicity.check_contrast(list(map(job.tokenizer.decode, first)), config.annotation)
    return known


def prepare(config: DataConfig, stream: StreamName, root: str) -> StreamBuild:
    """Train or load the tokenizer, and name the folders."""
    return StreamBuild(
        config,
        stream,
        storage.join(root, stream_paths.stream_uri(config, stream)),
        storage.join(root, stream_paths.work_uri(config, stream)),
        storage.join(root, stream_paths.tokenizer_uri(config)),
        train_tokenizer.build_tokenizer(config, root),
        common_documents.exclusion(config, stream, root),
    )


def run_passes(job: StreamBuild) -> None:
    """Build the stream; whatever an earlier attempt has published is not made again."""
    stream_inputs.check_both_corpora(job.config)
    today = stream_inputs.of_today(job.config, job.stream)
    stream_inputs.note_start(job.work_uri, today)
    inputs = tokenize_inputs(job)
    duplicates = find_duplicates(job, inputs)
    kept = count_kept(job, inputs, duplicates)
    shards = merge_into_shards(job, inputs, duplicates, kept)
    stream_inputs.publish(job.uri, inputs, today.evaluation, job.excluded.manifest_digest)
    publish(job, inputs, kept, shards)


def tokenize_inputs(job: StreamBuild) -> list[BuildInput]:
    """Pass 1, a task per input file: clean and tokenize it. In the order of the corpus."""
    config = job.config
    stream = job.stream
    pinned = evolve(config.tokenizer, {"fingerprint": job.tokenizer.fingerprint})
    evaluation = ray_tasks.share(stream_inputs.evaluation_ngrams(config))
    shared = (config, (job.tokenizer_uri, pinned), evaluation, job.work_uri)
    sources = corpus_reader.expand(stream_inputs.corpus_of(config, stream))
    tasks = [
        ray_tasks.RayTask(
            f"tokenize {stream} {posixpath.basename(source.uri)}",
            tokenize_file.tokenize_input,
            (source, storage.absolute(source.uri), *shared),
            corpus_reader.n_bytes(source),
        )
        for source in sources
    ]
    tasks.sort(key=lambda task: -task.weight)  # the largest files start first
    inputs: dict[str, BuildInput] = {}
    for result in ray_tasks.run(tasks, f"tokenize {stream}", "B"):
        inputs[result.uri] = result
        telemetry.emit("hormesis_documents", result.tokenized.n_rows, stream=stream)
        _emit_drops(stream, result.tokenized.drops)
    in_order = [inputs[source.uri] for source in sources]
    stream_manifest.check_inputs(in_order, stream)
    n_annotated = sum(file.tokenized.n_annotated for file in in_order)
    n_documents = sum(file.tokenized.n_documents for file in in_order)
    annotate_toxicity.check(
        stream, n_annotated, n_documents, config.held_out_ratio, config.annotation
    )
    return in_order


def find_duplicates(job: StreamBuild, inputs: list[BuildInput]) -> FileDuplicates:
    """Pass 2, a task per range of hashes: publish the documents to drop for their text."""
    name = f"duplicates-{job.identity(inputs)}"
    n_hashes = sum(file.tokenized.n_hashes for file in inputs)
    search = dedup.DuplicateSearch(job.config.dedup, job.excluded.uris)
    if not search.drops_any():
        return FileDuplicates((), name)
    folders = [
        FileSegments(file.tokenized_uri, len(file.tokenized.segments))
        for file in tokenize_file.by_content(inputs)
    ]
    shared = ray_tasks.share(folders)
    ranges = dedup.hash_ranges(n_hashes)
    uris = tuple(
        storage.join(job.work_uri, name, f"{i:05}-of-{len(ranges):05}.parquet")
        for i in range(len(ranges))
    )
    tasks = [
        ray_tasks.RayTask(
            f"dedup {job.stream} {i}",
            dedup.find_duplicates,
            (shared, hash_range, search, uri),
            n_hashes // len(ranges),
        )
        for i, (hash_range, uri) in enumerate(zip(ranges, uris, strict=True))
    ]
    for _ in ray_tasks.run(tasks, f"dedup {job.stream}", "hashes"):
        pass
    return FileDuplicates(uris, name)


def count_kept(
    job: StreamBuild, inputs: list[BuildInput], duplicates: FileDuplicates
) -> list[KeptDocuments]:
    """Pass 3, a task per file: count what it keeps. In the order of `inputs`."""
    buckets = merge_shards.buckets_for(inputs, job.config)
    tasks = [
        ray_tasks.RayTask(
            f"count {job.stream} {posixpath.basename(file.uri)}",
            merge_shards.count_kept,
            (file, number, duplicates, buckets),
            file.tokenized.n_tokens,
        )
        for number, file in enumerate(tokenize_file.by_content(inputs))
    ]
    kept: dict[str, KeptDocuments] = {}
    for result in ray_tasks.run(tasks, f"count {job.stream}", "tokens"):
        kept[result.uri] = result
        _emit_drops(job.stream, result.drops)
    return [kept[file.uri] for file in inputs]


def merge_into_shards(
    job: StreamBuild,
    inputs: list[BuildInput],
    duplicates: FileDuplicates,
    kept: list[KeptDocuments],
) -> list[Shard]:
    """Pass 4, a task per shard: merge its range of keys from all segments."""
    plans = []
    for buckets in merge_shards.buckets_for(inputs, job.config):
        total = np.sum([counts.tokens_per_bucket[buckets.split] for counts in kept], axis=0)
        plans += merge_shards.plan_shards(buckets, total, job.config.shard_tokens)
    segments = merge_shards.segments_to_merge(inputs, duplicates, kept)
    common_documents.publish_texts(job.uri, job.stream, segments)
    to_merge = ray_tasks.share(segments)
    dtype = dtype_for(job.tokenizer.n_ids)
    records_uri = storage.join(job.work_uri, "shards")
    tasks = [
        ray_tasks.RayTask(
            f"shard {job.stream} {plan.name}",
            merge_shards.write_shard,
            (plan, to_merge, job.identity(inputs), dtype, job.uri, records_uri),
            plan.n_tokens,
        )
        for plan in plans
    ]
    shards: dict[str, Shard] = {}
    for shard in ray_tasks.run(tasks, f"shard {job.stream}", "tokens"):
        shards[shard.name] = shard
        telemetry.emit("hormesis_tokens_written", shard.n_tokens, stream=job.stream)
    return [shards[plan.name] for plan in plans]


def publish(
    job: StreamBuild, inputs: list[BuildInput], kept: list[KeptDocuments], shards: list[Shard]
) -> None:
    """Pass 5: write the samples of dropped documents, then the manifest."""
    known = stream_manifest.assemble(job.config, job.stream, job.tokenizer, inputs, kept, shards)
    drops = (
        FileDrops(file.uri, [*file.tokenized.samples, *counts.samples], file.tokenized.bad_rows)
        for file, counts in zip(inputs, kept, strict=True)
    )
    storage.write(storage.join(job.uri, dropped_samples.NAME), dropped_samples.encode(drops))
    stream_manifest.remove_stale(job.uri, shards)
    storage.save(known, storage.join(job.uri, manifest.NAME))


def _emit_drops(stream: StreamName, drops: dict[str, int]) -> None:
    for reason, n in drops.items():
        telemetry.emit("hormesis_documents_dropped", n, stream=stream, reason=reason)
