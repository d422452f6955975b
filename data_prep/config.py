"""what is asked: corpora, tokenizer, budgets, seeds"""

from dataclasses import field
from typing import Literal

from data_prep.core.errors import ConfigurationError
from data_prep.core.records import operational, record

StreamName = Literal["clean", "toxic"]
BLOCK_TOKENS = 4 << 20  # 8 MiB of uint16, what readers fetch at once (storage.BLOCK_BYTES)


@record
class TokenizerConfig:
    """Which tokenizer makes the ids.

    source: "train" makes a byte-level BPE from the clean corpus; anything else is the URI of a
    tokenizers JSON file.
    vocab_size: for "train", the size to reach; otherwise the size the JSON must have.
    fingerprint: the expected fingerprint of the JSON; None accepts any and records it.
    train_bytes: for "train", how much clean text to learn from.
    """

    source: str
    vocab_size: int
    eos: str = "<|endoftext|>"
    fingerprint: str | None = None
    train_bytes: int = 8_000_000

    def __post_init__(self) -> None:
        if self.vocab_size < 257:
            raise ConfigurationError(
                f"tokenizer.vocab_size is {self.vocab_size}; a byte-level vocabulary needs at least 257"
            )


@record
class CleaningConfig:
    """When a document is dropped or changed, and how much of a corpus may be broken before the
    build stops.

    max_bad_rows_ratio: share of a file's rows that may be unreadable (broken JSON, missing field).
    mask_personal: write OLMo's special strings for e-mail addresses, IP addresses and phone
    numbers.
    languages: codes (`en`) of the languages to keep; none keeps all. Needs the extra `language`.
    min_scores, max_scores: bounds, included, by score name, on documents whose corpus carries that
    score; a document
        without it is kept, for a missing score is not a low one.
    """

    min_chars: int = 20
    max_chars: int = 1_000_000
    max_bad_rows_ratio: float = 0.01
    mask_personal: bool = True
    languages: tuple[str, ...] = ()
    min_scores: dict[str, float] = field(default_factory=dict)
    max_scores: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in self.min_scores.keys() & self.max_scores.keys():
            if self.min_scores[name] > self.max_scores[name]:
                raise ConfigurationError(
                    f"data.cleaning keeps no document: min_scores[{name!r}] is {self.min_scores[name]}, "
                    f"max_scores[{name!r}] is {self.max_scores[name]}"
                )


@record
class Annotation:
    """Both streams with the documents' toxicity written on them: MEDA or INST (annotate.py).

    scorer: "corpus:NAME" takes the score NAME that the corpus carries, "label" its label, a number
        in [0, 1]; otherwise a local scorer (registry.py): "profanity", "lexicon:URI" or
        "classifier:NAME".
    threshold: a document is called toxic from this score on (INST). tagged_ratio: share of
    documents that are annotated at all.
    meda_template: with {score}, to one decimal. inst_template: with {verdict}, which is "toxic" or
    "not toxic".
    """

    kind: Literal["meda", "inst"]
    scorer: str = "profanity"
    threshold: float = 0.5
    tagged_ratio: float = 1.0
    meda_template: str = "toxicity: {score}\n"
    inst_template: str = "The following text is {verdict}.\n"

    def __post_init__(self) -> None:
        if not 0 <= self.threshold <= 1 or not 0 < self.tagged_ratio <= 1:
            raise ConfigurationError(
                f"data.annotation: threshold {self.threshold}, tagged_ratio {self.tagged_ratio}; expected shares, e.g. 0.5 and 1"
            )
        name, template, slot = ("meda_template", self.meda_template, "{score}")
        if self.kind == "inst":
            name, template, slot = ("inst_template", self.inst_template, "{verdict}")
        if template.count(slot) != 1:
            raise ConfigurationError(
                f"data.annotation.{name} is {template!r}; expected a text with {slot} in it, once"
            )


@record
class DataConfig:
    """The two corpora and how they become token streams.

    clean, toxic: document URIs with wildcards; `#text=field` names the text field. `synthetic:…` is
    the embedded corpus.
    held_out_ratio: share of documents, by keyed hash, kept out of training.
    shard_tokens: tokens of every shard but a split's last; a document that crosses a shard's end
    goes on in the next. A worker
        takes about 0.9 GiB for shards of 64 Mi tokens and 1.5 GiB for twice that.
    shuffle_seed: keys the hash that orders documents.
    duplicates: of documents with the same text ("exact") or nearly so ("near"), all but the first
    in the stream go.
    decontaminate: URIs of evaluation texts; documents that share a run of `ngram` words with one of
    them go (0: none do).
    on_tokenizer_difference: what to do when the fast engine makes other ids of a sample than the
    reference.
    check_every_documents: how often that is looked at, beside each file's first documents.
    annotation: writes its toxicity on each training document; None leaves them plain.
    """

    clean: tuple[str, ...]
    toxic: tuple[str, ...]
    tokenizer: TokenizerConfig
    cleaning: CleaningConfig = CleaningConfig()
    held_out_ratio: float = 0.02
    shard_tokens: int = 64 << 20
    shuffle_seed: int = 0
    duplicates: Literal["keep", "exact", "near"] = "exact"
    decontaminate: tuple[str, ...] = ()
    ngram: int = 13
    annotation: Annotation | None = None
    on_tokenizer_difference: Literal["stop", "fall_back"] = operational(default="stop")
    check_every_documents: int = operational(default=1021)

    def __post_init__(self) -> None:
        for name in ("clean", "toxic"):
            if not getattr(self, name):
                raise ConfigurationError(f"the {name} corpus names no files; give --{name} URI")
        if not 0 < self.held_out_ratio < 0.5:
            raise ConfigurationError(
                f"data.held_out_ratio is {self.held_out_ratio}; expected a share in (0, 0.5)"
            )
        if self.shard_tokens < 1:
            raise ConfigurationError(
                f"data.shard_tokens is {self.shard_tokens}; expected at least 1"
            )
        if self.shard_tokens > BLOCK_TOKENS and self.shard_tokens % BLOCK_TOKENS:
            raise ConfigurationError(
                f"data.shard_tokens is {self.shard_tokens:,}; a large shard must end with a block of 8 MiB, so expected a multiple "
                f"of {BLOCK_TOKENS:,}; e.g. {-(-self.shard_tokens // BLOCK_TOKENS) * BLOCK_TOKENS:,}"
            )
        if self.ngram < 0:
            raise ConfigurationError(
                f"data.ngram is {self.ngram}; expected a number of words, or 0 to leave documents alone"
            )
