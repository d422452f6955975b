"""the manifest of a build: assembled from its passes, checked against settings and inputs"""

import posixpath
import re
from collections.abc import Sequence

from data_prep.build import common_documents, stream_inputs, stream_paths
from data_prep.build.common_documents import Exclusion
from data_prep.build.merge_shards import KeptDocuments
from data_prep.build.tokenize_file import BuildInput
from data_prep.cleaning import clean_document, dropped_samples
from data_prep.config import DataConfig, StreamName
from data_prep.core import storage, telemetry
from data_prep.core.errors import ArtefactCorrupt, ConfigurationError
from data_prep.token_stream import manifest
from data_prep.token_stream.manifest import InputFile, Manifest, Shard
from data_prep.token_stream.megatron_shards import dtype_for
from data_prep.token_stream.tokenizer import Tokenizer

MAX_NAMED = 5  # input files that a message names
SHARD_FILE = re.compile(r"((?:train|held_out)-\d{5,})\.(?:bin|idx|documents\.parquet)")


def assemble(
    config: DataConfig,
    stream: StreamName,
    tokenizer: Tokenizer,
    inputs: Sequence[BuildInput],
    kept: Sequence[KeptDocuments],
    shards: Sequence[Shard],
) -> Manifest:
    """The manifest of a finished stream.

    kept: in the order of `inputs`. shards: of both splits, each in the order of the stream.
    """
    _check_complete(stream, inputs, kept, shards)
    train = tuple(shard for shard in shards if shard.name.startswith("train-"))
    held_out = tuple(shard for shard in shards if shard.name.startswith("held_out-"))
    _check_splits(stream, train, held_out)
    drops = [file.tokenized.drops for file in inputs] + [counts.drops for counts in kept]
    return Manifest(
        format_version=manifest.FORMAT_VERSION,
        stream=stream,
        settings_digest=stream_paths.stream_digest(config, stream),
        tokenizer_fingerprint=tokenizer.fingerprint,
        vocab_size=tokenizer.n_ids,
        eos_id=tokenizer.eos_id,
        dtype=dtype_for(tokenizer.n_ids),
        cleaning_version=clean_document.VERSION,
        n_documents=sum(counts.n_documents for counts in kept),
        n_tokens=sum(counts.n_tokens for counts in kept),
        n_text_bytes=sum(counts.n_text_bytes for counts in kept),
        drops=dropped_samples.add_counts(drops),
        train=train,
        held_out=held_out,
        inputs=tuple(
            InputFile(
                uri=file.uri,
                sha256=file.tokenized.input_sha256,
                n_bytes=file.n_bytes,
                n_documents=counts.n_documents,
                n_tokens=counts.n_tokens,
                n_bad_rows=file.tokenized.n_bad_rows,
                fell_back=file.tokenized.fell_back,
            )
            for file, counts in zip(inputs, kept, strict=True)
        ),
    )


def check_matches(
    known: Manifest,
    manifest_uri: str,
    config: DataConfig,
    tokenizer: Tokenizer,
    excluded: Exclusion,
) -> None:
    """Raise ConfigurationError unless the stream was built with this tokenizer, these settings and
    these inputs. Call it within ray_session.session().
    """
    if known.tokenizer_fingerprint != tokenizer.fingerprint:
        raise ConfigurationError(
            f"{manifest_uri}: was built with tokenizer {known.tokenizer_fingerprint}, but the one "
            f"below this root is {tokenizer.fingerprint}; restore that file, or delete the "
            "manifest to build again"
        )
    settings_digest = stream_paths.stream_digest(config, known.stream)
    if known.settings_digest != settings_digest:
        raise ConfigurationError(
            f"{manifest_uri}: was built with settings {known.settings_digest}, but the current "
            f"ones are {settings_digest}; delete it to build again, or choose another --out"
        )
    recorded = stream_inputs.check_unchanged(known, manifest_uri, config)
    if recorded:
        common_documents.check_exclusion(
            recorded.excluded_manifest, excluded.manifest_digest, manifest_uri
        )


