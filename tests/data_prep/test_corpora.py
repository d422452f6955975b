"""Every format gives the same documents; what cannot be read is counted with its place, or stops the build by name."""

import csv
import gzip
import hashlib
import io
import json
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from data_prep import corpora, formats, storage
from data_prep.corpora import BadRows, Document, Source, checksum, expand, n_bytes, read
from data_prep.records import ArtefactCorrupt, ConfigurationError

REAL = Path(__file__).parents[3] / "shared" / "data"
ROWS = [
    {"text": "The ferry left\nat dawn.", "class": "1", "place": "quay"},
    {"text": 'A "small" boat, with a sail — and ⚓.', "class": "0", "place": "pier"},
    {"text": "", "class": "2", "place": ""},
]


def json_lines(rows: list[dict]) -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


def comma_separated(rows: list[dict]) -> bytes:
    file = io.StringIO(newline="")
    writer = csv.DictWriter(file, rows[0])
    writer.writeheader()
    writer.writerows(rows)
    return file.getvalue().encode()


def as_parquet(rows: list[dict]) -> bytes:
    file = io.BytesIO()
    parquet.write_table(pa.Table.from_pylist(rows), file, row_group_size=2)
    return file.getvalue()


def two_frames(content: bytes) -> bytes:
    compress = zstandard.ZstdCompressor().compress
    return compress(content[:7]) + compress(content[7:])


def file(content: bytes, name: str, fields: str = "") -> Source:
    """A file of the in-memory store, as `expand` names it."""
    storage.write(f"memory://corpora/{name}", content)
    (source,) = expand([f"memory://corpora/{name}{fields}"])
    return source


def texts(source: Source) -> list[str]:
    return [document.text for document in read(source)]


WRITERS: dict[str, Callable[[list[dict]], bytes]] = {
    "rows.jsonl": json_lines,
    "rows.json.gz": lambda rows: gzip.compress(json_lines(rows)),
    "rows.ndjson.zst": lambda rows: two_frames(json_lines(rows)),
    "rows.csv": comma_separated,
    "rows.csv.gz": lambda rows: gzip.compress(comma_separated(rows)),
    "ROWS.CSV.ZST": lambda rows: two_frames(comma_separated(rows)),
    "rows.parquet": as_parquet,
}


@pytest.mark.parametrize("name", WRITERS)
def test_every_format_gives_the_same_documents(name):
    source = file(WRITERS[name](ROWS), name, "#label=class")
    expected = [Document(n, row["text"], {"class": row["class"], "place": row["place"]}) for n, row in enumerate(ROWS)]
    assert list(read(source)) == expected


@settings(max_examples=50)
@given(st.lists(st.text(st.characters(exclude_categories=["Cs"])), min_size=1), st.sampled_from(list(WRITERS)))
def test_any_text_survives_every_format(written, name):
    rows = [{"text": text, "n": str(n)} for n, text in enumerate(written)]
    assert texts(file(WRITERS[name](rows), name)) == written


@pytest.mark.parametrize(
    ("content", "documents"),
    [
        ("One paragraph.\n\nAnother of the same text.\n", ["One paragraph.\n\nAnother of the same text.\n"]),
        ("One.\n<|endoftext|>\nTwo.\n\n2\n<|endoftext|>\n", ["One.\n", "Two.\n\n2\n"]),
    ],
)
def test_a_text_file_is_one_document_unless_end_lines_divide_it(content, documents):
    assert texts(file(content.encode(), "prose.txt")) == documents
    assert texts(file(two_frames(content.encode()), "prose.txt.zst")) == documents


@pytest.mark.parametrize("name", ["mark.jsonl", "mark.csv", "mark.txt"])
def test_a_byte_order_mark_is_no_text(name):
    content = {"mark.jsonl": b'{"text": "a"}', "mark.csv": b"text\na", "mark.txt": b"a"}[name]
    assert texts(file(b"\xef\xbb\xbf" + content, name)) == ["a"]


def test_a_dotted_name_reaches_into_objects():
    rows = [{"prompt": {"text": "So", "toxicity": 0.25}, "n": 1}]
    (document,) = read(file(json_lines(rows), "nested.jsonl", "#text=prompt.text&label=prompt.toxicity"))
    assert document == Document(0, "So", {"prompt": rows[0]["prompt"], "n": 1, "prompt.toxicity": 0.25})


