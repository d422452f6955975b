"""settings of the two token streams: corpora, tokenizer, cleaning, dedup, annotation

data
├── clean, toxic                       URIs of the two corpora
├── tokenizer                          train one or load one, and pin it
├── cleaning                           drop and mask documents one by one
├── dedup                              drop duplicate documents
├── decontamination                    drop documents that overlap with evaluation texts
├── annotation                         MEDA or INST prefixes with the document's toxicity
└── held_out_ratio, shuffle_seed, shard_tokens
"""

from dataclasses import field
from typing import Annotated, Literal

from annotated_types import Ge, Gt, Le, Lt

from data_prep.core.errors import ConfigurationError
from data_prep.core.records import operational
from data_prep.core.settings import Count, CountOrZero, NonEmptyText, Share, settings

StreamName = Literal["clean", "toxic"]
BLOCK_TOKENS = 4 << 20  # 8 MiB of uint16, what readers fetch at once (storage.BLOCK_BYTES)

MAX_SHARDS = 100_000  # of a split: their names have five digits

SLOTS = {"meda": "{score}", "inst": "{verdict}"}
SCORER_FORMS = (
    "profanity, lexicon:URI (a table of words with weights), classifier:NAME (from the hub, or a "
    "folder), trained:FOLDER (by eval/tools/train_scorer.py) or openai"
)
# Scorers that stand in for toxicity and are no headline: what they miss.
PROXIES = {
    "profanity": "it knows words, not meaning: blind to implicit hate and to who is meant",
    "lexicon": "it knows words, not meaning: blind to implicit hate and to who is meant",
}


def is_scorer(name: str) -> bool:
    """Whether the name has a form that data_prep/scorers/load_scorer.py loads; looks at no file."""
    without_options = name.partition("#")[0]
    kind, _, place = without_options.partition(":")
    if kind in ("lexicon", "classifier", "trained"):
        return place != ""
    return name == "profanity" or without_options == "openai"


def proxy_reason(scorer: str) -> str:
    """Why a scorer is a proxy for toxicity, in words for reports; "" if it is none.

    The embedded corpus's own lexicon is none: it defines that corpus's invented attribute.
    """
    if scorer == "lexicon:synthetic:lexicon":
        return ""
    return PROXIES.get(scorer.partition(":")[0], "")


@settings("data.tokenizer")
class TokenizerConfig:
    """Which tokenizer encodes the documents."""

    source: NonEmptyText
    """`train` trains a byte-level BPE on the clean corpus; anything else is the URI of a tokenizers
    JSON file."""

    vocab_size: Annotated[int, Ge(257)]
    """Number of ids: the size to train, or the size that the JSON file must have. 256 bytes and the
    end-of-document token are the least."""

    eos: NonEmptyText = "<|endoftext|>"
    """The token that ends a document."""

    fingerprint: str | None = None
    """Expected fingerprint of the JSON file; null accepts any file and records its fingerprint."""

    train_bytes: Count = 8_000_000
    """UTF-8 bytes of clean text to train on; more text hardly changes a small vocabulary."""

    on_difference: Literal["stop", "fall_back"] = operational(default="stop")
    """If the fast engine encodes a checked document differently from the reference engine: stop, or
    encode the whole file with the reference engine."""


