"""A generations.parquet as an evaluation leaves it."""

from pathlib import Path

import pyarrow
import pyarrow.parquet


def write_generations(folder: Path, rows) -> None:
    """rows: (prompt id, strength, text, score)."""
    names = ("prompt_id", "strength", "continuation", "score")
    columns: dict[str, list] = dict(zip(names, map(list, zip(*rows, strict=True)), strict=True))
    columns["prompt_set"] = ["held_out"] * len(rows)
    columns["condition"] = ["iti" if strength else "plain" for strength in columns["strength"]]
    pyarrow.parquet.write_table(pyarrow.table(columns), folder / "generations.parquet")
