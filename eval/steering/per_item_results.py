"""the values behind the means, item by item, so that runs can be compared pair by pair

One row for each (quantity, item, strength): toxicity of a prompt (mean score of its samples × 100),
cross-entropy of a held-out sequence, whether a question was answered right, share of heads that
have a probe row right. Items have the same ids in every run that met them; a value that is missing
has no row.
"""

from collections.abc import Sequence
from io import BytesIO
from typing import NamedTuple

import numpy as np

from data_prep.core import parquet_files, storage
from eval.config import EvalConfig
from eval.eval_report import eval_uri

NAME = "items.parquet"


class Item(NamedTuple):
    """quantity: toxicity, cross_entropy/<stream>, accuracy/<benchmark> or probe_accuracy. strength:
    of the steering; 0 where it plays no part.
    """

    quantity: str
    id: str
    strength: float
    value: float


Table = dict[tuple[str, float], dict[str, float]]  # (quantity, strength) → value by item id


def write(items: Sequence[Item], folder: str) -> None:
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
    storage.write(storage.join(folder, NAME), content)


def read(run_uri: str, config: EvalConfig) -> Table:
    """The values of an evaluation; empty where it has no such file."""
    import pyarrow.parquet

    uri, table = storage.join(eval_uri(run_uri, config), NAME), Table()
    if storage.exists(uri):
        for row in pyarrow.parquet.read_table(BytesIO(storage.read(uri))).to_pylist():
            table.setdefault((row["quantity"], row["strength"]), {})[row["id"]] = row["value"]
    return table


def common(tables: Sequence[Table], quantity: str, strengths: Sequence[float]) -> list[np.ndarray]:
    """For each table the values [items, strengths] of the items that all of them have at all these
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
