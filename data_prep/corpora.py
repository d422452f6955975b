"""named corpora → documents: JSON lines, CSV, Parquet, plain text, thread dumps and the embedded corpus

A corpus is a list of URIs; each names files (with wildcards) or parts of the embedded corpus:

    s3://c4/en/c4-train.*.json.gz          the text is in the field `text`
    tweets.csv.gz#text=tweet&label=class   in another one, with a label beside it; `text=prompt.text` reaches into objects
    pol.ndjson.zst#text=posts              a 4chan thread a line: its posts, HTML undone, joined by blank lines
    synthetic:clean?documents=6000&parts=4 the embedded corpus

A plain-text file is one document, for a blank line inside prose ends a paragraph, not a text; lines that hold only
`<|endoftext|>` divide it into several. Rows that cannot be read are counted with their place, never skipped in silence:
a file with too many of them stops the build, because it usually is a file in another format.
"""

import csv
import gzip
import hashlib
import html
import io
import os
import posixpath
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, NamedTuple, cast
from urllib.parse import unquote

import orjson
import zstandard
from isal import igzip, igzip_lib

from data_prep import storage, synthetic
from data_prep.records import ArtefactCorrupt, ConfigurationError

SAMPLE_ROWS = 100  # below this a share of bad rows says little, unless the file ends
MAX_PLACES = 5  # bad places kept for the message
DOCUMENT_END = b"<|endoftext|>"
CSV_FIELD_BYTES = 1 << 30  # the standard library stops at 128 KiB
CHUNK_BYTES = 128 << 10
BOM = b"\xef\xbb\xbf"
DAMAGE = cast(tuple[type[Exception], ...], (EOFError, gzip.BadGzipFile, igzip_lib.IsalError, zstandard.ZstdError))


class Source(NamedTuple):
    """One input file (or one part of the embedded corpus) and the fields to take from its rows."""

    uri: str
    text_field: str
    label_field: str | None


class Document(NamedTuple):
    """One row: its 0-based number in the file (blank lines and bad rows count), its text, its other columns.

    A label asked for by a dotted name is in `fields` under that name.
    """

    row: int
    text: str
    fields: dict[str, Any]


@dataclass
class BadRows:
    """What one `read` could not use, filled while it runs: a fresh one for each file."""

    n_rows: int = 0
    count: int = 0
    places: list[str] = field(default_factory=list)
    n_without_field: int = 0
    columns: set[str] = field(default_factory=set)


class _Row(NamedTuple):
    """A row as the file has it: number from 0, line from 1 (Parquet: row from 1), columns or what is wrong."""

    number: int
    line: int
    content: dict[str, Any] | str


class _Fault(NamedTuple):
    reason: str
    columns: tuple[str, ...] | None = None  # the fields present, when the fault is that one is absent


def expand(uris: Sequence[str]) -> list[Source]:
    """The files that `uris` name, in the order of the URIs, then by name; every one exists, is not empty and comes once."""
    sources = [source for uri in uris for source in _expand_one(uri)]
    seen: dict[str, str] = {}
    for source in sources:
        identity = _identity(source.uri)
        if identity in seen:
            raise ConfigurationError(f"{source.uri} comes twice (also as {seen[identity]}) in {list(uris)}; name each file once")
        seen[identity] = source.uri
    return sources


def checksum(source: Source) -> str:
    """sha256 of the file's bytes; of a synthetic part, of the generator's version and the part's full name."""
    if synthetic.is_synthetic(source.uri):
        return hashlib.sha256(f"{synthetic.VERSION} {source.uri}".encode()).hexdigest()
    sha256 = hashlib.sha256()
    with storage.open_stream(source.uri) as stream:
        while chunk := stream.read(CHUNK_BYTES):
            sha256.update(chunk)
    return sha256.hexdigest()


def n_bytes(source: Source) -> int:
    """Size of the file; of a synthetic part, about the size of its text, for plans and progress bars."""
    return synthetic.n_bytes(source.uri) if synthetic.is_synthetic(source.uri) else storage.size(source.uri)


