"""the tokenizer of a build: trained on the clean corpus or copied from its file, once, then pinned
by a record

Both streams, every run and every evaluation below one object root use this one file. Its record,
written last, holds its fingerprint, so that a file that was replaced later is noticed.
"""

import posixpath
from collections.abc import Iterator
from dataclasses import replace

from data_prep.build import stream_paths
from data_prep.build.stream_paths import Inputs
from data_prep.cleaning import clean_document
from data_prep.config import DataConfig
from data_prep.core import ray_tasks, storage
from data_prep.core.records import record
from data_prep.sources import corpus_reader
from data_prep.token_stream import tokenizer
from data_prep.token_stream.tokenizer import Tokenizer

TRAINING_FILES = 16  # that a tokenizer learns from, evenly spaced over the clean corpus


@record
class TokenizerRecord:
    """Which tokenizer lies beside this record; `inputs` are the (uri, bytes) of the corpus that a
    trained one saw.
    """

    settings_digest: str
    fingerprint: str
    n_ids: int
    eos_id: int
    inputs: Inputs


def build_tokenizer(config: DataConfig, root: str) -> Tokenizer:
    """The tokenizer below `root`: trained or copied there on the first call, the same one ever
    after.
    """
    uri = storage.join(root, stream_paths.tokenizer_uri(config))
    record_uri = storage.join(posixpath.dirname(uri), "record.json")
    inputs = names_and_sizes(config.clean) if config.tokenizer.source == "train" else ()
    made = None
    if not (storage.exists(record_uri) and storage.exists(uri)):
        made = (
            _trained(config)
            if config.tokenizer.source == "train"
            else tokenizer.load(config.tokenizer.source, config.tokenizer)
        )
        tokenizer.save(made, uri)
        storage.save(_record(made, stream_paths.tokenizer_digest(config), inputs), record_uri)
    known = storage.load(TokenizerRecord, record_uri)
    stream_paths.check_unchanged(
        record_uri,
        (known.settings_digest, known.inputs),
        (stream_paths.tokenizer_digest(config), inputs),
    )
    pinned = replace(
        config.tokenizer, fingerprint=config.tokenizer.fingerprint or known.fingerprint
    )
    return made or tokenizer.load(uri, pinned)


def names_and_sizes(uris: tuple[str, ...]) -> Inputs:
    """What a record remembers of its inputs, to notice a later change without reading them."""
    return tuple(
        (source.uri, corpus_reader.n_bytes(source)) for source in corpus_reader.expand(uris)
    )


def _record(made: Tokenizer, settings_digest: str, inputs: Inputs) -> TokenizerRecord:
    return TokenizerRecord(
        settings_digest=settings_digest,
        fingerprint=made.fingerprint,
        n_ids=made.n_ids,
        eos_id=made.eos_id,
        inputs=inputs,
    )


def _trained(config: DataConfig) -> Tokenizer:
    sources = [
        source._replace(uri=storage.absolute(source.uri))
        for source in corpus_reader.expand(config.clean)
    ]
    chosen = sources[:: -(-len(sources) // TRAINING_FILES)]
    (text,) = ray_tasks.run(
        [ray_tasks.Job("train tokenizer", _trained_json, (chosen, config), 1)],
        "train tokenizer",
        "task",
    )
    return Tokenizer(text, config.tokenizer.eos, "the trained tokenizer")


def _trained_json(sources: list[corpus_reader.Source], config: DataConfig) -> str:
    """The task: an equal share of text from each source, in order."""
    share = -(-config.tokenizer.train_bytes // len(sources))
    texts = (text for source in sources for text in _head(source, config, share))
    return tokenizer.train(texts, config.tokenizer).json


def _head(source: corpus_reader.Source, config: DataConfig, n_bytes: int) -> Iterator[str]:
    for document in corpus_reader.read(
        source, max_bad_rows_ratio=config.cleaning.max_bad_rows_ratio
    ):
        text = clean_document.clean(document.text, config.cleaning, document.scores).text
        if text is not None:
            yield text
            n_bytes -= len(text.encode())
        if n_bytes <= 0:
            return
