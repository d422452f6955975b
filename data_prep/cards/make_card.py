"""count the data card of a finished stream, one Ray task per shard

The card is counted in one pass over the provenance of the shards (provenance_stats.py); its samples
are the first documents, decoded, and a few dropped documents from drops.jsonl. It depends on the
stream and its settings alone, so two builds of the same input have the same card.
"""

import json
from collections.abc import Iterator
from io import BytesIO
from typing import TYPE_CHECKING, Any

import numpy as np

from data_prep.cards import data_card, provenance_stats
from data_prep.cards.data_card import (
    DataCard,
    DocumentGroup,
    DomainSummary,
    DropSummary,
    Excerpt,
    InputSummary,
    LengthBin,
    LengthSummary,
    ScoreSummary,
)
from data_prep.cleaning import dropped_samples
from data_prep.config import DataConfig, StreamName
from data_prep.core import ray_tasks, storage, telemetry
from data_prep.core.errors import ArtefactCorrupt
from data_prep.core.records import digest
from data_prep.token_stream import reader
from data_prep.token_stream.manifest import Manifest
from data_prep.token_stream.tokenizer import Tokenizer

if TYPE_CHECKING:
    import pyarrow

N_TOP = 50  # domains and labels listed
N_SAMPLES = 5  # documents shown, and dropped documents per reason
SAMPLE_TOKENS = 4 * dropped_samples.SHOWN_CHARS  # enough for that many characters in any script
NOT_CLAIMED = (
    "Scores and labels are the corpus's own, copied and not checked; documents without one are not "
    "counted among them.",
    "Domains are host names as written, without www., of documents whose id is a URL; subdomains "
    "are not joined, for no list of public suffixes is used.",
    "Bytes are of the cleaned text in UTF-8; bytes per token exclude the end-of-document tokens.",
    "A dropped document is counted under the first reason that held; others may have held too.",
    "Near duplicates and overlap with evaluation sets are found by hashes of words: some remain, "
    "and quotations count as overlap.",
    "Samples are the first documents of the stream, whose order is random; masking hides words, "
    "not meaning.",
)


def ensure_card(
    stream_uri: str, manifest: Manifest, config: DataConfig, tokenizer: Tokenizer
) -> DataCard:
    """The card beside `manifest`, which was built with `config` and `tokenizer`; made if it is
    missing or out of date.
    """
    uri = storage.join(stream_uri, data_card.NAME)
    if storage.exists(uri):
        try:
            card = storage.load(DataCard, uri)
        except ArtefactCorrupt as error:  # all of it can be counted again
            telemetry.logger.warning("%s. The card is made again", error)
        else:
            if card.manifest_digest == digest(manifest):
                return card
    card = make_card(stream_uri, manifest, config, tokenizer)
    storage.save(card, uri)
    return card


def make_card(
    stream_uri: str, manifest: Manifest, config: DataConfig, tokenizer: Tokenizer
) -> DataCard:
    """Count the card; call it within ray_session.session()."""
    counted = _count(stream_uri, manifest)
    n_flagged = {row["key"]: row["n_documents"] for row in counted["flag"].to_pylist()}
    dropped = _dropped_excerpts(stream_uri)
    return DataCard(
        format_version=data_card.FORMAT_VERSION,
        stream=manifest.stream,
        manifest_digest=digest(manifest),
        tokenizer_fingerprint=manifest.tokenizer_fingerprint,
        vocab_size=manifest.vocab_size,
        eos=config.tokenizer.eos,
        eos_id=manifest.eos_id,
        cleaning_version=manifest.cleaning_version,
        cleaning=config.cleaning,
        dedup=config.dedup,
        decontamination=config.decontamination,
        held_out_ratio=config.held_out_ratio,
        shuffle_seed=config.shuffle_seed,
        n_read=_n_read(manifest),
        n_bad_rows=sum(file.n_bad_rows for file in manifest.inputs),
        n_documents=manifest.n_documents,
        n_tokens=manifest.n_tokens,
        n_text_bytes=manifest.n_text_bytes,
        n_masked=n_flagged.get("masked", 0),
        n_annotated=n_flagged.get("annotated", 0),
        n_language_uncertain=n_flagged.get("language_uncertain", 0),
        bytes_per_token=manifest.n_text_bytes / max(1, manifest.n_tokens - manifest.n_documents),
        splits=_splits(manifest),
        tokens_per_document=summarize_lengths(counted["n_tokens"]),
        bytes_per_document=summarize_lengths(counted["n_bytes"])
        if counted["n_bytes"].num_rows
        else None,
        drops=_drops(manifest, dropped),
        unreadable=tuple(dropped.get(dropped_samples.UNREADABLE, [])),
        inputs=_inputs(manifest),
        domains=_domains(counted["domain"]),
        n_labels=counted["label"].num_rows,
        labels=_most_frequent(counted["label"]),
        scores=_scores(counted["score"]),
        samples=tuple(_samples(stream_uri, manifest, tokenizer)),
        not_claimed=NOT_CLAIMED,
    )


