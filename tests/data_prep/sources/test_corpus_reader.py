"""Every format gives the same documents; sources are expanded, checked and identified."""

import csv
import gzip
import hashlib
import io
from pathlib import Path

import pytest
from corpus_files import (
    ROWS,
    WRITERS,
    comma_separated,
    corpus_file,
    json_lines,
    texts_of,
    two_zstd_frames,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep.core import storage
from data_prep.core.errors import ArtefactCorrupt, ConfigurationError
from data_prep.sources import corpus_reader, formats
from data_prep.sources.corpus_reader import (
    BadRows,
    Document,
    Source,
    checksum,
    expand,
    n_bytes,
    read,
)
from data_prep.sources.readers import compression

REAL = Path(__file__).parents[4] / "shared" / "data"


@pytest.mark.parametrize("name", WRITERS)
def test_every_format_gives_the_same_documents(name):
    source = corpus_file(WRITERS[name](ROWS), name, "#label=class")
    expected = [
        Document(n, row["text"], {"class": row["class"], "place": row["place"]})
        for n, row in enumerate(ROWS)
    ]
    assert list(read(source)) == expected


@settings(max_examples=50)
@given(
    st.lists(st.text(st.characters(exclude_categories=["Cs"])), min_size=1),
    st.sampled_from(list(WRITERS)),
)
def test_any_text_survives_every_format(written, name):
    rows = [{"text": text, "n": str(n)} for n, text in enumerate(written)]
    assert texts_of(corpus_file(WRITERS[name](rows), name)) == written


@pytest.mark.parametrize(
    ("content", "documents"),
    [
        (
            "One paragraph.\n\nAnother of the same text.\n",
            ["One paragraph.\n\nAnother of the same text.\n"],
        ),
        ("One.\n<|endoftext|>\nTwo.\n\n2\n<|endoftext|>\n", ["One.\n", "Two.\n\n2\n"]),
    ],
)
def test_a_text_file_is_one_document_unless_separators_divide_it(content, documents):
    assert texts_of(corpus_file(content.encode(), "prose.txt")) == documents
    assert texts_of(corpus_file(two_zstd_frames(content.encode()), "prose.txt.zst")) == documents


@pytest.mark.parametrize("name", ["mark.jsonl", "mark.csv", "mark.txt"])
def test_a_byte_order_mark_is_not_part_of_the_text(name):
    content = {"mark.jsonl": b'{"text": "a"}', "mark.csv": b"text\na", "mark.txt": b"a"}[name]
    assert texts_of(corpus_file(b"\xef\xbb\xbf" + content, name)) == ["a"]


def test_a_dotted_name_reaches_into_objects():
    rows = [{"prompt": {"text": "So", "toxicity": 0.25}, "n": 1}]
    (document,) = read(
        corpus_file(json_lines(rows), "nested.jsonl", "#text=prompt.text&label=prompt.toxicity")
    )
    assert document == Document(
        0, "So", {"prompt": rows[0]["prompt"], "n": 1, "prompt.toxicity": 0.25}
    )


def test_a_column_with_a_dot_in_its_name_is_a_column():
    assert texts_of(
        corpus_file(json_lines([{"a.b": "right", "a": {"b": "wrong"}}]), "dots.jsonl", "#text=a.b")
    ) == ["right"]


def test_a_csv_field_may_exceed_the_limit_of_the_standard_library():
    csv.field_size_limit(131_072)
    assert texts_of(corpus_file(comma_separated([{"text": "x" * 200_000}]), "long.csv")) == [
        "x" * 200_000
    ]


POSTS = [
    {
        "no": 7,
        "com": 'First &amp; best<br>ever<wbr>more <span class="quote">&gt;quoted</span>',
        "country": "NL",
    },
    {"no": 8, "name": "only an image"},
    {
        "no": 9,
        "com": '<a href="#p7" class="quotelink">&gt;&gt;7</a><br />No.',
        "perspectives": {"TOXICITY": 0.5, "SPAM": None},
    },
    {"no": 11, "com": "Yes.", "perspectives": {"TOXICITY": 1, "SPAM": 0.25}},
]


def test_a_thread_is_one_document_without_its_html():
    (document,) = read(
        corpus_file(
            json_lines([{"posts": POSTS, "board": "boats"}]),
            "threads.ndjson",
            "#text=posts&label=board",
        )
    )
    text = "First & best\nevermore >quoted\n\nNo.\n\nYes."
    assert document == Document(
        0, text, {"board": "boats"}, 0, "7", {"toxicity": 0.75, "spam": 0.25}
    )


def test_with_unit_post_each_post_is_a_document():
    content = json_lines([{"posts": []}, {"posts": POSTS}])
    documents = list(
        read(corpus_file(content, "posts.ndjson", "#text=posts&unit=post&label=country"))
    )
    assert documents == [
        Document(1, "First & best\nevermore >quoted", {"no": 7, "country": "NL"}, 0, "7"),
        Document(
            1,
            "No.",
            {"no": 9, "perspectives": POSTS[2]["perspectives"], "country": None},
            2,
            "9",
            {"toxicity": 0.5},
        ),
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
def test_a_malformed_thread_is_a_bad_row(unit):
    bad = BadRows()
    rows = [
        {"posts": posts}
        for posts in (
            POSTS,
            [7],
            [*POSTS, 7],
            [*POSTS, {"role": "user"}],
            [{"com": 7}],
            "text" if unit == "post" else 7,
        )
    ]
    documents = list(
        read(
            corpus_file(json_lines(rows), "none.ndjson", f"#text=posts&unit={unit}"),
            bad,
            max_bad_rows_ratio=0.9,
        )
    )
    assert {document.row for document in documents} == {0}
    expected = "a list of posts" if unit == "post" else "a text"
    assert [place.split(" ", 1)[1] for place in bad.places] == [
        f"field 'posts' is a list of numbers, not {expected}",
        "field 'posts' contains a post that is not an object",
        "field 'posts' contains an object without no, com and sub, which is no post",
        "field 'posts' contains a post whose com is not text",
        f"field 'posts' is a {'text' if unit == 'post' else 'number'}, not {expected}",
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
def test_a_document_keeps_the_id_of_its_corpus(row, name):
    for fields in ("", "#label=n"):
        (document,) = read(
            corpus_file(json_lines([{"text": "a", "n": 1, **row}]), "named.jsonl", fields)
        )
        assert document == Document(0, "a", {"n": 1, **row}, id=name)


@pytest.mark.parametrize(
    ("row", "fields", "scores"),
    [
        ({"perspectives": {"TOXICITY": 0.25, "INSULT": 1}}, "", {"toxicity": 0.25, "insult": 1.0}),
        (
            {
                "scores": {
                    "toxicity": 0.5,
                    "n": 2,
                    "bad": -0.1,
                    "nan": None,
                    "yes": True,
                    "word": "0.5",
                }
            },
            "",
            {"toxicity": 0.5},
        ),
        ({"scores": {"n": 2}}, "", None),
        ({"scores": 0.5}, "", None),
        ({"perspectives": None, "toxicity": 0.5}, "", None),
        (
            {"scores": {"toxicity": 0.5}, "mine": {"toxicity": 0.75}},
            "#scores=mine",
            {"toxicity": 0.75},
        ),
        ({"toxicity": 0.5}, "#scores=toxicity", {"toxicity": 0.5}),
        ({"attributes": {"Toxicity": 0.5}}, "#scores=attributes.Toxicity", {"toxicity": 0.5}),
        ({"toxicity": "0.5"}, "#scores=toxicity", {"toxicity": 0.5}),
        ({"toxicity": " 1.0 "}, "#scores=toxicity", {"toxicity": 1.0}),
        ({"toxicity": "n/a"}, "#scores=toxicity", None),
        ({"toxicity": -1}, "#scores=toxicity", None),
    ],
)
def test_scores_are_the_numbers_in_0_to_1_of_the_field_with_scores(row, fields, scores):
    (document,) = read(corpus_file(json_lines([{"text": "a", **row}]), "scored.jsonl", fields))
    assert document == Document(0, "a", row, scores=scores)


@pytest.mark.parametrize("value", ["high", 85, "85%", "0,5", [0.5, 0.7]])
def test_a_value_that_is_no_score_makes_its_row_bad(value):
    rows = [{"text": "a", "toxicity": 1}, {"text": "b", "toxicity": value}]
    source = corpus_file(json_lines(rows), "scored.jsonl", "#scores=toxicity")
    bad = BadRows()
    (document,) = corpus_reader.read(source, bad, max_bad_rows_ratio=0.5)
    assert (document.text, document.scores) == ("a", {"toxicity": 1.0})
    assert bad.count == 1 and "field 'toxicity' is" in bad.places[0]
    assert "not a score from 0 to 1" in bad.places[0]


def test_scores_may_be_in_the_same_object_as_the_text():
    row = {"prompt": {"text": "So", "toxicity": 0.25, "threat": None}}
    (document,) = read(
        corpus_file(json_lines([row]), "prompts.jsonl", "#text=prompt.text&scores=prompt")
    )
    assert (document.text, document.scores) == ("So", {"toxicity": 0.25})


def test_a_scores_field_that_no_row_has_is_a_configuration_error():
    with pytest.raises(
        ConfigurationError,
        match=r"no row has text in field 'text', scores in field 'toxcity'; "
        "the rows have n, text, toxicity",
    ):
        texts_of(
            corpus_file(
                json_lines([{"text": "a", "toxicity": 0.5, "n": 1}]),
                "typo.jsonl",
                "#scores=toxcity",
            )
        )


def test_every_option_of_a_source_changes_its_reading_settings():
    options = ["", "#text=a", "#label=a", "#scores=a", "#unit=post"]
    sources = [corpus_file(json_lines(ROWS), "settings.jsonl", fields) for fields in options]
    assert len({corpus_reader.reading_settings(source) for source in sources}) == len(options)


@pytest.mark.parametrize("chunk", [1, 2, 3, 7])
def test_lines_do_not_depend_on_the_chunks_of_a_stream(chunk, monkeypatch):
    monkeypatch.setattr(compression, "CHUNK_BYTES", chunk)
    content = b'\xef\xbb\xbf{"text": "a"}\r\n\n \n{"text": "two"}\n{"text": "end"}'
    assert [(row.line, row.content) for row in formats.rows_of(io.BytesIO(content), "a.jsonl")] == [
        (1, {"text": "a"}),
        (4, {"text": "two"}),
        (5, {"text": "end"}),
    ]


@settings(max_examples=200)
@given(
    st.sampled_from([name for name in WRITERS if name != "rows.parquet"]),
    st.binary(max_size=60),
    st.integers(0),
    st.booleans(),
)
def test_any_bytes_give_rows_or_one_of_our_errors(name, noise, at, beside):
    whole = WRITERS[name](ROWS)
    at %= len(whole)
    content = noise if beside else whole[:at] + noise + whole[at + len(noise) :]
    try:
        for row in formats.rows_of(io.BytesIO(content), name):
            assert type(row.content) in (dict, str) and row.number >= 0
    except (ArtefactCorrupt, ConfigurationError) as error:
        assert name in str(error)


@pytest.mark.parametrize("name", ["pol.tar.zst", "pol.tar", "pol.TAR.GZ", "pol.tgz"])
def test_an_archive_is_refused_with_the_command_to_split_it(name, tmp_path):
    (tmp_path / name).write_bytes(b"members")
    with pytest.raises(ConfigurationError, match=r"pol.* data_prep/reshard\.py --archive "):
        expand([f"{tmp_path}/*"])


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
        (
            ["none/*.jsonl"],
            r"none/\*\.jsonl matches no file below the working directory /.*expected .*\.jsonl\.gz",
        ),
        (["."], "matches no file"),
        (["empty.jsonl"], "empty.jsonl is empty"),
        (["notes.md"], r"notes\.md: .* expected one of \.jsonl .*\.parquet.* \.zst"),
        (["rows.parquet.gz"], "the ending names no known format"),
        (["rows.jsonl", "*.jsonl#text=body"], r"rows\.jsonl is named twice"),
        (["rows.jsonl", "{folder}/rows.jsonl"], r"rows\.jsonl is named twice"),
        (["synthetic:clean?parts=2", "synthetic:clean?parts=2&part=1"], "is named twice"),
        (["rows.jsonl#body"], "#text=FIELD"),
        (["rows.jsonl#txet=body"], "#text=FIELD"),
        (["rows.jsonl#text="], "#text=FIELD"),
        (["rows.jsonl#text=a&text=b"], "#text=FIELD"),
        (["rows.jsonl#unit=page"], "#unit=thread"),
    ],
)
def test_an_invalid_list_of_uris_is_refused(uris, words, tmp_path, monkeypatch):
    for name in ("rows.jsonl", "notes.md", "rows.parquet.gz"):
        (tmp_path / name).write_bytes(b"{}\n")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty.jsonl").write_bytes(b"") if uris == ["empty.jsonl"] else None
    with pytest.raises(ConfigurationError, match=words):
        expand([uri.format(folder=tmp_path) for uri in uris])


def test_the_checksum_of_a_file_is_that_of_its_bytes():
    content = gzip.compress(json_lines(ROWS))
    source = corpus_file(content, "known.jsonl.gz")
    assert (checksum(source), n_bytes(source)) == (
        hashlib.sha256(content).hexdigest(),
        len(content),
    )


def test_every_parameter_changes_the_checksum_of_a_synthetic_source():
    uris = [
        "documents=9",
        "documents=9&seed=1",
        "documents=8",
        "documents=9&parts=2&part=0",
        "documents=9&parts=2&part=1",
    ]
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
        (
            "rtp_decodingtrust/nontoxic.jsonl.gz#text=continuation.text&scores=continuation",
            586,
            None,
        ),
        ("wikitext2/valid.txt.gz", 1, None),
    ],
)
def test_real_files_are_read_completely(uri, n_rows, label):
    (source,) = expand([f"{REAL}/{uri}"])
    bad = BadRows()
    documents = list(read(source, bad))
    assert (len(documents), bad.count) == (n_rows, 0)
    assert label is None or {document.fields["class"] for document in documents} == label


