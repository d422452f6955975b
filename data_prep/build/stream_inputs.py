"""inputs.json of a stream: versions of its input files, compared at every start

    manifest.json   names, sizes and checksums of the inputs; never written again
    inputs.json     their versions, and those of the evaluation texts

The versions have a file of their own because a file that was only touched has another one, and a
manifest must stay what it is: runs and checkpoints know it by its digest. Of a file with another
version the content is compared. If it is the same, the new version is recorded; if it is not, the
stream is refused and not built again, because runs may have been trained on it.
"""

import posixpath
from collections.abc import Sequence
from typing import get_args

from data_prep.build import stream_paths
from data_prep.build.tokenize_file import BuildInput
from data_prep.cleaning import clean_document
from data_prep.cleaning.decontaminate import NGrams
from data_prep.config import CleaningConfig, DataConfig, StreamName
from data_prep.core import ray_tasks, storage, telemetry
from data_prep.core.errors import ConfigurationError, HormesisError
from data_prep.core.records import record
from data_prep.sources import corpus_reader, input_files
from data_prep.sources.corpus_reader import Source
from data_prep.sources.input_files import ChangedInput, InputVersion
from data_prep.token_stream.manifest import Manifest

NAME = "inputs.json"


@record
class StreamInputs:
    """The input files of a stream.

    evaluation: the files it was decontaminated against, and the lexicon of its annotation.
    excluded_manifest: digest of the manifest of the stream whose documents were left out.
    """

    corpus: tuple[InputVersion, ...]
    evaluation: tuple[InputVersion, ...]
    excluded_manifest: str = ""


def corpus_of(config: DataConfig, stream: StreamName) -> tuple[str, ...]:
    """The URIs of a stream's corpus."""
    return config.clean if stream == "clean" else config.toxic


def of_today(config: DataConfig, stream: StreamName) -> StreamInputs:
    """The input files of a stream as they are now, without checksums."""
    texts = config.decontamination.uris if config.decontamination.ngram else ()
    kind, _, lexicon = config.annotation.scorer.partition(":")
    lexicons = (lexicon,) if config.annotation.is_on and kind == "lexicon" else ()
    return StreamInputs(
        corpus=input_files.of_corpus(corpus_of(config, stream)),
        evaluation=(*input_files.of_corpus(texts), *input_files.of_corpus(lexicons)),
    )


def check_both_corpora(config: DataConfig) -> None:
    """Raise ConfigurationError if a file, by name or by content, is clean and toxic text.

    A corpus that cannot be listed is left to the build of its own stream.
    """
    clean, toxic = _expanded(config.clean), _expanded(config.toxic)
    input_files.check_distinct(clean, toxic)
    pairs = list(input_files.with_same_size(clean, toxic))
    checksums = _checksums(sorted({source.uri for pair in pairs for source in pair}))
    for one, other in pairs:
        if checksums[one.uri] == checksums[other.uri]:
            raise ConfigurationError(
                f"{one.uri} in data.clean and {other.uri} in data.toxic have the same bytes "
                f"(sha256 {checksums[one.uri][:16]}…), so the toxic ratio would mean nothing; name "
                "one of them"
            )


def _expanded(uris: tuple[str, ...]) -> list[Source]:
    try:
        return corpus_reader.expand(uris)
    except ConfigurationError:
        return []


def evaluation_ngrams(config: DataConfig) -> NGrams | None:
    """The n-grams that no document may share with the evaluation texts, made once by a task."""
    uris, n = config.decontamination.uris, config.decontamination.ngram
    if not uris or not n:
        return None
    sources = corpus_reader.expand(uris)
    absolute = [source._replace(uri=storage.absolute(source.uri)) for source in sources]
    arguments = (absolute, n, config.cleaning)
    task = ray_tasks.RayTask("n-grams of evaluation texts", _ngrams_task, arguments, 1)
    (ngrams,) = ray_tasks.run([task], "n-grams", "task")
    return ngrams


def _ngrams_task(sources: list[corpus_reader.Source], n: int, cleaning: CleaningConfig) -> NGrams:
    """The n-grams of the texts, masked as the documents are that they are searched for in."""
    texts = (text.text for source in sources for text in corpus_reader.read(source, columns=()))
    return NGrams.of([clean_document.without_drops(text, cleaning) for text in texts], n)


def note_start(work_uri: str, today: StreamInputs) -> None:
    """Say which inputs changed since an earlier attempt; what they gave is tokenized again."""
    uri = storage.join(work_uri, NAME)
    if storage.exists(uri):
        earlier = {file.uri: file for file in storage.load(StreamInputs, uri).corpus}
        known = [file for file in today.corpus if file.uri in earlier]
        for change in input_files.changed([earlier[file.uri] for file in known], known)[:5]:
            telemetry.logger.warning(
                "the input %s changed since this build was started; it is read again", change
            )
    storage.save(today, uri)


