"""keyed resampling: bootstrap means of many columns, random signs, orders and normals

All draws are keyed by (purpose, seed, size), so conditions measured on the same items get the same
resamples: their differences are paired without storing anything, and the numbers are the same on
every machine. A bootstrap is one matrix product, how often each item was drawn times its values,
whatever the number of columns.

Shapes: B resamples, N items, K columns.
"""

from collections.abc import Iterator

import numpy as np

from data_prep.core import keyed_random

CHUNK_ITEMS = 1 << 21  # resampled items in memory at once


def means(values_NK: np.ndarray, n_resamples: int, seed: int) -> np.ndarray:
    """Means of each column over N draws of rows with replacement, the same rows for all columns:
    [B, K].
    """
    n = len(values_NK)
    key = _key("bootstrap", seed, n)
    chunks = []
    for resamples in _chunks(n_resamples, n):
        bits = keyed_random.hashes(key, _counters(resamples, n)) >> np.uint64(32)
        item = ((bits * np.uint64(n)) >> np.uint64(32)).astype(np.int64)
        resample = np.repeat(np.arange(len(resamples)), n)
        counts = np.bincount(resample * n + item, minlength=len(resamples) * n)
        counts_BN = counts.reshape(-1, n).astype(np.float64)
        chunks.append(counts_BN @ values_NK / n)
    return np.concatenate(chunks)


def sign_sums(values_NK: np.ndarray, n_resamples: int, seed: int) -> np.ndarray:
    """Sums of each column with a random sign per row, the same for all columns: [B, K]."""
    n = len(values_NK)
    key = _key("signs", seed, n)
    chunks = []
    for resamples in _chunks(n_resamples, n):
        bits = keyed_random.hashes(key, _counters(resamples, n)) >> np.uint64(63)
        signs_BN = (2.0 * bits.astype(np.float64) - 1.0).reshape(-1, n)
        chunks.append(signs_BN @ values_NK)
    return np.concatenate(chunks)


def label_orders(n: int, n_orders: int, seed: int) -> np.ndarray:
    """Random orders of n labels: [n_orders, n]."""
    keys = keyed_random.hashes(_key("label order", seed, n), _counters(range(n_orders), n))
    return np.argsort(keys.reshape(n_orders, n), axis=1, kind="stable")


def normals(shape: tuple[int, ...], *name: object) -> np.ndarray:
    """Standard normal numbers, keyed by `name`."""
    from scipy.special import ndtri

    uniform = keyed_random.uniforms(_key("normals", *name), np.arange(int(np.prod(shape))))
    return ndtri(uniform + 2.0**-54).reshape(shape)  # the offset excludes 0


def _key(*name: object) -> np.ndarray:
    return np.array(keyed_random.key(*name), dtype=np.uint64)


def _chunks(n_resamples: int, n: int) -> Iterator[range]:
    step = max(1, CHUNK_ITEMS // n)
    return (range(start, min(start + step, n_resamples)) for start in range(0, n_resamples, step))


def _counters(resamples: range, n: int) -> np.ndarray:
    return np.arange(resamples.start * n, resamples.stop * n, dtype=np.uint64)