def test_a_column_with_a_dot_in_its_name_is_a_column():
    assert texts(file(json_lines([{"a.b": "right", "a": {"b": "wrong"}}]), "dots.jsonl", "#text=a.b")) == ["right"]


def test_a_csv_field_may_be_longer_than_the_standard_library_allows():
    csv.field_size_limit(131_072)
    assert texts(file(comma_separated([{"text": "x" * 200_000}]), "long.csv")) == ["x" * 200_000]


POSTS = [
    {"no": 7, "com": 'First &amp; best<br>ever<wbr>more <span class="quote">&gt;quoted</span>', "country": "NL"},
    {"no": 8, "name": "only an image"},
    {"no": 9, "com": '<a href="#p7" class="quotelink">&gt;&gt;7</a><br />No.', "perspectives": {"TOXICITY": 0.5, "SPAM": None}},
    {"no": 11, "com": "Yes.", "perspectives": {"TOXICITY": 1, "SPAM": 0.25}},
]


def test_a_thread_is_one_document_without_its_html():
    (document,) = read(file(json_lines([{"posts": POSTS, "board": "boats"}]), "threads.ndjson", "#text=posts&label=board"))
    text = "First & best\nevermore >quoted\n\nNo.\n\nYes."
    assert document == Document(0, text, {"board": "boats"}, 0, "7", {"toxicity": 0.75, "spam": 0.25})


def test_a_post_is_a_document_where_that_is_asked():
    content = json_lines([{"posts": []}, {"posts": POSTS}])
    documents = list(read(file(content, "posts.ndjson", "#text=posts&unit=post&label=country")))
    assert documents == [
        Document(1, "First & best\nevermore >quoted", {"no": 7, "country": "NL"}, 0, "7"),
        Document(1, "No.", {"no": 9, "perspectives": POSTS[2]["perspectives"], "country": None}, 2, "9", {"toxicity": 0.5}),
        Document(
            1,
            "Yes.",
            {"no": 11, "perspectives": POSTS[3]["perspectives"], "country": None},
            3,
            "11",
            {"toxicity": 1.0, "spam": 0.25},
        ),
    ]


@pytest.mark.parametrize("unit", ["thread", "post"])
def test_a_thread_that_is_none_is_a_bad_row(unit):
    bad = BadRows()
    rows = [{"posts": posts} for posts in (POSTS, [7], [{"com": 7}], "text" if unit == "post" else 7)]
    documents = list(read(file(json_lines(rows), "none.ndjson", f"#text=posts&unit={unit}"), bad, max_bad_rows_ratio=0.75))
    assert {document.row for document in documents} == {0}
    assert [place.split(" ", 1)[1] for place in bad.places] == [
        "field 'posts' holds a post that is no object",
        "field 'posts' holds a post whose com is no text",
        "field 'posts' is no list of posts" if unit == "post" else "field 'posts' is no text",
    ]


@pytest.mark.parametrize(
    ("row", "name"),
    [
        ({"id": "cc-1", "url": "https://a.example/"}, "cc-1"),
        ({"url": "https://a.example/", "timestamp": "2019-04-25T12:57:54Z"}, "https://a.example/"),
        ({"id": 7}, "7"),
        ({"id": None}, None),
        ({}, None),
    ],
)
def test_a_document_keeps_the_name_its_source_gave_it(row, name):
    for fields in ("", "#label=n"):
        (document,) = read(file(json_lines([{"text": "a", "n": 1, **row}]), "named.jsonl", fields))
        assert document == Document(0, "a", {"n": 1, **row}, id=name)


