"""where a build puts its things: paths below the object root, computed from settings alone

    tokenizer/<digest>/tokenizer.json, record.json
    units/<stream>-<digest>/<unit>/…, shards/…      work in progress, removed when the stream's manifest is there
    streams/<stream>-<digest>/…                     the token stream (manifest.py)

A path names every setting that its content depends on, so another setting is another path and
nothing is overwritten. It does not name the input's bytes, which nobody has read yet: the records
hold names and sizes, and a build compares them.
"""

from data_prep.build import duplicates
from data_prep.cleaning import annotate, clean_document, decontaminate
from data_prep.config import DataConfig, StreamName
from data_prep.core.errors import ConfigurationError
from data_prep.core.records import digest
from data_prep.sources import corpus_reader
from data_prep.token_stream import manifest

Inputs = tuple[tuple[str, int], ...]  # (URI, bytes) of each input file


def tokenizer_uri(config: DataConfig) -> str:
    return f"tokenizer/{tokenizer_digest(config)[:8]}/tokenizer.json"


def stream_uri(config: DataConfig, stream: StreamName) -> str:
    return f"streams/{stream}-{stream_digest(config, stream)[:8]}"


def units_uri(config: DataConfig, stream: StreamName) -> str:
    return f"units/{stream}-{stream_digest(config, stream)[:8]}"


def tokenizer_digest(config: DataConfig) -> str:
    """Names the settings that the tokenizer depends on; a trained one depends on the clean corpus
    as cleaned.
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
    """Names the settings that the stream depends on; the other stream's corpus is not one of them,
    unless by the tokenizer.
    """
    corpus = config.clean if stream == "clean" else config.toxic
    settings = (
        config.held_out_ratio,
        config.shard_tokens,
        config.shuffle_seed,
        config.dedup,
        config.decontamination,
        (annotate.VERSION, config.annotation) if config.annotation.is_on else None,
    )
    versions = (
        manifest.FORMAT_VERSION,
        corpus_reader.VERSION,
        clean_document.VERSION,
        decontaminate.VERSION,
        duplicates.VERSION,
    )
    return digest(versions, stream, corpus, tokenizer_digest(config), config.cleaning, *settings)


def check_unchanged(
    record_uri: str, recorded: tuple[str, Inputs], asked: tuple[str, Inputs]
) -> None:
    """Raise ConfigurationError unless (settings digest, inputs) in the record at `record_uri` are
    those asked for.
    """
    again = "delete it to build again, or give another --out"
    if recorded[0] != asked[0]:
        raise ConfigurationError(
            f"{record_uri}: was built with settings {recorded[0]}, asked are {asked[0]}; {again}"
        )
    then, now = recorded[1], asked[1]
    if then != now:
        changed = [
            f"{uri} ({n_bytes:,} bytes)" for uri, n_bytes in sorted(set(then) ^ set(now))
        ] or ["their order"]
        raise ConfigurationError(
            f"{record_uri}: the inputs changed since it was built: {len(then)} files then, {len(now)} now, first difference: "
            f"{changed[0]}; bring the files back, or {again}"
        )
