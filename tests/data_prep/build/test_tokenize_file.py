import gc
import json
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from data_prep.build import segments, tokenize_batch, tokenize_file
from data_prep.build.tokenize_batch import TokenizeTask
from data_prep.build.tokenize_file import TokenizedFile
from data_prep.cleaning.decontaminate import NGrams
from data_prep.config import AnnotationConfig, CleaningConfig, DataConfig, TokenizerConfig
from data_prep.core import keyed_random, storage
from data_prep.core.errors import ArtefactCorrupt
from data_prep.core.settings import evolve
from data_prep.sources import corpus_reader
from data_prep.token_stream import megatron_shards, shuffle_key
from data_prep.token_stream import tokenizer as tokenizers
from data_prep.token_stream.tokenizer import Tokenizer, train

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
)


@pytest.fixture(autouse=True)
def check_every_document(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokenize_batch, "CHECK_EVERY_DOCUMENTS", 1)


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train(iter([row["text"] for row in ROWS]), CONFIG.tokenizer)


def source_of(tmp_path: Path, rows: list[dict] = ROWS) -> corpus_reader.Source:
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return corpus_reader.Source(str(path), "text", None)


def task_of(
    source: corpus_reader.Source, tokenizer: Tokenizer, config: DataConfig = CONFIG
) -> TokenizeTask:
    return TokenizeTask(source, corpus_reader.checksum(source), tokenizer, config, None)


def made(
    tmp_path: Path, tokenizer: Tokenizer, rows: list[dict] = ROWS, config: DataConfig = CONFIG
) -> tuple[str, TokenizedFile]:
    source, uri = source_of(tmp_path, rows), str(tmp_path / "unit")
    return uri, tokenize_file.tokenize_file(task_of(source, tokenizer, config), uri)


def read(
    uri: str, low: int = 0, high: int = shuffle_key.KEY_SPACE, number: int = 0
) -> segments.TokenizedDocuments:
    return segments.read(segments.uri_of(uri, number), low, high, "uint16")


def texts_of(documents: segments.TokenizedDocuments, tokenizer: Tokenizer) -> list[str]:
    """Decoded without eos, which must end each of them and be nowhere else."""
    lengths = documents.table["n_tokens"].to_numpy()
    pieces = np.split(documents.tokens, np.cumsum(lengths)[:-1])
    assert all(
        piece[-1] == tokenizer.eos_id and tokenizer.eos_id not in piece[:-1] for piece in pieces
    )
    return [tokenizer.decode(piece[:-1]) for piece in pieces]


def keys_of(uri: str, number: int = 0) -> list[int]:
    return read(uri, number=number).table["key"].to_pylist()


def test_an_annotated_unit_has_the_documents_of_a_plain_one_with_their_toxicity_on_them(
    tmp_path: Path, tokenizer: Tokenizer
) -> None:
    rows = [{"text": f"document number {i}", "label": i / 10} for i in range(10)]
    source = source_of(tmp_path, rows)._replace(label_field="label")
    config = replace(
        CONFIG, annotation=AnnotationConfig(kind="meda", scorer="label"), held_out_ratio=0.4
    )
    unit = tokenize_file.tokenize_file(task_of(source, tokenizer, config), str(tmp_path / "unit"))
    bound = shuffle_key.held_out_bound(0.4)
    for low, high, of in ((0, bound, ""), (bound, shuffle_key.KEY_SPACE, "toxicity: {}\n")):
        found = read(str(tmp_path / "unit"), low, high)
        numbers = found.table["row"].to_pylist()
        assert texts_of(found, tokenizer) == [
            of.format(rows[row]["label"]) + rows[row]["text"] for row in numbers
        ]
        assert found.table["annotated"].to_pylist() == [bool(of)] * len(numbers)
    assert 0 < unit.n_annotated == len(numbers) < 10
    names = {
        tokenize_file.name_of(task_of(source, tokenizer, one))
        for one in (config, replace(config, held_out_ratio=0.1), CONFIG)
    }
    assert (
        len(names) == 3
        and tokenize_file.name_of(task_of(source, tokenizer, replace(CONFIG, held_out_ratio=0.3)))
        in names
    )


