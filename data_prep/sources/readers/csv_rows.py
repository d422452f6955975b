"""read CSV: a header, then a row per record, which quotes may spread over lines"""

import csv
from collections.abc import Iterator
from typing import IO, Any, NoReturn

from data_prep.core.errors import ArtefactCorrupt, ConfigurationError
from data_prep.sources.readers import lines as byte_lines
from data_prep.sources.readers.file_row import Columns, FileRow, check_doubled
from data_prep.sources.readers.lines import too_long

MAX_SEPARATORS = 1_000_000  # of one line: a field takes 50 bytes in memory, however short it is


def rows(stream: IO[bytes], uri: str, columns: Columns) -> Iterator[FileRow]:
    """The rows below the header. A row with too few or too many columns is bad."""
    csv.field_size_limit(byte_lines.MAX_ROW_BYTES)
    source = _RecordLines(stream, uri)
    reader = csv.reader(source, strict=True)
    header: list[str] | None = None
    number = 0
    line = 1
    while True:
        source.start_record(line)
        try:
            values = next(reader, None)
        except csv.Error as error:
            # At an unexpected end, a quote that was never closed has taken the rest of the file.
            if header is None or "unexpected end" in str(error):
                raise ArtefactCorrupt(
                    f"{uri}:{line}: the file is not CSV from here on ({error}); repair the file"
                ) from error
            is_long = "larger than field limit" in str(error)
            yield FileRow(number, line, too_long() if is_long else f"is not CSV ({error})")
            number += 1
        else:
            if values is None:
                return
            if header is None:
                header = values
                check_doubled(header, columns, uri)
                _check_separator(header, columns, uri)
            elif values:
                yield FileRow(number, line, _columns(header, values))
                number += 1
        line = reader.line_num + 1


class _RecordLines:
    """The decoded lines of a file, with a limit on the bytes of one record."""

    def __init__(self, stream: IO[bytes], uri: str) -> None:
        self._lines = byte_lines.lines(stream)
        self._uri = uri
        self._n_lines = 0
        self._first_line = 1
        self._n_bytes = 0

    def start_record(self, line: int) -> None:
        self._first_line = line
        self._n_bytes = 0

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        line = next(self._lines)
        self._n_lines += 1
        if line is None:
            self._refuse(self._n_lines, f"the line {too_long()}")
        if len(line) > MAX_SEPARATORS and line.count(b",") > MAX_SEPARATORS:
            self._refuse(self._n_lines, f"the line has more than {MAX_SEPARATORS:,} columns")
        self._n_bytes += len(line)
        if self._n_bytes > 2 * byte_lines.MAX_ROW_BYTES:
            self._refuse(self._first_line, f"the row from here on {too_long()}")
        if self._n_lines == 1:
            line = line.removeprefix(byte_lines.BYTE_ORDER_MARK)
        # Bad bytes become lone surrogates, so that they make one row bad and not the whole file.
        return line.decode("utf-8", "surrogateescape")

    def _refuse(self, line: int, fault: str) -> NoReturn:
        raise ArtefactCorrupt(
            f"{self._uri}:{line}: {fault}; write the rows as JSON lines, or leave this one out"
        )


def _check_separator(header: list[str], columns: Columns, uri: str) -> None:
    """Raise ConfigurationError for a header that other separators than commas divide."""
    is_other = len(header) == 1 and any(separator in header[0] for separator in ";\t|")
    if is_other and columns.named and header[0] not in columns.tops():
        raise ConfigurationError(
            f"{uri} has one column, {header[0]!r}; expected columns that are separated by commas: "
            "write the file with commas, or as JSON lines"
        )


def _columns(header: list[str], values: list[str]) -> dict[str, Any] | str:
    if len(values) != len(header):
        return f"has {len(values)} columns, the header {len(header)}"
    try:
        "".join(values).encode()
    except UnicodeEncodeError:
        return "is not UTF-8"
    return dict(zip(header, values, strict=True))
