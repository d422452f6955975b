"""checks of a run's inputs before a model is built: streams, tokenizer, supply

A pure function of the settings and the store: every rank reaches the same verdict by itself, within
a second, before DeepSpeed is imported or a GPU is used.
"""

from typing import NamedTuple

from data_prep.config import StreamName
from data_prep.core import storage
from data_prep.core.errors import ConfigurationError
from data_prep.core.records import digest
from data_prep.token_stream import manifest, mixture, tokenizer_json
from data_prep.token_stream.manifest import Manifest
from training.config import RunConfig
from training.run.branching import Trunk


class RunInputs(NamedTuple):
    """Manifests and URIs of the two streams, and the text of the tokenizer's JSON file."""

    manifests: dict[StreamName, Manifest]
    uris: dict[StreamName, str]
    tokenizer_json: str

    @property
    def eos_id(self) -> int:
        return self.manifests["clean"].eos_id

    @property
    def data_digest(self) -> str:
        return digest(self.manifests["clean"], self.manifests["toxic"])


def check(root: str, run: RunConfig) -> RunInputs:
    """The run's inputs; ConfigurationError or ArtefactMissing names the input that does not fit."""
    train = run.train
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
    _check_token_ids(train.model.vocab_size, manifests, uris)
    n_clean, n_toxic = (
        manifests[name].split_tokens("train") // train.sequence_length
        for name in ("clean", "toxic")
    )
    mixture.check_supply(run.mixture, n_clean, n_toxic, train.sequence_length)
    if run.trunk:
        Trunk.load(root, run).check_checkpoint(root, run)
    tokenizer_uri = storage.join(root, run.tokenizer)
    return RunInputs(manifests, uris, _tokenizer_json(tokenizer_uri, manifests["clean"]))


def _check_token_ids(
    vocab_size: int, manifests: dict[StreamName, Manifest], uris: dict[StreamName, str]
) -> None:
    clean, toxic = manifests["clean"], manifests["toxic"]
    if (clean.tokenizer_fingerprint, clean.eos_id) != (toxic.tokenizer_fingerprint, toxic.eos_id):
        raise ConfigurationError(
            "the streams were tokenized by different tokenizers: "
            f"{uris['clean']} by {clean.tokenizer_fingerprint} (eos {clean.eos_id}), "
            f"{uris['toxic']} by {toxic.tokenizer_fingerprint} (eos {toxic.eos_id}); "
            "build both with one tokenizer"
        )
    if clean.vocab_size > vocab_size:
        raise ConfigurationError(
            f"the streams hold token ids below {clean.vocab_size:,}, but train.model.vocab_size is "
            f"{vocab_size:,}; raise it to at least the tokenizer's"
        )


def _tokenizer_json(uri: str, stream: Manifest) -> str:
    """The text at `uri`, if it is the tokenizer of the stream; it is exported with the model."""
    text = tokenizer_json.read(uri)
    parsed = tokenizer_json.parse(text, uri)
    ids = tokenizer_json.ids_by_token(parsed)
    eos = next((token for token, i in ids.items() if i == stream.eos_id), None)
    if eos is not None:
        fingerprint = tokenizer_json.fingerprint(parsed, eos)
    else:
        fingerprint = f"of a vocabulary without the eos id {stream.eos_id}"
    if fingerprint != stream.tokenizer_fingerprint:
        raise ConfigurationError(
            f"{uri}: its fingerprint is {fingerprint}, but the streams were tokenized by "
            f"{stream.tokenizer_fingerprint}; give the run the tokenizer of its streams"
        )
    return text
