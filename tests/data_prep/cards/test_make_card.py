"""The data card counts the whole stream, and masks its samples."""

import json
import random
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep.cards import data_card, make_card, provenance_stats
from data_prep.cleaning import dropped_samples
from data_prep.config import DataConfig, StreamName, TokenizerConfig
from data_prep.core import records, storage
from data_prep.core.errors import ArtefactCorrupt, ArtefactMissing
from data_prep.token_stream import manifest, megatron_shards
from data_prep.token_stream.manifest import InputFile, Manifest, Shard
from data_prep.token_stream.tokenizer import Tokenizer, train

TEXTS = [f"number {i} of the wicked documents, and a bad one" for i in range(30)]
CONFIG = DataConfig(
    clean=("a",), toxic=("b",), tokenizer=TokenizerConfig(source="train", vocab_size=300)
)
SCORES = pa.map_(pa.string(), pa.float64())


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train(iter(TEXTS), CONFIG.tokenizer)


def provenance_row(n_tokens: int = 3, **more: object) -> dict:
    plain = {"id": None, "label": None, "scores": None, "masked": False, "annotated": False}
    plain |= {"language_uncertain": False}
    return {"n_tokens": n_tokens, "n_bytes": 4 * n_tokens} | plain | more


def provenance_table(rows: list[dict]) -> pa.Table:
    types = {
        "n_tokens": pa.int64(),
        "n_bytes": pa.int64(),
        "id": pa.string(),
        "label": pa.string(),
        "scores": SCORES,
    }
    types |= dict.fromkeys(provenance_stats.FLAGS, pa.bool_())
    return pa.table(
        {name: pa.array([row[name] for row in rows], kind) for name, kind in types.items()}
    )


def as_sorted_rows(tally: provenance_stats.Tally) -> dict[str, list[tuple]]:
    return {
        name: sorted(tuple(line.values()) for line in part.to_pylist())
        for name, part in tally.items()
    }


def write_stream(folder: Path, tokenizer: Tokenizer, kind: StreamName = "clean") -> Manifest:
    """A stream as a build leaves it: TEXTS in two shards to train on and one held out, with every
    column of provenance.
    """
    ids, lengths = tokenizer.encode_batch(TEXTS)
    documents = [
        np.append(part, tokenizer.eos_id) for part in np.split(ids, np.cumsum(lengths)[:-1])
    ]
    rows = [
        provenance_row(
            len(tokens),
            uri="a.jsonl",
            row=i,
            id=f"https://www.S{i % 3}.example/{i}",
            label="ab"[i % 2],
            scores=[("TOXICITY", i / 30)],
            masked=i % 3 == 0,
            annotated=i < 7,
            language_uncertain=i < 4,
        )
        for i, tokens in enumerate(documents)
    ]
    held_out, train_0, train_1 = [
        write_shard(folder, name, documents[a:b], rows[a:b])
        for name, a, b in (("held_out-0", 0, 4), ("train-0", 4, 20), ("train-1", 20, 30))
    ]
    n_tokens = sum(map(len, documents))
    known = Manifest(
        format_version=manifest.FORMAT_VERSION,
        stream=kind,
        settings_digest="0",
        tokenizer_fingerprint=tokenizer.fingerprint,
        vocab_size=300,
        eos_id=tokenizer.eos_id,
        dtype="uint16",
        cleaning_version=1,
        n_documents=30,
        n_tokens=n_tokens,
        n_text_bytes=sum(map(len, TEXTS)),
        drops={"too_short": 9, "exact_duplicate": 1},
        train=(train_0, train_1),
        held_out=(held_out,),
        inputs=(
            InputFile(
                uri="a.jsonl",
                sha256="",
                n_bytes=9,
                n_documents=30,
                n_tokens=n_tokens,
                n_bad_rows=2,
            ),
        ),
    )
    dropped = [
        {"reason": "too_short", "place": f"a.jsonl:{i}", "text": f"w***** {i}"}
        for i in range(make_card.N_SAMPLES + 3)
    ]
    dropped.append({"reason": "unreadable", "place": "a.jsonl:40", "text": "is not JSON"})
    storage.write(
        str(folder / dropped_samples.NAME),
        "".join(json.dumps(drop) + "\n" for drop in dropped).encode(),
    )
    return known


def write_shard(folder: Path, name: str, documents: list[np.ndarray], rows: list[dict]) -> Shard:
    provenance = (
        provenance_table(rows)
        .add_column(0, "uri", [[row["uri"] for row in rows]])
        .add_column(1, "row", [[row["row"] for row in rows]])
    )
    lengths = np.array([len(tokens) for tokens in documents])
    return megatron_shards.write_shard(
        str(folder), name, np.concatenate(documents).astype(np.uint16), lengths, provenance
    )


