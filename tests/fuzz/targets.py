"""Fuzz targets: any bytes give the promised result or one of our errors; others are bugs.

A target takes any bytes and returns nothing. `fuzz.py` chooses them by coverage; test_fuzz.py runs
the inputs saved in corpus/.
"""

import gzip
import html
import io
import json
from collections.abc import Callable

import zstandard

from data_prep.cleaning import clean_document
from data_prep.config import CleaningConfig, DataConfig
from data_prep.core import records, storage
from data_prep.core.errors import ArtefactCorrupt, ConfigurationError
from data_prep.sources import corpus_reader, formats, fourchan
from data_prep.sources.readers.file_row import FileRow
from data_prep.token_stream import megatron_shards
from data_prep.token_stream.manifest import Manifest, Shard

OUR_ERRORS = (ArtefactCorrupt, ConfigurationError)  # a reader may raise only these
CLEANING = CleaningConfig(min_chars=1)


def _rows_and_documents(name: str, content: bytes) -> None:
    """Read a file of this name to its end, as rows and as documents."""
    uri = f"memory://fuzz/{name}"
    storage.write(uri, content)
    rows = []
    try:
        rows = list(formats.rows(uri))
        numbers = [row.number for row in rows]
        assert numbers == sorted(set(numbers)), numbers
    except OUR_ERRORS as error:
        assert uri in str(error), error
    bad = corpus_reader.BadRows()
    try:
        documents = list(
            corpus_reader.read(corpus_reader.Source(uri, "text", None), bad, max_bad_rows_ratio=1.0)
        )
    except OUR_ERRORS as error:
        assert uri in str(error), error
        return
    assert len(documents) + bad.count == bad.n_rows == len(rows), (len(documents), bad, len(rows))
    for document in documents:
        document.text.encode("utf-8", "surrogatepass")


def json_lines(content: bytes) -> None:
    _rows_and_documents("x.jsonl", content)


def threads(content: bytes) -> None:
    """Any bytes as a file of threads, read per thread and per post."""
    uri = "memory://fuzz/threads.ndjson"
    storage.write(uri, content)
    for unit in ("thread", "post"):
        try:
            for document in corpus_reader.read(
                corpus_reader.Source(uri, "posts", None, unit), max_bad_rows_ratio=1.0
            ):
                assert all(0 <= score <= 1 for score in (document.scores or {}).values()), document
                clean_document.clean(document.text, CLEANING)
        except OUR_ERRORS as error:
            assert uri in str(error), error


def csv(content: bytes) -> None:
    _rows_and_documents("x.csv", content)


def plain_text(content: bytes) -> None:
    _rows_and_documents("x.txt", content)


def parquet(content: bytes) -> None:
    _rows_and_documents("x.parquet", content)


def gz(content: bytes) -> None:
    """Any bytes as a .gz file; the same bytes compressed give the rows of the plain file."""
    _rows_and_documents("x.txt.gz", content)
    _check_decompressed("whole.txt.gz", gzip.compress(content, 1, mtime=0), content)


def zst(content: bytes) -> None:
    """Any bytes as a .zst file; compressed in one or two frames they give the plain file's rows."""
    _rows_and_documents("x.txt.zst", content)
    compress = zstandard.ZstdCompressor(level=1).compress
    half = len(content) // 2
    _check_decompressed("whole.txt.zst", compress(content), content)
    two_frames = compress(content[:half]) + compress(content[half:])
    _check_decompressed("frames.txt.zst", two_frames, content)


def _check_decompressed(name: str, compressed: bytes, content: bytes) -> None:
    plain = "memory://fuzz/plain.txt"
    uri = f"memory://fuzz/{name}"
    storage.write(plain, content)
    storage.write(uri, compressed)
    assert _rows_or_error(uri) == _rows_or_error(plain)


def _rows_or_error(uri: str) -> list[FileRow] | type[Exception]:
    """The rows of a file, or the kind of its refusal, such as of gzip in a file named as text."""
    try:
        return list(formats.rows(uri))
    except OUR_ERRORS as error:
        return type(error)


def html_to_text(content: bytes) -> None:
    """Any written text comes back, also `<` and `&amp;lt;`; no text is longer than its HTML."""
    text = content.decode("utf-8", "replace")
    assert len(fourchan.html_to_text(text)) <= len(text), text
    assert fourchan.decode_entities(text) == html.unescape(text), text
    # As the board writes it.
    written = html.escape(text).replace("&#x27;", "&#039;").replace("\n", "<br>")
    expected = text.strip()
    assert fourchan.html_to_text(written) == ("" if expected == "[deleted]" else expected), text


def clean(content: bytes) -> None:
    """Cleaning never raises, and cleaning twice is cleaning once."""
    # Bad bytes become lone surrogates, which no cleaned text may contain.
    text = content.decode("utf-8", "surrogateescape")
    once = clean_document.clean(text, CLEANING)
    assert (once.text is None) == bool(once.reason), once
    if once.text is not None:
        once.text.encode()
        assert clean_document.clean(once.text, CLEANING).text == once.text, text


