"""sizes of the column chunks and pages of a Parquet file, from its footer and page headers

A column chunk is a sequence of pages, and a page is the least that can be decompressed. pyarrow
shows no sizes of pages, and ends the process for a damaged description of a chunk. Footer and page
headers are structs in Thrift's compact protocol (parquet-format: FileMetaData, PageHeader).
"""

import io
from typing import IO, Any, NamedTuple

END_BYTES = 8  # of a file: the length of the footer, and PAR1
HEADER_BYTES = 4096  # of a page; statistics in it can make a header longer
MAX_HEADER_BYTES = 16 << 20
MAX_VARINT_BITS = 64
BYTE_ARRAY = 6  # the physical type of texts and bytes
DICTIONARY_ENCODINGS = {2, 8}
# Values of it may share their beginnings, so a page is larger in memory than its header says.
SHARING_ENCODING = 7
_FIXED_BYTES = {3: 1, 7: 8}  # byte, double
_VARINTS = (4, 5, 6)
_BINARY = 8
_LISTS = (9, 10)
_MAP = 11
_STRUCT = 12

Struct = dict[int, Any]


class Chunk(NamedTuple):
    """One column of a row group. offset: of its first page in the file."""

    offset: int
    compressed_bytes: int
    uncompressed_bytes: int
    has_dictionary: bool
    shares_beginnings: bool


def chunks_by_row_group(stream: IO[bytes]) -> list[list[Chunk]]:
    """The column chunks of each row group, in the order of the schema's leaves. Raises ValueError
    for a damaged footer.
    """
    try:
        stream.seek(-END_BYTES, io.SEEK_END)
        footer_bytes = int.from_bytes(stream.read(4), "little")
        stream.seek(-END_BYTES - footer_bytes, io.SEEK_END)
        metadata = _CompactParser(stream.read(footer_bytes)).struct()
        return [[_chunk(column) for column in group[1]] for group in metadata[4]]
    except (KeyError, IndexError, TypeError, AttributeError, RecursionError, OSError) as error:
        raise ValueError(f"damaged footer: {error}") from error


def largest_page_bytes(stream: IO[bytes], chunk: Chunk) -> int:
    """The uncompressed size of the largest page of a column chunk.

    What is no page header ends the search: the reader of the data reports damage.
    """
    position = chunk.offset
    largest = 0
    while position < chunk.offset + chunk.compressed_bytes:
        header = _page_header(stream, position)
        if header is None:
            break
        n_header_bytes, fields = header
        largest = max(largest, fields[2])
        position += n_header_bytes + max(0, fields[3])
    return largest


def _chunk(column: Struct) -> Chunk:
    """The chunk that a ColumnChunk of the footer describes."""
    metadata = column[3]
    offsets = [metadata[number] for number in (9, 11) if metadata.get(number, 0) > 0]
    encodings = set(metadata[2])
    return Chunk(
        offset=min(offsets, default=0),
        compressed_bytes=metadata[7],
        uncompressed_bytes=metadata[6],
        has_dictionary=metadata[1] == BYTE_ARRAY and bool(encodings & DICTIONARY_ENCODINGS),
        shares_beginnings=SHARING_ENCODING in encodings,
    )


def _page_header(stream: IO[bytes], position: int) -> tuple[int, Struct] | None:
    """The length of the page header at a position, and its fields."""
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
            is_header = type(fields.get(2)) is int and type(fields.get(3)) is int
            return (parser.position, fields) if is_header else None
    return None


class _CompactParser:
    """Reads a struct of Thrift's compact protocol: its values by the number of their field.

    Raises IndexError where the content ends, ValueError for what is not of the protocol.
    """

    def __init__(self, content: bytes) -> None:
        self._content = content
        self.position = 0

    def struct(self) -> Struct:
        fields: Struct = {}
        number = 0
        while head := self._byte():
            kind = head & 0x0F
            number = number + (head >> 4) if head >> 4 else self._zigzag()
            fields[number] = kind == 1 if kind in (1, 2) else self._value(kind)
        return fields

    def _value(self, kind: int) -> Any:
        if kind in _VARINTS:
            return self._zigzag()
        if kind == _BINARY:
            return self._bytes(self._varint())
        if kind in _LISTS:
            head = self._byte()
            n_items = head >> 4 if head >> 4 < 15 else self._varint()
            return [self._item(head & 0x0F) for _ in range(n_items)]
        if kind == _STRUCT:
            return self.struct()
        if kind == _MAP:
            n_items = self._varint()
            kinds = self._byte() if n_items else 0
            return [(self._item(kinds >> 4), self._item(kinds & 0x0F)) for _ in range(n_items)]
        if kind in _FIXED_BYTES:
            return self._bytes(_FIXED_BYTES[kind])
        raise ValueError(f"no type {kind}")

    def _item(self, kind: int) -> Any:
        """An item of a list or map, where a boolean takes a byte."""
        return self._byte() == 1 if kind in (1, 2) else self._value(kind)

    def _bytes(self, n_bytes: int) -> bytes:
        end = self.position + n_bytes
        if end > len(self._content):
            raise IndexError(f"the content ends at {len(self._content)}")
        content = self._content[self.position : end]
        self.position = end
        return content

    def _byte(self) -> int:
        byte = self._content[self.position]
        self.position += 1
        return byte

    def _varint(self) -> int:
        value = 0
        for shift in range(0, MAX_VARINT_BITS, 7):
            byte = self._byte()
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value
        raise ValueError("a number is too long")

    def _zigzag(self) -> int:
        value = self._varint()
        return (value >> 1) ^ -(value & 1)
