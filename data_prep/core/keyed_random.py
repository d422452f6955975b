"""random numbers from keys: the same on every machine, in any order and any batch

The numbers of an ordinary generator depend on what was drawn before; a keyed number depends only on
its key. So a row's split, a prompt's sample and a bootstrap's resample stay the same when rows are
added, reordered or batched differently. The generator is splitmix64 (Steele, Lea, Flood 2014),
which does not change with numpy's version.
"""

import hashlib
from collections.abc import Sequence

import numpy as np

GOLDEN_GAMMA = 0x9E3779B97F4A7C15


def key(*parts: object) -> int:
    """A 64-bit key from any values, by their text."""
    text = "\x1f".join(map(str, parts))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")


def hashes(keys: np.ndarray | np.uint64, counter: np.ndarray | int) -> np.ndarray:
    """Number `counter` of each key's stream: uint64, in the broadcast shape of keys and counter."""
    with np.errstate(over="ignore"):
        position = np.asarray(counter, dtype=np.uint64) + np.uint64(1)
        x = keys.astype(np.uint64) + position * np.uint64(GOLDEN_GAMMA)
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return x ^ (x >> np.uint64(31))


def uniforms(keys: np.ndarray, counter: np.ndarray | int) -> np.ndarray:
    """Like `hashes`, as float64 in [0, 1)."""
    return (hashes(keys, counter) >> np.uint64(11)).astype(np.float64) * 2.0**-53


def shuffled_positions(ids: Sequence[str], *parts: object) -> list[int]:
    """The positions of `ids` in the order of each id's key.

    The order of the ids themselves is the same whatever order they are given in.
    """
    return sorted(range(len(ids)), key=lambda i: (key(*parts, ids[i]), ids[i]))
