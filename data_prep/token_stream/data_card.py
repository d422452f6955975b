"""the data card of a token stream: sizes, lengths, drops, origins, scores and masked samples,
counted from its provenance

Made once, at the end of a build, as `card.json` beside the manifest: counted in one pass over the
shards' provenance, a Ray task a shard (provenance_stats.py), with the first documents decoded and
some drops as drops.jsonl has them. It depends on the stream and its settings alone, so two builds
of one input have the same card.
"""

import json
from collections.abc import Iterator
from io import BytesIO
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from data_prep.build import dropped_samples, provenance_stats
from data_prep.config import CleaningConfig, DataConfig, DecontaminationConfig, StreamName
from data_prep.core import ray_tasks, storage
from data_prep.core.errors import ArtefactMissing
from data_prep.core.records import digest, record
from data_prep.token_stream import reader
from data_prep.token_stream.manifest import Manifest
from data_prep.token_stream.tokenizer import Tokenizer

if TYPE_CHECKING:
    import pyarrow

FORMAT_VERSION = 3
NAME = "card.json"
N_TOP = 50  # domains and labels listed
N_SAMPLES = 5  # documents shown, and drops of each reason
SAMPLE_TOKENS = 4 * dropped_samples.SHOWN_CHARS  # enough for that many characters in any script
NOT_CLAIMED = (
    "Scores and labels are the corpus's own, copied and not checked; documents without one are not counted among them.",
    "Domains are host names as written, without www., of documents whose id is a URL; no list of public suffixes joins subdomains.",
    "Bytes are of the cleaned text in UTF-8; bytes per token leave the end-of-document tokens out.",
    "Drops are counted by the first reason that held; a document dropped for one reason may have had others.",
    "Near duplicates and overlap with evaluation sets are found by hashes of words: some remain, and quotations count as overlap.",
    "Samples are the first documents in the stream's order, which is random; masking hides words, not meaning.",
)


class Fact(NamedTuple):
    """A line of the card as people read it."""

    name: str
    value: str


@record
class Bin:
    """Documents of `low` to `high` tokens or bytes, both included, and what they hold together."""

    low: int
    high: int
    n_documents: int
    total: int


@record
class Lengths:
    """How long documents are. A quantile is the length of a document: the smallest that so many do
    not exceed.
    """

    mean: float
    median: int
    p90: int
    p99: int
    max: int
    histogram: tuple[Bin, ...]


@record
class Part:
    """Documents with something in common: an input file, a domain, a label, a split."""

    name: str
    n_documents: int
    n_tokens: int


@record
class Input:
    """One input file; n_documents counts those kept, n_bad_rows those unreadable."""

    uri: str
    n_documents: int
    n_tokens: int
    n_bad_rows: int


@record
class Domains:
    """Documents whose id is a URL, and the commonest of their domains."""

    n_documents: int
    n_domains: int
    top: tuple[Part, ...]


@record
class Score:
    """A score in [0, 1] that the corpus carries: over the documents that have it, the mean and how
    many reach a half.
    """

    name: str
    n_documents: int
    mean: float
    half_ratio: float


@record
class Drop:
    """Documents left out for one reason, as a share of those read, and a few of them, masked."""

    reason: str
    n_documents: int
    ratio: float
    samples: tuple["Excerpt", ...]


@record
class Excerpt:
    """The beginning of a document, masked, and where it comes from."""

    place: str
    n_tokens: int | None
    text: str


@record
class Card:
    """What one token stream holds, and the settings that decided it.

    Tokens include one end-of-document token a document; ratios are shares of one. n_masked:
    documents kept in which something personal was masked; n_annotated: those with their toxicity
    written on them.
    """

    format_version: int
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
    bytes_per_token: float
    splits: tuple[Part, ...]
    tokens_per_document: Lengths
    bytes_per_document: Lengths | None
    drops: tuple[Drop, ...]
    unreadable: tuple[Excerpt, ...]
    inputs: tuple[Input, ...]
    domains: Domains | None
    n_labels: int
    labels: tuple[Part, ...]
    scores: tuple[Score, ...]
    samples: tuple[Excerpt, ...]
    not_claimed: tuple[str, ...]


def load(stream_uri: str) -> Card:
    """The card of the stream in the folder `stream_uri`."""
    uri = storage.join(stream_uri, NAME)
    if not storage.exists(uri):
        raise ArtefactMissing(
            f"{uri}: the stream has no data card yet; run launch/sweep.py --only data to write it"
        )
    return storage.load(Card, uri)


