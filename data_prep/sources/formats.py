"""the bytes of a file → its rows: JSON lines, CSV, Parquet, plain text; gzip and zstd undone on the
way

The file's name says the format. A reader yields every row it meets, the broken ones as the words
that say what is wrong; how many of those are too many, and which columns matter, is decided in
corpus_reader.py. A file that cannot be read on is ArtefactCorrupt.
"""

import csv
import gzip
import io
import posixpath
from collections.abc import Callable, Iterator
from typing import IO, Any, NamedTuple, cast

import orjson
import zstandard
from isal import igzip, igzip_lib

from data_prep.core import ranged_reads
from data_prep.core.errors import ArtefactCorrupt, ConfigurationError

DOCUMENT_END = b"<|endoftext|>"
CSV_FIELD_BYTES = 1 << 30  # the standard library stops at 128 KiB
CHUNK_BYTES = 256 << 10
ZSTD_BYTES = (
    16 << 10
)  # decompressed at once: fits a cache; becomes 32,000 times as much in memory at the very most
BOM = b"\xef\xbb\xbf"
DAMAGE = cast(
    tuple[type[Exception], ...],
    (EOFError, gzip.BadGzipFile, igzip_lib.IsalError, zstandard.ZstdError),
)


class Row(NamedTuple):
    """A row as the file has it: number from 0, line from 1 (Parquet: row from 1), columns or what
    is wrong.
    """

    number: int
    line: int
    content: dict[str, Any] | str


def check(uri: str) -> None:
    """Raise ConfigurationError unless the ending of `uri` names a format."""
    _format(uri)


def rows(uri: str) -> Iterator[Row]:
    """Every row of the file, also the bad ones; blank lines are left out, but count in the numbers
    of JSON lines.
    """
    with ranged_reads.open_stream(uri) as stream:
        yield from rows_of(stream, uri)


def rows_of(stream: IO[bytes], name: str) -> Iterator[Row]:
    """The rows of a byte stream (for Parquet one that seeks); the ending of `name` says the format.

    Whatever the bytes, it ends, or raises ArtefactCorrupt or ConfigurationError.
    """
    reader, decompress = _format(name)
    try:
        yield from reader(decompress(stream), name)
    except DAMAGE as error:
        raise ArtefactCorrupt(
            f"{name} is not a whole {posixpath.splitext(name)[1]} file ({error}); fetch it again, "
            "or rename it if it is already decompressed"
        ) from error


def decompressed(stream: IO[bytes], name: str) -> IO[bytes]:
    """The stream with gzip or zstd undone, if the ending of `name` says so; reading it raises
    DAMAGE where it is cut or wrong.
    """
    return DECOMPRESSORS.get(posixpath.splitext(name.lower())[1], _buffered)(stream)


def _json_lines(stream: IO[bytes], uri: str) -> Iterator[Row]:
    loads, new = orjson.loads, tuple.__new__  # new: half the time of Row(…)
    for number, line in enumerate(stream):
        if number == 0:
            line = line.removeprefix(BOM)
            if line.lstrip().startswith(b"["):
                raise ConfigurationError(
                    f"{uri} holds a JSON array; expected one object a line; convert it with jq -c '.[]'"
                )
        try:
            content = loads(line)
        except orjson.JSONDecodeError as error:
            if line.isspace() or not line:
                continue
            yield Row(number, number + 1, f"is not JSON in UTF-8 ({error.msg})")
        else:
            yield new(
                Row,
                (number, number + 1, content if type(content) is dict else "is not a JSON object"),
            )


def _csv(stream: IO[bytes], uri: str) -> Iterator[Row]:
    csv.field_size_limit(CSV_FIELD_BYTES)
    # Bad bytes become lone surrogates, so that they spoil one row and not the parsing of the file.
    lines = (line.decode("utf-8", "surrogateescape") for line in stream)
    reader = csv.reader(
        (line.removeprefix("\ufeff") if number == 0 else line for number, line in enumerate(lines)),
        strict=True,
    )
    header: list[str] | None = None
    number, line = 0, 1
    while True:
        try:
            values = next(reader, None)
        except csv.Error as error:
            if header is None or "unexpected end" in str(
                error
            ):  # then the open quote has swallowed the rest of the file
                raise ArtefactCorrupt(
                    f"{uri}:{line}: no CSV from here on ({error}); mend the file"
                ) from error
            yield Row(number, line, f"is not CSV ({error})")
            number += 1
        else:
            if values is None:
                return
            if header is None:
                header = values
            elif values:
                yield Row(number, line, _csv_columns(header, values))
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