def publish(
    stream_uri: str,
    inputs: Sequence[BuildInput],
    evaluation: Sequence[InputVersion],
    excluded_manifest: str,
) -> None:
    """Write inputs.json beside the manifest, which follows it.

    evaluation: as of_today() listed it before it was read. Raises ConfigurationError if a file of
    it has changed since.
    """
    for file in evaluation:
        input_files.check_unchanged_while_read(file, _source(file.uri))
    checksums = _checksums([file.uri for file in evaluation])
    corpus = tuple(
        InputVersion(
            uri=file.uri,
            n_bytes=file.n_bytes,
            version=file.version,
            sha256=file.tokenized.input_sha256,
        )
        for file in inputs
    )
    versions = StreamInputs(
        corpus=corpus,
        evaluation=_with_checksums(evaluation, checksums),
        excluded_manifest=excluded_manifest,
    )
    storage.save(versions, storage.join(stream_uri, NAME))


def check_unchanged(known: Manifest, manifest_uri: str, config: DataConfig) -> StreamInputs | None:
    """What was recorded of the inputs, if it was; ConfigurationError unless they have the names,
    sizes and content of the build.

    The content is read only of files with another version than recorded, and of all if
    data.verify_inputs is set. Call it within ray_session.session().
    """
    now = of_today(config, known.stream)
    uri = storage.join(posixpath.dirname(manifest_uri), NAME)
    then = storage.load(StreamInputs, uri) if storage.exists(uri) else None
    remedy = f"delete {manifest_uri} to build the stream again, or choose another --out"
    corpus_then = _corpus_then(known, then)
    input_files.check_same_files(manifest_uri, corpus_then, now.corpus, remedy)
    if then is None and not config.verify_inputs:
        telemetry.logger.warning(
            "%s: was built when versions of inputs were not recorded, so only names and sizes are "
            "compared; set data.verify_inputs=true once to compare the content and record them",
            manifest_uri,
        )
        return None
    evaluation_then = now.evaluation if then is None else then.evaluation
    input_files.check_same_files(manifest_uri, evaluation_then, now.evaluation, remedy)
    before, today = [*corpus_then, *evaluation_then], [*now.corpus, *now.evaluation]
    if config.verify_inputs:
        suspects = list(map(ChangedInput, before, today))
    else:
        suspects = input_files.changed(before, today)
    if suspects:
        checksums = _compare_content(suspects, manifest_uri, remedy)
        recorded = {file.uri: file.sha256 for file in before} | checksums
        accepted = StreamInputs(
            corpus=_with_checksums(now.corpus, recorded),
            evaluation=_with_checksums(now.evaluation, recorded),
            excluded_manifest=then.excluded_manifest if then else "",
        )
        storage.save(accepted, uri)
    return then


def may_have_changed(config: DataConfig, root: str) -> bool:
    """Whether an input of a finished stream has another name, size or version than recorded.

    Inputs that can no longer be listed are no reason to doubt what was made of them: a warning.
    """
    for stream in get_args(StreamName):
        uri = storage.join(root, stream_paths.stream_uri(config, stream), NAME)
        try:
            today = of_today(config, stream)
        except HormesisError as error:
            telemetry.logger.warning("%s stream: its inputs are not compared: %s", stream, error)
            continue
        if storage.exists(uri):
            then = storage.load(StreamInputs, uri)
            recorded = _with_checksums((*then.corpus, *then.evaluation), {})
            if recorded != (*today.corpus, *today.evaluation):
                return True
    return False


def _corpus_then(known: Manifest, then: StreamInputs | None) -> list[InputVersion]:
    """The inputs that the manifest states, with their versions if these were recorded."""
    versions = {file.uri: file.version for file in then.corpus} if then else {}
    return [
        InputVersion(
            uri=file.uri,
            n_bytes=file.n_bytes,
            version=versions.get(file.uri, "not recorded"),
            sha256=file.sha256,
        )
        for file in known.inputs
    ]


def _compare_content(
    suspects: Sequence[ChangedInput], manifest_uri: str, remedy: str
) -> dict[str, str]:
    """The checksums of the files, which are those recorded."""
    telemetry.logger.info(
        "comparing the content of %d input files with the record, the first is %s",
        len(suspects),
        suspects[0],
    )
    checksums = _checksums([suspect.now.uri for suspect in suspects])
    for suspect in suspects:
        then, now = suspect.then.sha256, checksums[suspect.now.uri]
        if then and then != now:
            raise ConfigurationError(
                f"{manifest_uri}: the input {suspect} has the same size and another content than "
                f"when the stream was built: sha256 {then[:16]}… then, {now[:16]}… now; restore "
                f"the file, or {remedy}"
            )
    telemetry.logger.info("the content is the same; the versions of today are recorded")
    return checksums


def _with_checksums(
    files: Sequence[InputVersion], checksums: dict[str, str]
) -> tuple[InputVersion, ...]:
    return tuple(
        InputVersion(
            uri=file.uri,
            n_bytes=file.n_bytes,
            version=file.version,
            sha256=checksums.get(file.uri, ""),
        )
        for file in files
    )


def _checksums(uris: Sequence[str]) -> dict[str, str]:
    """sha256 of each file, by Ray tasks."""
    tasks = [
        ray_tasks.RayTask(
            f"checksum {posixpath.basename(uri)}", _checksum, (uri, storage.absolute(uri)), 1
        )
        for uri in uris
    ]
    return dict(ray_tasks.run(tasks, "checksums", "files")) if tasks else {}


def _checksum(uri: str, location: str) -> tuple[str, str]:
    """The Ray task; location: the absolute form of the URI."""
    return uri, corpus_reader.checksum(_source(location))


def _source(uri: str) -> Source:
    return Source(uri, "text", None)
