"""A tokenized file has one content, however often its task was killed."""

import gc
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tiny_tokenized_file import (
    CONFIG,
    ROWS,
    file_contents,
    numbered_rows,
    read_segment,
    task_for,
    tokenize_rows,
    train_tiny_tokenizer,
    write_source,
)

from data_prep.build import sorted_segments, tokenize_batch, tokenize_file
from data_prep.build.tokenize_batch import TokenizeTask
from data_prep.cleaning.decontaminate import NGrams
from data_prep.config import AnnotationConfig, CleaningConfig
from data_prep.core.errors import ArtefactCorrupt
from data_prep.core.settings import evolve
from data_prep.sources import corpus_reader
from data_prep.sources.corpus_reader import Source
from data_prep.token_stream import shuffle_key
from data_prep.token_stream.tokenizer import EnginesDiffer, Tokenizer


@pytest.fixture(autouse=True)
def check_every_document(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokenize_batch, "CHECK_EVERY_DOCUMENTS", 1)


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train_tiny_tokenizer()


def test_kept_documents_are_in_order_of_their_shuffle_keys(
    tmp_path: Path, tokenizer: Tokenizer
) -> None:
    uri, record = tokenize_rows(tmp_path, tokenizer)
    assert (record.n_rows, record.n_documents, record.n_bad_rows) == (6, 4, 0)
    assert record.drops == {"empty": 1, "too_short": 1}
    columns = read_segment(uri).table.to_pydict()
    by_key = sorted(
        (int(shuffle_key.shuffle_keys(record.input_sha256, row, 0, 0)), row) for row in (0, 2, 4, 5)
    )
    assert list(zip(columns["key"], columns["row"], strict=True)) == by_key


def test_a_file_without_a_kept_document_counts_its_drops(
    tmp_path: Path, tokenizer: Tokenizer
) -> None:
    uri, record = tokenize_rows(tmp_path, tokenizer, ROWS[1:2])
    assert (record.n_documents, record.n_tokens, record.drops) == (0, 0, {"too_short": 1})
    assert len(read_segment(uri).tokens) == 0