def test_a_segment_holds_the_kept_documents_in_order_of_their_keys_each_ended_by_eos(
    tmp_path: Path, tokenizer: Tokenizer
) -> None:
    uri, unit = made(tmp_path, tokenizer)
    assert (unit.n_rows, unit.n_documents, unit.drops, unit.n_bad_rows) == (
        6,
        4,
        {"empty": 1, "too_short": 1},
        0,
    )
    everything = read(uri)
    by_key = sorted(
        (int(shuffle_key.shuffle_keys(unit.input_sha256, row, 0, 0)), row) for row in (0, 2, 4, 5)
    )
    assert (
        list(
            zip(
                everything.table["key"].to_pylist(),
                everything.table["row"].to_pylist(),
                strict=True,
            )
        )
        == by_key
    )
    assert texts_of(everything, tokenizer) == [ROWS[row]["text"] for _, row in by_key]
    assert unit.n_tokens == len(everything.tokens) == sum(everything.table["n_tokens"].to_pylist())
    assert everything.table["n_bytes"].to_pylist() == [len(ROWS[row]["text"]) for _, row in by_key]
    assert unit.n_text_bytes == sum(len(ROWS[row]["text"]) for row in (0, 2, 4, 5))


@pytest.mark.parametrize("row_group", [1, 3, 8192])
def test_ranges_of_keys_cut_a_segment_without_loss_or_overlap(
    tmp_path: Path, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch, row_group: int
) -> None:
    monkeypatch.setattr(segments, "ROW_GROUP", row_group)
    uri, _ = made(tmp_path, tokenizer, [{"text": f"document number {i}"} for i in range(40)])
    keys, whole = keys_of(uri), read(uri)
    edges = [0, 1, keys[3], keys[3] + 1, keys[20] - 1, keys[39], shuffle_key.KEY_SPACE]
    pieces = [read(uri, low, high) for low, high in pairwise(edges)]
    assert [piece.table.num_rows for piece in pieces] == [0, 3, 1, 16, 19, 1]
    assert [key for piece in pieces for key in piece.table["key"].to_pylist()] == keys
    assert np.array_equal(np.concatenate([piece.tokens for piece in pieces]), whole.tokens)


def test_a_file_without_a_kept_document_makes_an_empty_unit_that_counts_its_drops(
    tmp_path: Path, tokenizer: Tokenizer
) -> None:
    uri, unit = made(tmp_path, tokenizer, ROWS[1:2])
    assert (unit.n_documents, unit.n_tokens, unit.drops) == (0, 0, {"too_short": 1})
    assert len(read(uri).tokens) == 0


def test_labels_scores_and_names_are_kept_beside_their_documents(
    tmp_path: Path, tokenizer: Tokenizer
) -> None:
    rows = [
        row | {"url": f"http://e.org/{i}"} for i, row in enumerate(ROWS) if row["grade"] is not None
    ]
    source, uri = source_of(tmp_path, rows)._replace(label_field="grade"), str(tmp_path / "unit")
    tokenize_file.tokenize_file(task_of(source, tokenizer), uri)
    table = read(uri).table.sort_by("row")
    assert (table["row"].to_pylist(), table["label"].to_pylist()) == ([0, 2, 4], ["1", "odd", "4"])
    assert table["id"].to_pylist() == ["http://e.org/0", "http://e.org/2", "http://e.org/5"]
    assert (table["part"].to_pylist(), table["scores"].to_pylist()) == (
        [0, 0, 0],
        [None, None, None],
    )


def test_it_is_kept_beside_a_document_whether_something_personal_was_masked_in_it(
    tmp_path: Path, tokenizer: Tokenizer
) -> None:
    uri, _ = made(tmp_path, tokenizer, [{"text": "write to a@b.org"}, {"text": "write to me"}])
    assert dict(
        zip(*(read(uri).table[name].to_pylist() for name in ("row", "masked")), strict=True)
    ) == {0: True, 1: False}


