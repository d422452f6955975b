"""Parquet: columns that nobody needs, types that JSON lacks, and values of any size."""

import datetime
import decimal
import io
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from corpus_files import parquet_file
from pyarrow import parquet

from data_prep.core.errors import ArtefactCorrupt, ConfigurationError
from data_prep.sources import formats
from data_prep.sources.corpus_reader import BadRows, Document, read
from data_prep.sources.readers import lines, parquet_rows

UNREADABLE = {
    "zone": pa.array([0, 1], pa.timestamp("us", "tzutc()")),
    "duration": pa.array([2**62, 2**62], pa.duration("s")),
    "late": pa.array([10**18, 10**18], pa.timestamp("ms")),
    "bytes": pa.array([b"\xff", b"\xfe"]),
    "twice": pa.array([[("a", 1), ("a", 2)]] * 2, pa.map_(pa.string(), pa.int64())),
}


@pytest.mark.parametrize("kind", UNREADABLE)
@pytest.mark.parametrize("columns", [None, ()])
def test_a_column_that_nobody_needs_spoils_nothing(kind: str, columns: tuple | None):
    source = parquet_file(pa.table({"text": ["a", "b"], "other": UNREADABLE[kind]}))
    expected = {"other": None} if columns is None else {}
    assert list(read(source, columns=columns)) == [
        Document(0, "a", expected),
        Document(1, "b", expected),
    ]


def test_a_label_that_cannot_be_represented_makes_its_row_bad():
    table = pa.table({"text": ["a", "b"], "when": pa.array([0, 10**18], pa.timestamp("ms"))})
    source, bad = parquet_file(table, "#label=when"), BadRows()
    (document,) = read(source, bad, max_bad_rows_ratio=0.5)
    assert document == Document(0, "a", {"when": "1970-01-01T00:00:00"})
    assert bad.places[0].startswith(f"{source.uri}:2 field 'when' has a value that Python cannot")


@pytest.mark.parametrize(
    ("value", "label"),
    [
        (decimal.Decimal("0.50"), 0.5),
        (decimal.Decimal(12345678901234567890123), 12345678901234567890123),
        (datetime.date(2020, 1, 2), "2020-01-02"),
        (datetime.time(3, 4), "03:04:00"),
        (b"toxic", "toxic"),
        ([datetime.date(2020, 1, 2)], ["2020-01-02"]),
    ],
)
def test_a_label_of_any_type_has_a_form_in_json(value: Any, label: Any):
    (document,) = read(parquet_file(pa.table({"text": ["a"], "class": [value]}), "#label=class"))
    assert document.fields == {"class": label}


def test_scores_may_be_decimals_or_a_map():
    scores = pa.array([[("Toxicity", 0.5), ("spam", 0.25)]], pa.map_(pa.string(), pa.float64()))
    (document,) = read(parquet_file(pa.table({"text": ["a"], "scores": scores})))
    assert document.scores == {"toxicity": 0.5, "spam": 0.25}
    table = pa.table({"text": ["a"], "mine": pa.array([decimal.Decimal("0.5")])})
    (document,) = read(parquet_file(table, "#scores=mine"))
    assert document.scores == {"mine": 0.5}


@pytest.mark.parametrize("type_", [pa.binary(), pa.large_binary(), pa.binary_view(), pa.binary(3)])
def test_text_stored_as_bytes_is_decoded(type_: pa.DataType):
    table = pa.table({"text": pa.array([b"one", b"two"], type_)})
    assert [document.text for document in read(parquet_file(table))] == ["one", "two"]


def test_bytes_that_are_not_utf8_make_their_row_bad():
    source = parquet_file(pa.table({"text": [b"one", b"\xff\xfe", b"two"]}))
    bad = BadRows()
    texts = [document.text for document in read(source, bad, max_bad_rows_ratio=0.5)]
    assert texts == ["one", "two"]
    assert bad.places == [f"{source.uri}:2 field 'text' is not UTF-8"]


def test_only_the_columns_in_use_are_read():
    table = pa.table(
        {
            "text": ["a"],
            "url": ["u"],
            "scores": [{"toxicity": 0.5}],
            "class": [1],
            "group": ["g"],
            "image": [b"\0" * 100],
        }
    )
    source = parquet_file(table, "#label=class")
    (document,) = read(source, columns=("group",))
    fields = {"url": "u", "scores": {"toxicity": 0.5}, "class": 1, "group": "g"}
    assert document == Document(0, "a", fields, id="u", scores={"toxicity": 0.5})
    (document,) = read(source)
    assert "image" in document.fields


def test_a_missing_column_is_named_with_all_columns_of_the_file():
    source = parquet_file(pa.table({"body": ["a"], "image": [b"b"]}))
    with pytest.raises(
        ConfigurationError, match=r"the rows have body, image; \S+:1 has no field 'text'"
    ):
        list(read(source, columns=()))


def test_a_column_of_a_dotted_name_is_read_alone_too():
    source = parquet_file(pa.table({"a.b": ["x"], "n": [1]}), "#text=a.b")
    assert list(read(source, columns=())) == [Document(0, "x", {})]
    source = parquet_file(pa.table({"a": [{"b": "x"}], "n": [1]}), "#text=a.b")
    assert [document.text for document in read(source, columns=())] == ["x"]


BIG = "x" * (2 << 20)
FEW = 400