def read(source: Source, bad: BadRows | None = None, *, max_bad_rows_ratio: float = 0.01) -> Iterator[Document]:
    """The file's documents in order; `bad` learns which rows could not be used.

    Raises ArtefactCorrupt when the file is damaged, or when at its end, or after any row from the 100th on, the share
    of bad rows exceeds `max_bad_rows_ratio`; ConfigurationError when no row has the field asked for.
    """
    bad = BadRows() if bad is None else bad
    for row in _rows(source):
        document = _document(row, source)
        bad.n_rows += 1
        if isinstance(document, Document):
            yield document
        else:
            _note(document, f"{source.uri}:{row.line}", bad)
        if bad.n_rows >= SAMPLE_ROWS:
            _check_share(source, bad, max_bad_rows_ratio)
    _check_share(source, bad, max_bad_rows_ratio)


def _expand_one(uri: str) -> list[Source]:
    pattern, _, fragment = uri.partition("#")
    text_field, label_field = _chosen_fields(uri, fragment)
    if synthetic.is_synthetic(pattern):
        return [Source(part, text_field, label_field) for part in synthetic.expand(pattern)]
    found = storage.glob(pattern)
    if not found:
        below = "" if "://" in pattern or Path(pattern).is_absolute() else f" below the working folder {Path.cwd()}"
        raise ConfigurationError(
            f"{uri} matches no file{below}; expected the URI of a file, or a pattern such as folder/*.jsonl.gz; check the name"
        )
    for name in found:
        _format(name)
        if storage.size(name) == 0:
            raise ConfigurationError(f"{name} is empty (0 bytes); expected documents; remove it from the corpus or fetch it again")
    return [Source(name, text_field, label_field) for name in found]


def _chosen_fields(uri: str, fragment: str) -> tuple[str, str | None]:
    chosen: dict[str, str] = {}
    for item in filter(None, fragment.split("&")):
        key, _, value = item.partition("=")
        if key not in ("text", "label") or not value or key in chosen:
            raise ConfigurationError(
                f"{uri}: cannot read {item!r} after #; expected #text=FIELD, #label=FIELD or #text=FIELD&label=FIELD"
            )
        chosen[key] = unquote(value)
    return chosen.get("text", "text"), chosen.get("label")


def _identity(uri: str) -> str:
    local = uri.removeprefix("file://")
    return uri if "://" in local or synthetic.is_synthetic(uri) else os.path.realpath(local)


def _document(row: _Row, source: Source) -> Document | _Fault:
    columns = row.content
    if isinstance(columns, str):
        return _Fault(columns)
    for name in filter(None, (source.text_field, source.label_field)):
        if _lookup(columns, name) is None:
            return _Fault(f"no field {name!r}", tuple(columns))
    text = _lookup(columns, source.text_field)
    if isinstance(text, list):
        text = _thread(text)
    if not isinstance(text, str):
        return _Fault(f"field {source.text_field!r} is no text", tuple(columns))
    fields = {name: value for name, value in columns.items() if name != source.text_field}
    if source.label_field is not None:
        fields[source.label_field] = _lookup(columns, source.label_field)
    return Document(row.number, text, fields)


def _lookup(columns: dict[str, Any], name: str) -> Any:
    """The value of column `name`, or of the object it reaches into by dots; None when absent."""
    if name in columns:
        return columns[name]
    value: Any = columns
    for part in name.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    return value


def _thread(posts: list[Any]) -> str | None:
    """A 4chan thread as text: posts in order, joined by blank lines; posts without words (images) are left out."""
    if not all(isinstance(post, dict) for post in posts):
        return None
    return "\n\n".join(text for post in posts if (text := _undo_html(str(post.get("com") or ""))))


def _undo_html(comment: str) -> str:
    """`<br>` is a line end, `<wbr>` nothing, other tags (quotes, reply links, spoilers) are dropped, entities decoded."""
    return html.unescape(re.sub(r"<[^>]*>", "", re.sub(r"<br ?/?>", "\n", comment))).strip()


