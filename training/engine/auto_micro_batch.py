"""micro_batch=auto: the largest micro-batch that fits in memory, tried on a GPU

Only divisors of the rank's sequences per step are candidates, so the global batch stays the same; a
binary search finds the largest that fits. On a GPU each candidate runs one forward and backward
pass of the program that will be trained, next to an allocation as large as the rest of DeepSpeed's
state (memory.py); a micro-batch must fit on every rank. On a CPU too large a batch would be swapped
to disk rather than refused, so there the size is estimated: the bytes that autograd keeps of one
sequence, counted on fake tensors, against a share of the free memory.
"""

import gc
import os
from collections.abc import Callable
from dataclasses import replace

import psutil
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd.graph import saved_tensors_hooks

from data_prep.core import telemetry
from training.config import TrainConfig
from training.engine import memory, process_group
from training.engine.process_group import World
from training.model import compilation
from training.model.attention import document_starts
from training.model.loss import OLMoForTraining

BUCKET_BYTES = 2 << 30  # DeepSpeed's two buffers of 500M bf16 gradients
MAX_CPU_MEMORY_SHARE = 0.25  # of the free memory, for all ranks of the host


def choose_micro_batch(train: TrainConfig, world: World) -> int:
    """Sequences per forward pass and rank; a collective if train.micro_batch is auto."""
    per_rank, _ = train.passes(world.size)
    if train.micro_batch != "auto":
        return per_rank
    is_cuda = world.device.type == "cuda"
    fits = _fits_by_trial(train, world) if is_cuda else _fits_by_estimate(train)

    def fits_on_all_ranks(n_sequences: int) -> bool:
        (n_fitting,) = process_group.sum_over_ranks(world, float(fits(n_sequences)))
        return n_fitting == world.size

    chosen = largest_fitting_divisor(per_rank, fits_on_all_ranks)
    telemetry.logger.info(
        "micro_batch=auto: %d of %d sequences per rank fit in one pass", chosen, per_rank
    )
    return chosen


def largest_fitting_divisor(n: int, fits: Callable[[int], bool]) -> int:
    """The largest divisor of `n` that fits; 1 if none does.

    If a divisor fits, all smaller ones are assumed to fit as well.
    """
    divisors = [divisor for divisor in range(1, n + 1) if n % divisor == 0]
    low, high = 0, len(divisors) - 1
    while low < high:
        middle = (low + high + 1) // 2
        if fits(divisors[middle]):
            low = middle
        else:
            high = middle - 1
    return divisors[low]


def _fits_by_trial(train: TrainConfig, world: World) -> Callable[[int], bool]:
    def fits(n_sequences: int) -> bool:
        try:
            _run_trial_pass(train, world, n_sequences)
        except torch.OutOfMemoryError:
            return False
        finally:
            gc.collect()
            torch.cuda.empty_cache()
        return True

    return fits


def _run_trial_pass(train: TrainConfig, world: World, n_sequences: int) -> None:
    """One pass next to an allocation as large as the state that DeepSpeed will hold beside it.

    The pass compiles what training will run. It is outside `with device`, where the compiler would
    break its graphs.
    """
    tokens = torch.zeros(n_sequences, train.sequence_length, dtype=torch.int64)
    starts = document_starts(tokens, eos_id=-1).to(world.device) if train.document_mask else None
    with world.device:
        model = OLMoForTraining(train.model, z_loss=train.z_loss)
        model = model.to(compilation.compute_dtype(train.compute))
        compilation.prepare(model, train.compute, world.device)
        weight_B = torch.ones(n_sequences)
    n_bytes = sum(memory.state_bytes(replace(train, micro_batch=n_sequences), world.size))
    for parameter in model.parameters():
        parameter.data.zero_()
        n_bytes -= parameter.nbytes
        # gradients are in `other_state`, and DeepSpeed frees those of a micro-batch one by one
        parameter.register_post_accumulate_grad_hook(lambda weight: setattr(weight, "grad", None))
    if world.device.type == "cuda":
        n_bytes += BUCKET_BYTES
    other_state = torch.empty(max(0, n_bytes), dtype=torch.uint8, device=world.device)
    model(tokens.to(world.device), weight_B, starts).total.backward()
    del other_state


def _fits_by_estimate(train: TrainConfig) -> Callable[[int], bool]:
    n_local_ranks = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    limit = MAX_CPU_MEMORY_SHARE * psutil.virtual_memory().available / n_local_ranks
    bytes_per_sequence = activation_bytes_per_sequence(train)
    return lambda n_sequences: n_sequences * bytes_per_sequence <= limit


def activation_bytes_per_sequence(train: TrainConfig) -> int:
    """Bytes that autograd keeps of one sequence's forward pass, weights not counted."""
    storages: dict[int, torch.UntypedStorage] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        storages[storage._cdata] = storage
        return tensor

    with FakeTensorMode(), saved_tensors_hooks(keep, lambda tensor: tensor):
        model = OLMoForTraining(train.model)
        dtype = compilation.compute_dtype(train.compute)
        for module in model.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                module.weight = nn.Parameter(module.weight.to(dtype))
        model.hidden(torch.zeros(1, train.sequence_length, dtype=torch.int64))
        weights = {parameter.untyped_storage()._cdata for parameter in model.parameters()}
    return sum(storage.nbytes() for key, storage in storages.items() if key not in weights)
