"""Batches of ranks: every sequence once, the same on any number of ranks."""

import threading
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep.core.errors import ArtefactCorrupt
from data_prep.token_stream.mixture import Mixture
from training.engine.process_group import World
from training.run.batches import BatchReader


class NumberSource:
    """A reader whose sequence i is [base + i, base + i]."""

    sequence_length, dtype = 2, np.int64

    def __init__(self, base: int, n_sequences: int = 1000) -> None:
        self._base, self.n_sequences = base, n_sequences

    def read(self, indices: np.ndarray, dtype: Any) -> np.ndarray:
        return np.repeat(self._base + indices[:, None], 2, axis=1)


CLEAN, TOXIC = NumberSource(1), NumberSource(1001)


def world_of(rank: int, size: int) -> World:
    return World(rank, size, torch.device("cpu"), rank, size)


def batches_of_ranks(mixture: Mixture, world_size: int, steps: range) -> list[list[int]]:
    """The valid rows of each global batch, in rank order."""
    ranks = [
        BatchReader(mixture, CLEAN, TOXIC, world_of(rank, world_size)) for rank in range(world_size)
    ]
    batches = [[rank.read(step) for rank in ranks] for step in steps]
    return [[int(row[0]) for part in batch for row in part.tokens[part.valid]] for batch in batches]


mixtures = st.builds(
    Mixture,
    n_clean=st.integers(1, 90),
    n_toxic=st.integers(0, 20),
    batch_size=st.sampled_from([4, 8, 12]),
    seed=st.integers(0, 99),
)


@settings(deadline=None)
@given(mixture=mixtures, world_size=st.sampled_from([1, 2, 4]))
def test_batches_do_not_depend_on_ranks_and_read_each_sequence_once(
    mixture: Mixture, world_size: int
):
    batches = batches_of_ranks(mixture, world_size, range(mixture.n_steps))
    assert batches == batches_of_ranks(mixture, 1, range(mixture.n_steps))
    expected = [1 + i for i in range(mixture.n_clean)] + [1001 + i for i in range(mixture.n_toxic)]
    assert sorted(row for batch in batches for row in batch) == expected


@settings(deadline=None)
@given(mixture=mixtures, data=st.data())
def test_prefetching_from_any_step_equals_reading_each_step(mixture: Mixture, data: Any):
    first = data.draw(st.integers(0, mixture.n_steps))
    batches = BatchReader(mixture, CLEAN, TOXIC, world_of(0, 1))
    prefetched = list(batches.prefetch(first, mixture.n_steps))
    assert all(wait_seconds >= 0 for _, wait_seconds in prefetched)
    assert [batch.step for batch, _ in prefetched] == list(range(first, mixture.n_steps))
    for batch, _ in prefetched:
        read = batches.read(batch.step)
        assert (batch.tokens == read.tokens).all() and (batch.valid == read.valid).all()
        assert batch.n_valid == read.valid.sum()
        assert batch.n_toxic == (read.tokens[:, 0] > 1000).sum()


@settings(deadline=None)
@given(mixture=mixtures, world_size=st.sampled_from([1, 2, 4]), supply=st.integers(1, 20))
def test_a_row_is_labelled_with_the_stream_that_its_tokens_come_from(
    mixture: Mixture, world_size: int, supply: int
):
    ranks = [
        BatchReader(mixture, CLEAN, NumberSource(1001, supply), world_of(rank, world_size))
        for rank in range(world_size)
    ]
    for step in range(mixture.n_steps):
        batches = [rank.read(step) for rank in ranks]
        for batch in batches:
            assert batch.toxic.tolist() == [token > 1000 for token in batch.tokens[:, 0]]
        assert sum(batch.toxic.sum() for batch in batches) == batches[0].n_toxic


def test_padding_rows_are_zeros_and_not_valid():
    mixture = Mixture(n_clean=5, n_toxic=0, batch_size=4, seed=0)
    last = BatchReader(mixture, CLEAN, TOXIC, world_of(0, 1)).read(1)
    assert last.tokens[last.valid].tolist() == [[5, 5]]
    assert last.tokens[~last.valid].tolist() == [[0, 0]] * 3
    assert (last.n_valid, last.n_toxic) == (1, 0)


def test_an_error_of_the_reading_thread_is_raised_at_its_step():
    class BrokenSource(NumberSource):
        def read(self, indices: np.ndarray, dtype: Any) -> np.ndarray:
            if 5 in indices:
                raise ArtefactCorrupt("block 0 is broken")
            return super().read(indices, dtype)

    mixture = Mixture(n_clean=8, n_toxic=0, batch_size=2, seed=0)
    batches = BatchReader(mixture, BrokenSource(1), TOXIC, world_of(0, 1))
    steps = []
    with pytest.raises(ArtefactCorrupt, match="block 0"):
        for batch, _ in batches.prefetch(0, 4):
            steps.append(batch.step)
    assert steps == [0, 1]


def test_leaving_the_loop_early_stops_the_reading_thread():
    mixture = Mixture(n_clean=1000, n_toxic=0, batch_size=1, seed=0)
    prefetched = BatchReader(mixture, CLEAN, TOXIC, world_of(0, 1)).prefetch(0, 1000)
    next(prefetched)
    assert "batches" in [thread.name for thread in threading.enumerate()]
    prefetched.close()  # type: ignore[attr-defined]
    assert "batches" not in [thread.name for thread in threading.enumerate()]