ROWS = st.lists(
    st.builds(
        provenance_row,
        st.integers(1, 2000),
        id=st.sampled_from(
            [None, "https://a.org/1", "https://www.A.org/2", "http://b.org", "12345"]
        ),
        label=st.sampled_from([None, "yes", "no"]),
        scores=st.sampled_from([None, [], [("x", 0.5)], [("x", 0.1), ("y", 1.0)]]),
        masked=st.booleans(),
    ),
    min_size=1,
    max_size=40,
)


@settings(deadline=None, max_examples=50)
@given(ROWS, st.randoms(use_true_random=False), st.integers(1, 9))
def test_a_tally_does_not_depend_on_batches_or_order(
    rows: list[dict], chance: random.Random, size: int
) -> None:
    whole = as_sorted_rows(provenance_stats.count_documents(provenance_table(rows)))
    chance.shuffle(rows)
    parts = [
        provenance_stats.count_documents(provenance_table(rows[at : at + size]))
        for at in range(0, len(rows), size)
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(provenance_stats, "COMPACT_ROWS", 3)
        assert as_sorted_rows(provenance_stats.add_up(parts)) == whole
    assert dict(whole["n_tokens"]) == Counter(row["n_tokens"] for row in rows)
    n_masked = sum(row["masked"] for row in rows)
    assert dict(whole["flag"]) == {"masked": n_masked, "annotated": 0, "language_uncertain": 0}
    assert sum(n for _, n, _ in whole["label"]) == sum(row["label"] is not None for row in rows)


@settings(deadline=None, max_examples=50)
@given(st.lists(st.one_of(st.integers(1, 20), st.integers(1, 1 << 40)), min_size=1, max_size=60))
def test_quantiles_are_exact_and_the_histogram_is_complete(
    lengths: list[int],
) -> None:
    known = make_card.summarize_lengths(
        provenance_stats.count_documents(provenance_table([provenance_row(n) for n in lengths]))[
            "n_tokens"
        ]
    )
    exact = np.quantile(lengths, (0.5, 0.9, 0.99, 1), method="inverted_cdf").tolist()
    assert [known.median, known.p90, known.p99, known.max] == exact
    assert known.mean == pytest.approx(sum(lengths) / len(lengths))
    for one in known.histogram:
        inside = [n for n in lengths if one.low <= n <= one.high]
        assert (one.n_documents, one.total) == (len(inside), sum(inside))
    assert sum(one.n_documents for one in known.histogram) == len(lengths)
    assert all(
        a.high + 1 == b.low for a, b in zip(known.histogram, known.histogram[1:], strict=False)
    )


def test_the_histogram_has_two_bins_per_octave() -> None:
    known = make_card.summarize_lengths(
        provenance_stats.count_documents(provenance_table([provenance_row(13)]))["n_tokens"]
    )
    assert [(one.low, one.high) for one in known.histogram] == [
        (1, 1),
        (2, 2),
        (3, 3),
        (4, 5),
        (6, 7),
        (8, 11),
        (12, 15),
    ]


@pytest.mark.parametrize(
    ("identity", "domain"),
    [
        ("https://www.Example.org/a?b#c", "example.org"),
        ("http://user:secret@sub.example.org:8080/", "sub.example.org"),
        ("HTTPS://example.org", "example.org"),
        ("https://münchen.example/ü", "münchen.example"),
        ("https:///nowhere", None),
        ("doc-17", None),
        ("see https://example.org", None),
    ],
)
def test_a_domain_is_the_host_of_an_id_that_is_a_url(identity: str, domain: str | None) -> None:
    domains = provenance_stats.count_documents(provenance_table([provenance_row(7, id=identity)]))[
        "domain"
    ].to_pylist()
    assert domains == ([{"key": domain, "n_documents": 1, "n_tokens": 7}] if domain else [])


def test_the_card_counts_the_whole_stream(
    tmp_path: Path, tokenizer: Tokenizer, ray_cluster: None
) -> None:
    known = write_stream(tmp_path, tokenizer)
    card = make_card.make_card(str(tmp_path), known, CONFIG, tokenizer)
    again = make_card.make_card(str(tmp_path), known, CONFIG, tokenizer)
    assert records.to_json(again) == records.to_json(card)
    assert (card.n_read, card.n_bad_rows, card.n_documents, card.n_tokens) == (
        40,
        2,
        30,
        known.n_tokens,
    )
    assert (card.n_masked, card.n_annotated, card.n_language_uncertain) == (10, 7, 4)
    assert ("kept, language uncertain", "4") in data_card.facts(card)
    assert card.bytes_per_token == pytest.approx(sum(map(len, TEXTS)) / (known.n_tokens - 30))
    assert [(part.name, part.n_documents) for part in card.splits] == [
        ("train", 26),
        ("held_out", 4),
    ]
    assert [(drop.reason, drop.n_documents, drop.ratio) for drop in card.drops] == [
        ("exact_duplicate", 1, 0.025),
        ("too_short", 9, 0.225),
    ]
    assert card.domains and (card.domains.n_documents, card.domains.n_domains) == (30, 3)
    assert [(part.name, part.n_documents) for part in card.domains.top] == [
        (f"s{i}.example", 10) for i in range(3)
    ]
    assert [(part.name, part.n_documents) for part in card.labels] == [("a", 15), ("b", 15)]
    assert [(one.name, one.n_documents, one.half_ratio) for one in card.scores] == [
        ("TOXICITY", 30, 0.5)
    ]
    assert card.scores[0].mean == pytest.approx(sum(range(30)) / 900, abs=1e-6)
    assert sum(one.total for one in card.tokens_per_document.histogram) == known.n_tokens
    assert (
        card.bytes_per_document and card.bytes_per_document.max == 4 * card.tokens_per_document.max
    )
    assert [(one.place, one.text) for one in card.samples] == [
        (f"a.jsonl:{i + 1} (https://www.S{i % 3}.example/{i})", TEXTS[i])
        for i in range(4, 4 + make_card.N_SAMPLES)
    ]


def test_long_words_of_the_toxic_stream_are_masked(
    tmp_path: Path, tokenizer: Tokenizer, ray_cluster: None
) -> None:
    card = make_card.make_card(
        str(tmp_path), write_stream(tmp_path, tokenizer, "toxic"), CONFIG, tokenizer
    )
    assert card.samples[0].text == "n***** 4 of the w***** d********, and a bad one"
    dropped = {drop.reason: [(one.place, one.text) for one in drop.samples] for drop in card.drops}
    assert dropped == {
        "exact_duplicate": [],
        "too_short": [(f"a.jsonl:{i}", f"w***** {i}") for i in range(make_card.N_SAMPLES)],
    }
    assert [(one.place, one.text) for one in card.unreadable] == [("a.jsonl:40", "is not JSON")]


def test_a_card_is_kept_until_the_manifest_changes(
    tmp_path: Path, tokenizer: Tokenizer, ray_cluster: None
) -> None:
    known = write_stream(tmp_path, tokenizer)
    with pytest.raises(ArtefactMissing, match=r"card\.json: the stream has no data card yet"):
        data_card.load(str(tmp_path))
    first = make_card.ensure_card(str(tmp_path), known, CONFIG, tokenizer)
    assert data_card.load(str(tmp_path)) == first
    storage.write(str(tmp_path / dropped_samples.NAME), b"")
    assert make_card.ensure_card(str(tmp_path), known, CONFIG, tokenizer) == first
    again = make_card.ensure_card(str(tmp_path), replace(known, drops={}), CONFIG, tokenizer)
    assert again.drops == () and data_card.load(str(tmp_path)) == again


def test_a_card_of_an_earlier_format_is_made_again(
    tmp_path: Path, tokenizer: Tokenizer, ray_cluster: None
) -> None:
    known = write_stream(tmp_path, tokenizer)
    card = make_card.ensure_card(str(tmp_path), known, CONFIG, tokenizer)
    storage.save(replace(card, format_version=1, n_masked=0), str(tmp_path / data_card.NAME))
    assert make_card.ensure_card(str(tmp_path), known, CONFIG, tokenizer) == card


def test_provenance_with_another_checksum_is_refused(tmp_path: Path, tokenizer: Tokenizer) -> None:
    known = write_stream(tmp_path, tokenizer)
    path = tmp_path / "train-0.documents.parquet"
    content = bytearray(path.read_bytes())
    content[40] ^= 1
    path.write_bytes(content)
    with pytest.raises(
        ArtefactCorrupt, match=r"train-0\.documents\.parquet: its sha256 is .*, the manifest says"
    ):
        provenance_stats.count_shard(str(tmp_path), known.train[0])


def test_missing_columns_count_nothing() -> None:
    tally = as_sorted_rows(provenance_stats.count_documents(pa.table({"n_tokens": [2, 2, 5]})))
    assert tally == {
        "n_tokens": [(2, 2), (5, 1)],
        "n_bytes": [],
        "domain": [],
        "label": [],
        "score": [],
        "flag": [],
    }


def test_a_long_sample_is_cut_with_an_ellipsis() -> None:
    assert (
        make_card._shown("x" * dropped_samples.SHOWN_CHARS, "clean")
        == "x" * dropped_samples.SHOWN_CHARS
    )
    assert (
        make_card._shown("x" * (dropped_samples.SHOWN_CHARS + 1), "clean")
        == "x" * dropped_samples.SHOWN_CHARS + "…"
    )
