"""per-item results: the values behind the means, so that runs can be compared pair by pair

One row per (condition, quantity, item, strength): toxicity of a prompt (mean score of its samples ×
100), cross-entropy of a held-out sequence, whether a question was answered right, share of heads
whose probe is right on a probe row. An item has the same id in every run that met it; a missing
value has no row.
"""

from collections.abc import Sequence
from io import BytesIO
from typing import NamedTuple

import numpy as np

from data_prep.core import storage
from data_prep.token_stream import parquet_files

FILE_NAME = "items.parquet"
SCORES = ("score", "second_score")  # columns of generations.parquet
TOXICITIES = ("toxicity", "second_toxicity")


class ItemValue(NamedTuple):
    """The value of one item.

    condition: empty for probes. quantity: that of `toxicity` or `expected_toxicity`,
    cross_entropy/<text>, accuracy/<benchmark> or probe_accuracy/<probe set>. strength: 0 if nothing
    is steered.
    """

    condition: str
    quantity: str
    id: str
    strength: float
    value: float


# (condition, quantity, strength) → value by item id
AllItems = dict[tuple[str, str, float], dict[str, float]]
ItemTable = dict[tuple[str, float], dict[str, float]]  # the same of one curve


def toxicity(prompt_set: str, scorer: int = 0) -> str:
    """The quantity's name for a prompt set and the first scorer, 0, or the second, 1."""
    return f"{TOXICITIES[scorer]}/{prompt_set}"


def expected_toxicity(prompt_set: str) -> str:
    """The quantity's name for the expected toxicity of a prompt set, score × 100."""
    return f"expected_toxicity/{prompt_set}"


def write(items: Sequence[ItemValue], folder: str) -> None:
    """Write items.parquet into the folder of an evaluation."""
    import pyarrow

    types = {
        "condition": pyarrow.string(),
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


def read(folder: str) -> AllItems:
    """The values of the evaluation in this folder; empty if it has no such file."""
    import pyarrow.parquet

    table: AllItems = {}
    uri = storage.join(folder, FILE_NAME)
    if storage.exists(uri):
        for row in pyarrow.parquet.read_table(BytesIO(storage.read(uri))).to_pylist():
            key = (row["condition"], row["quantity"], row["strength"])
            table.setdefault(key, {})[row["id"]] = row["value"]
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
