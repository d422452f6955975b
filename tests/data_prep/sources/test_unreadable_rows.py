"""Rows that cannot be read are counted with their place, or stop the build with an error."""

import gzip
import io
import tracemalloc

import pyarrow as pa
import pytest
from corpus_files import ROWS, WRITERS, corpus_file, json_lines, texts_of
from pyarrow import parquet

from data_prep.core import telemetry
from data_prep.core.errors import ArtefactCorrupt, ConfigurationError
from data_prep.sources.corpus_reader import BadRows, Document, read
from data_prep.sources.readers import lines

BAD_LINES = [
    b'{"text": "cut',
    b'{"text": "\xff"}',
    b"[1]",
    b'{"body": "b"}',
    b'{"text": null}',
    b'{"text": 7}',
    b'"words"',
]


def test_bad_rows_are_counted_and_keep_their_row_numbers():
    source = corpus_file(
        b"\n".join([b'{"text": "a"}', b"", *BAD_LINES, b'{"text": "z"}']), "bad.jsonl"
    )
    bad = BadRows()
    assert [
        (document.row, document.text) for document in read(source, bad, max_bad_rows_ratio=0.8)
    ] == [(0, "a"), (9, "z")]
    assert (bad.count, bad.n_rows) == (7, 9)
    assert [place.split()[0] for place in bad.places] == [
        f"{source.uri}:{line}" for line in (3, 4, 5, 6, 7)
    ]
    assert [place.split(" ", 1)[1][:9] for place in bad.places] == [
        "is not JS",
        "is not JS",
        "is not a ",
        "has no fi",
        "field 'te",
    ]


def test_a_bad_csv_row_does_not_affect_the_others():
    content = b'text,n\nbroken "quote,1\n"open" quote,2\n"two\nlines",3\n\xff,4\nshort\nlast,6\n'
    bad = BadRows()
    rows = [
        (document.row, document.text)
        for document in read(corpus_file(content, "bad.csv"), bad, max_bad_rows_ratio=0.5)
    ]
    assert rows == [(0, 'broken "quote'), (2, "two\nlines"), (5, "last")]
    assert [place.split(":")[-1].split(" (")[0] for place in bad.places] == [
        "3 is not CSV",
        "6 is not UTF-8",
        "7 has 1 columns, the header 2",
    ]


def test_a_csv_quote_that_is_never_closed_stops_the_build():
    with pytest.raises(ArtefactCorrupt, match=r"head\.csv:1: "):
        texts_of(corpus_file(b'"text" n\na\n', "head.csv"))
    with pytest.raises(ArtefactCorrupt, match=r"open\.csv:202: "):
        texts_of(
            corpus_file(
                b"text\n" + b"fine\n" * 200 + b'"swallows\n' + b"the rest\n" * 50, "open.csv"
            )
        )


def test_a_parquet_row_that_is_not_utf8_does_not_affect_the_others():
    column = pa.StringArray.from_buffers(
        3, pa.py_buffer(b"\0\0\0\0\1\0\0\0\2\0\0\0\3\0\0\0"), pa.py_buffer(b"a\xffc")
    )
    content = io.BytesIO()
    parquet.write_table(pa.table({"text": column}), content)
    source, bad = corpus_file(content.getvalue(), "bad.parquet"), BadRows()
    assert list(read(source, bad, max_bad_rows_ratio=0.5)) == [
        Document(0, "a", {}),
        Document(2, "c", {}),
    ]
    assert bad.places == [f"{source.uri}:2 field 'text' is not UTF-8"]


def test_too_many_bad_rows_stop_the_reading_after_100_rows():
    source = corpus_file(b"{\n" * 3 + b'{"text": "a"}\n' * 500, "early.jsonl")
    bad = BadRows()
    with pytest.raises(
        ArtefactCorrupt,
        match=r"early\.jsonl: 3 of the first 100 rows .*jsonl:1 .*jsonl:3 .* 0\.03 exceeds 0\.02",
    ):
        list(read(source, bad, max_bad_rows_ratio=0.02))
    assert bad.n_rows == 100
    assert len(list(read(source, max_bad_rows_ratio=0.03))) == 500


def test_too_many_bad_rows_stop_a_short_file_at_its_end():
    source, seen = corpus_file(b'{\n{"text": "a"}\n', "short.jsonl"), []
    with pytest.raises(ArtefactCorrupt, match="1 of the first 2 rows"):
        seen.extend(read(source))
    assert [document.text for document in seen] == ["a"]


@pytest.mark.parametrize(
    ("name", "content", "fields"),
    [
        ("tweets.jsonl", json_lines([{"tweet": "a", "class": 1}] * 200), ""),
        ("tweets.csv", b"tweet,class\na,1\n", ""),
        ("tweets.csv", b"tweet,class\na,1\n", "#text=tweet&label=verdict"),
        ("tweets.jsonl", json_lines([{"tweet": "a", "class": 1}]), "#text=class"),
    ],
)
def test_a_field_that_no_row_has_is_a_configuration_error(name, content, fields):
    with pytest.raises(ConfigurationError, match=r"the rows have class, tweet; .*URI#text=FIELD"):
        texts_of(corpus_file(content, name, fields))