@pytest.mark.parametrize(
    ("row", "fields", "scores"),
    [
        ({"perspectives": {"TOXICITY": 0.25, "INSULT": 1}}, "", {"toxicity": 0.25, "insult": 1.0}),
        ({"scores": {"toxicity": 0.5, "n": 2, "bad": -0.1, "nan": None, "yes": True, "word": "0.5"}}, "", {"toxicity": 0.5}),
        ({"scores": {"n": 2}}, "", None),
        ({"scores": 0.5}, "", None),
        ({"perspectives": None, "toxicity": 0.5}, "", None),
        ({"scores": {"toxicity": 0.5}, "mine": {"toxicity": 0.75}}, "#scores=mine", {"toxicity": 0.75}),
        ({"toxicity": 0.5}, "#scores=toxicity", {"toxicity": 0.5}),
        ({"attributes": {"Toxicity": 0.5}}, "#scores=attributes.Toxicity", {"toxicity": 0.5}),
        ({"toxicity": "0.5"}, "#scores=toxicity", {"toxicity": 0.5}),
        ({"toxicity": "high"}, "#scores=toxicity", None),
    ],
)
def test_scores_are_the_numbers_between_0_and_1_of_the_field_that_holds_them(row, fields, scores):
    (document,) = read(file(json_lines([{"text": "a", **row}]), "scored.jsonl", fields))
    assert document == Document(0, "a", row, scores=scores)


def test_scores_may_stand_beside_the_text_in_its_object():
    row = {"prompt": {"text": "So", "toxicity": 0.25, "threat": None}}
    (document,) = read(file(json_lines([row]), "prompts.jsonl", "#text=prompt.text&scores=prompt"))
    assert (document.text, document.scores) == ("So", {"toxicity": 0.25})


def test_a_field_of_scores_that_no_row_has_is_an_error_of_the_command():
    with pytest.raises(
        ConfigurationError, match=r"no row has text in field 'text', scores in field 'toxcity'; the rows have n, text, toxicity"
    ):
        texts(file(json_lines([{"text": "a", "toxicity": 0.5, "n": 1}]), "typo.jsonl", "#scores=toxcity"))


def test_what_is_read_of_a_file_is_part_of_its_settings():
    asked = ["", "#text=a", "#label=a", "#scores=a", "#unit=post"]
    sources = [file(json_lines(ROWS), "settings.jsonl", fields) for fields in asked]
    assert len({corpora.settings(source) for source in sources}) == len(asked)


@pytest.mark.parametrize("chunk", [1, 2, 3, 7])
def test_lines_are_the_same_wherever_the_chunks_of_a_stream_end(chunk, monkeypatch):
    monkeypatch.setattr(formats, "CHUNK_BYTES", chunk)
    content = b'\xef\xbb\xbf{"text": "a"}\r\n\n \n{"text": "two"}\n{"text": "end"}'
    assert [(row.line, row.content) for row in formats.rows_of(io.BytesIO(content), "a.jsonl")] == [
        (1, {"text": "a"}),
        (4, {"text": "two"}),
        (5, {"text": "end"}),
    ]


@settings(max_examples=200)
@given(st.sampled_from([name for name in WRITERS if name != "rows.parquet"]), st.binary(max_size=60), st.integers(0), st.booleans())
def test_whatever_the_bytes_they_are_rows_or_an_error_of_ours(name, noise, at, beside):
    whole = WRITERS[name](ROWS)
    at %= len(whole)
    content = noise if beside else whole[:at] + noise + whole[at + len(noise) :]
    try:
        for row in formats.rows_of(io.BytesIO(content), name):
            assert type(row.content) in (dict, str) and row.number >= 0
    except (ArtefactCorrupt, ConfigurationError) as error:
        assert name in str(error)


@pytest.mark.parametrize("name", ["pol.tar.zst", "pol.tar", "pol.TAR.GZ", "pol.tgz"])
def test_an_archive_is_refused_with_the_command_that_opens_it(name, tmp_path):
    (tmp_path / name).write_bytes(b"members")
    with pytest.raises(ConfigurationError, match=r"pol.* data_prep/reshard\.py --archive "):
        expand([f"{tmp_path}/*"])


BAD_LINES = [b'{"text": "cut', b'{"text": "\xff"}', b"[1]", b'{"body": "b"}', b'{"text": null}', b'{"text": 7}', b'"words"']


