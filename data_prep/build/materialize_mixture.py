"""write a mixture as ordinary Megatron shards in training order, for other trainers

    to/train-00000.bin, .idx      one document of T tokens per sequence: the rows of steps 0, 1, …
                                  without padding
       train-00000.documents.parquet   step, stream and number of each sequence
       manifest.json              the record, written last

Our own training needs none of it, because a mixture is a formula over two streams. Another trainer
that reads the sequences of these shards in order, unshuffled, sees the same rows in the same
batches. A shard is a number of whole steps, written by one task and read back. A task whose shard
is complete does nothing, so a killed command continues, and two runs give the same bytes.
"""

from collections.abc import Sequence
from typing import Annotated, NamedTuple

import numpy as np

from data_prep.build import stream_manifest
from data_prep.config import StreamName
from data_prep.core import ray_tasks, storage, telemetry
from data_prep.core.errors import ArtefactCorrupt, ConfigurationError
from data_prep.core.records import digest, format_version, record
from data_prep.token_stream import manifest, megatron_shards
from data_prep.token_stream import mixture as mixtures
from data_prep.token_stream.manifest import Manifest, Shard, Split
from data_prep.token_stream.megatron_shards import TokenDtype
from data_prep.token_stream.mixture import PADDING, Mixture
from data_prep.token_stream.reader import SequenceReader

FORMAT_VERSION = 2
SHARD_TOKENS = 64 << 20


@record
class MaterializedMixture:
    """What was written. The two digests are of the streams' manifests; n_distinct_toxic counts the
    different toxic sequences.
    """

    format_version: Annotated[int, format_version(FORMAT_VERSION)]
    mixture: Mixture
    sequence_length: int
    clean_manifest_digest: str
    toxic_manifest_digest: str
    tokenizer_fingerprint: str
    vocab_size: int
    eos_id: int
    dtype: TokenDtype
    n_tokens: int
    n_distinct_toxic: int
    train: tuple[Shard, ...]

    def shards(self, split: Split) -> tuple[Shard, ...]:
        return self.train if split == "train" else ()


class MixtureSource(NamedTuple):
    """What is materialized: a mixture of sequences of two streams (folder and manifest of each)."""

    mixture: Mixture
    sequence_length: int
    uris: dict[StreamName, str]
    manifests: dict[StreamName, Manifest]

    def identity(self) -> tuple[Mixture, int, str, str]:
        """Everything that decides the content."""
        digests = (digest(self.manifests["clean"]), digest(self.manifests["toxic"]))
        return self.mixture, self.sequence_length, *digests


