"""read the rows of a file: JSON lines, CSV, Parquet, text; gzip and zstd decompressed

The ending of the file's name says the format. A reader yields every row, the bad ones as a text
that says what is wrong; corpus_reader.py decides how many of those are too many, and which columns
matter. A file that cannot be read to its end is ArtefactCorrupt.
"""

import csv
import gzip
import io
import posixpath
from collections.abc import Callable, Iterator
from functools import partial
from typing import IO, Any, NamedTuple, cast

import orjson
import zstandard
from isal import igzip, igzip_lib

from data_prep.core.errors import ArtefactCorrupt, ConfigurationError
from data_prep.core.store import ranged_reads

DOCUMENT_END = b"<|endoftext|>"
MAX_ROW_BYTES = 256 << 20  # a few MB of gzip can hold a line of gigabytes
CHUNK_BYTES = 256 << 10
# Compressed bytes decompressed at once: the result fits a CPU cache, and is at most 32,000 times as
# large.
ZSTD_BYTES = 16 << 10
BYTE_ORDER_MARK = b"\xef\xbb\xbf"
# What the decompressors raise for a truncated or damaged file.
DAMAGE = cast(
    tuple[type[Exception], ...],
    (EOFError, gzip.BadGzipFile, igzip_lib.IsalError, zstandard.ZstdError),
)


class FileRow(NamedTuple):
    """A row as it is in the file.

    number: from 0, bad rows included. line: from 1; in a Parquet file the row from 1.
    content: the columns, or a text that says what is wrong with the row.
    """

    number: int
    line: int
    content: dict[str, Any] | str


def check(uri: str) -> None:
    """Raise ConfigurationError unless the ending of `uri` names a format."""
    _format(uri)


def rows(uri: str) -> Iterator[FileRow]:
    """Every row of the file, including the bad ones.

    Blank lines of JSON lines are no rows, but count in the row numbers.
    """
    with ranged_reads.open_stream(uri) as stream:
        yield from rows_of(stream, uri)


def rows_of(stream: IO[bytes], name: str) -> Iterator[FileRow]:
    """The rows of a byte stream; the ending of `name` says the format. Parquet needs a stream that
    can seek.

    For any bytes it ends or raises ArtefactCorrupt or ConfigurationError.
    """
    reader, decompress = _format(name)
    try:
        yield from reader(decompress(stream), name)
    except DAMAGE as error:
        raise ArtefactCorrupt(
            f"{name} is not a complete {posixpath.splitext(name)[1]} file ({error}); "
            "download it again, or rename it if it is already decompressed"
        ) from error


def decompressed(stream: IO[bytes], name: str) -> IO[bytes]:
    """The stream decompressed, if the ending of `name` is .gz or .zst.

    Reading it raises one of DAMAGE where the file is truncated or damaged.
    """
    return DECOMPRESSORS.get(posixpath.splitext(name.lower())[1], _buffered)(stream)


def _json_lines(stream: IO[bytes], uri: str) -> Iterator[FileRow]:
    loads = orjson.loads
    new = tuple.__new__  # half the time of FileRow(…)
    for number, line in enumerate(_lines(stream)):
        if line is None:
            yield FileRow(number, number + 1, _too_long())
            continue
        if number == 0:
            line = line.removeprefix(BYTE_ORDER_MARK)
            if line.lstrip().startswith(b"["):
                raise ConfigurationError(
                    f"{uri} holds a JSON array; expected one object per line; "
                    "convert it with jq -c '.[]'"
                )
        try:
            content = loads(line)
        except orjson.JSONDecodeError as error:
            if line.isspace() or not line:
                continue
            yield FileRow(number, number + 1, f"is not JSON in UTF-8 ({error.msg})")
        else:
            columns = content if type(content) is dict else "is not a JSON object"
            yield new(FileRow, (number, number + 1, columns))


