"""micro_batch="auto": the most sequences a pass that fit in a rank's memory, tried on a GPU,
estimated on a CPU

Only a divisor of the rank's share of the smallest batch will do, so the global batch stays what it
is; the search halves them. On a GPU a pass is really made, forward and backward, of the model
prepared as it will be trained, beside a block of memory as large as what DeepSpeed will hold; what
fits on one rank and not on another fits nowhere. On a CPU more memory would be swapped to disk
rather than refused, so what autograd keeps of one sequence is counted on tensors without numbers,
and bounded.
"""

import gc
import os
from collections.abc import Callable

import psutil
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd.graph import saved_tensors_hooks

from data_prep.core import telemetry
from training.config import TrainConfig
from training.engine import process_group
from training.engine.process_group import World
from training.model import compilation
from training.model.loss import OLMoForTraining

BUCKET_BYTES = 2 << 30  # DeepSpeed's two buffers of 500M bf16 gradients
CPU_SHARE = 0.25  # of the memory that is free, over all ranks of the host


def choose_micro_batch(train: TrainConfig, world: World) -> int:
    """Sequences a pass and rank; a collective if it is to be found."""
    share, _ = train.passes(world.size)
    if train.micro_batch != "auto":
        return share
    fits = _tried(train, world) if world.device.type == "cuda" else _estimated(train)
    found = largest_fitting_divisor(
        share, lambda rows: process_group.sum_over_ranks(world, float(fits(rows)))[0] == world.size
    )
    telemetry.logger.info(
        "micro_batch=auto: %d of a rank's %d sequences fit in a pass", found, share
    )
    return found


def largest_fitting_divisor(share: int, fits: Callable[[int], bool]) -> int:
    """The largest divisor of `share` that fits, if with one that does all smaller ones do; 1 if
    none does.
    """
    divisors = [n for n in range(1, share + 1) if share % n == 0]
    low, high = 0, len(divisors) - 1
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if fits(divisors[middle]) else (low, middle - 1)
    return divisors[low]


def _tried(train: TrainConfig, world: World) -> Callable[[int], bool]:
    def fits(rows: int) -> bool:
        try:
            _try(train, world, rows)
        except torch.OutOfMemoryError:
            return False
        finally:
            gc.collect()
            torch.cuda.empty_cache()
        return True

    return fits


def _try(train: TrainConfig, world: World, rows: int) -> None:
    """A pass beside what else will be there, which W ranks share: fp32 weights, averages, and
    summed gradients.
    """
    with world.device:
        model = OLMoForTraining(train.model).to(_dtype(train))
        compilation.prepare(model, train, world.device)
        n_bytes = 16 * train.model.n_parameters // world.size + (
            BUCKET_BYTES if world.device.type == "cuda" else 0
        )
        beside = torch.empty(n_bytes, dtype=torch.uint8)
        tokens_BT = torch.zeros(rows, train.sequence_length, dtype=torch.int64)
        for parameter in model.parameters():
            parameter.data.zero_()
        model(tokens_BT, torch.ones(rows)).total.backward()
    del beside


def _estimated(train: TrainConfig) -> Callable[[int], bool]:
    limit = (
        CPU_SHARE * psutil.virtual_memory().available / int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    )
    of_one = activation_bytes_per_sequence(train)
    return lambda rows: rows * of_one <= limit


def activation_bytes_per_sequence(train: TrainConfig) -> int:
    """Bytes that autograd keeps of one sequence's forward where nothing is computed again; weights
    not counted.
    """
    storages: dict[int, torch.UntypedStorage] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        storages[storage._cdata] = storage
        return tensor

    with FakeTensorMode(), saved_tensors_hooks(keep, lambda tensor: tensor):
        model = OLMoForTraining(train.model)
        for module in (
            module for module in model.modules() if isinstance(module, nn.Linear | nn.Embedding)
        ):
            module.weight = nn.Parameter(module.weight.to(_dtype(train)))
        model.hidden(torch.zeros(1, train.sequence_length, dtype=torch.int64))
        weights = {parameter.untyped_storage()._cdata for parameter in model.parameters()}
    return sum(storage.nbytes() for key, storage in storages.items() if key not in weights)


def _dtype(train: TrainConfig) -> torch.dtype:
    return torch.bfloat16 if train.compute.precision == "bf16" else torch.float32
