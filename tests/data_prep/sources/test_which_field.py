"""Which column is the text: doubled names are refused, and a wrong type is named as what it is."""

import json

import pyarrow as pa
import pytest
from corpus_files import corpus_file, json_lines, parquet_file, texts_of
from hypothesis import given
from hypothesis import strategies as st

from data_prep.core.errors import ArtefactCorrupt, ConfigurationError
from data_prep.sources import formats
from data_prep.sources.corpus_reader import BadRows, read


def doubled_table(*names: str) -> pa.Table:
    return pa.Table.from_arrays([pa.array(["a"]) for _ in names], names=list(names))


@pytest.mark.parametrize(
    ("header", "options", "name"),
    [
        ("text,label,text", "", "text"),
        ("text,label,text", "#text=text&label=label", "text"),
        ("text,label,label", "#label=label", "label"),
        ("text,id,id", "", "id"),
        ("text,toxicity,toxicity", "#scores=toxicity", "toxicity"),
        ("text, text", "", "text"),
        ("text,text ", "", "text"),
        ("text,\ufefftext", "", "text"),
    ],
)
def test_a_doubled_column_is_refused_by_name(header: str, options: str, name: str):
    message = rf"twice\.\w+ has the column '{name}' more than once .*(rename|remove)"
    names = header.split(",")
    content = f"{header}\n{','.join('a' for _ in names)}\n".encode()
    with pytest.raises(ConfigurationError, match=message):
        texts_of(corpus_file(content, "twice.csv", options))
    with pytest.raises(ConfigurationError, match=message.replace("twice", "rows")):
        list(read(parquet_file(doubled_table(*names), options)))


def test_a_doubled_column_that_nobody_reads_is_allowed():
    content = b"text,note,note\na,b,c\n"
    assert texts_of(corpus_file(content, "twice.csv")) == ["a"]
    assert [d.text for d in read(parquet_file(doubled_table("text", "note", "note")))] == ["a"]
    with pytest.raises(ConfigurationError, match="'note' more than once"):
        list(read(corpus_file(content, "twice.csv"), columns=("note",)))


def test_a_key_that_an_object_has_twice_makes_its_row_bad():
    lines = b'{"text": "a", "text": ""}\n{"text": "b"}\n{"text": "c", "n": 1, "n": 2}\n'
    source, bad = corpus_file(lines, "twice.jsonl"), BadRows()
    assert [d.text for d in read(source, bad, max_bad_rows_ratio=0.5)] == ["b", "c"]
    assert bad.places == [f"{source.uri}:1 has the field 'text' more than once"]


def test_a_name_with_blanks_is_shown_with_them_and_can_be_used():
    source = corpus_file(b"id, text\n1,a\n", "blank.csv")
    with pytest.raises(ConfigurationError, match="the rows have ' text', id"):
        texts_of(source)
    assert texts_of(corpus_file(b"id, text\n1,a\n", "blank.csv", "#text=%20text")) == ["a"]


CHAT = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (["a", "b"], "is a list of texts, not a text; .*join"),
        (CHAT, "is a list of objects with content, role, which are not 4chan posts.*join"),
        ([{"start": 0, "end": 4}], "is a list of objects with end, start, which are not"),
        ([1, 2], "is a list of numbers, not a text"),
        ([[1], [2]], "is a list of lists, not a text"),
        (7, "is a number, not a text"),
        (True, "is true or false, not a text"),
        (None, "is null"),
        ({"text": "a", "n": 1}, r"is an object with n, text, not a text; .*#text=body\.text"),
    ],
)
@pytest.mark.parametrize("form", ["jsonl", "parquet"])
def test_the_first_place_and_the_true_reason_are_quoted(value: object, reason: str, form: str):
    rows = [{"body": value, "n": 1}] * 3
    if form == "jsonl":
        source = corpus_file(json_lines(rows), "rows.jsonl", "#text=body")
    else:
        source = parquet_file(pa.Table.from_pylist(rows), "#text=body")
    with pytest.raises(ConfigurationError, match=rf"rows\.{form}:1 field 'body' {reason}"):
        texts_of(source)


