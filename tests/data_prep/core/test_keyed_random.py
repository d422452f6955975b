import numpy as np
import pytest

from data_prep.core import keyed_random


def test_the_numbers_are_those_of_splitmix64():
    """The first outputs for seed 1234567, published with the algorithm (Vigna's splitmix64.c,
    Rosetta Code).
    """
    drawn = keyed_random.hashes(np.array(1234567, dtype=np.uint64), np.arange(3))
    assert drawn.tolist() == [6457827717110365317, 3203168211198807973, 9817491932198370423]


def test_uniforms_fill_the_unit_interval_evenly():
    drawn = keyed_random.uniforms(np.arange(100, dtype=np.uint64)[:, None], np.arange(1000)[None])
    assert drawn.shape == (100, 1000) and drawn.min() >= 0 and drawn.max() < 1
    assert np.histogram(drawn, bins=10, range=(0, 1))[0].tolist() == pytest.approx(
        [10_000] * 10, rel=0.05
    )


def test_the_keyed_order_of_ids_does_not_depend_on_their_input_order():
    ids = [f"row {i}" for i in range(50)]
    order = [ids[i] for i in keyed_random.shuffled_positions(ids, "test", 0)]
    assert [ids[::-1][i] for i in keyed_random.shuffled_positions(ids[::-1], "test", 0)] == order
    assert sorted(order) == sorted(ids) and order != ids
    assert [ids[i] for i in keyed_random.shuffled_positions(ids, "test", 1)] != order


def test_a_key_separates_its_parts():
    assert keyed_random.key("ab", "c") != keyed_random.key("a", "bc")