def test_a_unit_whose_record_exists_is_not_made_again_unless_a_file_is_gone_or_short(
    tmp_path: Path, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri, unit = made(tmp_path, tokenizer)
    before = {path.name: path.read_bytes() for path in Path(uri).iterdir()}
    assert len(before) == 5
    with monkeypatch.context() as patch:
        patch.setattr(corpus_reader, "read", lambda *_, **__: pytest.fail("read again"))
        assert made(tmp_path, tokenizer)[1] == unit
    for name in before.keys() - {
        "segment-00000.json"
    }:  # a killed unit needs it, a whole one does not
        (Path(uri) / name).unlink()
        assert made(tmp_path, tokenizer)[1] == unit
        assert {path.name: path.read_bytes() for path in Path(uri).iterdir()} == before
    tokens = Path(uri) / "segment-00000.tokens.bin"
    tokens.write_bytes(before[tokens.name][:-1])
    assert made(tmp_path, tokenizer)[1] == unit
    assert tokens.read_bytes() == before[tokens.name]


MANY = [
    {"text": "no"} if i % 7 == 3 else {"text": f"document number {i} of the mat"} for i in range(50)
]


def cut_small(patch: pytest.MonkeyPatch, batch: int, segment: int) -> None:
    patch.setattr(tokenize_file, "BATCH_DOCUMENTS", batch)
    patch.setattr(tokenize_file, "SEGMENT_DOCUMENTS", segment)


def test_a_killed_unit_goes_on_after_its_last_segment_and_gives_the_same_bytes(
    tmp_path: Path, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    cut_small(monkeypatch, 4, 10)
    uri, unit = made(tmp_path, tokenizer, MANY)
    assert [segment.n_documents for segment in unit.segments] == [10, 11, 10, 10, 2]
    assert unit.drops == {"too_short": 7} and [
        (drop.row, drop.reason) for drop in unit.samples
    ] == [
        (3, "too_short"),
        (10, "too_short"),
        (17, "too_short"),
    ]
    before = {path.name: path.read_bytes() for path in Path(uri).iterdir()}
    for lost in ([3, 4], [0], [1, 2], [4]):
        (Path(uri) / "file.json").unlink()
        for number in lost:
            Path(f"{segments.uri_of(uri, number)}.json").unlink()
        encoded: list[str] = []
        with monkeypatch.context() as patch:
            encode = type(tokenizer).encode_batch.__get__(tokenizer)
            patch.setattr(
                tokenizer,
                "encode_batch",
                lambda texts, encode=encode, seen=encoded: seen.extend(texts) or encode(texts),
            )
            assert made(tmp_path, tokenizer, MANY)[1] == unit
        assert len(encoded) == sum(segment.n_documents for segment in unit.segments[lost[0] :])
        assert {path.name: path.read_bytes() for path in Path(uri).iterdir()} == before


def test_the_search_for_cycles_goes_on_after_a_unit_that_failed(
    tmp_path: Path, tokenizer: Tokenizer
) -> None:
    source = source_of(tmp_path)
    Path(source.uri).write_text("no JSON\n" * 9)
    with pytest.raises(ArtefactCorrupt):
        tokenize_file.tokenize_file(
            TokenizeTask(source, corpus_reader.checksum(source), tokenizer, CONFIG, None),
            str(tmp_path / "unit"),
        )
    assert gc.isenabled()


def test_a_segment_is_bounded_in_tokens(
    tmp_path: Path, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tokenize_file, "BATCH_DOCUMENTS", 1)
    monkeypatch.setattr(tokenize_file, "SEGMENT_TOKENS", 100)
    _, unit = made(tmp_path, tokenizer, MANY)
    longest = max(len(tokenizer.encode_batch([row["text"]]).ids) + 1 for row in MANY)
    assert (
        all(100 <= segment.n_tokens < 100 + longest for segment in unit.segments[:-1])
        and len(unit.segments) > 3
    )


class Stumbling:
    """A fast engine that makes another id of one text."""

    def __init__(self, tokenizer: Tokenizer, word: str) -> None:
        self.tokenizer, self.word = tokenizer.by_reference(), word

    def encode_batch_flat(self, texts: list[str], *_: bool) -> tuple[bytes, bytes]:
        ids, lengths = self.tokenizer.encode_batch(texts)
        ids = ids.copy()
        for text, end in zip(texts, np.cumsum(lengths), strict=True):
            ids[end - 1] += self.word in text
        return ids.tobytes(), np.concatenate([[0], np.cumsum(lengths)]).astype(np.uint64).tobytes()


@pytest.mark.parametrize("at", [0, 29])
def test_a_difference_between_the_engines_stops_the_unit_or_the_reference_makes_all_of_it(
    tmp_path: Path, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch, at: int
) -> None:
    cut_small(monkeypatch, 4, 10)
    rows = [{"text": f"document number {i} of the mat"} for i in range(40)]
    (tmp_path / "right").mkdir()
    expected = made(tmp_path / "right", tokenizer, rows)
    stumbling = tokenizer.by_reference()
    stumbling._fast, stumbling.engine = Stumbling(tokenizer, f"number {at} "), "fastokens"
    with pytest.raises(tokenizers.EnginesDiffer, match="fastokens and tokenizers disagree at id"):
        made(tmp_path, stumbling, rows)
    uri, unit = made(
        tmp_path, stumbling, rows, evolve(CONFIG, {"tokenizer.on_difference": "fall_back"})
    )
    assert unit.fell_back and {segment.engine for segment in unit.segments} == {"tokenizers"}
    assert not expected[1].fell_back
    for number in range(len(unit.segments)):
        assert np.array_equal(
            read(uri, number=number).tokens, read(expected[0], number=number).tokens
        )


@pytest.mark.parametrize("name", ["tokens.bin", "documents.parquet"])
def test_a_flipped_byte_is_found_in_what_is_read_and_its_file_named(
    tmp_path: Path, tokenizer: Tokenizer, name: str
) -> None:
    uri, _ = made(tmp_path, tokenizer)
    path = Path(uri) / f"segment-00000.{name}"
    content = bytearray(path.read_bytes())
    content[40] ^= 1
    path.write_bytes(content)
    with pytest.raises(ArtefactCorrupt, match=name):
        read(uri)


def test_a_name_changes_with_everything_that_decides_the_content(tokenizer: Tokenizer) -> None:
    source = corpus_reader.Source("a.jsonl", "text", None)
    task = TokenizeTask(source, "sha", tokenizer, CONFIG, None)
    variants = [
        task,
        task._replace(input_sha256="other"),
        task._replace(source=source._replace(text_field="body")),
        task._replace(source=source._replace(label_field="grade")),
        task._replace(config=replace(CONFIG, shuffle_seed=1)),
        task._replace(config=replace(CONFIG, dedup="keep")),
        task._replace(config=replace(CONFIG, cleaning=CleaningConfig(min_chars=6))),
        task._replace(
            evaluation=NGrams.of(["one two three four five six seven eight nine ten"], 8)
        ),
    ]
    assert len({tokenize_file.name_of(variant) for variant in variants}) == len(variants)
    same = replace(
        CONFIG,
        clean=("elsewhere",),
        held_out_ratio=0.1,
        shard_tokens=5,
        tokenizer=replace(CONFIG.tokenizer, on_difference="fall_back"),
    )
    assert tokenize_file.name_of(
        task._replace(source=source._replace(uri="b.jsonl"), config=same)
    ) == tokenize_file.name_of(task)


def test_keys_are_uniform_and_depend_on_file_row_part_and_seed_and_never_on_the_batch() -> None:
    keys = shuffle_key.shuffle_keys("sha", np.arange(4000), np.zeros(4000, np.int64), 0)
    assert (
        np.abs(np.histogram(keys / shuffle_key.KEY_SPACE, 4, (0, 1))[0] - 1000).max() < 120
    )  # four standard deviations
    each = {
        int(shuffle_key.shuffle_keys(sha, row, part, seed))
        for sha in ("a", "b")
        for row in (0, 1)
        for part in (0, 1)
        for seed in (0, 1)
    }
    assert len(each) == 16
    assert keys[1234] == shuffle_key.shuffle_keys("sha", 1234, 0, 0)
    file = np.uint64(keyed_random.key("order of documents", 0, "sha"))
    assert shuffle_key.shuffle_keys("sha", 3, 2, 0) == keyed_random.hashes(
        keyed_random.hashes(file, 3), 2
    )


def test_documents_of_many_batches_get_the_same_ids_and_the_first_and_some_later_ones_are_checked(
    tmp_path: Path, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [{"text": f"document number {i} of the mat"} for i in range(20)]
    whole, _ = made(tmp_path, tokenizer, rows)
    monkeypatch.setattr(tokenize_file, "BATCH_DOCUMENTS", 3)
    checked: list[str] = []
    check = type(tokenizer).check_sample.__get__(tokenizer)
    monkeypatch.setattr(
        tokenizer, "check_sample", lambda text, ids: checked.append(text) or check(text, ids)
    )
    monkeypatch.setattr(tokenize_batch, "CHECK_EVERY_DOCUMENTS", 7)
    task = task_of(source_of(tmp_path, rows), tokenizer)
    tokenize_file.tokenize_file(task, str(tmp_path / "again"))
    assert np.array_equal(read(str(tmp_path / "again")).tokens, read(whole).tokens)
    assert checked == [rows[at]["text"] for at in (0, 1, 2, 7, 14)]


def test_documents_that_share_words_with_an_evaluation_text_are_dropped_with_their_reason(
    tmp_path: Path, tokenizer: Tokenizer
) -> None:
    rows = [
        {"text": "the cat sat on the mat and the rat ate the fat cat"},
        {"text": "that is that, and the cat is fat"},
    ]
    task = task_of(source_of(tmp_path, rows), tokenizer)
    unit = tokenize_file.tokenize_file(
        task._replace(evaluation=NGrams.of(["SAT on the mat; and the rat ate the"], 8)),
        str(tmp_path / "unit"),
    )
    assert (unit.n_documents, unit.drops, unit.samples[0].row) == (1, {"evaluation_overlap": 1}, 0)


def test_a_range_fetches_only_its_tokens_and_the_row_groups_that_can_hold_it(
    tmp_path: Path, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(segments, "ROW_GROUP", 400)
    uri, unit = made(tmp_path, tokenizer, [{"text": f"document number {i}"} for i in range(4000)])
    keys, lengths = keys_of(uri), read(uri).table["n_tokens"].to_pylist()
    asked: list[tuple[str, int, int]] = []
    whole_read = storage.read
    monkeypatch.setattr(
        storage,
        "read",
        lambda uri, start, end: asked.append((uri, start, end)) or whole_read(uri, start, end),
    )
    assert read(uri, keys[2000], keys[2002]).table["key"].to_pylist() == keys[2000:2002]
    itemsize = np.dtype(unit.dtype).itemsize
    spans = [(start, end) for name, start, end in asked if name.endswith("tokens.bin")]
    assert spans == [(sum(lengths[:2000]) * itemsize, sum(lengths[:2002]) * itemsize)]
    _footer, *groups = [
        end - start for name, start, end in asked if name.endswith("documents.parquet")
    ]
    assert (
        0 < sum(groups) < storage.size(f"{uri}/segment-00000.documents.parquet") / 5
    )  # one or two row groups of ten


def test_units_and_shards_are_written_to_and_read_by_range_from_s3(
    tmp_path: Path, tokenizer: Tokenizer, s3_server: str
) -> None:
    rows = [{"text": f"document number {i}"} for i in range(40)]
    here, unit = made(tmp_path, tokenizer, rows)
    there = f"{s3_server}/units/one"
    assert tokenize_file.tokenize_file(task_of(source_of(tmp_path, rows), tokenizer), there) == unit
    keys = keys_of(here)
    local, remote = (read(uri, keys[7], keys[31]) for uri in (here, there))
    assert remote.table.equals(local.table) and remote.table.num_rows == 24
    assert np.array_equal(remote.tokens, local.tokens)
    lengths = remote.table["n_tokens"].to_numpy()
    shard = megatron_shards.write_shard(
        f"{s3_server}/stream", "train-00000", remote.tokens, lengths, remote.table
    )
    megatron_shards.check_shard(f"{s3_server}/stream", shard)