@pytest.mark.parametrize(
    ("name", "uri"),
    [
        ("toxic[1].jsonl", "toxic[1].jsonl"),
        ("toxic[1].jsonl", "toxic[[]1].jsonl#text=text"),
        ("toxic#1.jsonl", "toxic%231.jsonl"),
        ("toxic#1.jsonl", "toxic#1.jsonl"),
        ("toxic#1.jsonl", "toxic#1.jsonl#text=text"),
        ("toxic#1.jsonl", "toxic%23*.jsonl#text=text"),
        ("a%23b.jsonl", "a%23b.jsonl"),
        ("in [v2]/a.jsonl", "in [v2]/*.jsonl"),
        ("2024-01-01T00:00:00.jsonl", "2024-01-01T00:00:00.jsonl"),
    ],
)
def test_a_name_with_special_characters_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, uri: str
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text('{"text": "one"}\n')
    (source,) = corpus_reader.expand([uri])
    assert source == corpus_reader.Source(name, "text", None)
    assert [document.text for document in corpus_reader.read(source)] == ["one"]
    (source,) = corpus_reader.expand([storage.absolute(uri)])
    assert source.uri == str(tmp_path / name)


def test_the_error_for_no_file_says_how_to_escape(tmp_path: Path):
    (tmp_path / "toxic[1].jsonl").write_text('{"text": "one"}\n')
    message = r"matches no file.*\[\[\] for a literal \[.*%23 for #"
    with pytest.raises(ConfigurationError, match=message):
        corpus_reader.expand([f"{tmp_path}/tox[i]c[1].jsonl"])
    (source,) = corpus_reader.expand([f"{tmp_path}/tox[i]c[[]1].jsonl"])
    assert source.uri == f"{tmp_path}/toxic[1].jsonl"
    with pytest.raises(ConfigurationError, match=r"after #.*write %23 for a #"):
        corpus_reader.expand([f"{tmp_path}/none#1.jsonl"])
