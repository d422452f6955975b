"""process group of the ranks: join and leave it, and the collectives that training uses

Every function that talks to other ranks is a collective: all ranks call it in the same order. A
rank that fails on its own would leave the others waiting, so the helpers below bring one rank's
error to all of them, and every rank raises the same one.
"""

import os
from collections.abc import Callable
from datetime import timedelta
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor

from data_prep.core.background_thread import log_if_longer
from data_prep.core.errors import ClusterError, ConfigurationError, HormesisError
from training.engine import rank_env

T = TypeVar("T")

# Rank 0 may be reading a checkpoint from the object store while the others wait.
COLLECTIVE_TIMEOUT = timedelta(minutes=30)
LOG_SECONDS = 30.0


class World(NamedTuple):
    """This process among the ranks, and the device it computes on.

    data_rank, n_data_ranks, data_group: rank, number of ranks and process group of those that hold
    the same part of the model but train on other rows, so that a sum over them counts each row
    once. Without tensor parallelism these are all ranks, and data_group is None.
    """

    rank: int
    size: int
    device: torch.device
    data_rank: int
    n_data_ranks: int
    data_group: Any = None


def join(tensor_parallel: int = 1) -> World:
    """Join the process group, each matrix partitioned over `tensor_parallel` neighbouring ranks.

    A process group that a launcher (Ray Train) has created already is kept.
    """
    rank, size = rank_env.rank_and_world_size()
    local_rank = int(os.environ.get("LOCAL_RANK", "0"))
    device = _local_device(local_rank)
    if not torch.distributed.is_initialized():
        _init_process_group(device, size)
    joined = (torch.distributed.get_rank(), torch.distributed.get_world_size())
    if joined != (rank, size):
        raise ConfigurationError(
            f"RANK and WORLD_SIZE name rank {rank} of {size}, the process group has this process "
            f"as rank {joined[0]} of {joined[1]}; start every rank with one launcher"
        )
    os.environ.setdefault("LOCAL_RANK", str(local_rank))  # DeepSpeed requires it
    if tensor_parallel == 1:
        return World(rank, size, device, data_rank=rank, n_data_ranks=size)
    # imported here only, for it imports megatron-core
    from training.engine.tensor_parallel import init_groups

    return World(rank, size, device, *init_groups(tensor_parallel))


def _local_device(local_rank: int) -> torch.device:
    if not torch.cuda.is_available():
        return torch.device("cpu")
    device = torch.device("cuda", local_rank % torch.cuda.device_count())
    torch.cuda.set_device(device)
    return device


def _init_process_group(device: torch.device, size: int) -> None:
    backend = "nccl" if device.type == "cuda" else "gloo"
    # a single process needs no rendezvous over the network
    store = torch.distributed.HashStore()
    alone = {"store": store, "rank": 0, "world_size": 1} if size == 1 else {}
    address = ":".join(os.environ.get(name, "?") for name in ("MASTER_ADDR", "MASTER_PORT"))
    message = "waiting for all %d ranks to join at %s, for at most %d minutes"
    minutes = COLLECTIVE_TIMEOUT.total_seconds() // 60
    try:
        with log_if_longer(LOG_SECONDS, message, size, address, minutes):
            torch.distributed.init_process_group(backend, timeout=COLLECTIVE_TIMEOUT, **alone)
    except torch.distributed.DistError as error:
        raise ClusterError(
            f"the {size} ranks could not join at {address}: {str(error).splitlines()[0]}; start "
            "every rank, with MASTER_ADDR and MASTER_PORT of a reachable port of rank 0"
        ) from error


def leave() -> None:
    """Leave the process group, all ranks at once, in a process that ends afterwards."""
    if torch.distributed.is_initialized():
        with log_if_longer(LOG_SECONDS, "waiting for the other ranks to end"):
            torch.distributed.barrier()  # rank 0 serves the store that the others still talk to
        torch.distributed.destroy_process_group()


def broadcast_from_rank0(compute: Callable[[], T]) -> T:
    """Call `compute` on rank 0 and return its result on every rank.

    A HormesisError that it raises is raised on every rank.
    """
    result: list[Any] = [None]
    if torch.distributed.get_rank() == 0:
        try:
            result = [compute()]
        except HormesisError as error:
            result = [error]
    torch.distributed.broadcast_object_list(result, src=0)
    if isinstance(result[0], HormesisError):
        raise result[0]
    return result[0]


def all_reduce_sum(tensor: Tensor, group: Any = None) -> None:
    """Replace `tensor` by its sum over all ranks, or over `group`.

    The device waits for the result, the host does not.
    """
    torch.distributed.all_reduce(tensor, group=group)


def sum_over_ranks(world: World, *values: float | Tensor) -> list[float]:
    """The sum of each of these scalars over all ranks, in fp64; the host waits for it."""
    tensors = [torch.as_tensor(value, dtype=torch.float64, device=world.device) for value in values]
    sums = torch.stack(tensors)
    torch.distributed.all_reduce(sums)
    return sums.tolist()


def first_error(work: Callable[[], None]) -> HormesisError | None:
    """Call `work` on every rank; the HormesisError of the lowest rank that raised one, else None.

    Every rank returns the same.
    """
    own_error: HormesisError | None = None
    try:
        work()
    except HormesisError as error:
        own_error = error
    errors: list[Any] = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(errors, own_error)
    return next((error for error in errors if error), None)
