"""data card of a token stream: sizes, lengths, drops, domains, scores and samples

Written as `card.json` beside the manifest at the end of a build (make_card.py); the report
and `build_streams.py --card` show it.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, NamedTuple

from data_prep.config import CleaningConfig, DecontaminationConfig, StreamName
from data_prep.core import storage
from data_prep.core.errors import ArtefactMissing
from data_prep.core.records import format_version, record
from data_prep.token_stream import text_hashes
from data_prep.token_stream.text_hashes import CommonDocuments

FORMAT_VERSION = 4
NAME = "card.json"


@record
class LengthBin:
    """Documents of `low` to `high` tokens or bytes, both included, and their total length."""

    low: int
    high: int
    n_documents: int
    total: int


@record
class LengthSummary:
    """How long documents are. A quantile is the smallest document length that this share of the
    documents does not exceed.
    """

    mean: float
    median: int
    p90: int
    p99: int
    max: int
    histogram: tuple[LengthBin, ...]


@record
class DocumentGroup:
    """Documents with something in common: a domain, a label, a split."""

    name: str
    n_documents: int
    n_tokens: int


@record
class InputSummary:
    """One input file; n_documents counts those kept, n_bad_rows those unreadable."""

    uri: str
    n_documents: int
    n_tokens: int
    n_bad_rows: int


@record
class DomainSummary:
    """Documents whose id is a URL, and the most frequent of their domains."""

    n_documents: int
    n_domains: int
    top: tuple[DocumentGroup, ...]


@record
class ScoreSummary:
    """A score in [0, 1] that the corpus carries: over the documents that have it, the mean and the
    share that scores at least 0.5.
    """

    name: str
    n_documents: int
    mean: float
    half_ratio: float


@record
class Excerpt:
    """The beginning of a document, masked, and its place in the corpus."""

    place: str
    n_tokens: int | None
    text: str


@record
class DropSummary:
    """Documents dropped for one reason, as a share of those read, and a few of them, masked."""

    reason: str
    n_documents: int
    ratio: float
    samples: tuple[Excerpt, ...]


@record
class DataCard:
    """What one token stream contains, and the settings that decided it.

    Tokens include one end-of-document token per document; ratios are in [0, 1]. n_masked: kept
    documents in which something personal was masked; n_annotated: kept documents that start with
    their toxicity; n_language_uncertain: documents that the language filter kept because they are
    too short or the detector is not sure. common: what the stream has in common with the other one;
    known only where both are at hand (load_all), not in the file beside the manifest.
    """

    format_version: Annotated[int, format_version(FORMAT_VERSION)]
    stream: StreamName
    manifest_digest: str
    tokenizer_fingerprint: str
    vocab_size: int
    eos: str
    eos_id: int
    cleaning_version: int
    cleaning: CleaningConfig
    dedup: str
    decontamination: DecontaminationConfig
    held_out_ratio: float
    shuffle_seed: int
    n_read: int
    n_bad_rows: int
    n_documents: int
    n_tokens: int
    n_text_bytes: int
    n_masked: int = 0
    n_annotated: int = 0
    n_language_uncertain: int = 0
    bytes_per_token: float
    splits: tuple[DocumentGroup, ...]
    tokens_per_document: LengthSummary
    bytes_per_document: LengthSummary | None
    drops: tuple[DropSummary, ...]
    unreadable: tuple[Excerpt, ...]
    inputs: tuple[InputSummary, ...]
    domains: DomainSummary | None
    n_labels: int
    labels: tuple[DocumentGroup, ...]
    scores: tuple[ScoreSummary, ...]
    samples: tuple[Excerpt, ...]
    not_claimed: tuple[str, ...]
    common: CommonDocuments | None = None


class CardFact(NamedTuple):
    """A line of the card as people read it."""

    name: str
    value: str


def load(stream_uri: str) -> DataCard:
    """The card of the stream in the folder `stream_uri`."""
    uri = storage.join(stream_uri, NAME)
    if not storage.exists(uri):
        raise ArtefactMissing(
            f"{uri}: the stream has no data card yet; run launch/sweep.py --only data to write it"
        )
    return storage.load(DataCard, uri)


def load_all(uris: Mapping[StreamName, str]) -> dict[StreamName, DataCard]:
    """The cards of the streams in these folders; of both, with what they have in common."""
    cards: dict[StreamName, DataCard] = {name: load(uri) for name, uri in uris.items()}
    if "clean" in uris and "toxic" in uris:
        uri = storage.join(uris["clean"], text_hashes.count_name(uris["toxic"]))
        if storage.exists(uri):
            common = storage.load(CommonDocuments, uri)
            cards = {name: replace(card, common=common) for name, card in cards.items()}
    return cards


def facts(card: DataCard) -> list[CardFact]:
    """The card's main numbers, in the same order for every stream."""
    lengths = card.tokens_per_document
    split_tokens = {split.name: split.n_tokens for split in card.splits}
    kept_percent = 100 * card.n_documents / max(1, card.n_read)
    n_empty_files = sum(not file.n_documents for file in card.inputs)
    return [
        CardFact("documents read", f"{card.n_read:,}"),
        CardFact("unreadable rows", f"{card.n_bad_rows:,}"),
        CardFact("files without a document", f"{n_empty_files:,}"),
        CardFact("documents dropped", f"{card.n_read - card.n_documents:,}"),
        CardFact("documents kept", f"{card.n_documents:,}"),
        CardFact("kept, share of those read", f"{kept_percent:.2f}\u00a0%"),
        CardFact("kept, also in the other stream", _in_both(card)),
        CardFact("kept with something personal masked", f"{card.n_masked:,}"),
        CardFact("kept and annotated with their toxicity", f"{card.n_annotated:,}"),
        CardFact("kept, language uncertain", f"{card.n_language_uncertain:,}"),
        CardFact("text, MB", f"{card.n_text_bytes / 1e6:,.1f}"),
        CardFact("tokens", f"{card.n_tokens:,}"),
        CardFact("tokens to train on", f"{split_tokens['train']:,}"),
        CardFact("tokens held out", f"{split_tokens['held_out']:,}"),
        CardFact("bytes of text per token", f"{card.bytes_per_token:.2f}"),
        CardFact("tokens per document, mean", f"{lengths.mean:,.1f}"),
        CardFact("tokens per document, median", f"{lengths.median:,}"),
        CardFact("tokens per document, 90th percentile", f"{lengths.p90:,}"),
        CardFact("tokens per document, 99th percentile", f"{lengths.p99:,}"),
        CardFact("tokens of the longest document", f"{lengths.max:,}"),
    ]


def _in_both(card: DataCard) -> str:
    if card.common is None:
        return "not counted"
    n = card.common.n_clean if card.stream == "clean" else card.common.n_toxic
    return f"{n:,} ({100 * n / max(1, card.n_documents):.2g}\u00a0%)" if n else "0"