def _note(fault: _Fault, place: str, bad: BadRows) -> None:
    bad.count += 1
    if len(bad.places) < MAX_PLACES:
        bad.places.append(f"{place} {fault.reason}")
    if fault.columns is not None:
        bad.n_without_field += 1
        bad.columns.update(fault.columns)


def _check_share(source: Source, bad: BadRows, max_bad_rows_ratio: float) -> None:
    if bad.count <= max_bad_rows_ratio * bad.n_rows:
        return
    if bad.n_without_field == bad.n_rows:
        wanted = f"text in field {source.text_field!r}" + (f" and label {source.label_field!r}" if source.label_field else "")
        raise ConfigurationError(
            f"{source.uri}: no row has {wanted}; the rows have {', '.join(sorted(bad.columns)) or 'no fields'}; "
            "say which one holds it with URI#text=FIELD (or URI#text=FIELD&label=FIELD)"
        )
    raise ArtefactCorrupt(
        f"{source.uri}: {bad.count} of the first {bad.n_rows} rows cannot be used: {'; '.join(bad.places)}; their share "
        f"{bad.count / bad.n_rows:.3g} exceeds {max_bad_rows_ratio:g}; mend the file, or raise data.cleaning.max_bad_rows_ratio"
    )


def _rows(source: Source) -> Iterator[_Row]:
    if synthetic.is_synthetic(source.uri):
        yield from (_Row(number, number + 1, row) for number, row in enumerate(synthetic.rows(source.uri)))
        return
    reader, decompress = _format(source.uri)
    with storage.open_stream(source.uri) as stream:
        try:
            yield from reader(decompress(stream), source.uri)
        except DAMAGE as error:
            raise ArtefactCorrupt(
                f"{source.uri} is not a whole {posixpath.splitext(source.uri)[1]} file ({error}); fetch it again, "
                "or rename it if it is already decompressed"
            ) from error


def _json_lines(stream: IO[bytes], uri: str) -> Iterator[_Row]:
    for number, line in enumerate(stream):
        if number == 0:
            line = line.removeprefix(BOM)
            if line.lstrip().startswith(b"["):
                raise ConfigurationError(f"{uri} holds a JSON array; expected one object a line; convert it with jq -c '.[]'")
        if line.isspace() or not line:
            continue
        try:
            content = orjson.loads(line)
        except orjson.JSONDecodeError as error:
            yield _Row(number, number + 1, f"is not JSON in UTF-8 ({error.msg})")
            continue
        yield _Row(number, number + 1, content if isinstance(content, dict) else "is not a JSON object")


def _csv(stream: IO[bytes], uri: str) -> Iterator[_Row]:
    csv.field_size_limit(CSV_FIELD_BYTES)
    # Bad bytes become lone surrogates, so that they spoil one row and not the parsing of the file.
    lines = (line.decode("utf-8", "surrogateescape") for line in stream)
    reader = csv.reader((line.removeprefix("\ufeff") if number == 0 else line for number, line in enumerate(lines)), strict=True)
    header: list[str] | None = None
    number, line = 0, 1
    while True:
        try:
            values = next(reader, None)
        except csv.Error as error:
            if header is None or "unexpected end" in str(error):  # then the open quote has swallowed the rest of the file
                raise ArtefactCorrupt(f"{uri}:{line}: no CSV from here on ({error}); mend the file") from error
            yield _Row(number, line, f"is not CSV ({error})")
            number += 1
        else:
            if values is None:
                return
            if header is None:
                header = values
            elif values:
                yield _Row(number, line, _csv_columns(header, values))
                number += 1
        line = reader.line_num + 1


def _csv_columns(header: list[str], values: list[str]) -> dict[str, Any] | str:
    if len(values) != len(header):
        return f"has {len(values)} columns, the header {len(header)}"
    try:
        "".join(values).encode()
    except UnicodeEncodeError:
        return "is not UTF-8"
    return dict(zip(header, values, strict=True))


