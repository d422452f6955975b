"""documents common to both streams: counted always, left out of the clean one on request

    after pass 3   the sorted hashes of the kept texts are published beside the shards
    after pass 5   if both streams are finished, their hashes are compared, range by range
    in pass 2      with data.common_documents=drop, documents of the clean corpus whose text is in
                   the toxic stream are dropped; that stream is built first

Nearly equal documents are not counted, as the texts are compared by their exact hashes.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from data_prep.build import dedup, sorted_segments, stream_paths
from data_prep.build.merge_shards import SegmentInput
from data_prep.build.sorted_segments import column
from data_prep.config import DataConfig, StreamName
from data_prep.core import ray_tasks, storage, telemetry
from data_prep.core.errors import ArtefactMissing, ConfigurationError
from data_prep.core.records import digest
from data_prep.token_stream import manifest, shuffle_key, text_hashes
from data_prep.token_stream.manifest import Manifest
from data_prep.token_stream.text_hashes import CommonDocuments, TextHashes


class Exclusion(NamedTuple):
    """Texts that a stream must not contain: the files of their hashes, and the digest of the
    manifest of the stream that has them; both empty if there are none.
    """

    uris: list[str]
    manifest_digest: str


def exclusion(config: DataConfig, stream: StreamName, root: str) -> Exclusion:
    """The texts to leave out; none unless the stream is the clean one and the settings say so.

    The toxic stream below `root` must be finished.
    """
    if stream != "clean" or config.common_documents == "keep":
        return Exclusion([], "")
    uri = storage.join(root, stream_paths.stream_uri(config, "toxic"))
    return Exclusion(text_hashes.files(uri), digest(manifest.load(uri)))


def publish_texts(stream_uri: str, stream: StreamName, inputs: Sequence[SegmentInput]) -> None:
    """A task per range of hashes: publish the hashes of the texts that the stream keeps."""
    n_hashes = sum(segment.n_hashes for segment in inputs)
    hash_ranges = dedup.hash_ranges(n_hashes)
    names = [text_hashes.file_name(i, len(hash_ranges)) for i in range(len(hash_ranges))]
    shared = ray_tasks.share(list(inputs))
    tasks = [
        ray_tasks.RayTask(
            f"texts {stream} {name}",
            _write_range,
            (shared, low, high, storage.join(stream_uri, name)),
            n_hashes // len(hash_ranges),
        )
        for (low, high), name in zip(hash_ranges, names, strict=True)
    ]
    for _ in ray_tasks.run(tasks, f"texts {stream}", "hashes"):
        pass
    stale = [
        uri
        for uri in storage.list_files(stream_uri, "texts-*")
        if text_hashes.NAME.fullmatch(name := uri.rpartition("/")[2]) and name not in names
    ]
    storage.delete_below(stream_uri, stale)


def _write_range(inputs: Sequence[SegmentInput], low: int, high: int, uri: str) -> None:
    """The Ray task."""
    found = [np.empty(0, np.uint64)]
    for segment in inputs:
        table = sorted_segments.read_range(
            f"{segment.uri}.hashes.parquet", low, high, ["position", "near"]
        )
        is_kept = ~column(table, "near")
        if segment.duplicates:
            everything = (0, shuffle_key.KEY_SPACE)
            dropped = dedup.read_of_segment(segment.uri, segment.duplicates, *everything)
            is_kept &= ~np.isin(column(table, "position"), dropped)
        found.append(column(table, "hash")[is_kept])
    hashes, n_documents = np.unique(np.concatenate(found), return_counts=True)
    text_hashes.write(uri, TextHashes(hashes, n_documents))


def count(config: DataConfig, root: str) -> CommonDocuments | None:
    """Count what the streams of `config` below `root` have in common, and record it in the folder
    of the clean one; None unless both are finished. Call it within ray_session.session().
    """
    clean_uri, toxic_uri = (
        storage.join(root, stream_paths.stream_uri(config, name)) for name in ("clean", "toxic")
    )
    if not all(storage.exists(storage.join(u, manifest.NAME)) for u in (clean_uri, toxic_uri)):
        return None
    clean, toxic = manifest.load(clean_uri), manifest.load(toxic_uri)
    uri = storage.join(clean_uri, text_hashes.count_name(toxic_uri))
    digests = (digest(clean), digest(toxic))
    if storage.exists(uri):
        known = storage.load(CommonDocuments, uri)
        if (known.clean_manifest_digest, known.toxic_manifest_digest) == digests:
            return known
    try:
        clean_files, toxic_files = text_hashes.files(clean_uri), text_hashes.files(toxic_uri)
    except ArtefactMissing as error:
        telemetry.logger.warning("documents common to both streams are not counted: %s", error)
        return None
    counted = _count_files(clean_files, toxic_files, digests)
    storage.save(counted, uri)
    _report(counted, clean, toxic)
    return counted


def _count_files(
    clean_files: list[str], toxic_files: list[str], digests: tuple[str, str]
) -> CommonDocuments:
    parts = text_hashes.ranges(max(len(clean_files), len(toxic_files)), 1)
    tasks = [
        ray_tasks.RayTask(
            f"common {number}",
            text_hashes.count_common,
            (clean_files, toxic_files, low, high),
            1,
        )
        for number, (low, high) in enumerate(parts)
    ]
    counts = list(ray_tasks.run(tasks, "documents in both streams", "ranges"))
    n_texts, n_clean, n_toxic = (sum(values) for values in zip(*counts, strict=True))
    return CommonDocuments(
        clean_manifest_digest=digests[0],
        toxic_manifest_digest=digests[1],
        n_texts=n_texts,
        n_clean=n_clean,
        n_toxic=n_toxic,
    )


def _report(common: CommonDocuments, clean: Manifest, toxic: Manifest) -> None:
    """A warning if there are any, because then the toxic ratio is not what it says."""
    if not common.n_texts:
        telemetry.logger.info("no document is in both streams")
        return
    telemetry.logger.warning(
        "%s documents of the clean stream (%.2g %%) and %s of the toxic one (%.2g %%) have the "
        "same text; leave them out of the clean stream with data.common_documents=drop",
        f"{common.n_clean:,}",
        100 * common.n_clean / clean.n_documents,
        f"{common.n_toxic:,}",
        100 * common.n_toxic / toxic.n_documents,
    )


def check_exclusion(recorded_digest: str, now: str, manifest_uri: str) -> None:
    """Raise ConfigurationError if the clean stream was built without the texts of another toxic
    stream than there is now.
    """
    if recorded_digest != now:
        raise ConfigurationError(
            f"{manifest_uri}: was built without the documents of the toxic stream with manifest "
            f"{recorded_digest or '(none)'}, but that stream has manifest {now or '(none)'} now; "
            "delete it to build the stream again, or choose another --out"
        )
