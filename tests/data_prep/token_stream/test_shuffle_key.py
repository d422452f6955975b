"""Shuffle keys are uniform, and depend on nothing but file, row, part and seed."""

import numpy as np
import pytest

from data_prep.core import keyed_random
from data_prep.token_stream.shuffle_key import (
    KEY_SPACE,
    held_out_bound,
    key_range,
    shuffle_keys,
)


def test_keys_are_uniform() -> None:
    keys = shuffle_keys("sha", np.arange(4000), np.zeros(4000, np.int64), 0)
    counts, _ = np.histogram(keys / KEY_SPACE, 4, (0, 1))
    assert np.abs(counts - 1000).max() < 120  # four standard deviations


def test_keys_depend_on_file_row_part_and_seed() -> None:
    keys = {
        int(shuffle_keys(sha, row, part, seed))
        for sha in ("a", "b")
        for row in (0, 1)
        for part in (0, 1)
        for seed in (0, 1)
    }
    assert len(keys) == 16


def test_a_key_is_the_same_alone_and_in_any_batch() -> None:
    keys = shuffle_keys("sha", np.arange(4000), np.zeros(4000, np.int64), 0)
    assert keys[1234] == shuffle_keys("sha", 1234, 0, 0)


def test_the_key_is_a_hash_of_the_label_order_of_documents() -> None:
    """The label must never change: it decides the order of every stream."""
    file_key = np.uint64(keyed_random.key("order of documents", 0, "sha"))
    expected = keyed_random.hashes(keyed_random.hashes(file_key, 3), 2)
    assert shuffle_keys("sha", 3, 2, 0) == expected


@pytest.mark.parametrize("ratio", [1e-30, 0.02, 0.499])
def test_the_splits_partition_the_keys(ratio: float) -> None:
    held_out = key_range("held_out", ratio)
    train = key_range("train", ratio)
    assert (held_out.low, held_out.high, train.high) == (0, train.low, KEY_SPACE)
    assert 1 <= held_out_bound(ratio) == train.low