def _count(stream_uri: str, manifest: Manifest) -> provenance_stats.Tally:
    jobs = [
        ray_tasks.RayTask(
            f"card {manifest.stream} {shard.name}",
            provenance_stats.count_shard,
            (stream_uri, shard),
            shard.n_documents,
        )
        for shard in manifest.train + manifest.held_out
    ]
    tallies = ray_tasks.run(jobs, f"card {manifest.stream}", "documents")
    return provenance_stats.add_up(tallies)


def summarize_lengths(table: "pyarrow.Table") -> LengthSummary:
    """Exact quantiles and histogram of a table of (key: length, n_documents)."""
    ordered = table.sort_by("key")
    lengths = ordered["key"].to_numpy()
    counts = ordered["n_documents"].to_numpy()
    cumulative = np.cumsum(counts)
    n_documents = int(cumulative[-1])

    def quantile(percent: int) -> int:
        rank = -(-n_documents * percent // 100)
        return int(lengths[np.searchsorted(cumulative, rank)])

    return LengthSummary(
        mean=int(lengths @ counts) / n_documents,
        median=quantile(50),
        p90=quantile(90),
        p99=quantile(99),
        max=int(lengths[-1]),
        histogram=tuple(_histogram(lengths, counts)),
    )


def _histogram(lengths: np.ndarray, counts: np.ndarray) -> Iterator[LengthBin]:
    """Two bins per octave, starting at 1, 2, 3, 4, 6, 8, 12, …; length 0 has a bin of its own.

    lengths: ascending. The last bin is the one of the longest document.
    """
    edges = [0, 1, 2]
    while edges[-1] <= lengths[-1]:
        edges += [edges[-1] * 3 // 2, edges[-1] * 2]
    positions = np.searchsorted(lengths, edges)
    for low, high, first, last in zip(edges, edges[1:], positions, positions[1:], strict=False):
        is_needed = low > 0 or last > first
        if low <= lengths[-1] and is_needed:
            inside = slice(first, last)
            yield LengthBin(
                low=low,
                high=high - 1,
                n_documents=int(counts[inside].sum()),
                total=int(lengths[inside] @ counts[inside]),
            )


def _n_read(manifest: Manifest) -> int:
    return manifest.n_documents + sum(manifest.drops.values())


def _splits(manifest: Manifest) -> tuple[DocumentGroup, ...]:
    return tuple(
        DocumentGroup(
            name=split,
            n_documents=sum(shard.n_documents for shard in manifest.shards(split)),
            n_tokens=manifest.split_tokens(split),
        )
        for split in ("train", "held_out")
    )


def _drops(manifest: Manifest, excerpts: dict[str, list[Excerpt]]) -> tuple[DropSummary, ...]:
    return tuple(
        DropSummary(
            reason=reason,
            n_documents=n,
            ratio=n / _n_read(manifest),
            samples=tuple(excerpts.get(reason, [])),
        )
        for reason, n in sorted(manifest.drops.items())
    )


def _inputs(manifest: Manifest) -> tuple[InputSummary, ...]:
    return tuple(
        InputSummary(
            uri=file.uri,
            n_documents=file.n_documents,
            n_tokens=file.n_tokens,
            n_bad_rows=file.n_bad_rows,
        )
        for file in manifest.inputs
    )


def _most_frequent(table: "pyarrow.Table") -> tuple[DocumentGroup, ...]:
    """The most frequent keys; ties in order of their names."""
    ordered = table.sort_by([("n_documents", "descending"), ("key", "ascending")]).slice(0, N_TOP)
    return tuple(
        DocumentGroup(name=row["key"], n_documents=row["n_documents"], n_tokens=row["n_tokens"])
        for row in ordered.to_pylist()
    )


def _domains(table: "pyarrow.Table") -> DomainSummary | None:
    if not table.num_rows:
        return None
    n_documents = int(table["n_documents"].to_numpy().sum())
    return DomainSummary(
        n_documents=n_documents, n_domains=table.num_rows, top=_most_frequent(table)
    )


def _scores(table: "pyarrow.Table") -> tuple[ScoreSummary, ...]:
    return tuple(
        ScoreSummary(
            name=row["key"],
            n_documents=row["n_documents"],
            mean=row["millionths"] / row["n_documents"] / provenance_stats.MILLION,
            half_ratio=row["n_half"] / row["n_documents"],
        )
        for row in table.sort_by("key").to_pylist()
    )


def _samples(stream_uri: str, manifest: Manifest, tokenizer: Tokenizer) -> Iterator[Excerpt]:
    """The first documents of the training split: the stream is shuffled, so they are random."""
    import pyarrow.parquet as pq

    first_shard = manifest.train[0]
    provenance = storage.read(storage.join(stream_uri, f"{first_shard.name}.documents.parquet"))
    rows = next(pq.ParquetFile(BytesIO(provenance)).iter_batches(N_SAMPLES)).to_pylist()
    n_samples = min(N_SAMPLES, first_shard.n_documents)
    documents = reader.read_documents(stream_uri, manifest, "train", n_samples)
    for row, ids in zip(rows, documents, strict=False):
        # A cut in the middle of a character decodes to replacement characters at the end.
        text = tokenizer.decode(ids[:SAMPLE_TOKENS]).rstrip("\ufffd")
        yield Excerpt(
            place=_place(row), n_tokens=row["n_tokens"], text=_shown(text, manifest.stream)
        )


def _dropped_excerpts(stream_uri: str) -> dict[str, list[Excerpt]]:
    """By reason: a few dropped documents, as the build masked them."""
    uri = storage.join(stream_uri, dropped_samples.NAME)
    excerpts: dict[str, list[Excerpt]] = {}
    lines = storage.read(uri).splitlines() if storage.exists(uri) else []
    for row in map(json.loads, lines):
        of_reason = excerpts.setdefault(row["reason"], [])
        if len(of_reason) < N_SAMPLES:
            of_reason.append(Excerpt(place=row["place"], n_tokens=None, text=row["text"]))
    return excerpts


def _place(row: dict[str, Any]) -> str:
    """`URI:line part n (id)`, counted from 1."""
    part = row.get("part") or 0
    place = f"{row['uri']}:{row['row'] + 1}"
    if part:
        place += f" part {part + 1}"
    if row.get("id"):
        place += f" ({row['id']})"
    return place


def _shown(text: str, stream: StreamName) -> str:
    """The beginning of a text; the toxic stream is masked as dropped documents are."""
    if stream == "toxic":
        return dropped_samples.mask_words(text)
    if len(text) > dropped_samples.SHOWN_CHARS:
        return text[: dropped_samples.SHOWN_CHARS] + "…"
    return text
