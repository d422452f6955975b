"""tokenizer of a build: trained on the clean corpus or copied from a file, then pinned

Both streams, every run and every evaluation below one object root use this one file. Its record,
written last, holds its fingerprint, so that a file that was replaced later is noticed.
"""

import posixpath
from collections.abc import Iterator

from data_prep.build import stream_paths
from data_prep.build.stream_paths import NamesAndSizes
from data_prep.cleaning import clean_document
from data_prep.config import CleaningConfig, DataConfig
from data_prep.core import ray_tasks, storage
from data_prep.core.records import record
from data_prep.core.settings import evolve
from data_prep.sources import corpus_reader
from data_prep.sources.corpus_reader import Source
from data_prep.token_stream import tokenizer
from data_prep.token_stream.tokenizer import Tokenizer

TRAINING_FILES = 16  # that a tokenizer is trained on at most, evenly spaced over the clean corpus


@record
class TokenizerRecord:
    """The tokenizer beside this record; `inputs` are the (URI, bytes) of the corpus that a trained
    one was trained on.
    """

    settings_digest: str
    fingerprint: str
    n_ids: int
    eos_id: int
    inputs: NamesAndSizes


def build_tokenizer(config: DataConfig, root: str) -> Tokenizer:
    """The tokenizer below `root`: trained or copied on the first call, later the same one."""
    uri = storage.join(root, stream_paths.tokenizer_uri(config))
    record_uri = storage.join(posixpath.dirname(uri), "record.json")
    settings_digest = stream_paths.tokenizer_digest(config)
    is_trained = config.tokenizer.source == "train"
    inputs = stream_paths.names_and_sizes(config.clean) if is_trained else ()
    built = None
    if not (storage.exists(record_uri) and storage.exists(uri)):
        if is_trained:
            built = _train(config)
        else:
            built = tokenizer.load(config.tokenizer.source, config.tokenizer)
        tokenizer.save(built, uri)
        storage.save(_record(built, settings_digest, inputs), record_uri)
    known = storage.load(TokenizerRecord, record_uri)
    recorded = (known.settings_digest, known.inputs)
    stream_paths.check_unchanged(record_uri, recorded, (settings_digest, inputs))
    if built:
        return built
    fingerprint = config.tokenizer.fingerprint or known.fingerprint
    return tokenizer.load(uri, evolve(config.tokenizer, {"fingerprint": fingerprint}))


def _record(built: Tokenizer, settings_digest: str, inputs: NamesAndSizes) -> TokenizerRecord:
    return TokenizerRecord(
        settings_digest=settings_digest,
        fingerprint=built.fingerprint,
        n_ids=built.n_ids,
        eos_id=built.eos_id,
        inputs=inputs,
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