def test_bad_rows_are_counted_with_their_places_and_keep_their_numbers():
    source = file(b"\n".join([b'{"text": "a"}', b"", *BAD_LINES, b'{"text": "z"}']), "bad.jsonl")
    bad = BadRows()
    assert [(document.row, document.text) for document in read(source, bad, max_bad_rows_ratio=0.8)] == [(0, "a"), (9, "z")]
    assert (bad.count, bad.n_rows) == (7, 9)
    assert [place.split()[0] for place in bad.places] == [f"{source.uri}:{line}" for line in (3, 4, 5, 6, 7)]
    assert [place.split(" ", 1)[1][:9] for place in bad.places] == ["is not JS", "is not JS", "is not a ", "no field ", "no field "]


def test_a_csv_row_that_is_bad_spoils_only_itself():
    content = b'text,n\nbroken "quote,1\n"open" quote,2\n"two\nlines",3\n\xff,4\nshort\nlast,6\n'
    bad = BadRows()
    rows = [(document.row, document.text) for document in read(file(content, "bad.csv"), bad, max_bad_rows_ratio=0.5)]
    assert rows == [(0, 'broken "quote'), (2, "two\nlines"), (5, "last")]
    assert [place.split(":")[-1].split(" (")[0] for place in bad.places] == [
        "3 is not CSV",
        "6 is not UTF-8",
        "7 has 1 columns, the header 2",
    ]


def test_a_csv_quote_that_never_ends_stops_the_build():
    with pytest.raises(ArtefactCorrupt, match=r"head\.csv:1: "):
        texts(file(b'"text" n\na\n', "head.csv"))
    with pytest.raises(ArtefactCorrupt, match=r"open\.csv:202: "):
        texts(file(b"text\n" + b"fine\n" * 200 + b'"swallows\n' + b"the rest\n" * 50, "open.csv"))


def test_a_parquet_row_that_is_not_utf8_spoils_only_itself():
    column = pa.StringArray.from_buffers(3, pa.py_buffer(b"\0\0\0\0\1\0\0\0\2\0\0\0\3\0\0\0"), pa.py_buffer(b"a\xffc"))
    content = io.BytesIO()
    parquet.write_table(pa.table({"text": column}), content)
    source, bad = file(content.getvalue(), "bad.parquet"), BadRows()
    assert list(read(source, bad, max_bad_rows_ratio=0.5)) == [Document(0, "a", {}), Document(2, "c", {})]
    assert bad.places == [f"{source.uri}:2 is not UTF-8"]


def test_too_many_bad_rows_stop_the_reading_after_a_hundred():
    source = file(b"{\n" * 3 + b'{"text": "a"}\n' * 500, "early.jsonl")
    bad = BadRows()
    with pytest.raises(ArtefactCorrupt, match=r"early\.jsonl: 3 of the first 100 rows .*jsonl:1 .*jsonl:3 .* 0\.03 exceeds 0\.02"):
        list(read(source, bad, max_bad_rows_ratio=0.02))
    assert bad.n_rows == 100
    assert len(list(read(source, max_bad_rows_ratio=0.03))) == 500


def test_too_many_bad_rows_stop_a_short_file_at_its_end():
    source, seen = file(b'{\n{"text": "a"}\n', "short.jsonl"), []
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
def test_a_field_that_no_row_has_is_an_error_of_the_command(name, content, fields):
    with pytest.raises(ConfigurationError, match=r"the rows have class, tweet; .*URI#text=FIELD"):
        texts(file(content, name, fields))


def test_a_json_array_is_refused_with_the_remedy():
    with pytest.raises(ConfigurationError, match="JSON array"):
        texts(file(b'[\n{"text": "a"}]', "array.json"))


@pytest.mark.parametrize("name", ["rows.json.gz", "rows.ndjson.zst", "rows.parquet"])
@pytest.mark.parametrize(
    "damage", [lambda content: content[:-9], lambda content: b"no such format " * 9, lambda content: content[:12]]
)
def test_a_damaged_file_is_named(name, damage):
    with pytest.raises(ArtefactCorrupt, match=rf"{name}.* fetch it again"):
        texts(file(damage(WRITERS[name](ROWS)), name))


def test_a_gzip_file_with_wrong_bytes_inside_is_named():
    content = bytearray(gzip.compress(json_lines(ROWS * 9)))
    content[30:50] = bytes(20)
    with pytest.raises(ArtefactCorrupt, match=r"wrong\.jsonl\.gz.* fetch it again"):
        texts(file(bytes(content), "wrong.jsonl.gz"))


