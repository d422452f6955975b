"""paths of a build below the object root, computed from the settings alone

    tokenizer/<digest>/tokenizer.json, record.json
    work/<stream>-<digest>/<file>/…, shards/…       work in progress, removed at the end
    streams/<stream>-<digest>/…                     the token stream (token_stream/manifest.py)

A path contains a digest of every setting that its content depends on, so another setting is another
path and nothing is overwritten. The digest does not cover the bytes of the input, which nobody has
read yet: records hold names, sizes and versions of the input files, and a build compares them
(sources/input_files.py).
"""

from data_prep.build import dedup
from data_prep.cleaning import annotate_toxicity, clean_document, decontaminate
from data_prep.config import DataConfig, StreamName
from data_prep.core.records import digest
from data_prep.sources import corpus_reader
from data_prep.token_stream import manifest


def tokenizer_uri(config: DataConfig) -> str:
    return f"tokenizer/{tokenizer_digest(config)[:8]}/tokenizer.json"


def stream_uri(config: DataConfig, stream: StreamName) -> str:
    return f"streams/{stream}-{stream_digest(config, stream)[:8]}"


def work_uri(config: DataConfig, stream: StreamName) -> str:
    return f"work/{stream}-{stream_digest(config, stream)[:8]}"


def tokenizer_digest(config: DataConfig) -> str:
    """Identifies the settings of the tokenizer; a trained one also depends on the cleaned clean
    corpus.
    """
    if config.tokenizer.source != "train":
        return digest(config.tokenizer)
    return digest(
        config.tokenizer,
        config.clean,
        corpus_reader.VERSION,
        clean_document.VERSION,
        config.cleaning,
    )


def stream_digest(config: DataConfig, stream: StreamName) -> str:
    """Identifies the settings of the stream; the other stream's corpus is one of them only through
    the tokenizer, and if documents of the toxic stream are left out of the clean one.
    """
    corpus = config.clean if stream == "clean" else config.toxic
    settings = (
        config.held_out_ratio,
        config.shard_tokens,
        config.shuffle_seed,
        config.dedup,
        config.decontamination,
        (annotate_toxicity.VERSION, config.annotation.in_use) if config.annotation.is_on else None,
    )
    if stream == "clean" and config.common_documents == "drop":
        settings = (*settings, stream_digest(config, "toxic"))
    versions = (
        manifest.FORMAT_VERSION,
        corpus_reader.VERSION,
        clean_document.VERSION,
        decontaminate.VERSION,
        dedup.VERSION,
    )
    return digest(versions, stream, corpus, tokenizer_digest(config), config.cleaning, *settings)
