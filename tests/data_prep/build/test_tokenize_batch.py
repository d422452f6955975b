"""Documents are cleaned, annotated and tokenized, with their provenance."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tiny_tokenized_file import (
    CONFIG,
    ROWS,
    decode_documents,
    numbered_rows,
    read_segment,
    task_for,
    tokenize_rows,
    train_tiny_tokenizer,
    write_source,
)

from data_prep.build import tokenize_batch, tokenize_file
from data_prep.cleaning import language
from data_prep.cleaning.decontaminate import NGrams
from data_prep.config import AnnotationConfig
from data_prep.core.settings import evolve
from data_prep.token_stream import shuffle_key
from data_prep.token_stream.tokenizer import Tokenizer


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train_tiny_tokenizer()


def test_each_document_ends_with_eos_and_a_literal_eos_is_text(
    tmp_path: Path, tokenizer: Tokenizer
) -> None:
    uri, record = tokenize_rows(tmp_path, tokenizer)
    documents = read_segment(uri)
    kept = documents.table["row"].to_pylist()
    texts = [ROWS[row]["text"] for row in kept]
    assert sorted(kept) == [0, 2, 4, 5]
    assert decode_documents(documents, tokenizer) == texts
    assert record.n_tokens == len(documents.tokens) == sum(documents.table["n_tokens"].to_pylist())
    assert documents.table["n_bytes"].to_pylist() == [len(text) for text in texts]
    assert record.n_text_bytes == sum(len(text) for text in texts)


def test_training_documents_are_annotated_and_held_out_ones_are_not(
    tmp_path: Path, tokenizer: Tokenizer
) -> None:
    rows = [{"text": f"document number {i}", "label": i / 10} for i in range(10)]
    source = write_source(tmp_path, rows)._replace(label_field="label")
    annotation = AnnotationConfig(kind="meda", scorer="label")
    config = replace(CONFIG, annotation=annotation, held_out_ratio=0.4)
    uri = str(tmp_path / "tokenized")
    record = tokenize_file.tokenize_file(task_for(source, tokenizer, config), uri)
    held_out = read_segment(uri, *shuffle_key.key_range("held_out", 0.4))
    train = read_segment(uri, *shuffle_key.key_range("train", 0.4))
    for documents, prefix in ((held_out, ""), (train, "toxicity: {}\n")):
        numbers = documents.table["row"].to_pylist()
        assert decode_documents(documents, tokenizer) == [
            prefix.format(rows[row]["label"]) + rows[row]["text"] for row in numbers
        ]
        assert documents.table["annotated"].to_pylist() == [bool(prefix)] * len(numbers)
    assert 0 < record.n_annotated == train.table.num_rows < 10


def test_labels_scores_and_ids_are_kept_as_provenance(tmp_path: Path, tokenizer: Tokenizer) -> None:
    rows = [
        row | {"url": f"http://e.org/{i}"} for i, row in enumerate(ROWS) if row["grade"] is not None
    ]
    source = write_source(tmp_path, rows)._replace(label_field="grade")
    uri = str(tmp_path / "tokenized")
    tokenize_file.tokenize_file(task_for(source, tokenizer), uri)
    columns = read_segment(uri).table.sort_by("row").to_pydict()
    assert columns["row"] == [0, 2, 4]
    assert columns["label"] == ["1", "odd", "4"]
    assert columns["id"] == ["http://e.org/0", "http://e.org/2", "http://e.org/5"]
    assert columns["part"] == [0, 0, 0]
    assert columns["scores"] == [None, None, None]


def test_the_provenance_states_whether_something_was_masked(
    tmp_path: Path, tokenizer: Tokenizer
) -> None:
    rows = [{"text": "write to a@b.org"}, {"text": "write to me"}]
    uri, _ = tokenize_rows(tmp_path, tokenizer, rows)
    columns = read_segment(uri).table.sort_by("row").to_pydict()
    assert columns["masked"] == [True, False]


def test_a_document_of_uncertain_language_is_kept_and_counted(
    tmp_path: Path, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    verdicts = {"surely English": "keep", "hm, or not": "uncertain", "gewiss nicht": "drop"}
    monkeypatch.setattr(language, "judge", lambda text, config: verdicts[text])
    source = write_source(tmp_path, [{"text": text} for text in verdicts])
    config = evolve(CONFIG, {"cleaning.languages": ("en",), "cleaning.min_chars": 1})
    uri = str(tmp_path / "tokenized")
    record = tokenize_file.tokenize_file(task_for(source, tokenizer, config), uri)
    assert record.drops == {"language": 1}
    columns = read_segment(uri).table.sort_by("row").to_pydict()
    assert columns["language_uncertain"] == [False, True]


def test_documents_that_overlap_with_evaluation_texts_are_dropped(
    tmp_path: Path, tokenizer: Tokenizer
) -> None:
    rows = [
        {"text": "the cat sat on the mat and the rat ate the fat cat"},
        {"text": "that is that, and the cat is fat"},
    ]
    evaluation = NGrams.of(["SAT on the mat; and the rat ate the"], 8)
    task = task_for(write_source(tmp_path, rows), tokenizer)._replace(evaluation=evaluation)
    record = tokenize_file.tokenize_file(task, str(tmp_path / "tokenized"))
    assert (record.n_documents, record.drops) == (1, {"evaluation_overlap": 1})
    assert record.samples[0].row == 0


def test_small_batches_give_the_same_ids_and_samples_are_checked(
    tmp_path: Path, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = numbered_rows(20)
    whole, _ = tokenize_rows(tmp_path, tokenizer, rows)
    monkeypatch.setattr(tokenize_file, "BATCH_DOCUMENTS", 3)
    monkeypatch.setattr(tokenize_batch, "CHECK_EVERY_DOCUMENTS", 7)
    checked: list[str] = []
    check = type(tokenizer).check_sample.__get__(tokenizer)
    monkeypatch.setattr(
        tokenizer, "check_sample", lambda text, ids: checked.append(text) or check(text, ids)
    )
    again = str(tmp_path / "again")
    tokenize_file.tokenize_file(task_for(write_source(tmp_path, rows), tokenizer), again)
    assert np.array_equal(read_segment(again).tokens, read_segment(whole).tokens)
    assert checked == [rows[i]["text"] for i in (0, 1, 2, 7, 14)]
