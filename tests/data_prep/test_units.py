import hashlib
import json
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from data_prep import corpora, shards, storage, units
from data_prep.config import CleaningConfig, DataConfig, TokenizerConfig
from data_prep.records import ArtefactCorrupt
from data_prep.tokenizer import Tokenizer, train

ROWS = [
    {"text": "the cat sat on the mat", "grade": 1},
    {"text": "x", "grade": 2},
    {"text": "a rat with <|endoftext|> in it", "grade": "odd"},
    {"text": "", "grade": 3},
    {"text": "that is that, and the cat is fat", "grade": None},
    {"text": "the last one of them all", "grade": 4},
]
CONFIG = DataConfig(
    clean=("unused",),
    toxic=("unused",),
    tokenizer=TokenizerConfig(source="train", vocab_size=260),
    cleaning=CleaningConfig(min_chars=5),
    check_every_documents=1,
)


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train(iter([row["text"] for row in ROWS]), CONFIG.tokenizer)


def source_of(tmp_path: Path, rows: list[dict] = ROWS) -> corpora.Source:
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return corpora.Source(str(path), "text", None)


def made(tmp_path: Path, tokenizer: Tokenizer, rows: list[dict] = ROWS) -> tuple[str, units.Unit]:
    source, uri = source_of(tmp_path, rows), str(tmp_path / "unit")
    return uri, units.make(source, corpora.checksum(source), tokenizer, CONFIG, uri)


def test_a_unit_holds_the_kept_documents_in_order_of_their_keys_each_ended_by_eos(tmp_path: Path, tokenizer: Tokenizer) -> None:
    uri, unit = made(tmp_path, tokenizer)
    assert (unit.n_rows, unit.n_documents, unit.drops, unit.n_bad_rows) == (6, 4, {"empty": 1, "too_short": 1}, 0)
    everything = units.read(uri, 0, units.KEY_SPACE, unit.dtype)
    keys = everything.table["key"].to_pylist()
    by_key = sorted((units.key_of(unit.input_sha256, row, 0), row) for row in (0, 2, 4, 5))
    assert [(key, row) for key, row in zip(keys, everything.table["row"].to_pylist(), strict=True)] == by_key
    assert [tokenizer.decode(tokens[:-1]) for tokens in everything.tokens] == [ROWS[row]["text"] for _, row in by_key]
    assert [tokens.tolist().count(tokenizer.eos_id) for tokens in everything.tokens] == [1, 1, 1, 1]
    assert all(tokens[-1] == tokenizer.eos_id for tokens in everything.tokens)
    assert unit.n_tokens == sum(map(len, everything.tokens)) == sum(everything.table["n_tokens"].to_pylist())
    assert unit.n_text_bytes == sum(len(ROWS[row]["text"]) for row in (0, 2, 4, 5))


@pytest.mark.parametrize("row_group", [1, 3, 8192])
def test_ranges_of_keys_cut_a_unit_without_loss_or_overlap(
    tmp_path: Path, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch, row_group: int
) -> None:
    monkeypatch.setattr(units, "ROW_GROUP", row_group)
    uri, unit = made(tmp_path, tokenizer, [{"text": f"document number {i}"} for i in range(40)])
    keys = units.read(uri, 0, units.KEY_SPACE, unit.dtype).table["key"].to_pylist()
    edges = [0, 1, keys[3], keys[3] + 1, keys[20] - 1, keys[39], units.KEY_SPACE]
    pieces = [units.read(uri, low, high, unit.dtype) for low, high in pairwise(edges)]
    assert [piece.table.num_rows for piece in pieces] == [0, 3, 1, 16, 19, 1]
    assert [key for piece in pieces for key in piece.table["key"].to_pylist()] == keys
    below = sum(map(len, pieces[0].tokens + pieces[1].tokens + pieces[2].tokens))
    assert units.count_below(uri, keys[3] + 1) == (4, below)


def test_a_file_without_a_kept_document_makes_an_empty_unit(tmp_path: Path, tokenizer: Tokenizer) -> None:
    uri, unit = made(tmp_path, tokenizer, ROWS[1:2])
    assert (unit.n_documents, unit.n_tokens) == (0, 0)
    assert units.read(uri, 0, units.KEY_SPACE, unit.dtype).tokens == []
    assert units.count_below(uri, units.KEY_SPACE) == (0, 0)


def test_labels_are_kept_as_text_beside_their_documents(tmp_path: Path, tokenizer: Tokenizer) -> None:
    rows = [row for row in ROWS if row["grade"] is not None]
    source, uri = source_of(tmp_path, rows)._replace(label_field="grade"), str(tmp_path / "unit")
    unit = units.make(source, corpora.checksum(source), tokenizer, CONFIG, uri)
    table = units.read(uri, 0, units.KEY_SPACE, unit.dtype).table
    assert dict(zip(table["row"].to_pylist(), table["label"].to_pylist(), strict=True)) == {0: "1", 2: "odd", 4: "4"}