def test_patterns_expand_in_the_order_given_then_by_name(tmp_path, monkeypatch):
    for name in ("b.jsonl", "a.jsonl", "z/c.jsonl"):
        storage.write(str(tmp_path / name), json_lines(ROWS))
    monkeypatch.chdir(tmp_path)
    assert expand(["z/*.jsonl", f"{tmp_path}/?.jsonl#text=a%26b&label=c"]) == [
        Source("z/c.jsonl", "text", None),
        Source(f"{tmp_path}/a.jsonl", "a&b", "c"),
        Source(f"{tmp_path}/b.jsonl", "a&b", "c"),
    ]


@pytest.mark.parametrize(
    ("uris", "words"),
    [
        (["none/*.jsonl"], r"none/\*\.jsonl matches no file below the working folder /.*expected .*\.jsonl\.gz"),
        (["."], "matches no file"),
        (["empty.jsonl"], "empty.jsonl is empty"),
        (["notes.md"], r"notes\.md: .* expected one of \.jsonl .*\.parquet.* \.zst"),
        (["rows.parquet.gz"], "the ending names no format"),
        (["rows.jsonl", "*.jsonl#text=body"], r"rows\.jsonl comes twice"),
        (["rows.jsonl", "{folder}/rows.jsonl"], r"rows\.jsonl comes twice"),
        (["synthetic:clean?parts=2", "synthetic:clean?parts=2&part=1"], "comes twice"),
        (["rows.jsonl#body"], "#text=FIELD"),
        (["rows.jsonl#txet=body"], "#text=FIELD"),
        (["rows.jsonl#text="], "#text=FIELD"),
        (["rows.jsonl#text=a&text=b"], "#text=FIELD"),
        (["rows.jsonl#unit=page"], "#unit=thread"),
    ],
)
def test_a_name_that_cannot_be_is_refused(uris, words, tmp_path, monkeypatch):
    for name in ("rows.jsonl", "notes.md", "rows.parquet.gz"):
        (tmp_path / name).write_bytes(b"{}\n")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty.jsonl").write_bytes(b"") if uris == ["empty.jsonl"] else None
    with pytest.raises(ConfigurationError, match=words):
        expand([uri.format(folder=tmp_path) for uri in uris])


def test_a_source_is_known_by_its_bytes():
    content = gzip.compress(json_lines(ROWS))
    source = file(content, "known.jsonl.gz")
    assert (checksum(source), n_bytes(source)) == (hashlib.sha256(content).hexdigest(), len(content))


def test_a_synthetic_source_is_known_by_all_its_parameters():
    uris = ["documents=9", "documents=9&seed=1", "documents=8", "documents=9&parts=2&part=0", "documents=9&parts=2&part=1"]
    sums = [checksum(source) for uri in uris for source in expand([f"synthetic:clean?{uri}"])]
    assert len(set(sums)) == len(uris)
    (plain,) = expand(["synthetic:clean?seed=0&documents=9"])
    assert checksum(plain) == sums[0]


@pytest.mark.skipif(not REAL.exists(), reason="the folder of real data is absent")
@pytest.mark.parametrize(
    ("uri", "n_rows", "label"),
    [
        ("c4_fixture/c4-sample.01.json.gz", 10, None),
        ("davidson/*.csv.gz#text=tweet&label=class", 24_783, {"0", "1", "2"}),
        ("c4_fixture/cc_en_head-*.jsonl.gz", 10, None),
        ("fourchan_pol_val/*.jsonl.gz", 299, None),
        ("toxigen_prompts/*.jsonl.gz#label=label", 31_627, None),
        ("rtp_decodingtrust/toxic.jsonl.gz#text=prompt.text&scores=prompt", 519, None),
        ("rtp_decodingtrust/nontoxic.jsonl.gz#text=continuation.text&scores=continuation", 586, None),
        ("wikitext2/valid.txt.gz", 1, None),
    ],
)
def test_real_files_are_read_whole(uri, n_rows, label):
    (source,) = expand([f"{REAL}/{uri}"])
    bad = BadRows()
    documents = list(read(source, bad))
    assert (len(documents), bad.count) == (n_rows, 0)
    assert label is None or {document.fields["class"] for document in documents} == label
