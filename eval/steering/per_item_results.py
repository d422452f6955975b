"""per-item results: the values behind the means, so that runs can be compared pair by pair

One row per (quantity, item, strength): toxicity of a prompt (mean score of its samples × 100),
cross-entropy of a held-out sequence, whether a question was answered right, share of heads whose
probe is right on a probe row. An item has the same id in every run that met it; a missing value has
no row.
"""

from collections.abc import Sequence
from io import BytesIO
from typing import NamedTuple

import numpy as np

from data_prep.core import storage
from data_prep.token_stream import parquet_files

FILE_NAME = "items.parquet"


class ItemValue(NamedTuple):
    """The value of one item.

    quantity: toxicity, cross_entropy/<stream>, accuracy/<benchmark> or probe_accuracy. strength: of
    the steering; 0 if steering plays no part.
    """

    quantity: str
    id: str
    strength: float
    value: float


ItemTable = dict[tuple[str, float], dict[str, float]]  # (quantity, strength) → value by item id


def write(items: Sequence[ItemValue], folder: str) -> None:
    """Write items.parquet into the folder of an evaluation."""
    import pyarrow

    types = {
        "quantity": pyarrow.string(),
        "id": pyarrow.string(),
        "strength": pyarrow.float64(),
        "value": pyarrow.float64(),
    }
    columns = {
        name: pyarrow.array([getattr(item, name) for item in items], kind)
        for name, kind in types.items()
    }
    content = parquet_files.encode(pyarrow.table(columns))
    storage.write(storage.join(folder, FILE_NAME), content)


def read(folder: str) -> ItemTable:
    """The values of the evaluation in this folder; empty if it has no such file."""
    import pyarrow.parquet

    table: ItemTable = {}
    uri = storage.join(folder, FILE_NAME)
    if storage.exists(uri):
        for row in pyarrow.parquet.read_table(BytesIO(storage.read(uri))).to_pylist():
            table.setdefault((row["quantity"], row["strength"]), {})[row["id"]] = row["value"]
    return table


def common(
    tables: Sequence[ItemTable], quantity: str, strengths: Sequence[float]
) -> list[np.ndarray]:
    """The values [items, strengths] of each table, for the items that all tables have at all these
    strengths, in one order.
    """
    columns = [[table.get((quantity, strength), {}) for strength in strengths] for table in tables]
    ids = sorted(set.intersection(*(set(column) for of_table in columns for column in of_table)))
    return [
        np.array([[column[i] for column in of_table] for i in ids]).reshape(
            len(ids), len(strengths)
        )
        for of_table in columns
    ]
