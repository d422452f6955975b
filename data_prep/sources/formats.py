"""read the rows of a file: JSON lines, CSV, Parquet, text; gzip and zstd decompressed

The ending of the file's name says the format. A reader yields every row, the bad ones as a text
that says what is wrong; corpus_reader.py decides how many of those are too many, and which columns
matter. A file that cannot be read to its end is ArtefactCorrupt.
"""

import posixpath
from collections.abc import Callable, Iterator
from typing import IO

from data_prep.core import storage
from data_prep.core.errors import ArtefactCorrupt, ConfigurationError
from data_prep.core.store import ranged_reads
from data_prep.sources.readers import (
    compression,
    csv_rows,
    foreign_content,
    json_lines,
    parquet_rows,
    plain_text,
)
from data_prep.sources.readers.file_row import Columns, FileRow

Reader = Callable[[IO[bytes], str, Columns], Iterator[FileRow]]
READERS: dict[str, Reader] = {
    ".jsonl": json_lines.rows,
    ".ndjson": json_lines.rows,
    ".json": json_lines.rows,
    ".csv": csv_rows.rows,
    ".txt": plain_text.rows,
    ".parquet": parquet_rows.rows,
}
ALL_COLUMNS = Columns()


def check(uri: str) -> None:
    """Raise ConfigurationError unless the ending of `uri` names a format."""
    _format(uri)


def check_file(uri: str) -> None:
    """Raise ConfigurationError for a file that holds no data: an empty one, or a pointer to another
    file, as git-lfs and others leave in place of data that was not fetched.
    """
    n_bytes = storage.size(uri)
    if n_bytes == 0:
        raise ConfigurationError(
            f"{uri} is empty (0 bytes); expected documents; "
            "remove it from the corpus or download it again"
        )
    if n_bytes <= foreign_content.MAX_POINTER_BYTES:
        foreign_content.refuse_pointer(storage.read(uri), uri)


def rows(uri: str, columns: Columns = ALL_COLUMNS) -> Iterator[FileRow]:
    """Every row of the file, including the bad ones.

    columns: those in use; a Parquet file is read for these only, unless all are wanted. Blank lines
    of JSON lines are no rows, but count in the row numbers.
    """
    with ranged_reads.open_stream(uri) as stream:
        yield from rows_of(stream, uri, columns)


def rows_of(stream: IO[bytes], name: str, columns: Columns = ALL_COLUMNS) -> Iterator[FileRow]:
    """The rows of a byte stream; the ending of `name` says the format. Parquet needs a stream that
    can seek.

    For any bytes it ends or raises ArtefactCorrupt or ConfigurationError.
    """
    reader = _format(name)
    if reader is parquet_rows.rows:
        yield from reader(stream, name, columns)
        return
    try:
        content = compression.decompressed(stream, name)
        foreign_content.refuse_other_content(content.peek(foreign_content.HEAD_BYTES), name)
        yield from reader(content, name, columns)
    except compression.DAMAGE as error:
        raise ArtefactCorrupt(
            f"{name} is not a complete {posixpath.splitext(name)[1]} file ({error}); "
            "download it again, or rename it if it is already decompressed"
        ) from error


def _format(uri: str) -> Reader:
    stem, extension = posixpath.splitext(uri.lower())
    if extension in (".tar", ".tgz") or stem.endswith(".tar"):
        raise ConfigurationError(
            f"{uri} is an archive, which cannot be read in parallel; split it into files once: "
            f"python data_prep/reshard.py --archive {uri} --out FOLDER"
        )
    if extension == ".dvc":
        raise ConfigurationError(
            f"{uri} is a pointer of DVC, not the data; fetch the data with dvc pull, and name that "
            "file or narrow the pattern"
        )
    is_compressed = extension in compression.COMPRESSIONS
    if is_compressed:
        extension = posixpath.splitext(stem)[1]
    if extension not in READERS or (is_compressed and extension == ".parquet"):
        raise ConfigurationError(
            f"{uri}: the ending names no known format; expected one of {' '.join(READERS)}, all "
            f"but .parquet also with {' or '.join(compression.COMPRESSIONS)}; "
            "rename the file or narrow the pattern"
        )
    return READERS[extension]
