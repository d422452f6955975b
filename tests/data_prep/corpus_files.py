"""The same rows in every format, and corpus files in memory."""

import csv
import gzip
import io
import json
from collections.abc import Callable
from typing import Any

import pyarrow as pa
import zstandard
from pyarrow import parquet

from data_prep.core import storage
from data_prep.sources.corpus_reader import Source, expand, read

ROWS = [
    {"text": "The ferry left\nat dawn.", "class": "1", "place": "quay"},
    {"text": 'A "small" boat, with a sail — and ⚓.', "class": "0", "place": "pier"},
    {"text": "", "class": "2", "place": ""},
]


def json_lines(rows: list[dict]) -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


def comma_separated(rows: list[dict]) -> bytes:
    buffer = io.StringIO(newline="")
    writer = csv.DictWriter(buffer, rows[0])
    writer.writeheader()
    writer.writerows(rows)
    return buffer.getvalue().encode()


def as_parquet(rows: list[dict]) -> bytes:
    buffer = io.BytesIO()
    parquet.write_table(pa.Table.from_pylist(rows), buffer, row_group_size=2)
    return buffer.getvalue()


def two_zstd_frames(content: bytes) -> bytes:
    compress = zstandard.ZstdCompressor().compress
    return compress(content[:7]) + compress(content[7:])


def corpus_file(content: bytes, name: str, options: str = "") -> Source:
    """The source of a new file in memory; options: the part of its URI from `#` on."""
    storage.write(f"memory://corpora/{name}", content)
    (source,) = expand([f"memory://corpora/{name}{options}"])
    return source


def parquet_file(table: pa.Table, options: str = "", **written: Any) -> Source:
    """The source of a new Parquet file in memory; written: options of the writer."""
    buffer = io.BytesIO()
    parquet.write_table(table, buffer, **written)
    return corpus_file(buffer.getvalue(), "rows.parquet", options)


def texts_of(source: Source) -> list[str]:
    return [document.text for document in read(source)]


WRITERS: dict[str, Callable[[list[dict]], bytes]] = {
    "rows.jsonl": json_lines,
    "rows.json.gz": lambda rows: gzip.compress(json_lines(rows)),
    "rows.ndjson.zst": lambda rows: two_zstd_frames(json_lines(rows)),
    "rows.csv": comma_separated,
    "rows.csv.gz": lambda rows: gzip.compress(comma_separated(rows)),
    "ROWS.CSV.ZST": lambda rows: two_zstd_frames(comma_separated(rows)),
    "rows.parquet": as_parquet,
}