def index(content: bytes) -> None:
    """A .idx file is decoded or refused by name; what is decoded can be encoded again."""
    try:
        decoded = megatron_shards.decode_index(content, "x.idx")
    except ArtefactCorrupt as error:
        assert "x.idx" in str(error), error
        return
    assert (decoded.lengths >= 0).all(), decoded
    encoded = megatron_shards.encode_index(decoded.lengths, decoded.dtype)
    again = megatron_shards.decode_index(encoded, "x.idx")
    assert again.dtype == decoded.dtype, decoded
    assert again.lengths.tolist() == decoded.lengths.tolist(), decoded


def record(content: bytes) -> None:
    """A record is loaded or refused by name; a loaded record has one canonical form."""
    for cls in (Shard, Manifest, DataConfig):
        try:
            value = records.from_json(cls, content, "x.json")
        except OUR_ERRORS as error:
            assert "x.json" in str(error) or isinstance(error, ConfigurationError), error
            continue
        text = records.to_json(value)
        assert records.to_json(records.from_json(cls, text, "x.json")) == text, text
        records.digest(value)


TARGETS: dict[str, Callable[[bytes], None]] = {
    target.__name__: target
    for target in (
        json_lines,
        threads,
        csv,
        plain_text,
        parquet,
        gz,
        zst,
        html_to_text,
        clean,
        index,
        record,
    )
}


def seeds(name: str) -> list[bytes]:
    """Valid inputs to start from: coverage rarely finds a valid file from nothing."""
    lines = b"".join(
        json.dumps({"text": text, "id": 1}).encode() + b"\n"
        for text in ("one", "\u00e4 \u2028", "")
    )
    html_comment = 'a &gt;&gt;1<br><wbr>b <span class="quote">&gt;c</span> &amp;lt;'
    post = {"no": 1, "perspectives": {"TOXICITY": 0.5, "x": 2}, "com": html_comment}
    thread = json.dumps({"posts": [post, {"sub": "x"}]}).encode() + b"\n"
    inputs: dict[str, list[bytes]] = {
        "json_lines": [lines, b"\xef\xbb\xbf" + lines, b"[1]", lines + b"\xff\n{}\n1\n"],
        "threads": [
            thread,
            b'{"posts": []}\n',
            b'{"posts": [{"com": null}]}\n',
            b'{"posts": "no list"}\n',
        ],
        "csv": [
            b'text,id\r\n"a ""b"", c\nd",1\r\ne,2\r\n',
            b"\xef\xbb\xbftext\na\nb,c\n",
            b"text\n\xff\n",
        ],
        "plain_text": [b"a\n<|endoftext|>\nb\n", b"<|endoftext|>\n", "\u00e4".encode()],
        "parquet": _parquet_seeds(),
        "gz": [gzip.compress(b"a\n<|endoftext|>\nb\n"), gzip.compress(b"a") + gzip.compress(b"b")],
        "zst": [
            zstandard.compress(b"a\n<|endoftext|>\nb\n"),
            zstandard.compress(b"a") + zstandard.compress(b"b"),
        ],
        "html_to_text": [
            f'{html_comment} &#039; <a href="#p1">x</a>'.encode(),
            b"1 < 2 > 0",
        ],
        "clean": ["a\r\n\r\n\r\n\r\nb \u200b\ufeff\x00 https://x.y".encode(), b"\x00\xed\xa0\x80"],
        "index": _index_seeds(),
        "record": [_record_seed()],
    }
    return inputs[name]


def _parquet_seeds() -> list[bytes]:
    import pyarrow as pa
    from pyarrow import parquet

    when = pa.array([0, 10**12, None], pa.timestamp("ms"))
    words = pa.array(["x", None, "x"]).dictionary_encode()
    columns = {
        "text": ["a", "b", None],
        "n": [1, 2, 3],
        "l": [["x"], [], None],
        "b": [b"\xff", b"", None],
        "t": when,
        "d": words,
    }
    buffers = [io.BytesIO(), io.BytesIO()]
    for buffer, compression in zip(buffers, ("none", "snappy"), strict=True):
        parquet.write_table(pa.table(columns), buffer, compression=compression)
    return [buffer.getvalue() for buffer in buffers]


def _index_seeds() -> list[bytes]:
    import numpy as np

    return [
        megatron_shards.encode_index(np.array(lengths, np.int64), "uint16")
        for lengths in ([], [1], [3, 0, 2])
    ]


def _record_seed() -> bytes:
    shard = Shard(
        name="train-00000",
        n_tokens=2,
        n_documents=1,
        n_bytes=4,
        block_sha256=("0",),
        idx_sha256="1",
        documents_sha256="2",
    )
    return records.to_json(shard).encode()
