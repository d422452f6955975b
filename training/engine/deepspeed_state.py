"""the state DeepSpeed trains: fp32 weights and optimizer state, as this rank holds it

DeepSpeed concatenates the parameters of a group and gives each rank a stretch of that as one flat
tensor, which is what its optimizer steps:

    stage    this rank's flat tensors                     a parameter's fragment of them
    0        each parameter's fp32 copy, on every rank    the whole; each rank saves its W-th part
    1, 2     1/W of the group (also with bf16 weights     param._hp_mapping; a parameter may lie
             and fp32 gradient sums)                      across two ranks
    3        1/W of each parameter, concatenated          optimizer.grad_position; the last rank's
                                                          is padded

Every tensor of a flat tensor's shape that the optimizer holds for it is optimizer state: exp_avg
and exp_avg_sq for AdamW, momentum_buffer for Muon. Its count of steps, which AdamW's bias
correction uses, is one number for all.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from training.engine.state_layout import TensorPartition, TensorSlice


class Fragment(NamedTuple):
    """`n` elements of a flattened parameter, from `first` on, which lie in `flat` from `start` on.

    saved: the range [from, to) that this rank saves, counted from `first`; the other elements are
    held by another rank as well, which saves them. partition: of the whole parameter, with tensor
    parallelism.
    """

    name: str
    first: int
    n: int
    saved: tuple[int, int]
    partition: TensorPartition | None
    flat: Tensor
    start: int

    def view(self, tensor: Tensor) -> Tensor:
        """This fragment's elements of a tensor of `flat`'s shape, as a flat view."""
        return tensor.detach().view(-1)[self.start : self.start + self.n]


def local_fragments(engine: Any) -> list[Fragment]:
    """What this rank holds, in the order of the model's parameters; each parameter at most once."""
    fragments = []
    for name, parameter in engine.module.named_parameters():
        fragment = _fragment(engine, name, parameter)
        if fragment is None or fragment.n == 0:
            continue
        if fragment.partition is None and _tensor_parallel_rank(engine) > 0:
            # every tensor-parallel rank holds the whole parameter; the first one saves it
            fragment = fragment._replace(saved=(0, 0))
        fragments.append(fragment)
    return fragments


