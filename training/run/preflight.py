"""what a run reads, checked before a model is built: streams, tokenizer, supply

A pure function of the settings and the store, so that every rank comes to the same words by itself,
in a second, before DeepSpeed is imported or a GPU is touched.
"""

import json
from typing import NamedTuple

from data_prep.config import StreamName
from data_prep.core import storage
from data_prep.core.errors import ConfigurationError
from data_prep.core.records import digest
from data_prep.token_stream import manifest, mixture
from data_prep.token_stream.manifest import Manifest
from data_prep.token_stream.tokenizer import Tokenizer
from training.config import RunConfig
from training.metrics import sinks
from training.run import branching


class Inputs(NamedTuple):
    """The two streams as their manifests describe them, where they are, and the text of the
    tokenizer's JSON.
    """

    manifests: dict[StreamName, Manifest]
    uris: dict[StreamName, str]
    tokenizer_json: str

    @property
    def eos_id(self) -> int:
        return self.manifests["clean"].eos_id

    @property
    def data_digest(self) -> str:
        return digest(self.manifests["clean"], self.manifests["toxic"])


def check(root: str, run: RunConfig) -> Inputs:
    """The run's inputs, or ConfigurationError or ArtefactMissing saying which of them does not fit."""
    train = run.train
    sinks.check_available(train.metrics.sinks)
    if run.mixture.batch_size != train.global_batch:
        raise ConfigurationError(
            f"run {run.run_id}: its mixture has batches of {run.mixture.batch_size} rows, but "
            f"train.global_batch is {train.global_batch}; plan the run again with launch/sweep.py"
        )
    uris: dict[StreamName, str] = {
        "clean": storage.join(root, run.clean),
        "toxic": storage.join(root, run.toxic),
    }
    manifests: dict[StreamName, Manifest] = {name: manifest.load(uri) for name, uri in uris.items()}
    clean, toxic = manifests["clean"], manifests["toxic"]
    if (clean.tokenizer_fingerprint, clean.eos_id) != (toxic.tokenizer_fingerprint, toxic.eos_id):
        raise ConfigurationError(
            f"the streams' tokenizers differ: {uris['clean']} by {clean.tokenizer_fingerprint} (eos {clean.eos_id}), "
            f"{uris['toxic']} by {toxic.tokenizer_fingerprint} (eos {toxic.eos_id}); build both with one"
        )
    if clean.vocab_size > train.model.vocab_size:
        raise ConfigurationError(
            f"the streams hold ids below {clean.vocab_size:,}, train.model.vocab_size is {train.model.vocab_size:,}; "
            "raise it to at least the tokenizer's"
        )
    n_clean, n_toxic = (
        manifests[name].split_tokens("train") // train.sequence_length
        for name in ("clean", "toxic")
    )
    mixture.check_supply(run.mixture, n_clean, n_toxic, train.sequence_length)
    if run.trunk:
        branching.trunk_of(root, run)
    return Inputs(manifests, uris, _tokenizer_json(storage.join(root, run.tokenizer), clean))


def _tokenizer_json(uri: str, stream: Manifest) -> str:
    """The text at `uri`, if it is the tokenizer that made the stream; the model is published with
    it.
    """
    text = storage.read(uri).decode()
    parsed = json.loads(text)
    words = parsed["model"]["vocab"] | {
        token["content"]: token["id"] for token in parsed["added_tokens"]
    }
    eos = next((word for word, i in words.items() if i == stream.eos_id), None)
    fingerprint = (
        Tokenizer(text, eos, uri).fingerprint if eos else f"none with an id {stream.eos_id}"
    )
    if fingerprint != stream.tokenizer_fingerprint:
        raise ConfigurationError(
            f"{uri}: its fingerprint is {fingerprint}, the streams were made by {stream.tokenizer_fingerprint}; "
            "give the run the tokenizer of its streams"
        )
    return text
