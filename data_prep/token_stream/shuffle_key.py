"""shuffle key of a document, and the range of keys of each split

A stream is in the order of its documents' keys. The key is a hash of (seed, sha256 of the input
file, row, part), so the order is a uniform shuffle that depends on no worker, no batch and no other
document of the corpus. The documents with the smallest keys are the held-out split:

    keys    0 ─────────┬──────────────────────────── 2^64
            held_out   │ train
                       held_out_ratio · 2^64
"""

from typing import NamedTuple

import numpy as np

from data_prep.core import keyed_random
from data_prep.token_stream.manifest import Split

KEY_SPACE = 1 << 64


class KeyRange(NamedTuple):
    """The keys from `low` to before `high`."""

    low: int
    high: int


def shuffle_keys(
    input_sha256: str, row: np.ndarray | int, part: np.ndarray | int, shuffle_seed: int
) -> np.ndarray:
    """The keys of the documents at (row, part) of one input file: uniform in [0, 2^64), uint64."""
    file_key = np.uint64(keyed_random.key("order of documents", shuffle_seed, input_sha256))
    return keyed_random.hashes(keyed_random.hashes(file_key, row), part)


def held_out_bound(held_out_ratio: float) -> int:
    """Documents with a key below this are held out."""
    return max(1, int(held_out_ratio * KEY_SPACE))


def key_range(split: Split, held_out_ratio: float) -> KeyRange:
    """The keys of a split."""
    bound = held_out_bound(held_out_ratio)
    return KeyRange(0, bound) if split == "held_out" else KeyRange(bound, KEY_SPACE)
