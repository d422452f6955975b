"""Arrow table → Parquet file in memory: the one writer of the repository"""

from io import BytesIO
from typing import TYPE_CHECKING

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