@settings("data.cleaning")
class CleaningConfig:
    """Which documents are dropped, and what is masked in those that are kept."""

    min_chars: CountOrZero = 20
    """Shorter documents are dropped (after cleaning)."""

    max_chars: Count = 1_000_000
    """Longer documents are dropped (after cleaning)."""

    max_bad_rows_ratio: Share = 0.01
    """Share of a file's rows that may be unreadable (broken JSON, missing field) before the build
    stops."""

    mask_personal: bool = True
    """Replace e-mail addresses, IP addresses and phone numbers by OLMo's special strings."""

    languages: tuple[str, ...] = ()
    """Codes (`en`) of the languages to keep; an empty list keeps all. Needs the extra
    `language`."""

    min_language_confidence: Share = 0.99
    """A document is dropped for its language only if the detector is that sure that it is in none
    of `languages`; an uncertain one is kept, and counted on the data card. With this default 0.3 %
    of the posts in English are dropped, and 7.4 % if the most probable language decides."""

    min_language_chars: CountOrZero = 40
    """Shorter documents are kept whatever their language, and counted likewise: of a few words the
    detector can tell nothing."""

    min_scores: dict[str, float] = field(default_factory=dict)
    """Lower bound, included, per score that the corpus carries. A document without the score is
    kept: a missing score is not a low one."""

    max_scores: dict[str, float] = field(default_factory=dict)
    """Upper bound, included, per score that the corpus carries."""

    def __post_init__(self) -> None:
        if self.min_chars > self.max_chars:
            raise ConfigurationError(
                f"data.cleaning keeps no document: min_chars is {self.min_chars:,}, "
                f"max_chars is {self.max_chars:,}; expected a minimum of at most the maximum"
            )
        for name in self.min_scores.keys() & self.max_scores.keys():
            if self.min_scores[name] > self.max_scores[name]:
                raise ConfigurationError(
                    f"data.cleaning keeps no document: min_scores[{name!r}] is "
                    f"{self.min_scores[name]}, max_scores[{name!r}] is {self.max_scores[name]}; "
                    "expected a minimum below the maximum"
                )


@settings("data.decontamination")
class DecontaminationConfig:
    """Documents that overlap with evaluation texts are dropped."""

    uris: tuple[str, ...] = ()
    """Texts that must not be trained on: public evaluation sets, whether this experiment is
    evaluated on them or not. Nothing of `eval` is added, so another evaluation trains nothing
    again; the report states the overlap of evaluation texts that are not among these."""

    ngram: CountOrZero = 13
    """Words in a row that a document must share with an evaluation text to be dropped (13 as for
    GPT-3); 0 turns decontamination off."""


@settings("data.annotation")
class AnnotationConfig:
    """MEDA or INST: training documents start with their toxicity."""

    kind: Literal["none", "meda", "inst"] = "none"
    """none: plain documents; meda: the score as metadata; inst: a sentence that says whether the
    text is toxic. A sweep sets it for each of its `arms`."""

    scorer: str = "profanity"
    """`corpus:NAME` reads the score NAME that the corpus carries; `label` reads its label, a number
    in [0, 1]; otherwise a local scorer: `profanity`, `lexicon:URI`, `classifier:NAME` or
    `trained:FOLDER`."""

    threshold: Share = 0.5
    """For inst: a document is called toxic from this score on."""

    tagged_ratio: Annotated[float, Gt(0), Le(1)] = 1.0
    """Share of the training documents that are annotated."""

    # the wording of both is not published (PAPER §6)
    meda_template: str = "toxicity: {score}\n"
    """For meda: the text before a document, with {score} in it once. Our choice."""

    inst_template: str = "The following text is {verdict}.\n"
    """For inst: the text before a document, with {verdict} in it once. Our choice."""

    def __post_init__(self) -> None:
        kind, _, name = self.scorer.partition(":")
        is_of_corpus = self.scorer == "label" or (kind == "corpus" and name != "")
        if not is_of_corpus and not is_scorer(self.scorer):
            raise ConfigurationError(
                f"data.annotation.scorer is {self.scorer!r}; expected label, corpus:NAME (a score "
                f"that the corpus carries), {SCORER_FORMS}"
            )
        for kind, slot in SLOTS.items():
            template = getattr(self, f"{kind}_template")
            if template.count(slot) != 1:
                raise ConfigurationError(
                    f"data.annotation.{kind}_template is {template!r}; expected a text that "
                    f"contains {slot} once"
                )

    @property
    def is_on(self) -> bool:
        return self.kind != "none"

    @property
    def text(self) -> str:
        """The template in use."""
        return self.meda_template if self.kind == "meda" else self.inst_template

    @property
    def in_use(self) -> tuple[object, ...] | None:
        """The settings that decide the annotated text; None if there is no annotation."""
        if not self.is_on:
            return None
        threshold = self.threshold if self.kind == "inst" else None
        return (self.kind, self.text, self.scorer, self.tagged_ratio, threshold)