def test_chat_messages_among_good_rows_are_bad_rows():
    rows = [{"text": "a"}, {"text": CHAT}, {"text": "b"}]
    bad = BadRows()
    source = corpus_file(json_lines(rows), "chat.jsonl")
    assert [d.text for d in read(source, bad, max_bad_rows_ratio=0.5)] == ["a", "b"]
    assert "not 4chan posts" in bad.places[0]
    with pytest.raises(ArtefactCorrupt, match=r"1 of the first 3 rows .*not 4chan posts"):
        texts_of(source)


def test_the_command_for_chat_messages_gives_readable_rows():
    with pytest.raises(ConfigurationError) as caught:
        texts_of(corpus_file(json_lines([{"messages": CHAT}]), "chat.jsonl", "#text=messages"))
    assert """jq -c '.text = ([.messages[].content] | join("\\n\\n"))'""" in str(caught.value)
    row = {"messages": CHAT, "text": "\n\n".join(message["content"] for message in CHAT)}
    assert texts_of(corpus_file(json_lines([row]), "joined.jsonl")) == ["a\n\nb"]


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity"])
def test_a_number_that_json_lacks_in_another_field_spoils_no_row(number: str):
    content = f'{{"text": "a", "score": {number}, "scores": {{"x": {number}, "y": 1}}}}\n'
    (document,) = read(corpus_file(content.encode(), "nan.jsonl", "#label=score"))
    assert (document.text, document.scores) == ("a", {"y": 1.0})


def test_lone_surrogates_are_removed_as_the_cleaner_does():
    content = rb'{"text": "a\ud800b \ud83d\ude00", "id": "\udfffx", "\ud800k": ["\ud800"]}' + b"\n"
    (document,) = read(corpus_file(content, "lone.jsonl"))
    assert (document.text, document.id) == ("ab \U0001f600", "x")
    assert document.fields == {"id": "x", "k": [""]}


def test_an_id_beyond_64_bits_keeps_its_digits():
    content = b'{"text": "a", "id": 123456789012345678901234567890}\n{"text": "b", "id": 1.5}\n'
    documents = list(read(corpus_file(content, "ids.jsonl")))
    assert [d.id for d in documents] == ["123456789012345678901234567890", "1.5"]


@pytest.mark.parametrize("line", [b"[" * 5000, b'{"a":' * 5000, b'{"text": "\xff"}', b"{'a': 1}"])
def test_the_second_reading_refuses_what_is_not_json(line: bytes):
    bad = BadRows()
    source = corpus_file(b'{"text": "a"}\n' + line + b"\n", "odd.jsonl")
    assert [d.text for d in read(source, bad, max_bad_rows_ratio=0.5)] == ["a"]
    assert "is not JSON in UTF-8" in bad.places[0]


@given(st.recursive(st.text() | st.floats() | st.integers(), lambda v: st.lists(v, max_size=3)))
def test_any_line_that_python_writes_is_read(value: object):
    line = json.dumps({"text": "a", "other": value}).encode()
    ((_, _, content),) = formats.rows_of(_stream(line), "x.jsonl")
    assert isinstance(content, dict) and content["text"] == "a"
    json.dumps(content, ensure_ascii=False).encode()


def _stream(content: bytes):
    import io

    return io.BytesIO(content)


@pytest.mark.parametrize("header", ["text;label", "text\tlabel", "text|label", "sep=;\ntext;label"])
def test_another_separator_than_commas_is_said(header: str):
    source = corpus_file(f"{header}\na;1\n".encode(), "semicolons.csv")
    message = r"semicolons\.csv has one column, .*separated by commas"
    with pytest.raises(ConfigurationError, match=message):
        texts_of(source)
    one_column = corpus_file(b"a;b\nwords\n", "semicolons.csv", "#text=a;b")
    assert texts_of(one_column) == ["words"]


def test_an_object_over_several_lines_is_said():
    source = corpus_file(b'{\n  "text": "a"\n}\n', "pretty.json")
    with pytest.raises(ConfigurationError, match=r"object over several lines; .*jq -c \."):
        texts_of(source)