def _csv(stream: IO[bytes], uri: str) -> Iterator[FileRow]:
    csv.field_size_limit(MAX_ROW_BYTES)
    lines = _csv_lines(stream, uri)
    reader = csv.reader(
        (line.removeprefix("\ufeff") if number == 0 else line for number, line in enumerate(lines)),
        strict=True,
    )
    header: list[str] | None = None
    number = 0
    line = 1
    while True:
        try:
            values = next(reader, None)
        except csv.Error as error:
            # At an unexpected end, a quote that was never closed has taken the rest of the file.
            if header is None or "unexpected end" in str(error):
                raise ArtefactCorrupt(
                    f"{uri}:{line}: the file is not CSV from here on ({error}); repair the file"
                ) from error
            is_long = "larger than field limit" in str(error)
            yield FileRow(number, line, _too_long() if is_long else f"is not CSV ({error})")
            number += 1
        else:
            if values is None:
                return
            if header is None:
                header = values
            elif values:
                yield FileRow(number, line, _csv_columns(header, values))
                number += 1
        line = reader.line_num + 1


def _csv_lines(stream: IO[bytes], uri: str) -> Iterator[str]:
    for number, line in enumerate(_lines(stream), start=1):
        if line is None:
            raise ArtefactCorrupt(
                f"{uri}:{number}: the line {_too_long()}; write the rows as JSON lines, or leave "
                "this one out"
            )
        # Bad bytes become lone surrogates, so that they make one row bad and not the whole file.
        yield line.decode("utf-8", "surrogateescape")


def _lines(stream: IO[bytes]) -> Iterator[bytes | None]:
    """The lines of a file; None for one above MAX_ROW_BYTES, which is never held whole."""
    for line in iter(partial(stream.readline, MAX_ROW_BYTES + 1), b""):
        if len(line) <= MAX_ROW_BYTES:
            yield line
            continue
        rest = line
        while rest and not rest.endswith(b"\n"):
            rest = stream.readline(CHUNK_BYTES)
        yield None


def _too_long() -> str:
    return f"is longer than {MAX_ROW_BYTES:,} bytes (the limit of one row)"


def _csv_columns(header: list[str], values: list[str]) -> dict[str, Any] | str:
    if len(values) != len(header):
        return f"has {len(values)} columns, the header {len(header)}"
    try:
        "".join(values).encode()
    except UnicodeEncodeError:
        return "is not UTF-8"
    return dict(zip(header, values, strict=True))


def _plain_text(stream: IO[bytes], uri: str) -> Iterator[FileRow]:
    number = 0
    first_line = 1
    lines: list[bytes] = []
    n_bytes = 0
    for line_number, line in enumerate(_lines(stream), start=1):
        if line is None or line.strip() != DOCUMENT_END:
            n_bytes += MAX_ROW_BYTES + 1 if line is None else len(line)
            if line is None or n_bytes > MAX_ROW_BYTES:
                lines = []
            else:
                lines.append(line)
            continue
        yield FileRow(number, first_line, _document(lines, n_bytes))
        number += 1
        first_line = line_number + 1
        lines = []
        n_bytes = 0
    if b"".join(lines).strip() or n_bytes > MAX_ROW_BYTES or not number:
        yield FileRow(number, first_line, _document(lines, n_bytes))


def _document(lines: list[bytes], n_bytes: int) -> dict[str, Any] | str:
    """A document of plain text, of which no line was kept if it has too many bytes."""
    return _too_long() if n_bytes > MAX_ROW_BYTES else _decoded(b"".join(lines))


def _decoded(content: bytes) -> dict[str, Any] | str:
    try:
        return {"text": content.removeprefix(BYTE_ORDER_MARK).decode()}
    except UnicodeDecodeError as error:
        return f"is not UTF-8 (byte {error.start} of the document)"


