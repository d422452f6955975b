"""read plain text: one document per file, or several with <|endoftext|> between them"""

from collections.abc import Iterator
from typing import IO, Any

from data_prep.sources.readers import lines as byte_lines
from data_prep.sources.readers.file_row import Columns, FileRow

DOCUMENT_END = b"<|endoftext|>"


def rows(stream: IO[bytes], uri: str, columns: Columns) -> Iterator[FileRow]:
    """The documents of a text file, each as a row with the column `text`."""
    number = 0
    first_line = 1
    content = bytearray()
    is_too_long = False
    for line_number, line in enumerate(byte_lines.lines(stream), start=1):
        if line is not None and line.strip() == DOCUMENT_END:
            yield FileRow(number, first_line, _document(content, is_too_long))
            number += 1
            first_line = line_number + 1
            content = bytearray()
            is_too_long = False
        elif line is None or len(content) + len(line) > byte_lines.MAX_ROW_BYTES:
            content = bytearray()
            is_too_long = True
        elif not is_too_long:
            content += line
    if content.strip() or is_too_long or not number:
        yield FileRow(number, first_line, _document(content, is_too_long))


def _document(content: bytearray, is_too_long: bool) -> dict[str, Any] | str:
    """A document of plain text, of which no line was kept if it has too many bytes."""
    if is_too_long:
        return f"{byte_lines.too_long()}; divide it by lines that hold only {DOCUMENT_END.decode()}"
    try:
        return {"text": content.removeprefix(byte_lines.BYTE_ORDER_MARK).decode()}
    except UnicodeDecodeError as error:
        return f"is not UTF-8 (byte {error.start} of the document)"
