"""Corner cases of single formats; test_corpus_reader.py writes and reads all of them."""

import gzip
import io
from collections.abc import Callable

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from data_prep.core import storage
from data_prep.core.errors import ArtefactCorrupt
from data_prep.sources import formats
from data_prep.sources.readers.file_row import Columns

PACKED: dict[str, Callable[[bytes], bytes]] = {".gz": gzip.compress, ".zst": zstandard.compress}


def rows_of(name: str, content: bytes, columns: Columns = formats.ALL_COLUMNS) -> list[dict | str]:
    uri = f"memory://formats/{name}"
    storage.write(uri, content)
    return [row.content for row in formats.rows(uri, columns)]


def test_a_parquet_date_beyond_pythons_range_is_none_or_makes_one_row_bad() -> None:
    buffer = io.BytesIO()
    pq.write_table(
        pa.table({"text": ["a", "b"], "when": pa.array([10**18, 0], pa.timestamp("ms"))}), buffer
    )
    first, second = rows_of("x.parquet", buffer.getvalue())
    assert first == {"text": "a", "when": None}
    assert second == {"text": "b", "when": "1970-01-01T00:00:00"}
    named = Columns(named=("text", "when"))
    first, second = rows_of("x.parquet", buffer.getvalue(), named)
    assert isinstance(first, str)
    assert first.startswith("field 'when' has a value that Python cannot represent")
    assert isinstance(second, dict) and second["text"] == "b"


@pytest.mark.parametrize("packing", PACKED)
def test_a_compressed_file_truncated_anywhere_is_damaged(packing: str) -> None:
    whole = PACKED[packing](b'{"text": "some words"}\n' * 20)
    for length in range(1, len(whole)):
        with pytest.raises(
            ArtefactCorrupt, match=f"x.jsonl{packing} is not a complete {packing} file"
        ):
            rows_of(f"x.jsonl{packing}", whole[:length])
