"""sizes of the pages of a Parquet column, from the page headers alone

A column chunk is a sequence of pages, and a page is the least that can be decompressed. The file's
metadata give only the size of a whole chunk. Each page has a header in Thrift's compact protocol
(parquet-format, PageHeader) with its sizes before and after compression.
"""

from typing import IO, Any

HEADER_BYTES = 4096  # statistics in it can make a header longer
MAX_HEADER_BYTES = 16 << 20
UNCOMPRESSED_SIZE = 2  # fields of PageHeader
COMPRESSED_SIZE = 3
_FIXED_BYTES = {1: 0, 2: 0, 3: 1, 7: 8}  # booleans are in the type; byte; double
_VARINTS = (4, 5, 6)
_BINARY = 8
_LISTS = (9, 10)
_MAP = 11
_STRUCT = 12


def largest_page_bytes(stream: IO[bytes], chunk: Any) -> int:
    """The uncompressed size of the largest page of a column chunk (pyarrow's metadata of it).

    What is no page header ends the search: the reader of the data reports damage.
    """
    offsets = (chunk.dictionary_page_offset, chunk.data_page_offset)
    position = min(offset for offset in offsets if offset)
    end = position + chunk.total_compressed_size
    largest = 0
    while position < end:
        header = _header(stream, position)
        if header is None:
            break
        n_header_bytes, fields = header
        largest = max(largest, fields.get(UNCOMPRESSED_SIZE, 0))
        position += n_header_bytes + max(0, fields.get(COMPRESSED_SIZE, 0))
    return largest


def _header(stream: IO[bytes], position: int) -> tuple[int, dict[int, int]] | None:
    """The length of the page header at a position, and its integers by field."""
    n_bytes = HEADER_BYTES
    while n_bytes <= MAX_HEADER_BYTES:
        stream.seek(position)
        parser = _CompactParser(stream.read(n_bytes))
        try:
            fields = parser.struct()
        except IndexError:  # the header is longer
            n_bytes *= 16
        except (ValueError, RecursionError):
            return None
        else:
            return parser.position, fields
    return None


class _CompactParser:
    """Reads one struct of Thrift's compact protocol; keeps its integers, skips all else.

    Raises IndexError where the content ends, ValueError for a type that does not exist.
    """

    def __init__(self, content: bytes) -> None:
        self._content = content
        self.position = 0

    def struct(self) -> dict[int, int]:
        fields: dict[int, int] = {}
        number = 0
        while head := self._byte():
            kind = head & 0x0F
            number = number + (head >> 4) if head >> 4 else self._zigzag()
            if kind in _VARINTS:
                fields[number] = self._zigzag()
            else:
                self._skip(kind)
        return fields

    def _skip(self, kind: int) -> None:
        if kind in _FIXED_BYTES:
            self.position += _FIXED_BYTES[kind]
        elif kind in _VARINTS:
            self._varint()
        elif kind == _BINARY:
            self.position += self._varint()
        elif kind in _LISTS:
            head = self._byte()
            n_items = head >> 4 if head >> 4 < 15 else self._varint()
            for _ in range(n_items):
                self._skip_item(head & 0x0F)
        elif kind == _MAP:
            n_items = self._varint()
            kinds = self._byte() if n_items else 0
            for _ in range(n_items):
                self._skip_item(kinds >> 4)
                self._skip_item(kinds & 0x0F)
        elif kind == _STRUCT:
            self.struct()
        else:
            raise ValueError(f"no type {kind}")

    def _skip_item(self, kind: int) -> None:
        """An item of a list or map, where a boolean takes a byte."""
        if kind in (1, 2):
            self._byte()
        else:
            self._skip(kind)

    def _byte(self) -> int:
        byte = self._content[self.position]
        self.position += 1
        return byte

    def _varint(self) -> int:
        value = 0
        shift = 0
        while True:
            byte = self._byte()
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value
            shift += 7

    def _zigzag(self) -> int:
        value = self._varint()
        return (value >> 1) ^ -(value & 1)