def test_a_unit_whose_record_exists_is_not_made_again_unless_a_file_is_gone_or_short(
    tmp_path: Path, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri, unit = made(tmp_path, tokenizer)
    before = {path.name: path.read_bytes() for path in Path(uri).iterdir()}
    with monkeypatch.context() as patch:
        patch.setattr(corpora, "read", lambda *_, **__: pytest.fail("read again"))
        assert made(tmp_path, tokenizer)[1] == unit
    for name in before:
        (Path(uri) / name).unlink()
        assert made(tmp_path, tokenizer)[1] == unit
        assert {path.name: path.read_bytes() for path in Path(uri).iterdir()} == before
    (Path(uri) / "tokens.bin").write_bytes(before["tokens.bin"][:-1])
    assert made(tmp_path, tokenizer)[1] == unit
    assert (Path(uri) / "tokens.bin").read_bytes() == before["tokens.bin"]


@pytest.mark.parametrize("name", ["tokens.bin", "documents.parquet"])
def test_a_flipped_byte_is_found_in_what_is_read_and_its_file_named(tmp_path: Path, tokenizer: Tokenizer, name: str) -> None:
    uri, unit = made(tmp_path, tokenizer)
    path = Path(uri) / name
    content = bytearray(path.read_bytes())
    content[40] ^= 1
    path.write_bytes(content)
    with pytest.raises(ArtefactCorrupt, match=name):
        units.read(uri, 0, units.KEY_SPACE, unit.dtype)


def test_a_name_changes_with_everything_that_decides_the_content(tokenizer: Tokenizer) -> None:
    source = corpora.Source("a.jsonl", "text", None)
    variants = [
        (source, "sha", CONFIG),
        (source, "other", CONFIG),
        (source._replace(text_field="body"), "sha", CONFIG),
        (source._replace(label_field="grade"), "sha", CONFIG),
        (source, "sha", replace(CONFIG, shuffle_seed=1)),
        (source, "sha", replace(CONFIG, cleaning=CleaningConfig(min_chars=6))),
    ]
    assert len({units.name_of(source, sha256, tokenizer, config) for source, sha256, config in variants}) == len(variants)
    same = replace(CONFIG, clean=("elsewhere",), held_out_ratio=0.1, shard_tokens=5, check_every_documents=7)
    elsewhere = source._replace(uri="b.jsonl")
    assert units.name_of(elsewhere, "sha", tokenizer, same) == units.name_of(source, "sha", tokenizer, CONFIG)


def test_keys_are_uniform_and_depend_on_file_row_and_seed() -> None:
    keys = np.array([units.key_of("sha", row, 0) for row in range(4000)], dtype=np.float64) / units.KEY_SPACE
    assert np.abs(np.histogram(keys, 4, (0, 1))[0] - 1000).max() < 120  # four standard deviations
    assert len({units.key_of(sha, row, seed) for sha in ("a", "b") for row in (0, 1) for seed in (0, 1)}) == 8
    expected = hashlib.blake2b(b"sha:3", digest_size=8, key=b"0").digest()
    assert units.key_of("sha", 3, 0) == int.from_bytes(expected, "big")


def test_documents_of_many_batches_get_the_same_ids_and_samples_are_checked(
    tmp_path: Path, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [{"text": f"document number {i} of the mat"} for i in range(20)]
    whole, _ = made(tmp_path, tokenizer, rows)
    expected = (Path(whole) / "tokens.bin").read_bytes()
    monkeypatch.setattr(units, "BATCH_DOCUMENTS", 3)
    checked: list[str] = []
    monkeypatch.setattr(tokenizer, "check", lambda texts, ids, lengths: checked.extend(texts) or _check(texts, ids, lengths))
    _check = type(tokenizer).check.__get__(tokenizer)
    source = source_of(tmp_path, rows)
    units.make(source, corpora.checksum(source), tokenizer, replace(CONFIG, check_every_documents=7), str(tmp_path / "again"))
    assert (tmp_path / "again/tokens.bin").read_bytes() == expected
    assert checked == [rows[at]["text"] for at in (0, 7, 14)]


def test_a_range_fetches_only_its_tokens_and_the_row_groups_that_can_hold_it(
    tmp_path: Path, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(units, "ROW_GROUP", 400)
    uri, unit = made(tmp_path, tokenizer, [{"text": f"document number {i}"} for i in range(4000)])
    table = units.read(uri, 0, units.KEY_SPACE, unit.dtype).table
    keys, lengths = table["key"].to_pylist(), table["n_tokens"].to_pylist()
    asked: list[tuple[str, int, int]] = []
    read = storage.read
    monkeypatch.setattr(storage, "read", lambda uri, start, end: asked.append((uri, start, end)) or read(uri, start, end))
    assert units.read(uri, keys[2000], keys[2002], unit.dtype).table["key"].to_pylist() == keys[2000:2002]
    itemsize = np.dtype(unit.dtype).itemsize
    spans = [(start, end) for name, start, end in asked if name.endswith("tokens.bin")]
    assert spans == [(sum(lengths[:2000]) * itemsize, sum(lengths[:2002]) * itemsize)]
    _footer, *groups = [end - start for name, start, end in asked if name.endswith("documents.parquet")]
    assert 0 < sum(groups) < storage.size(f"{uri}/documents.parquet") / 5  # one or two row groups of ten


def test_units_and_shards_are_written_to_and_read_by_range_from_s3(tmp_path: Path, tokenizer: Tokenizer, s3_server: str) -> None:
    rows = [{"text": f"document number {i}"} for i in range(40)]
    here, unit = made(tmp_path, tokenizer, rows)
    source, there = source_of(tmp_path, rows), f"{s3_server}/units/one"
    assert units.make(source, corpora.checksum(source), tokenizer, CONFIG, there) == unit
    keys = units.read(here, 0, units.KEY_SPACE, unit.dtype).table["key"].to_pylist()
    local, remote = (units.read(uri, keys[7], keys[31], unit.dtype) for uri in (here, there))
    assert remote.table.equals(local.table) and remote.table.num_rows == 24
    tokens = np.concatenate(remote.tokens)
    assert np.array_equal(tokens, np.concatenate(local.tokens))
    lengths = remote.table["n_tokens"].to_numpy()
    shard = shards.write_shard(f"{s3_server}/stream", "train-00000", tokens, lengths, remote.table)
    shards.check_shard(f"{s3_server}/stream", shard)
