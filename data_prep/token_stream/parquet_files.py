"""Parquet files of the repository: written from Arrow tables, read by ranges of a column"""

from io import BytesIO
from typing import TYPE_CHECKING

import numpy as np

from data_prep.core.errors import ArtefactCorrupt
from data_prep.core.store import ranged_reads

if TYPE_CHECKING:
    import pyarrow

ROW_GROUP_ROWS = 1 << 16


def encode(table: "pyarrow.Table", *, row_group_rows: int = ROW_GROUP_ROWS) -> bytes:
    """The table as a Parquet file with a checksum per page.

    The same table gives the same bytes under one version of pyarrow.
    """
    import pyarrow.parquet

    buffer = BytesIO()
    pyarrow.parquet.write_table(
        table, buffer, compression="zstd", row_group_size=row_group_rows, write_page_checksum=True
    )
    return buffer.getvalue()


def read_range(uri: str, low: int, high: int, columns: list[str], remedy: str) -> "pyarrow.Table":
    """The rows of a Parquet file whose first column is in [low, high), low < high.

    Only the row groups that can hold them are fetched. The result has the first column, then
    `columns`. Raises ArtefactCorrupt, with the remedy, if the file is damaged.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(ranged_reads.RangedFile(uri), page_checksum_verification=True) as file:
            first = file.schema_arrow.names[0]
            statistics = [
                file.metadata.row_group(i).column(0).statistics for i in range(file.num_row_groups)
            ]
            groups = [
                i
                for i, values in enumerate(statistics)
                if values and values.min < high and values.max >= low
            ]  # an empty list gives an empty table
            names = [first, *(name for name in columns if name != first)]
            table = file.read_row_groups(groups, names)
    except (pa.ArrowException, OSError) as error:
        raise ArtefactCorrupt(f"{uri}: {error}; {remedy}") from error
    values = column(table, first)
    start = np.searchsorted(values, values.dtype.type(low), side="left")
    # high itself may be 2^64, which is not a uint64
    end = np.searchsorted(values, values.dtype.type(high - 1), side="right")
    return table.slice(start, end - start)


def column(table: "pyarrow.Table", name: str) -> np.ndarray:
    return table.column(name).to_numpy()
