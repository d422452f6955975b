"""keyed resampling: bootstrap means of many columns, random orders and normals

All draws are keyed by (purpose, seed, size), so conditions measured on the same items get the same
resamples: their differences are paired without storing anything, and the numbers are the same on
every machine. A bootstrap is one matrix product, how often each item was drawn times its values,
whatever the number of columns.

Shapes: B resamples, N items, K columns.
"""

import functools
from collections.abc import Iterator

import numpy as np

from data_prep.core import keyed_random

CHUNK_ITEMS = 1 << 21  # resampled items in memory at once
KEPT_ITEMS = 1 << 24  # of up to so many items, the draws are kept for the next call


def means(values_NK: np.ndarray, n_resamples: int, seed: int) -> np.ndarray:
    """Means of each column over N draws of rows with replacement, the same rows for all columns:
    [B, K].
    """
    n = len(values_NK)
    counts = _kept_counts if n_resamples * n <= KEPT_ITEMS else _draw_counts
    chunks = [
        counts(start, stop, n, seed).astype(np.float64) @ values_NK / n
        for start, stop in _chunks(n_resamples, n)
    ]
    return np.concatenate(chunks)


def _draw_counts(start: int, stop: int, n: int, seed: int) -> np.ndarray:
    """How often each of n items is drawn in the resamples from `start` to `stop`: [B, N]."""
    key = _key("bootstrap", seed, n)
    counters = np.arange(start * n, stop * n, dtype=np.uint64)
    bits = keyed_random.hashes(key, counters) >> np.uint64(32)
    item = ((bits * np.uint64(n)) >> np.uint64(32)).astype(np.int64)
    resample = np.repeat(np.arange(stop - start), n)
    counts = np.bincount(resample * n + item, minlength=(stop - start) * n)
    return counts.reshape(-1, n).astype(np.uint16 if n < 1 << 16 else np.int64)


# a report takes the means of hundreds of columns over the same few sets of items
_kept_counts = functools.lru_cache(maxsize=32)(_draw_counts)


def label_orders(n: int, n_orders: int, seed: int) -> np.ndarray:
    """Random orders of n labels: [n_orders, n]."""
    counters = np.arange(n_orders * n, dtype=np.uint64)
    keys = keyed_random.hashes(_key("label order", seed, n), counters)
    return np.argsort(keys.reshape(n_orders, n), axis=1, kind="stable")


def normals(shape: tuple[int, ...], *name: object) -> np.ndarray:
    """Standard normal numbers, keyed by `name`."""
    from scipy.special import ndtri

    uniform = keyed_random.uniforms(_key("normals", *name), np.arange(int(np.prod(shape))))
    return ndtri(uniform + 2.0**-54).reshape(shape)  # the offset excludes 0


def _key(*name: object) -> np.ndarray:
    return np.array(keyed_random.key(*name), dtype=np.uint64)


def _chunks(n_resamples: int, n: int) -> Iterator[tuple[int, int]]:
    step = max(1, CHUNK_ITEMS // n)
    return ((start, min(start + step, n_resamples)) for start in range(0, n_resamples, step))