def test_a_json_array_is_refused_with_a_remedy():
    with pytest.raises(ConfigurationError, match="JSON array"):
        texts_of(corpus_file(b'[\n{"text": "a"}]', "array.json"))


@pytest.mark.parametrize("name", ["rows.json.gz", "rows.ndjson.zst", "rows.parquet"])
@pytest.mark.parametrize(
    "damage",
    [
        lambda content: content[:-9],
        lambda content: b"no such format " * 9,
        lambda content: content[:12],
    ],
)
def test_a_damaged_file_is_reported_by_name(name, damage):
    with pytest.raises(ArtefactCorrupt, match=rf"{name}.* download it again"):
        texts_of(corpus_file(damage(WRITERS[name](ROWS)), name))


def test_a_gzip_file_with_changed_bytes_is_reported_by_name():
    content = bytearray(gzip.compress(json_lines(ROWS * 9)))
    content[30:50] = bytes(20)
    with pytest.raises(ArtefactCorrupt, match=r"wrong\.jsonl\.gz.* download it again"):
        texts_of(corpus_file(bytes(content), "wrong.jsonl.gz"))


@pytest.mark.parametrize(
    ("name", "content", "line"),
    [
        ("long.jsonl", b'{"text": "a"}\n{"text": "%b"}\n{"text": "z"}', 2),
        ("long.csv", b'text,n\na,1\n"%b\n%b",2\nz,3\n', 3),
        ("long.txt", b"a\n<|endoftext|>\n%b\n%b\n<|endoftext|>\nz\n", 3),
    ],
)
def test_a_row_above_the_limit_is_counted_and_never_held_whole(
    name: str, content: bytes, line: int, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(lines, "MAX_ROW_BYTES", 100, raising=False)
    filler = (60 * b"x",) * content.count(b"%b") if content.count(b"%b") > 1 else (120 * b"x",)
    bad = BadRows()
    source = corpus_file(content % filler, name)
    texts = [document.text.strip() for document in read(source, bad, max_bad_rows_ratio=0.8)]
    assert texts == ["a", "z"]
    assert [place.split(" (")[0] for place in bad.places] == [
        f"{source.uri}:{line} is longer than 100 bytes"
    ]


def test_a_line_that_never_ends_takes_little_memory(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(lines, "MAX_ROW_BYTES", 1 << 20, raising=False)
    content = gzip.compress(b'{"text": "a"}\n{"text": "' + bytes(64 << 20) + b'"}\n{"text": "z"}')
    source = corpus_file(content, "bomb.jsonl.gz")
    tracemalloc.start()
    try:
        bad = BadRows()
        assert [document.text for document in read(source, bad, max_bad_rows_ratio=0.8)] == [
            "a",
            "z",
        ]
        assert bad.count == 1 and tracemalloc.get_traced_memory()[1] < 16 << 20
    finally:
        tracemalloc.stop()


def test_a_csv_line_above_the_limit_stops_the_build(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(lines, "MAX_ROW_BYTES", 100, raising=False)
    source = corpus_file(b"text\na\n" + 101 * b"x" + b"\nz\n", "long.csv")
    with pytest.raises(ArtefactCorrupt, match=r"long\.csv:3.*longer than 100 bytes"):
        list(read(source, BadRows(), max_bad_rows_ratio=0.8))


def test_bad_rows_that_no_caller_counts_are_named_in_a_warning(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(telemetry.logger, "propagate", True)
    source = corpus_file(b'{"text": "a"}\n' * 150 + b"{\n", "few.jsonl")
    assert len(texts_of(source)) == 150
    assert f"{source.uri}: 1 of 151 rows cannot be used and is left out" in caplog.text
    assert f"{source.uri}:151 is not JSON" in caplog.text
    caplog.clear()
    list(read(source, BadRows()))
    assert caplog.text == ""


@pytest.mark.parametrize("name", ["latin.csv", "latin.jsonl", "latin.txt"])
def test_another_encoding_is_refused_with_the_way_to_convert_it(name: str):
    content = {"latin.csv": "text\ncafé\n", "latin.jsonl": '{"text": "café"}\n', "latin.txt": "é"}
    with pytest.raises(ArtefactCorrupt, match=r"UTF-8.*iconv -f LATIN1 -t UTF-8"):
        texts_of(corpus_file(content[name].encode("latin-1"), name))
    with pytest.raises(ArtefactCorrupt, match="repair the file, or leave"):
        texts_of(corpus_file(b'{"text": "cut\n', "cut.jsonl"))