def remove_stale(folder: str, shards: Sequence[Shard], *, is_shared: bool = False) -> None:
    """Remove shards in `folder` that are not among `shards`, and files of killed writers.

    Whoever reads a folder by its names, as other trainers do, would train on them: they are of a
    larger corpus or budget whose manifest was deleted, or of an interrupted build.

    is_shared: a user chose the folder, so shards without the provenance that we write may be
    another program's; they are kept, and named in a warning.
    """
    current = {shard.name for shard in shards}
    stale: dict[str, str] = {}  # shard by URI
    for uri in storage.list_files(folder, "*"):
        match = SHARD_FILE.fullmatch(posixpath.basename(uri))
        if match and match[1] not in current:
            stale[uri] = match[1]
    ours = {name for uri, name in stale.items() if not is_shared or uri.endswith(".parquet")}
    if foreign := sorted(set(stale.values()) - ours):
        telemetry.logger.warning(
            "%s holds shards that are not of this mixture, the first is %s; remove them before "
            "another program reads the folder",
            folder,
            foreign[0],
        )
    removed = [uri for uri, name in stale.items() if name in ours]
    storage.delete_below(folder, removed)
    if removed := [*removed, *storage.remove_abandoned(folder, "*")]:
        telemetry.logger.info(
            "%s: removed %d files that belong to no shard of it, the first is %s",
            folder,
            len(removed),
            posixpath.basename(removed[0]),
        )


def log_counts(known: Manifest, uri: str) -> None:
    """Say what the stream at `uri` holds, and everything that was left out of it."""
    left_out = {"unreadable rows": sum(file.n_bad_rows for file in known.inputs)} | known.drops
    counts = ", ".join(f"{n:,} {reason}" for reason, n in left_out.items() if n)
    telemetry.logger.info(
        "%s stream: %s documents, %s tokens; left out: %s; at %s",
        known.stream,
        f"{known.n_documents:,}",
        f"{known.n_tokens:,}",
        counts or "nothing",
        uri,
    )
    empty = [file.uri for file in known.inputs if not file.n_documents]
    if empty:
        telemetry.logger.warning(
            "%s stream: %d of %d input files gave no document: %s",
            known.stream,
            len(empty),
            len(known.inputs),
            ", ".join(empty[:MAX_NAMED]) + (" …" if len(empty) > MAX_NAMED else ""),
        )


def check_inputs(inputs: Sequence[BuildInput], stream: StreamName) -> None:
    """Raise ConfigurationError if two input files are the same, or no document is left."""
    first_with: dict[str, str] = {}
    for file in inputs:
        sha256 = file.tokenized.input_sha256
        earlier = first_with.setdefault(sha256, file.uri)
        if earlier != file.uri:
            raise ConfigurationError(
                f"the {stream} corpus: {earlier} and {file.uri} have the same bytes (sha256 "
                f"{sha256[:16]}…), so every document would occur twice; name one of them"
            )
    if not sum(file.tokenized.n_documents for file in inputs):
        n_rows = sum(file.tokenized.n_rows for file in inputs)
        n_bad_rows = sum(file.tokenized.n_bad_rows for file in inputs)
        drops = dropped_samples.add_counts(file.tokenized.drops for file in inputs)
        raise ConfigurationError(
            f"the {stream} corpus: no document is left of {n_rows:,} rows in {len(inputs)} files; "
            f"unreadable: {n_bad_rows:,}, dropped: {drops}; check the text field (URI#text=FIELD) "
            "and data.cleaning"
        )


def _check_complete(
    stream: StreamName,
    inputs: Sequence[BuildInput],
    kept: Sequence[KeptDocuments],
    shards: Sequence[Shard],
) -> None:
    n_documents = sum(shard.n_documents for shard in shards)
    n_tokens = sum(shard.n_tokens for shard in shards)
    expected = (sum(counts.n_documents for counts in kept), sum(counts.n_tokens for counts in kept))
    if (n_documents, n_tokens) != expected:
        raise ArtefactCorrupt(
            f"the {stream} stream: its shards hold {n_documents:,} documents and {n_tokens:,} "
            f"tokens, its tokenized files {expected[0]:,} and {expected[1]:,}; delete "
            f"{posixpath.dirname(inputs[0].tokenized_uri)} and build again"
        )


def _check_splits(stream: StreamName, train: Sequence[Shard], held_out: Sequence[Shard]) -> None:
    if not train and not held_out:
        raise ConfigurationError(
            f"the {stream} corpus: no document is left after duplicates and documents of the other "
            "stream were dropped; check data.dedup, data.common_documents and the corpora"
        )
    if not train:
        raise ConfigurationError(
            f"the {stream} corpus: all its documents are in the held-out split, none to train on; "
            "add documents"
        )
    if not held_out:
        telemetry.logger.warning(
            "the %s corpus: no document is in the held-out split; add documents", stream
        )