def repeated(type_: pa.DataType, value: Any = BIG) -> pa.Array:
    """FEW times the same value, from a dictionary, so that the test itself takes no memory."""
    values = pa.array([value], type_)
    return pa.DictionaryArray.from_arrays(pa.array([0] * FEW, pa.int32()), values)


REPEATED: dict[str, Callable[[], pa.Table]] = {
    "string": lambda: pa.table({"text": repeated(pa.string())}),
    "large_string": lambda: pa.table({"text": repeated(pa.large_string())}),
    "binary": lambda: pa.table({"text": repeated(pa.binary(), BIG.encode())}),
    "other": lambda: pa.table({"text": ["a"] * FEW, "other": repeated(pa.string())}),
}


@pytest.mark.parametrize("kind", REPEATED)
def test_repeated_large_values_take_little_memory(kind: str):
    source = parquet_file(REPEATED[kind]())
    n_texts = 0
    pool = pa.default_memory_pool()
    before = pool.max_memory()
    tracemalloc.start()
    try:
        for document in read(source):
            n_texts += len(document.text) > 0
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert n_texts == FEW
    assert peak < 200 << 20 and pool.max_memory() - before < 400 << 20


def test_a_row_above_the_limit_is_bad_and_never_converted(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(lines, "MAX_ROW_BYTES", 1000)
    table = pa.table({"text": ["a", "b" * 2000, "c"]})
    source, bad = parquet_file(table), BadRows()
    texts = [document.text for document in read(source, bad, max_bad_rows_ratio=0.5)]
    assert texts == ["a", "c"]
    assert bad.places == [f"{source.uri}:2 is longer than 1,000 bytes (the limit of one row)"]


def test_a_list_of_repeated_values_counts_with_its_full_size(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(lines, "MAX_ROW_BYTES", 10_000)
    posts = [[{"no": 1, "com": "x" * 100}] * n for n in (3, 500, 0, 4)]
    source, bad = parquet_file(pa.table({"posts": posts}), "#text=posts"), BadRows()
    rows = [document.row for document in read(source, bad, max_bad_rows_ratio=0.5)]
    assert rows == [0, 2, 3]
    assert bad.places[0].startswith(f"{source.uri}:2 is longer than 10,000 bytes")


def test_a_page_above_the_limit_is_refused_before_it_is_read(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(parquet_rows, "MAX_PAGE_BYTES", 100_000)
    small = pa.table({"text": [f"{n} " + "word " * 20 for n in range(5000)]})
    source = parquet_file(small, use_dictionary=False, data_page_size=10_000, write_batch_size=64)
    assert sum(1 for _ in read(source)) == 5000
    source = parquet_file(pa.table({"text": ["a", "x" * 300_000]}), compression="zstd")
    message = r"rows\.parquet: a page of the column text takes 300,0.. bytes, .*limit .* 100,000"
    with pytest.raises(ArtefactCorrupt, match=message):
        list(read(source))


def test_values_do_not_depend_on_the_size_of_batches(monkeypatch: pytest.MonkeyPatch):
    rows = [{"text": f"{n} " * (n % 50), "id": str(n), "scores": {"a": n / 99}} for n in range(99)]
    source = parquet_file(pa.Table.from_pylist(rows), row_group_size=40)
    expected = list(read(source))
    assert [document.row for document in expected] == list(range(99))
    monkeypatch.setattr(parquet_rows, "BATCH_BYTES", 50)
    assert list(read(source)) == expected


def test_rows_of_many_types_are_read_as_python_values(tmp_path: Path):
    table = pa.table(
        {
            "text": ["a", None],
            "n": pa.array([1, None], pa.int8()),
            "half": pa.array([0.5, None], pa.float16()),
            "yes": [True, None],
            "words": [["b", "c"], None],
            "category": pa.array(["x", "x"]).dictionary_encode(),
            "nothing": pa.nulls(2),
        }
    )
    buffer = io.BytesIO()
    parquet.write_table(table, buffer)
    rows = [row.content for row in formats.rows_of(buffer, "x.parquet")]
    first = {"text": "a", "n": 1, "half": 0.5, "yes": True, "words": ["b", "c"]}
    assert rows[0] == {**first, "category": "x", "nothing": None}
    assert rows[1] == dict.fromkeys(rows[0]) | {"category": "x"}


def test_a_file_of_very_many_columns_is_read_in_good_time():
    table = pa.table({f"c{n}": [n] for n in range(3000)} | {"text": ["a"]})
    source = parquet_file(table)
    began = time.perf_counter()
    (document,) = read(source)
    assert len(document.fields) == 3000 and time.perf_counter() - began < 20


def test_a_damaged_footer_is_an_error_and_does_not_end_the_process():
    """pyarrow aborts for some damaged descriptions of columns, which no test could report."""
    buffer = io.BytesIO()
    parquet.write_table(pa.table({"text": ["a", "b"], "id": [1, 2]}), buffer)
    content = buffer.getvalue()
    begin = len(content) - 8 - int.from_bytes(content[-8:-4], "little")
    for at in range(begin, len(content) - 8):
        for byte in (0, 0x15, 0x2C, 0xFF):
            damaged = content[:at] + bytes([byte]) + content[at + 1 :]
            try:
                for row in formats.rows_of(io.BytesIO(damaged), "x.parquet"):
                    assert isinstance(row.content, dict | str)
            except ArtefactCorrupt as error:
                assert "x.parquet" in str(error)
