"""The manifest of a stream whose shards a test wrote."""

from typing import Any

from data_prep.token_stream.manifest import FORMAT_VERSION, Manifest, Shard


def manifest_of(train: tuple[Shard, ...], **fields: Any) -> Manifest:
    """A stream of these shards with nothing held out; `fields` replace the defaults."""
    defaults: dict[str, Any] = {
        "stream": "clean",
        "settings_digest": "s",
        "tokenizer_fingerprint": "t",
        "vocab_size": 60_000,
        "eos_id": 9,
        "dtype": "uint16",
        "cleaning_version": 1,
        "n_documents": sum(shard.n_documents for shard in train),
        "n_tokens": sum(shard.n_tokens for shard in train),
        "n_text_bytes": 0,
        "drops": {},
        "held_out": (),
        "inputs": (),
    }
    return Manifest(format_version=FORMAT_VERSION, train=train, **defaults | fields)
