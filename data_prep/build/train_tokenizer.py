"""tokenizer of a build: trained on the clean corpus or copied from a file, then pinned

Both streams, every run and every evaluation below one object root use this one file. Its record,
written last, holds its fingerprint, so that a file that was replaced later is noticed.
"""

import posixpath
from collections.abc import Iterator
from typing import get_args

from data_prep.build import stream_paths
from data_prep.cleaning import clean_document
from data_prep.config import CleaningConfig, DataConfig, StreamName
from data_prep.core import ray_tasks, storage, telemetry
from data_prep.core.errors import ConfigurationError
from data_prep.core.records import record
from data_prep.core.settings import evolve
from data_prep.sources import corpus_reader, input_files
from data_prep.sources.corpus_reader import Source
from data_prep.sources.input_files import InputVersion
from data_prep.token_stream import manifest, tokenizer
from data_prep.token_stream.tokenizer import Tokenizer

TRAINING_FILES = 16  # that a tokenizer is trained on at most, evenly spaced over the clean corpus


@record
class TokenizerRecord:
    """The tokenizer beside this record.

    inputs: (URI, bytes) of the corpus that a trained one was trained on. versions: of the same
    files, or of the file that was copied; empty in records of earlier versions.
    """

    settings_digest: str
    fingerprint: str
    n_ids: int
    eos_id: int
    inputs: tuple[tuple[str, int], ...]
    versions: tuple[str, ...] = ()


def build_tokenizer(config: DataConfig, root: str) -> Tokenizer:
    """The tokenizer below `root`: trained or copied on the first call, later the same one.

    Raises ConfigurationError if what it was made from has changed.
    """
    uri = storage.join(root, stream_paths.tokenizer_uri(config))
    record_uri = storage.join(posixpath.dirname(uri), "record.json")
    storage.remove_abandoned(posixpath.dirname(uri))
    inputs = _inputs(config)
    if not (storage.exists(record_uri) and storage.exists(uri)):
        built = _make(config)
        _check_unchanged_while_read(config, inputs)
        tokenizer.save(built, uri)
        storage.save(_record(config, built.fingerprint, built, inputs), record_uri)
        return built
    known = storage.load(TokenizerRecord, record_uri)
    _check_settings(known, record_uri, config)
    remedy = _remedy(config, root)
    if _may_have_changed(config, known, record_uri, inputs, remedy):
        now = _make(config)
        if now.fingerprint != known.fingerprint:
            raise ConfigurationError(
                f"{record_uri}: the tokenizer has fingerprint {known.fingerprint}, but made of "
                f"the files of today it has {now.fingerprint}; restore the files, or {remedy}"
            )
        telemetry.logger.info("the tokenizer is the same; the versions of today are recorded")
        storage.save(_record(config, known.fingerprint, now, inputs), record_uri)
    fingerprint = config.tokenizer.fingerprint or known.fingerprint
    return tokenizer.load(uri, evolve(config.tokenizer, {"fingerprint": fingerprint}))


def _is_trained(config: DataConfig) -> bool:
    return config.tokenizer.source == "train"


def _inputs(config: DataConfig) -> tuple[InputVersion, ...]:
    """The files that the tokenizer is made from; none if the file to copy is no longer there, for
    the copy is enough.
    """
    if _is_trained(config):
        return input_files.of_corpus(config.clean)
    if not storage.exists(config.tokenizer.source):
        return ()
    return input_files.of_sources([Source(config.tokenizer.source, "text", None)])


def _make(config: DataConfig) -> Tokenizer:
    if _is_trained(config):
        return _train(config)
    return tokenizer.load(config.tokenizer.source, config.tokenizer)


def _check_unchanged_while_read(config: DataConfig, before: tuple[InputVersion, ...]) -> None:
    for then, now in zip(before, _inputs(config), strict=False):
        if then != now:
            raise ConfigurationError(
                f"{then.uri} was changed while the tokenizer was made of it ({then.version}; now "
                f"{now.version}); run the same command again when the file is complete"
            )


