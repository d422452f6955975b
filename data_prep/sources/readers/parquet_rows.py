"""read Parquet: only the columns in use, in batches of bounded size

A Parquet file of a few hundred bytes can hold gigabytes: a value in a dictionary is stored once and
may stand in every row. So columns with a dictionary are read as such (indices into it), the size of
every row is computed from the lengths of its values, and rows are converted in slices of at most
SLICE_BYTES. A page is the least that Arrow decompresses, so pages have a limit of their own.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from typing import IO, TYPE_CHECKING, Any, NamedTuple, cast

import numpy as np

from data_prep.core.errors import ArtefactCorrupt, HormesisError
from data_prep.sources.readers import lines, parquet_pages
from data_prep.sources.readers.file_row import Columns, FileRow, check_doubled
from data_prep.sources.readers.parquet_pages import Chunk
from data_prep.sources.readers.plain_values import plain_value

if TYPE_CHECKING:
    import pyarrow as pa

MAX_PAGE_BYTES = 512 << 20  # Arrow's writer ends a page after 1024 rows, so with books it is large
BATCH_BYTES = 64 << 20  # expected size of a batch
BATCH_ROWS = 1024
SLICE_BYTES = 32 << 20
BUFFER_BYTES = 8 << 20  # of a column that is read piece by piece
MAX_GROUP_BYTES = 256 << 20  # compressed; a larger row group is not read at once
OTHER_BYTES = 8  # of a value that is neither text nor list, roughly


class _Unreadable(NamedTuple):
    """Stands for a value that could not be converted."""

    reason: str


def rows(stream: IO[bytes], uri: str, columns: Columns) -> Iterator[FileRow]:
    """The rows of a Parquet file. A value that Python cannot represent makes its row bad if a named
    field needs it, and is None in any other column.
    """
    import pyarrow as pa  # imported here: 0.15 s and 60 MB that JSON lines do not need

    try:
        new = tuple.__new__  # half the time of FileRow(…)
        number = 0
        for batch in _batches(stream, uri, columns):
            for contents in _slices(batch, columns.named_tops()):
                for content in contents:
                    yield new(FileRow, (number, number + 1, content))
                    number += 1
    except HormesisError:
        raise
    except (pa.ArrowException, OSError, ValueError) as error:
        # A ValueError comes from the footer, or from a column whose name is not UTF-8.
        raise ArtefactCorrupt(
            f"{uri} is not a complete Parquet file ({error}); download it again"
        ) from error


def _batches(stream: IO[bytes], uri: str, columns: Columns) -> Iterator["pa.RecordBatch"]:
    from pyarrow import parquet

    metadata = parquet.ParquetFile(stream).metadata
    names = metadata.schema.to_arrow_schema().names
    check_doubled(names, columns, uri)
    selected = _selected(names, columns)
    tops = set(selected)
    paths = [metadata.schema.column(i).path for i in range(metadata.num_columns)]
    groups = [
        {path: chunk for path, chunk in zip(paths, chunks, strict=True) if _is_below(path, tops)}
        for chunks in parquet_pages.chunks_by_row_group(stream)
    ]
    dictionaries = {
        path for group in groups for path, chunk in group.items() if chunk.has_dictionary
    }
    file = parquet.ParquetFile(
        stream,
        metadata=metadata,
        read_dictionary=sorted(dictionaries),
        buffer_size=_buffer_size(groups),
    )
    for number, chunks in enumerate(groups):
        n_rows = metadata.row_group(number).num_rows
        if n_rows:
            yield from file.iter_batches(
                batch_size=_batch_rows(stream, uri, chunks, n_rows),
                row_groups=[number],
                columns=selected,
            )


def _selected(names: Sequence[str], columns: Columns) -> list[str]:
    """The columns to read: those in use, or all, also if a named one is missing, because the error
    lists them.
    """
    is_missing = any(not {field, field.partition(".")[0]} & set(names) for field in columns.named)
    if columns.is_all or is_missing:
        return list(dict.fromkeys(names))
    return [name for name in names if name in columns.tops()]


def _is_below(path: str, names: set[str]) -> bool:
    """Whether the path of a leaf begins with one of the names, which may have dots themselves."""
    parts = path.split(".")
    return any(".".join(parts[:n]) in names for n in range(1, len(parts) + 1))


def _buffer_size(groups: Sequence[Mapping[str, Chunk]]) -> int:
    """0 to read a column of a row group at once, which is fastest, else the size of a piece."""
    sizes = [sum(chunk.compressed_bytes for chunk in chunks.values()) for chunks in groups]
    largest = max(sizes, default=0)
    return BUFFER_BYTES if largest > MAX_GROUP_BYTES else 0


def _batch_rows(stream: IO[bytes], uri: str, chunks: Mapping[str, Chunk], n_rows: int) -> int:
    """How many rows of a row group to read at once."""
    n_bytes = sum(chunk.uncompressed_bytes for chunk in chunks.values())
    largest = BATCH_BYTES // BATCH_ROWS  # of the values of a row
    largest = max(largest, n_bytes // n_rows)
    for path, chunk in chunks.items():
        page_bytes = 0
        if chunk.uncompressed_bytes > MAX_PAGE_BYTES:
            page_bytes = parquet_pages.largest_page_bytes(stream, chunk)
            if page_bytes > MAX_PAGE_BYTES:
                raise ArtefactCorrupt(
                    f"{uri}: a page of the column {path} takes {page_bytes:,} "
                    f"bytes, and has to be read at once; the limit is {MAX_PAGE_BYTES:,}; write "
                    "the file with smaller pages, or leave the largest values out"
                )
        if chunk.shares_beginnings:
            largest = max(largest, page_bytes or chunk.uncompressed_bytes)
    return max(1, min(BATCH_ROWS, BATCH_BYTES // largest))


def _slices(batch: "pa.RecordBatch", named: set[str]) -> Iterator[Sequence[dict[str, Any] | str]]:
    """The contents of the rows of a batch, in lists of bounded size."""
    n_bytes_R = sum((_value_bytes(column) for column in batch.columns), np.zeros(len(batch), int))
    start = 0
    while start < len(batch):
        if n_bytes_R[start] > lines.MAX_ROW_BYTES:
            yield [lines.too_long()]
            start += 1
            continue
        ends_R = np.cumsum(n_bytes_R[start:])
        n_rows = max(1, int(np.searchsorted(ends_R, SLICE_BYTES, "right")))
        too_long_rows = np.flatnonzero(n_bytes_R[start : start + n_rows] > lines.MAX_ROW_BYTES)
        n_rows = int(too_long_rows[0]) if len(too_long_rows) else n_rows
        yield _contents(batch.slice(start, n_rows), named)
        start += n_rows


def _value_bytes(array: "pa.Array") -> np.ndarray:
    """The bytes of each value of an array, in memory and roughly, with each use of a value in a
    dictionary counted.
    """
    import pyarrow as pa
    from pyarrow import compute, types

    kind = array.type
    if isinstance(array, pa.ExtensionArray):
        return _value_bytes(array.storage)
    if types.is_dictionary(kind):
        lengths = _value_bytes(array.dictionary)
        indices = array.indices.fill_null(0).to_numpy(zero_copy_only=False)
        if len(lengths) and not 0 <= indices.min(initial=0) <= indices.max(initial=0) < len(
            lengths
        ):
            raise ValueError("a value lies beyond its dictionary")
        return lengths[indices] if len(lengths) else np.zeros(len(array), int)
    if types.is_string_view(kind) or types.is_binary_view(kind):
        return _value_bytes(array.cast(pa.large_binary()))
    if _is_bytes(kind) or types.is_string(kind) or types.is_large_string(kind):
        lengths = cast(Any, compute).binary_length(array)  # made when pyarrow is imported
        return lengths.fill_null(0).to_numpy(zero_copy_only=False)
    if types.is_list(kind) or types.is_large_list(kind) or types.is_map(kind):
        children = [array.keys, array.items] if types.is_map(kind) else [array.values]
        n_bytes = sum(map(_value_bytes, children), np.full(len(children[0]), OTHER_BYTES))
        ends = np.concatenate([[0], np.cumsum(n_bytes)])
        offsets = array.offsets.to_numpy(zero_copy_only=False)
        return ends[offsets[1:]] - ends[offsets[:-1]]
    if types.is_struct(kind):
        fields = [_value_bytes(array.field(i)) for i in range(kind.num_fields)]
        return sum(fields, np.zeros(len(array), int))
    return np.full(len(array), OTHER_BYTES)


def _contents(batch: "pa.RecordBatch", named: set[str]) -> Sequence[dict[str, Any] | str]:
    names = batch.schema.names
    columns = [_python_values(column) for column in batch.columns]
    is_readable = not any(_Unreadable in map(type, values) for values in columns)
    contents = [dict(zip(names, values, strict=True)) for values in zip(*columns, strict=True)]
    if is_readable:
        return contents
    return [_fault_of(content, named) or _without_unreadable(content) for content in contents]


def _without_unreadable(content: dict[str, Any]) -> dict[str, Any]:
    return {
        name: None if isinstance(value, _Unreadable) else value for name, value in content.items()
    }


def _fault_of(content: dict[str, Any], named: set[str]) -> str | None:
    for name, value in content.items():
        if name in named and isinstance(value, _Unreadable):
            return f"field {name!r} {value.reason}"
    return None


def _python_values(array: "pa.Array") -> list[Any]:
    """The values of an array in types that JSON has; _Unreadable for those without any."""
    import pyarrow as pa
    from pyarrow import types

    if types.is_dictionary(array.type):
        array = array.dictionary_decode()
    if _is_bytes(array.type):
        with suppress(pa.ArrowInvalid):  # a value that is not UTF-8: found below
            array = array.cast(pa.large_string())
    try:
        values = array.to_pylist(maps_as_pydicts="strict")
        return values if _has_json_types(array.type) else [plain_value(value) for value in values]
    except Exception:  # whatever the library of a type raises; one value fails all
        return [_python_value(array[i]) for i in range(len(array))]


def _python_value(scalar: "pa.Scalar") -> Any:
    try:
        return plain_value(scalar.as_py(maps_as_pydicts="strict"))
    except UnicodeDecodeError:
        return _Unreadable("is not UTF-8")
    except Exception as error:  # such as a date after the year 9999, or an unknown time zone
        return _Unreadable(f"has a value that Python cannot represent ({error})")


def _is_bytes(kind: "pa.DataType") -> bool:
    from pyarrow import types

    return (
        types.is_binary(kind)
        or types.is_large_binary(kind)
        or types.is_fixed_size_binary(kind)
        or types.is_binary_view(kind)
    )


def _has_json_types(kind: "pa.DataType") -> bool:
    """Whether Python's values of the type are ones that JSON has."""
    from pyarrow import types

    if types.is_nested(kind):
        children = [kind.field(i).type for i in range(kind.num_fields)]
        return all(map(_has_json_types, children))
    if types.is_dictionary(kind):
        return _has_json_types(kind.value_type)
    return (
        types.is_string(kind)
        or types.is_large_string(kind)
        or types.is_string_view(kind)
        or types.is_integer(kind)
        or types.is_floating(kind)
        or types.is_boolean(kind)
        or types.is_null(kind)
    )