@settings("data")
class DataConfig:
    """The two corpora and how they become token streams."""

    clean: tuple[str, ...]
    """URIs of the clean corpus, with wildcards; `#text=field` names the text field;
    `synthetic:clean` is the embedded corpus."""

    toxic: tuple[str, ...]
    """URIs of the toxic corpus, likewise."""

    tokenizer: TokenizerConfig
    cleaning: CleaningConfig = CleaningConfig()

    dedup: Literal["keep", "exact", "near"] = "exact"
    """Of documents with the same text (exact), or nearly the same (near), only the first in the
    stream is kept; `keep` keeps all."""

    common_documents: Literal["keep", "drop"] = "keep"
    """Documents whose text is in both streams are counted; with `drop` they are left out of the
    clean one, which then depends on the toxic corpus."""

    decontamination: DecontaminationConfig = DecontaminationConfig()
    annotation: AnnotationConfig = AnnotationConfig()

    held_out_ratio: Annotated[float, Gt(0), Lt(0.5)] = 0.02
    """Share of documents, chosen by a keyed hash, that are kept out of training."""

    shuffle_seed: int = 0
    """Seed of the hash that orders the documents."""

    shard_tokens: Annotated[int, Ge(64)] = 64 << 20
    """Tokens per shard, except the last of a split; a document may continue in the next shard. A
    worker needs about 0.9 GiB for shards of 64 Mi tokens and 1.5 GiB for twice that. A shard is
    three files and a task, so useful ones have millions of tokens; at most 100,000 are built."""

    overlap_search_ratio: Share = operational(default=1.0)
    """Share of the training shards that are searched for evaluation texts which are not among
    `decontamination.uris`, to state their overlap in the report; 0 searches none. It is one pass
    over the stream for all new texts, which is not repeated."""

    verify_inputs: bool = operational(default=False)
    """Compare the content of all input files with that of a finished stream. Otherwise only files
    whose size, or whose modification time or ETag, changed are compared."""

    def __post_init__(self) -> None:
        for name in ("clean", "toxic"):
            if not getattr(self, name):
                raise ConfigurationError(f"the {name} corpus names no files; give --{name} URI")
        # other names of one file are found when the corpora are listed (sources/input_files.py)
        if twice := sorted(set(self.clean) & set(self.toxic)):
            raise ConfigurationError(
                f"{twice[0]} is in both corpora, data.clean and data.toxic, so the toxic ratio "
                "would mean nothing; name it in one of them"
            )
        if self.shard_tokens > BLOCK_TOKENS and self.shard_tokens % BLOCK_TOKENS:
            raise ConfigurationError(
                f"data.shard_tokens is {self.shard_tokens:,}; a large shard must end with a block "
                f"of 8 MiB, so expected a multiple of {BLOCK_TOKENS:,}; e.g. "
                f"{-(-self.shard_tokens // BLOCK_TOKENS) * BLOCK_TOKENS:,}"
            )


def too_many_shards(n_tokens: int, shard_tokens: int) -> ConfigurationError:
    """The refusal of more than MAX_SHARDS shards for `n_tokens` tokens."""
    return ConfigurationError(
        f"data.shard_tokens is {shard_tokens:,}, so {n_tokens:,} tokens would be "
        f"{-(-n_tokens // shard_tokens):,} shards; expected at most {MAX_SHARDS:,}: set at least "
        f"{-(-n_tokens // MAX_SHARDS):,}, or leave the default"
    )