def _parquet(stream: IO[bytes], uri: str) -> Iterator[FileRow]:
    import pyarrow  # imported here: 0.15 s and 60 MB that JSON lines do not need
    from pyarrow import parquet

    try:
        number = 0
        for batch in parquet.ParquetFile(stream).iter_batches(batch_size=1024):
            for content in _batch_columns(batch):
                yield FileRow(number, number + 1, content)
                number += 1
    except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:
        # A UnicodeDecodeError comes from the name of a column.
        raise ArtefactCorrupt(
            f"{uri} is not a complete Parquet file ({error}); download it again"
        ) from error


def _batch_columns(batch: Any) -> Iterator[dict[str, Any] | str]:
    try:
        yield from batch.to_pylist()
    except (ValueError, OverflowError):  # one bad row fails the batch: find it
        for number in range(batch.num_rows):
            try:
                yield batch.slice(number, 1).to_pylist()[0]
            except UnicodeDecodeError:
                yield "is not UTF-8"
            except (ValueError, OverflowError) as error:  # such as a date after the year 9999
                yield f"has a value that Python cannot represent ({error})"


class _ZstdReader(io.RawIOBase):
    """The frames of a .zst file as one stream; a file that ends inside a frame raises EOFError.

    The library's own reader takes a truncated file for a shorter one.
    """

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self._frame = _new_frame()
        self._decompressed = memoryview(b"")  # not returned yet

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._decompressed:
            chunk = self._frame.unused_data or self._stream.read(ZSTD_BYTES)
            if not chunk:
                if self._frame.eof:
                    return 0
                raise EOFError("the file ends inside a frame")
            if self._frame.eof:
                self._frame = _new_frame()
            self._decompressed = memoryview(self._frame.decompress(chunk))
        n_bytes = min(len(buffer), len(self._decompressed))
        buffer[:n_bytes] = self._decompressed[:n_bytes]
        self._decompressed = self._decompressed[n_bytes:]
        return n_bytes


def _new_frame() -> Any:
    max_window = 1 << 31  # large archives are compressed with --long=31
    return zstandard.ZstdDecompressor(max_window_size=max_window).decompressobj()


def _buffered(stream: Any) -> IO[bytes]:
    """The stream with a buffer that splits lines ten times as fast as remote files, gzip or zstd do
    by themselves.
    """
    return cast(IO[bytes], io.BufferedReader(stream, CHUNK_BYTES))


Reader = Callable[[IO[bytes], str], Iterator[FileRow]]
READERS: dict[str, Reader] = {
    ".jsonl": _json_lines,
    ".ndjson": _json_lines,
    ".json": _json_lines,
    ".csv": _csv,
    ".txt": _plain_text,
    ".parquet": _parquet,
}
DECOMPRESSORS: dict[str, Callable[[IO[bytes]], IO[bytes]]] = {
    # isal decompresses 471 MB/s, the standard library 207.
    ".gz": lambda stream: _buffered(igzip.IGzipFile(fileobj=stream)),
    ".zst": lambda stream: _buffered(_ZstdReader(stream)),
}


def _format(uri: str) -> tuple[Reader, Callable[[IO[bytes]], IO[bytes]]]:
    stem, extension = posixpath.splitext(uri.lower())
    if extension in (".tar", ".tgz") or stem.endswith(".tar"):
        raise ConfigurationError(
            f"{uri} is an archive, which cannot be read in parallel; split it into files once: "
            f"python data_prep/reshard.py --archive {uri} --out FOLDER"
        )
    decompress = DECOMPRESSORS.get(extension)
    if decompress is not None:
        extension = posixpath.splitext(stem)[1]
    if extension not in READERS or (decompress and extension == ".parquet"):
        raise ConfigurationError(
            f"{uri}: the ending names no known format; expected one of {' '.join(READERS)}, all "
            f"but .parquet also with {' or '.join(DECOMPRESSORS)}; "
            "rename the file or narrow the pattern"
        )
    return READERS[extension], decompress or _buffered