def ensure(stream_uri: str, known: Manifest, config: DataConfig, engine: Tokenizer) -> Card:
    """The card beside the manifest `known`, which was built with `config` and `engine`: written if
    it is not there.
    """
    uri = storage.join(stream_uri, NAME)
    if storage.exists(uri):
        card = storage.load(Card, uri)
        if (card.format_version, card.manifest_digest) == (FORMAT_VERSION, digest(known)):
            return card
    storage.save(card := make(stream_uri, known, config, engine), uri)
    return card


def make(stream_uri: str, known: Manifest, config: DataConfig, engine: Tokenizer) -> Card:
    """Count the stream's documents by one Ray task a shard, within a session."""
    jobs = [
        ray_tasks.Job(
            f"card {known.stream} {shard.name}",
            provenance_stats.count,
            (stream_uri, shard),
            shard.n_documents,
        )
        for shard in known.train + known.held_out
    ]
    counted = provenance_stats.total(ray_tasks.run(jobs, f"card {known.stream}", "documents"))
    n_read = known.n_documents + sum(known.drops.values())
    dropped, flagged = (
        _dropped(stream_uri),
        {row["key"]: row["n_documents"] for row in counted["flag"].to_pylist()},
    )
    return Card(
        format_version=FORMAT_VERSION,
        stream=known.stream,
        manifest_digest=digest(known),
        tokenizer_fingerprint=known.tokenizer_fingerprint,
        vocab_size=known.vocab_size,
        eos=config.tokenizer.eos,
        eos_id=known.eos_id,
        cleaning_version=known.cleaning_version,
        cleaning=config.cleaning,
        dedup=config.dedup,
        decontamination=config.decontamination,
        held_out_ratio=config.held_out_ratio,
        shuffle_seed=config.shuffle_seed,
        n_read=n_read,
        n_bad_rows=sum(file.n_bad_rows for file in known.inputs),
        n_documents=known.n_documents,
        n_tokens=known.n_tokens,
        n_text_bytes=known.n_text_bytes,
        n_masked=flagged.get("masked", 0),
        n_annotated=flagged.get("annotated", 0),
        bytes_per_token=known.n_text_bytes / max(1, known.n_tokens - known.n_documents),
        splits=tuple(
            Part(
                name=split,
                n_documents=sum(s.n_documents for s in known.shards(split)),
                n_tokens=known.split_tokens(split),
            )
            for split in ("train", "held_out")
        ),
        tokens_per_document=lengths(counted["n_tokens"]),
        bytes_per_document=lengths(counted["n_bytes"]) if counted["n_bytes"].num_rows else None,
        drops=tuple(
            Drop(
                reason=reason,
                n_documents=n,
                ratio=n / n_read,
                samples=tuple(dropped.get(reason, [])),
            )
            for reason, n in sorted(known.drops.items())
        ),
        unreadable=tuple(dropped.get(dropped_samples.UNREADABLE, [])),
        inputs=tuple(
            Input(
                uri=file.uri,
                n_documents=file.n_documents,
                n_tokens=file.n_tokens,
                n_bad_rows=file.n_bad_rows,
            )
            for file in known.inputs
        ),
        domains=_domains(counted["domain"]),
        n_labels=counted["label"].num_rows,
        labels=_top(counted["label"]),
        scores=_scores(counted["score"]),
        samples=tuple(_samples(stream_uri, known, engine)),
        not_claimed=NOT_CLAIMED,
    )


def facts(card: Card) -> list[Fact]:
    """The card's main numbers, in the same order for every stream."""
    lengths, tokens = card.tokens_per_document, {part.name: part.n_tokens for part in card.splits}
    return [
        Fact("documents read", f"{card.n_read:,}"),
        Fact("unreadable rows", f"{card.n_bad_rows:,}"),
        Fact("dropped", f"{card.n_read - card.n_documents:,}"),
        Fact("kept", f"{card.n_documents:,}"),
        Fact("kept, share", f"{100 * card.n_documents / max(1, card.n_read):.2f}\u00a0%"),
        Fact("kept with something personal masked", f"{card.n_masked:,}"),
        Fact("kept with their toxicity written on them", f"{card.n_annotated:,}"),
        Fact("text, MB", f"{card.n_text_bytes / 1e6:,.1f}"),
        Fact("tokens", f"{card.n_tokens:,}"),
        Fact("tokens to train on", f"{tokens['train']:,}"),
        Fact("tokens held out", f"{tokens['held_out']:,}"),
        Fact("bytes of text per token", f"{card.bytes_per_token:.2f}"),
        Fact("tokens per document, mean", f"{lengths.mean:,.1f}"),
        Fact("tokens per document, median", f"{lengths.median:,}"),
        Fact("tokens per document, 90th percentile", f"{lengths.p90:,}"),
        Fact("tokens per document, 99th percentile", f"{lengths.p99:,}"),
        Fact("tokens of the longest document", f"{lengths.max:,}"),
    ]


