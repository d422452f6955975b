"""keyed resampling: bootstrap means of many columns at once, random signs, relabellings and normals

All draws are named by (purpose, seed, size), so conditions measured on the same items meet the same
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
    stream, parts = _stream("bootstrap", seed, n), []
    for rows in _chunks(n_resamples, n):
        drawn = keyed_random.hashes(stream, _counter(rows, n)) >> np.uint64(32)
        of_row = np.repeat(np.arange(len(rows)), n) * n
        cell = ((drawn * np.uint64(n)) >> np.uint64(32)).astype(np.int64) + of_row
        counts_BN = np.bincount(cell, minlength=len(rows) * n).reshape(-1, n)
        parts.append(counts_BN.astype(np.float64) @ values_NK / n)
    return np.concatenate(parts)


def sign_sums(values_NK: np.ndarray, n_resamples: int, seed: int) -> np.ndarray:
    """Sums of each column after giving every row a random sign, the same for all columns: [B, K]."""
    n = len(values_NK)
    stream, parts = _stream("signs", seed, n), []
    for rows in _chunks(n_resamples, n):
        bits = keyed_random.hashes(stream, _counter(rows, n)) >> np.uint64(63)
        parts.append((2.0 * bits.astype(np.float64) - 1.0).reshape(-1, n) @ values_NK)
    return np.concatenate(parts)


def relabelled_sums(values_N: np.ndarray, n_first: int, n_resamples: int, seed: int) -> np.ndarray:
    """Sums over `n_first` of the N items drawn without replacement: [B]."""
    n = len(values_N)
    stream, parts = _stream("relabelling", seed, n, n_first), []
    for rows in _chunks(n_resamples, n):
        order_BN = np.argpartition(
            keyed_random.hashes(stream, _counter(rows, n)).reshape(-1, n), n_first - 1, axis=1
        )
        parts.append(values_N[order_BN[:, :n_first]].sum(axis=1))
    return np.concatenate(parts)


def label_orders(n: int, n_orders: int, seed: int) -> np.ndarray:
    """Random orders of n labels, [n_orders, n]."""
    keys = keyed_random.hashes(_stream("label order", seed, n), _counter(range(n_orders), n))
    return np.argsort(keys.reshape(n_orders, n), axis=1, kind="stable")


def normals(shape: tuple[int, ...], *name: object) -> np.ndarray:
    """Standard normal numbers, named by `name`."""
    from scipy.special import ndtri

    uniform = keyed_random.uniforms(
        np.array(keyed_random.key("normals", *name), dtype=np.uint64),
        np.arange(int(np.prod(shape))),
    )
    return ndtri(uniform + 2.0**-54).reshape(shape)  # the offset keeps 0 out


def _stream(*name: object) -> np.ndarray:
    return np.array(keyed_random.key(*name), dtype=np.uint64)


def _chunks(n_resamples: int, n: int) -> Iterator[range]:
    step = max(1, CHUNK_ITEMS // n)
    return (range(start, min(start + step, n_resamples)) for start in range(0, n_resamples, step))


def _counter(rows: range, n: int) -> np.ndarray:
    return np.arange(rows.start * n, rows.stop * n, dtype=np.uint64)
