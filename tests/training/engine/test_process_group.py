"""Collectives of a single process; several ranks are in test_pretrain.py."""

import pytest
import torch

from data_prep.core.errors import ConfigurationError, StorageError
from training.engine import process_group
from training.engine.process_group import World


@pytest.fixture
def world() -> World:
    return process_group.join()


def fail() -> None:
    raise StorageError("no such bucket")


def test_a_single_process_is_its_own_world(world: World):
    assert world == World(0, 1, torch.device("cpu"), data_rank=0, n_data_ranks=1)


def test_another_rank_in_the_environment_is_refused(world: World, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    expected = "rank 1 of 2, the process group has this process as rank 0 of 1"
    with pytest.raises(ConfigurationError, match=expected):
        process_group.join()


def test_rank_0s_result_or_error_reaches_every_rank(world: World):
    assert process_group.broadcast_from_rank0(lambda: {"step": 3}) == {"step": 3}
    with pytest.raises(StorageError, match="no such bucket"):
        process_group.broadcast_from_rank0(fail)


def test_the_first_error_is_returned_and_not_raised(world: World):
    assert isinstance(process_group.first_error(fail), StorageError)
    assert process_group.first_error(lambda: None) is None


def test_scalars_and_tensors_are_summed_in_fp64(world: World):
    third = torch.tensor(1 / 3, dtype=torch.float64)
    assert process_group.sum_over_ranks(world, 2.5, third) == [2.5, 1 / 3]
