"""keyed random numbers: the same on every machine, in any order, in any batch

A generator's stream depends on who drew before; a keyed number depends only on its name. So a row's
split, a prompt's sample and a bootstrap's resample stay what they are when rows are added,
reordered or batched differently. The stream is splitmix64 (Steele, Lea, Flood 2014), which does not
change with numpy's version.
"""

import hashlib
from collections.abc import Sequence

import numpy as np

GOLDEN = 0x9E3779B97F4A7C15


def key(*parts: object) -> int:
    """A 64-bit key that names `parts`."""
    return int.from_bytes(
        hashlib.blake2b("\x1f".join(map(str, parts)).encode(), digest_size=8).digest(), "little"
    )


def hashes(keys: np.ndarray | np.uint64, counter: np.ndarray | int) -> np.ndarray:
    """Number `counter` of each key's stream: uint64, in the broadcast shape of keys and counter."""
    with np.errstate(over="ignore"):
        x = keys.astype(np.uint64) + (
            np.asarray(counter, dtype=np.uint64) + np.uint64(1)
        ) * np.uint64(GOLDEN)
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return x ^ (x >> np.uint64(31))


def uniforms(keys: np.ndarray, counter: np.ndarray | int) -> np.ndarray:
    """Like `hashes`, as float64 in [0, 1)."""
    return (hashes(keys, counter) >> np.uint64(11)).astype(np.float64) * 2.0**-53


def shuffled(ids: Sequence[str], *parts: object) -> list[int]:
    """The positions of `ids`, ordered by each id's key: whatever order the ids come in, the same
    ids come first.
    """
    return sorted(range(len(ids)), key=lambda i: (key(*parts, ids[i]), ids[i]))