def _check_settings(known: TokenizerRecord, record_uri: str, config: DataConfig) -> None:
    settings_digest = stream_paths.tokenizer_digest(config)
    if known.settings_digest != settings_digest:
        raise ConfigurationError(
            f"{record_uri}: was built with settings {known.settings_digest}, but the current ones "
            f"are {settings_digest}; delete it to build again, or choose another --out"
        )


def _may_have_changed(
    config: DataConfig,
    known: TokenizerRecord,
    record_uri: str,
    now: tuple[InputVersion, ...],
    remedy: str,
) -> bool:
    """Whether a file has another version than recorded, so that the tokenizer must be compared.

    Raises ConfigurationError if the files of a trained tokenizer have other names or sizes.
    """
    if _is_trained(config):
        versions = known.versions or ("",) * len(known.inputs)
        then = [
            InputVersion(uri=uri, n_bytes=n_bytes, version=version)
            for (uri, n_bytes), version in zip(known.inputs, versions, strict=False)
        ]
        input_files.check_same_files(record_uri, then, now, remedy)
    elif not now:
        return False
    if config.verify_inputs:
        return True
    if not known.versions:  # recorded by an earlier version
        return False
    changes = [
        file for file, version in zip(now, known.versions, strict=False) if file.version != version
    ]
    if changes:
        telemetry.logger.info(
            "%s has another version than when the tokenizer was made of it (%s now): comparing "
            "the tokenizer",
            changes[0].uri,
            changes[0].version,
        )
    return bool(changes)


def _remedy(config: DataConfig, root: str) -> str:
    folder = posixpath.dirname(storage.join(root, stream_paths.tokenizer_uri(config)))
    manifests = [
        storage.join(root, stream_paths.stream_uri(config, name), manifest.NAME)
        for name in get_args(StreamName)
    ]
    return (
        f"choose another --out, or delete {folder}, {' and '.join(manifests)} to build everything "
        "again"
    )


def _record(
    config: DataConfig, fingerprint: str, built: Tokenizer, inputs: tuple[InputVersion, ...]
) -> TokenizerRecord:
    return TokenizerRecord(
        settings_digest=stream_paths.tokenizer_digest(config),
        fingerprint=fingerprint,
        n_ids=built.n_ids,
        eos_id=built.eos_id,
        inputs=tuple((file.uri, file.n_bytes) for file in inputs) if _is_trained(config) else (),
        versions=tuple(file.version for file in inputs),
    )


def _train(config: DataConfig) -> Tokenizer:
    sources = [
        source._replace(uri=storage.absolute(source.uri))
        for source in corpus_reader.expand(config.clean)
    ]
    stride = -(-len(sources) // TRAINING_FILES)
    task = ray_tasks.RayTask("train tokenizer", _train_task, (sources[::stride], config), 1)
    (text,) = ray_tasks.run([task], "train tokenizer", "task")
    return Tokenizer(text, config.tokenizer.eos, "the trained tokenizer")


def _train_task(sources: list[Source], config: DataConfig) -> str:
    """The Ray task: the JSON of a tokenizer trained on an equal share of text from each source."""
    n_bytes = -(-config.tokenizer.train_bytes // len(sources))
    texts = (text for source in sources for text in _head(source, config.cleaning, n_bytes))
    return tokenizer.train(texts, config.tokenizer).json


def _head(source: Source, cleaning: CleaningConfig, n_bytes: int) -> Iterator[str]:
    """The first cleaned texts of a source, until they have at least `n_bytes`."""
    documents = corpus_reader.read(
        source, max_bad_rows_ratio=cleaning.max_bad_rows_ratio, columns=()
    )
    for document in documents:
        text = clean_document.clean(document.text, cleaning, document.scores).text
        if text is not None:
            yield text
            n_bytes -= len(text.encode())
        if n_bytes <= 0:
            return