def _fragment(engine: Any, name: str, parameter: Any) -> Fragment | None:
    """This rank's fragment of one parameter, None if it holds none of it."""
    optimizer = engine.optimizer
    partition = getattr(parameter, "tensor_partition", None)
    if hasattr(parameter, "ds_tensor"):  # stage 3
        group, start, n_padded = optimizer.grad_position[optimizer.get_param_id(parameter)]
        first = n_padded * torch.distributed.get_rank(parameter.ds_process_group)
        n = max(0, min(n_padded, parameter.ds_numel - first))
        flat = optimizer.fp32_partitioned_groups_flat[group]
        return Fragment(name, first, n, (0, n), partition, flat, start)
    if hasattr(parameter, "_hp_mapping"):  # stages 1 and 2
        mapping = parameter._hp_mapping
        if mapping is None:
            return None
        (flat,) = optimizer.param_groups[mapping.param_group_index]["params"]
        first, n = mapping.lp_fragment_address.start, mapping.lp_fragment_address.numel
        start = mapping.hp_fragment_address.start
        return Fragment(name, first, n, (0, n), partition, flat, start)
    flat, n = _fp32_copy(optimizer, parameter), parameter.numel()  # stage 0
    rank, n_ranks = data_parallel_rank(engine)
    saved = (n * rank // n_ranks, n * (rank + 1) // n_ranks)
    return Fragment(name, 0, n, saved, partition, flat, 0)


def fragment_tensors(engine: Any, fragment: Fragment) -> dict[str, Tensor]:
    """Flat fp32 views of a fragment: "parameter", and each tensor of its optimizer state so far."""
    flat = fragment.flat
    return {"parameter": fragment.view(flat)} | {
        key: fragment.view(value)
        for key, value in engine.basic_optimizer.state.get(flat, {}).items()
        if isinstance(value, Tensor) and value.shape == flat.shape and value.dim()
    }


def local_slices(engine: Any) -> list[tuple[TensorSlice, Tensor]]:
    """What this rank saves: which elements of which whole tensor, and a flat fp32 view of them."""
    slices = []
    for fragment in local_fragments(engine):
        start, end = fragment.saved
        if end == start:
            continue
        for key, value in fragment_tensors(engine, fragment).items():
            description = TensorSlice(
                name=fragment.name,
                key=key,
                first=fragment.first + start,
                count=end - start,
                offset=0,
                partition=fragment.partition,
            )
            slices.append((description, value[start:end]))
    return slices


def init_optimizer_state(
    engine: Any, fragments: list[Fragment], keys: dict[str, set[str]], n_steps: int
) -> None:
    """Create exactly the optimizer state `keys` of each parameter, still zero, as after `n_steps`.

    DeepSpeed creates it only in the first step.
    """
    optimizer = engine.basic_optimizer
    keys_of_flat: dict[Tensor, set[str]] = {}
    for fragment in fragments:
        state_keys = keys[fragment.name] - {"parameter"}
        keys_of_flat.setdefault(fragment.flat, set()).update(state_keys)
    for flat, flat_keys in keys_of_flat.items():
        optimizer.state.pop(flat, None)
        if not flat_keys:
            continue
        state = {key: torch.zeros_like(flat, requires_grad=False) for key in sorted(flat_keys)}
        if "exp_avg" in flat_keys:  # AdamW's
            state = {"step": torch.tensor(float(n_steps), device=flat.device)} | state
        optimizer.state[flat] = state
    if hasattr(engine.optimizer, "_lazy_init_hp_params_optimizer_state"):
        engine.optimizer._hp_optimizer_states_linked = False
        if all(keys_of_flat.values()):
            engine.optimizer._lazy_init_hp_params_optimizer_state()


def update_model_weights(engine: Any) -> None:
    """Compute the weights that the model uses from the fp32 weights; all ranks must call it."""
    optimizer = engine.optimizer
    if hasattr(optimizer, "fp32_partitioned_groups_flat"):
        optimizer.checkpoint_event_prologue()
        if optimizer.swap_optimizer:
            optimizer.reset_swap_buffers()
        else:
            for group in range(len(optimizer.fp16_groups)):
                optimizer._reassign_or_swap_out_partitioned_parameters(group)
        optimizer.checkpoint_event_epilogue()
    elif hasattr(optimizer, "update_lp_params"):
        optimizer.update_lp_params()
    else:
        for parameter in engine.module.parameters():
            parameter.data.copy_(_fp32_copy(optimizer, parameter).data)


def optimizer_steps(engine: Any) -> int:
    """Steps that AdamW has taken, for its bias correction; skipped steps are not counted."""
    steps = [state["step"] for state in engine.basic_optimizer.state.values() if "step" in state]
    return int(steps[0]) if steps else 0


def parameter_sizes(engine: Any) -> dict[str, int]:
    """Number of elements of each whole parameter, by name."""
    sizes = {}
    for name, parameter in engine.module.named_parameters():
        partition = getattr(parameter, "tensor_partition", None)
        n_local = getattr(parameter, "ds_numel", parameter.numel())
        sizes[name] = partition.n_elements if partition else n_local
    return sizes


def gather_parameters(engine: Any) -> Iterator[tuple[str, Tensor]]:
    """(name, whole fp32 tensor) of each parameter, in one order; all ranks must iterate."""
    from deepspeed.utils import safe_get_full_fp32_param

    for name, parameter in engine.module.named_parameters():
        value = safe_get_full_fp32_param(parameter)
        if value is None:
            value = _fp32_copy(engine.optimizer, parameter).detach()
        if hasattr(parameter, "tensor_partition"):
            value = engine.module.gather_whole(parameter, value)
        yield name, value


def _fp32_copy(optimizer: Any, parameter: Any) -> Tensor:
    """Stage 0's fp32 copy of a parameter; in fp32 training the parameter itself."""
    low_groups = getattr(optimizer, "fp16_groups", ())
    fp32_groups = getattr(optimizer, "fp32_groups", ())
    for low_group, fp32_group in zip(low_groups, fp32_groups, strict=True):
        for low, fp32 in zip(low_group, fp32_group, strict=True):
            if low is parameter:
                return fp32
    return parameter


def data_parallel_rank(engine: Any) -> tuple[int, int]:
    """(rank, number of ranks) among those over which this state is partitioned."""
    group = engine.seq_data_parallel_group
    return torch.distributed.get_rank(group), torch.distributed.get_world_size(group)


def _tensor_parallel_rank(engine: Any) -> int:
    return engine.mpu.get_model_parallel_rank() if engine.mpu else 0