def _plain_text(stream: IO[bytes], uri: str) -> Iterator[Row]:
    number, start, parts = 0, 1, list[bytes]()
    for line_number, line in enumerate(stream, start=1):
        if line.strip() != DOCUMENT_END:
            parts.append(line)
            continue
        yield Row(number, start, _decoded(b"".join(parts)))
        number, start, parts = number + 1, line_number + 1, []
    rest = b"".join(parts)
    if rest.strip() or not number:
        yield Row(number, start, _decoded(rest))


def _decoded(content: bytes) -> dict[str, Any] | str:
    try:
        return {"text": content.removeprefix(BOM).decode()}
    except UnicodeDecodeError as error:
        return f"is not UTF-8 (byte {error.start} of the document)"


def _parquet(stream: IO[bytes], uri: str) -> Iterator[Row]:
    import pyarrow  # here, as 0.15 s and 60 MB are too much for whoever reads JSON lines
    from pyarrow import parquet

    try:
        number = 0
        for batch in parquet.ParquetFile(stream).iter_batches(batch_size=1024):
            for content in _batch_columns(batch):
                yield Row(number, number + 1, content)
                number += 1
    except (
        pyarrow.ArrowException,
        OSError,
        UnicodeDecodeError,
    ) as error:  # the last from a column's name
        raise ArtefactCorrupt(
            f"{uri} is not a whole Parquet file ({error}); fetch it again"
        ) from error


def _batch_columns(batch: Any) -> Iterator[dict[str, Any] | str]:
    try:
        yield from batch.to_pylist()
    except (ValueError, OverflowError):  # one bad row fails the batch: find it
        for at in range(batch.num_rows):
            try:
                yield batch.slice(at, 1).to_pylist()[0]
            except UnicodeDecodeError:
                yield "is not UTF-8"
            except (ValueError, OverflowError) as error:
                yield f"has a value that Python has not ({error})"  # a date beyond the year 9999


class _Zstd(io.RawIOBase):
    """Frames of a .zst file as one stream; the library's own reader takes a truncated file for a
    short one.
    """

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream, self._rest, self._frame = stream, memoryview(b""), _frame()

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._rest:
            chunk = self._frame.unused_data or self._stream.read(ZSTD_BYTES)
            if not chunk:
                if self._frame.eof:
                    return 0
                raise EOFError("the file ends inside a frame")
            if self._frame.eof:
                self._frame = _frame()
            self._rest = memoryview(self._frame.decompress(chunk))
        n_bytes = min(len(buffer), len(self._rest))
        buffer[:n_bytes], self._rest = self._rest[:n_bytes], self._rest[n_bytes:]
        return n_bytes


def _frame() -> Any:
    return zstandard.ZstdDecompressor(
        max_window_size=1 << 31
    ).decompressobj()  # archives use --long=31


def _buffered(stream: Any) -> IO[bytes]:
    """Splits lines ten times as fast as the files of a store, gzip or zstd do by themselves."""
    return cast(IO[bytes], io.BufferedReader(stream, CHUNK_BYTES))


Reader = Callable[[IO[bytes], str], Iterator[Row]]
READERS: dict[str, Reader] = {
    ".jsonl": _json_lines,
    ".ndjson": _json_lines,
    ".json": _json_lines,
    ".csv": _csv,
    ".txt": _plain_text,
    ".parquet": _parquet,
}
DECOMPRESSORS: dict[str, Callable[[IO[bytes]], IO[bytes]]] = {
    ".gz": lambda stream: _buffered(
        igzip.IGzipFile(fileobj=stream)
    ),  # 471 MB/s, the standard library 207
    ".zst": lambda stream: _buffered(_Zstd(stream)),
}


def _format(uri: str) -> tuple[Reader, Callable[[IO[bytes]], IO[bytes]]]:
    stem, extension = posixpath.splitext(uri.lower())
    if extension in (".tar", ".tgz") or stem.endswith(".tar"):
        raise ConfigurationError(
            f"{uri} is an archive, which cannot be read in parts; cut it into files first, once: "
            f"python data_prep/reshard.py --archive {uri} --out FOLDER"
        )
    decompress = DECOMPRESSORS.get(extension)
    if decompress is not None:
        extension = posixpath.splitext(stem)[1]
    if extension not in READERS or (decompress and extension == ".parquet"):
        raise ConfigurationError(
            f"{uri}: the ending names no format; expected one of {' '.join(READERS)}, "
            f"all but .parquet also with {' or '.join(DECOMPRESSORS)}; rename the file or narrow the pattern"
        )
    return READERS[extension], decompress or _buffered