def test_a_complete_file_is_not_tokenized_again(
    tmp_path: Path, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri, record = tokenize_rows(tmp_path, tokenizer)
    assert len(file_contents(uri)) == 5
    monkeypatch.setattr(corpus_reader, "read", lambda *_, **__: pytest.fail("read again"))
    assert tokenize_rows(tmp_path, tokenizer).record == record


def test_a_missing_or_short_part_is_written_again(tmp_path: Path, tokenizer: Tokenizer) -> None:
    uri, record = tokenize_rows(tmp_path, tokenizer)
    before = file_contents(uri)
    # A killed task needs the segment's record, a complete file does not.
    for name in before.keys() - {"segment-00000.json"}:
        (Path(uri) / name).unlink()
        assert tokenize_rows(tmp_path, tokenizer).record == record
        assert file_contents(uri) == before
    tokens = Path(uri) / "segment-00000.tokens.bin"
    tokens.write_bytes(before[tokens.name][:-1])
    assert tokenize_rows(tmp_path, tokenizer).record == record
    assert tokens.read_bytes() == before[tokens.name]


MANY_ROWS = [
    {"text": "no"} if i % 7 == 3 else {"text": f"document number {i} of the mat"} for i in range(50)
]


def use_small_segments(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(tokenize_file, "BATCH_DOCUMENTS", 4)
    patch.setattr(tokenize_file, "SEGMENT_DOCUMENTS", 10)


def test_segments_count_their_documents_and_samples_of_drops(
    tmp_path: Path, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_small_segments(monkeypatch)
    _, record = tokenize_rows(tmp_path, tokenizer, MANY_ROWS)
    assert [segment.n_documents for segment in record.segments] == [10, 11, 10, 10, 2]
    assert record.drops == {"too_short": 7}
    samples = [(drop.row, drop.reason) for drop in record.samples]
    assert samples == [(3, "too_short"), (10, "too_short"), (17, "too_short")]


@pytest.mark.parametrize("lost", [[3, 4], [0], [1, 2], [4]])
def test_a_killed_task_continues_after_its_last_segment(
    tmp_path: Path, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch, lost: list[int]
) -> None:
    use_small_segments(monkeypatch)
    uri, record = tokenize_rows(tmp_path, tokenizer, MANY_ROWS)
    before = file_contents(uri)
    (Path(uri) / "file.json").unlink()
    for number in lost:
        Path(f"{sorted_segments.uri_of(uri, number)}.json").unlink()
    encoded: list[str] = []
    encode = type(tokenizer).encode_batch.__get__(tokenizer)
    monkeypatch.setattr(
        tokenizer, "encode_batch", lambda texts: encoded.extend(texts) or encode(texts)
    )
    assert tokenize_rows(tmp_path, tokenizer, MANY_ROWS).record == record
    n_missing = sum(segment.n_documents for segment in record.segments[lost[0] :])
    assert len(encoded) == n_missing
    assert file_contents(uri) == before


def test_garbage_collection_is_enabled_again_after_a_failed_task(
    tmp_path: Path, tokenizer: Tokenizer
) -> None:
    source = write_source(tmp_path)
    Path(source.uri).write_text("no JSON\n" * 9)
    with pytest.raises(ArtefactCorrupt):
        tokenize_file.tokenize_file(task_for(source, tokenizer), str(tmp_path / "tokenized"))
    assert gc.isenabled()


def test_a_segment_is_bounded_in_tokens(
    tmp_path: Path, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tokenize_file, "BATCH_DOCUMENTS", 1)
    monkeypatch.setattr(tokenize_file, "SEGMENT_TOKENS", 100)
    _, record = tokenize_rows(tmp_path, tokenizer, MANY_ROWS)
    longest = max(len(tokenizer.encode_batch([row["text"]]).ids) + 1 for row in MANY_ROWS)
    assert len(record.segments) > 3
    assert all(100 <= segment.n_tokens < 100 + longest for segment in record.segments[:-1])


class DifferingEngine:
    """A fast engine that encodes the texts with one word differently."""

    def __init__(self, tokenizer: Tokenizer, word: str) -> None:
        self.tokenizer = tokenizer.by_reference()
        self.word = word

    def encode_batch_flat(self, texts: list[str], *_: bool) -> tuple[bytes, bytes]:
        ids, lengths = self.tokenizer.encode_batch(texts)
        ids = ids.copy()
        for text, end in zip(texts, np.cumsum(lengths), strict=True):
            ids[end - 1] += self.word in text
        offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.uint64)
        return ids.tobytes(), offsets.tobytes()


def with_differing_engine(tokenizer: Tokenizer, word: str) -> Tokenizer:
    other = tokenizer.by_reference()
    other._fast = DifferingEngine(tokenizer, word)
    other.engine = "fastokens"
    return other


@pytest.mark.parametrize("number", [0, 29])
def test_a_difference_between_the_engines_stops_the_task(
    tmp_path: Path, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    use_small_segments(monkeypatch)
    differing = with_differing_engine(tokenizer, f"number {number} ")
    with pytest.raises(EnginesDiffer, match="fastokens and tokenizers disagree at id"):
        tokenize_rows(tmp_path, differing, numbered_rows(40))


@pytest.mark.parametrize("number", [0, 29])
def test_after_a_difference_the_reference_encodes_the_whole_file(
    tmp_path: Path, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    use_small_segments(monkeypatch)
    (tmp_path / "expected").mkdir()
    expected = tokenize_rows(tmp_path / "expected", tokenizer, numbered_rows(40))
    assert not expected.record.fell_back
    differing = with_differing_engine(tokenizer, f"number {number} ")
    config = evolve(CONFIG, {"tokenizer.on_difference": "fall_back"})
    with pytest.raises(EnginesDiffer):  # leaves segments of the fast engine in the folder
        tokenize_rows(tmp_path, differing, numbered_rows(40))
    uri, record = tokenize_rows(tmp_path, differing, numbered_rows(40), config)
    assert record.fell_back
    assert {segment.engine for segment in record.segments} == {"tokenizers"}
    for i in range(len(record.segments)):
        tokens = read_segment(uri, number=i).tokens
        assert np.array_equal(tokens, read_segment(expected.uri, number=i).tokens)


def test_a_name_changes_with_everything_that_decides_the_content(tokenizer: Tokenizer) -> None:
    source = Source("a.jsonl", "text", None)
    task = TokenizeTask(source, "sha", tokenizer, CONFIG, None)
    ten_words = "one two three four five six seven eight nine ten"
    annotated = replace(CONFIG, annotation=AnnotationConfig(kind="meda", scorer="label"))
    variants = [
        task,
        task._replace(input_sha256="other"),
        task._replace(source=source._replace(text_field="body")),
        task._replace(source=source._replace(label_field="grade")),
        task._replace(config=replace(CONFIG, shuffle_seed=1)),
        task._replace(config=replace(CONFIG, dedup="keep")),
        task._replace(config=replace(CONFIG, cleaning=CleaningConfig(min_chars=6))),
        task._replace(config=annotated),
        task._replace(config=replace(annotated, held_out_ratio=0.1)),
        task._replace(evaluation=NGrams.of([ten_words], 8)),
    ]
    assert len({tokenize_file.name_of(variant) for variant in variants}) == len(variants)


def test_a_name_does_not_change_with_other_settings(tokenizer: Tokenizer) -> None:
    source = Source("a.jsonl", "text", None)
    task = TokenizeTask(source, "sha", tokenizer, CONFIG, None)
    config = replace(
        CONFIG,
        clean=("elsewhere",),
        held_out_ratio=0.1,
        shard_tokens=99,
        tokenizer=replace(CONFIG.tokenizer, on_difference="fall_back"),
    )
    same = task._replace(source=source._replace(uri="b.jsonl"), config=config)
    assert tokenize_file.name_of(same) == tokenize_file.name_of(task)