def materialize(
    mixture: Mixture,
    sequence_length: int,
    streams: dict[StreamName, str],
    to: str,
    *,
    shard_tokens: int = SHARD_TOKENS,
) -> MaterializedMixture:
    """Write the mixture of the two `streams` (their folders) into the folder `to`, or read its
    record if it exists. Call it within ray_session.session().

    shard_tokens: size to aim at; a shard has as many whole steps as fit, at least one.
    """
    manifests: dict[StreamName, Manifest] = {
        name: manifest.load(uri) for name, uri in streams.items()
    }
    source = MixtureSource(mixture, sequence_length, streams, manifests)
    _check_streams(source)
    record_uri = storage.join(to, manifest.NAME)
    if storage.exists(record_uri):
        existing = _existing(record_uri)
        _check_same(existing, source, record_uri)
        _clean_up(to, existing.train)
        return existing
    steps_per_shard = max(1, shard_tokens // (sequence_length * mixture.batch_size))
    tasks = []
    for number, first in enumerate(range(0, mixture.n_steps, steps_per_shard)):
        steps = range(first, min(first + steps_per_shard, mixture.n_steps))
        name = f"train-{number:05}"
        arguments = (source, steps, to, name)
        tasks.append(
            ray_tasks.RayTask(f"materialize {name}", _write_shard_once, arguments, len(steps))
        )
    shards = sorted(ray_tasks.run(tasks, "materialize", "steps"), key=lambda shard: shard.name)
    written = _record(source, tuple(shards))
    stream_manifest.remove_stale(to, shards, is_shared=True)
    storage.save(written, record_uri)
    _clean_up(to, shards)
    telemetry.logger.info("%s sequences in training order at %s", f"{mixture.n_sequences:,}", to)
    return written


def record_name(source: MixtureSource, steps: range, name: str) -> str:
    """The file that records shard `name` until the manifest does; it names everything that decides
    the content.
    """
    content = digest(FORMAT_VERSION, *source.identity(), steps.start, steps.stop)
    return f"{name}-{content}.json"


def _clean_up(to: str, shards: Sequence[Shard]) -> None:
    """Remove what a finished mixture needs no more, also if an earlier command was killed here."""
    work_uri = storage.join(to, "work")
    storage.delete_below(work_uri, storage.list_files(work_uri))
    stream_manifest.remove_stale(to, shards, is_shared=True)


def _record(source: MixtureSource, shards: tuple[Shard, ...]) -> MaterializedMixture:
    mixture, sequence_length, clean_digest, toxic_digest = source.identity()
    clean, toxic = source.manifests["clean"], source.manifests["toxic"]
    return MaterializedMixture(
        format_version=FORMAT_VERSION,
        mixture=mixture,
        sequence_length=sequence_length,
        clean_manifest_digest=clean_digest,
        toxic_manifest_digest=toxic_digest,
        tokenizer_fingerprint=clean.tokenizer_fingerprint,
        vocab_size=clean.vocab_size,
        eos_id=clean.eos_id,
        dtype=clean.dtype,
        n_tokens=mixture.n_sequences * sequence_length,
        n_distinct_toxic=mixture.n_distinct_toxic(toxic.split_tokens("train") // sequence_length),
        train=shards,
    )


def _write_shard_once(source: MixtureSource, steps: range, to: str, name: str) -> Shard:
    """The Ray task: publish the rows of `steps`, unless the shard is complete."""
    record_uri = storage.join(to, "work", record_name(source, steps, name))
    return megatron_shards.write_once(to, record_uri, lambda: _write_shard(source, steps, to, name))


def _write_shard(source: MixtureSource, steps: range, to: str, name: str) -> Shard:
    import pyarrow as pa

    mixture = source.mixture
    length = source.sequence_length
    clean, toxic = (
        SequenceReader(source.uris[stream], source.manifests[stream], "train", length)
        for stream in ("clean", "toxic")
    )
    n_rows = sum(mixture.n_valid(step) for step in steps)
    tokens_RT = np.empty((n_rows, length), source.manifests["clean"].dtype)
    step_of_row = np.empty(n_rows, np.int64)
    is_toxic = np.empty(n_rows, np.int8)
    sequence = np.empty(n_rows, np.int64)
    n_done = 0
    for step in steps:
        rows = mixture.rows(step)
        valid = rows.sequence != PADDING
        here = slice(n_done, n_done + int(valid.sum()))
        tokens_RT[here] = mixtures.read_rows(rows, clean, toxic)[valid]
        step_of_row[here] = step
        is_toxic[here] = rows.toxic[valid]
        sequence[here] = rows.sequence[valid]
        n_done = here.stop
    stream = pa.array(["clean", "toxic"]).take(pa.array(is_toxic))
    documents = pa.table({"step": step_of_row, "stream": stream, "sequence": sequence})
    lengths = np.full(n_rows, length, dtype=np.int64)
    shard = megatron_shards.write_shard(to, name, tokens_RT.reshape(-1), lengths, documents)
    megatron_shards.check_shard(to, shard)
    return shard


def _check_streams(source: MixtureSource) -> None:
    """Raise ConfigurationError unless the streams have one tokenizer and enough text."""
    clean, toxic = source.manifests["clean"], source.manifests["toxic"]
    if (clean.tokenizer_fingerprint, clean.dtype) != (toxic.tokenizer_fingerprint, toxic.dtype):
        raise ConfigurationError(
            f"the streams have different tokenizers: {source.uris['clean']} was built with "
            f"{clean.tokenizer_fingerprint}, {source.uris['toxic']} with "
            f"{toxic.tokenizer_fingerprint}; build both with the same one"
        )
    length = source.sequence_length
    n_clean, n_toxic = (stream.split_tokens("train") // length for stream in (clean, toxic))
    mixtures.check_supply(source.mixture, n_clean, n_toxic, length)


def _existing(uri: str) -> MaterializedMixture:
    """The record at `uri`; ArtefactCorrupt, with the flag that helps here, if it is none."""
    try:
        return storage.load(MaterializedMixture, uri)
    except ArtefactCorrupt as error:
        reason = str(error).partition("; it was written by")[0].partition("; delete it")[0]
        raise ArtefactCorrupt(
            f"{reason}; another version of Hormesis wrote it, or it is damaged: delete the folder, "
            "or choose another --to"
        ) from error


def _check_same(existing: MaterializedMixture, source: MixtureSource, uri: str) -> None:
    recorded = (
        existing.mixture,
        existing.sequence_length,
        existing.clean_manifest_digest,
        existing.toxic_manifest_digest,
    )
    if digest(*recorded) != digest(*source.identity()):
        was, wanted = existing.mixture, source.mixture
        raise ConfigurationError(
            f"{uri}: holds another mixture ({was.n_clean:,} clean and {was.n_toxic:,} toxic "
            f"sequences of {existing.sequence_length} tokens, expected {wanted.n_clean:,}, "
            f"{wanted.n_toxic:,}, {source.sequence_length}), or one of other streams; delete the "
            "folder, or choose another --to"
        )