def lengths(table: "pyarrow.Table") -> Lengths:
    """Quantiles and histogram of a table of (length, n_documents): exact, whatever the number of
    documents.
    """
    ordered = table.sort_by("key")
    values, counts = (ordered[name].to_numpy() for name in ("key", "n_documents"))
    ends = np.cumsum(counts)

    def quantile(per_cent: int) -> int:
        return int(values[np.searchsorted(ends, -(-int(ends[-1]) * per_cent // 100))])

    return Lengths(
        mean=int(values @ counts) / int(ends[-1]),
        median=quantile(50),
        p90=quantile(90),
        p99=quantile(99),
        max=int(values[-1]),
        histogram=tuple(_bins(values, counts)),
    )


def _bins(values: np.ndarray, counts: np.ndarray) -> Iterator[Bin]:
    """Two bins an octave, from 1, 2, 3, 4, 6, 8, 12, … on; 0 has its own, and there is none above
    the longest.
    """
    edges = [0, 1, 2]
    while edges[-1] <= values[-1]:
        edges += [edges[-1] * 3 // 2, edges[-1] * 2]
    at = np.searchsorted(values, edges)
    for low, high, first, last in zip(edges, edges[1:], at, at[1:], strict=False):
        if low <= values[-1] and (low or last > first):
            inside = slice(first, last)
            yield Bin(
                low=low,
                high=high - 1,
                n_documents=int(counts[inside].sum()),
                total=int(values[inside] @ counts[inside]),
            )


def _top(table: "pyarrow.Table") -> tuple[Part, ...]:
    """The commonest keys, ties in order of their names."""
    ordered = table.sort_by([("n_documents", "descending"), ("key", "ascending")]).slice(0, N_TOP)
    return tuple(
        Part(name=row["key"], n_documents=row["n_documents"], n_tokens=row["n_tokens"])
        for row in ordered.to_pylist()
    )


def _domains(table: "pyarrow.Table") -> Domains | None:
    if not table.num_rows:
        return None
    n_documents = int(table["n_documents"].to_numpy().sum())
    return Domains(n_documents=n_documents, n_domains=table.num_rows, top=_top(table))


def _scores(table: "pyarrow.Table") -> tuple[Score, ...]:
    return tuple(
        Score(
            name=row["key"],
            n_documents=row["n_documents"],
            mean=row["millionths"] / row["n_documents"] / provenance_stats.MILLION,
            half_ratio=row["n_half"] / row["n_documents"],
        )
        for row in table.sort_by("key").to_pylist()
    )


def _samples(stream_uri: str, known: Manifest, engine: Tokenizer) -> Iterator[Excerpt]:
    """The first documents of the training split: the order is that of hashes, so they are a random
    draw.
    """
    import pyarrow.parquet as pq

    first = storage.read(storage.join(stream_uri, f"{known.train[0].name}.documents.parquet"))
    rows = pq.ParquetFile(BytesIO(first)).iter_batches(N_SAMPLES)
    documents = reader.read_documents(
        stream_uri, known, "train", min(N_SAMPLES, known.train[0].n_documents)
    )
    for row, ids in zip(next(rows).to_pylist(), documents, strict=False):
        text = engine.decode(ids[:SAMPLE_TOKENS]).rstrip("\ufffd")
        yield Excerpt(place=_place(row), n_tokens=row["n_tokens"], text=_shown(text, known.stream))


def _dropped(stream_uri: str) -> dict[str, list[Excerpt]]:
    """A few drops of each reason, as the build noted and masked them."""
    uri, found = storage.join(stream_uri, dropped_samples.NAME), dict[str, list[Excerpt]]()
    lines = storage.read(uri).splitlines() if storage.exists(uri) else []
    for row in map(json.loads, lines):
        samples = found.setdefault(row["reason"], [])
        if len(samples) < N_SAMPLES:
            samples.append(Excerpt(place=row["place"], n_tokens=None, text=row["text"]))
    return found


def _place(row: dict[str, Any]) -> str:
    part = row.get("part") or 0
    return (
        f"{row['uri']}:{row['row'] + 1}"
        + (f" part {part + 1}" if part else "")
        + (f" ({row['id']})" if row.get("id") else "")
    )


def _shown(text: str, stream: StreamName) -> str:
    """The beginning of a text, of the toxic stream masked as drops are."""
    if stream == "toxic":
        return dropped_samples.masked(text)
    return (
        text[: dropped_samples.SHOWN_CHARS] + "…"
        if len(text) > dropped_samples.SHOWN_CHARS
        else text
    )
