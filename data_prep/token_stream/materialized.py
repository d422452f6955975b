"""a mixture as ordinary Megatron shards, in the order of training, for other trainers

    to/train-00000.bin, .idx      one document a sequence, T tokens each: the rows of steps 0, 1, … without padding
       train-00000.documents.parquet   step, stream and number of each of them
       manifest.json              this record, written last

Our own training needs none of it: a mixture is a formula over two streams. Another trainer that
reads the sequences of these shards in order, unshuffled, sees the same rows in the same batches. A
shard is some whole steps, made by one task and read back; a task whose shard is there and whole
does nothing, so a killed run goes on, and two runs give the same bytes.
"""

import numpy as np

from data_prep.config import StreamName
from data_prep.core import ray_tasks, storage, telemetry
from data_prep.core.errors import ArtefactCorrupt, ArtefactMissing, ConfigurationError
from data_prep.core.records import digest, record
from data_prep.token_stream import manifest, megatron_shards
from data_prep.token_stream import mixture as mixtures
from data_prep.token_stream.manifest import Manifest, Shard, Split
from data_prep.token_stream.megatron_shards import TokenDtype
from data_prep.token_stream.mixture import PADDING, Mixture
from data_prep.token_stream.reader import SequenceReader

FORMAT_VERSION = 1
SHARD_TOKENS = 64 << 20


@record
class Mixed:
    """What was written. The two digests are of the streams' manifests; n_distinct_toxic of the
    toxic sequences are different.
    """

    format_version: int
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


def write(
    mixture: Mixture,
    sequence_length: int,
    streams: dict[StreamName, str],
    to: str,
    *,
    shard_tokens: int = SHARD_TOKENS,
) -> Mixed:
    """Write the mixture of the two `streams` (their folders) into the folder `to`, or read its
    record if it is there.

    shard_tokens: what a shard aims at; it has as many whole steps as fit, at least one. Call it
    within tasks.session().
    """
    known = {name: manifest.load(uri) for name, uri in streams.items()}
    clean, toxic = known["clean"], known["toxic"]
    if (clean.tokenizer_fingerprint, clean.dtype) != (toxic.tokenizer_fingerprint, toxic.dtype):
        raise ConfigurationError(
            f"the streams' tokenizers differ: {streams['clean']} by {clean.tokenizer_fingerprint}, {streams['toxic']} by "
            f"{toxic.tokenizer_fingerprint}; build both with one"
        )
    n_clean, n_toxic = (one.split_tokens("train") // sequence_length for one in (clean, toxic))
    mixtures.check_supply(mixture, n_clean, n_toxic, sequence_length)
    asked = (mixture, sequence_length, digest(clean), digest(toxic))
    record_uri = storage.join(to, manifest.NAME)
    if storage.exists(record_uri):
        made = storage.load(Mixed, record_uri)
        _check_same(made, asked, record_uri)
        return made
    per_shard = max(1, shard_tokens // (sequence_length * mixture.batch_size))
    jobs = []
    for number, first in enumerate(range(0, mixture.n_steps, per_shard)):
        steps = range(first, min(first + per_shard, mixture.n_steps))
        arguments = (mixture, sequence_length, streams, known, steps, to, f"train-{number:05}")
        jobs.append(
            ray_tasks.Job(f"materialize train-{number:05}", _make_shard, arguments, len(steps))
        )
    written = sorted(ray_tasks.run(jobs, "materialize", "steps"), key=lambda shard: shard.name)
    made = Mixed(
        format_version=FORMAT_VERSION,
        mixture=mixture,
        sequence_length=sequence_length,
        clean_manifest_digest=digest(clean),
        toxic_manifest_digest=digest(toxic),
        tokenizer_fingerprint=clean.tokenizer_fingerprint,
        vocab_size=clean.vocab_size,
        eos_id=clean.eos_id,
        dtype=clean.dtype,
        n_tokens=mixture.n_sequences * sequence_length,
        n_distinct_toxic=mixture.n_distinct_toxic(n_toxic),
        train=tuple(written),
    )
    storage.save(made, record_uri)
    for leftover in storage.glob(storage.join(to, "made", "*")):
        storage.delete(leftover)
    telemetry.logger.info("%s sequences in training order at %s", f"{mixture.n_sequences:,}", to)
    return made


def record_name(
    mixture: Mixture,
    sequence_length: int,
    manifest_digests: tuple[str, str],
    steps: range,
    name: str,
) -> str:
    """The file that says, until the manifest does, that shard `name` is whole: it names all that
    decides the content.
    """
    return f"{name}-{digest(FORMAT_VERSION, mixture, sequence_length, *manifest_digests, steps.start, steps.stop)}.json"


def _make_shard(
    mixture: Mixture,
    sequence_length: int,
    streams: dict[StreamName, str],
    known: dict[StreamName, Manifest],
    steps: range,
    to: str,
    name: str,
) -> Shard:
    """Publish the rows of `steps`; its record beside the shards makes a second call cheap."""
    import pyarrow as pa

    of = (digest(known["clean"]), digest(known["toxic"]))
    record_uri = storage.join(to, "made", record_name(mixture, sequence_length, of, steps, name))
    if storage.exists(record_uri):
        shard = storage.load(Shard, record_uri)
        try:
            megatron_shards.check_shard(to, shard)
            return shard
        except (ArtefactCorrupt, ArtefactMissing):
            telemetry.logger.warning("%s/%s is not what its record says; made again", to, name)
    clean, toxic = (
        SequenceReader(streams[of], known[of], "train", sequence_length)
        for of in ("clean", "toxic")
    )
    n_rows = sum(mixture.n_valid(step) for step in steps)
    tokens_RT, of_step = (
        np.empty((n_rows, sequence_length), known["clean"].dtype),
        np.empty(n_rows, np.int64),
    )
    of_stream, of_sequence, at = np.empty(n_rows, bool), np.empty(n_rows, np.int64), 0
    for step in steps:
        rows = mixture.rows(step)
        valid = rows.sequence != PADDING
        here = slice(at, at + int(valid.sum()))
        tokens_RT[here] = mixtures.read(rows, clean, toxic)[valid]
        of_step[here], of_stream[here], of_sequence[here], at = (
            step,
            rows.toxic[valid],
            rows.sequence[valid],
            here.stop,
        )
    names = pa.array(["clean", "toxic"]).take(pa.array(of_stream.astype(np.int8)))
    documents = pa.table({"step": of_step, "stream": names, "sequence": of_sequence})
    shard = megatron_shards.write_shard(
        to, name, tokens_RT.reshape(-1), np.full(n_rows, sequence_length, dtype=np.int64), documents
    )
    megatron_shards.check_shard(to, shard)
    storage.save(shard, record_uri)
    return shard


def _check_same(made: Mixed, asked: tuple[Mixture, int, str, str], uri: str) -> None:
    then = (
        made.mixture,
        made.sequence_length,
        made.clean_manifest_digest,
        made.toxic_manifest_digest,
    )
    if made.format_version != FORMAT_VERSION or digest(*then) != digest(*asked):
        raise ConfigurationError(
            f"{uri}: holds another mixture ({made.mixture.n_clean:,} clean and {made.mixture.n_toxic:,} toxic sequences of "
            f"{made.sequence_length} tokens, asked: {asked[0].n_clean:,}, {asked[0].n_toxic:,}, {asked[1]}), or one of other "
            "streams; delete the folder, or give another --to"
        )