def _plain_text(stream: IO[bytes], uri: str) -> Iterator[_Row]:
    number, start, parts = 0, 1, list[bytes]()
    for line_number, line in enumerate(stream, start=1):
        if line.strip() != DOCUMENT_END:
            parts.append(line)
            continue
        yield _Row(number, start, _decoded(b"".join(parts)))
        number, start, parts = number + 1, line_number + 1, []
    rest = b"".join(parts)
    if rest.strip() or not number:
        yield _Row(number, start, _decoded(rest))


def _decoded(content: bytes) -> dict[str, Any] | str:
    try:
        return {"text": content.removeprefix(BOM).decode()}
    except UnicodeDecodeError as error:
        return f"is not UTF-8 (byte {error.start} of the document)"


def _parquet(stream: IO[bytes], uri: str) -> Iterator[_Row]:
    import pyarrow  # here, as 0.15 s and 60 MB are too much for whoever reads JSON lines
    from pyarrow import parquet

    try:
        number = 0
        for batch in parquet.ParquetFile(stream).iter_batches(batch_size=1024):
            for content in _batch_columns(batch):
                yield _Row(number, number + 1, content)
                number += 1
    except (pyarrow.ArrowException, OSError) as error:
        raise ArtefactCorrupt(f"{uri} is not a whole Parquet file ({error}); fetch it again") from error


def _batch_columns(batch: Any) -> Iterator[dict[str, Any] | str]:
    try:
        yield from batch.to_pylist()
    except UnicodeDecodeError:  # one bad row fails the batch: find it
        for at in range(batch.num_rows):
            try:
                yield batch.slice(at, 1).to_pylist()[0]
            except UnicodeDecodeError:
                yield "is not UTF-8"


class _Zstd(io.RawIOBase):
    """Frames of a .zst file as one stream; the library's own reader takes a truncated file for a short one."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream, self._rest = stream, b""
        self._frame = zstandard.ZstdDecompressor(max_window_size=1 << 31).decompressobj()  # archives use --long=31

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._rest:
            if self._frame.eof:
                chunk = self._frame.unused_data or self._stream.read(CHUNK_BYTES)
                if not chunk:
                    return 0
                self._frame = zstandard.ZstdDecompressor(max_window_size=1 << 31).decompressobj()
            else:
                chunk = self._stream.read(CHUNK_BYTES)
                if not chunk:
                    raise EOFError("the file ends inside a frame")
            self._rest = self._frame.decompress(chunk)
        taken = self._rest[: len(buffer)]
        buffer[: len(taken)], self._rest = taken, self._rest[len(taken) :]
        return len(taken)


def _buffered(stream: IO[bytes]) -> IO[bytes]:
    return cast(IO[bytes], io.BufferedReader(cast(io.RawIOBase, stream), CHUNK_BYTES))  # S3 files split lines slowly


Reader = Callable[[IO[bytes], str], Iterator[_Row]]
READERS: dict[str, Reader] = {
    ".jsonl": _json_lines,
    ".ndjson": _json_lines,
    ".json": _json_lines,
    ".csv": _csv,
    ".txt": _plain_text,
    ".parquet": _parquet,
}
DECOMPRESSORS: dict[str, Callable[[IO[bytes]], IO[bytes]]] = {
    ".gz": lambda stream: cast(IO[bytes], igzip.IGzipFile(fileobj=stream)),  # 471 MB/s, the standard library 207
    ".zst": lambda stream: _buffered(cast(IO[bytes], _Zstd(stream))),
}


def _format(uri: str) -> tuple[Reader, Callable[[IO[bytes]], IO[bytes]]]:
    stem, extension = posixpath.splitext(uri.lower())
    decompress = DECOMPRESSORS.get(extension)
    if decompress is not None:
        extension = posixpath.splitext(stem)[1]
    if extension not in READERS or (decompress and extension == ".parquet"):
        raise ConfigurationError(
            f"{uri}: the ending names no format; expected one of {' '.join(READERS)}, "
            f"all but .parquet also with {' or '.join(DECOMPRESSORS)}; rename the file or narrow the pattern"
        )
    return READERS[extension], decompress or _buffered
