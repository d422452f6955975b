"""the state DeepSpeed trains: fp32 weights and optimizer averages, as this rank holds them,
whatever the stage shares out

DeepSpeed lays a group's parameters end to end and gives each rank a stretch of that ("flat"), which
is what its optimizer knows:

    stage     this rank's flats                                       a parameter's fragment in them
    0         each parameter's fp32 copy, whole, on every rank        the whole; each rank saves its W-th part
    1, 2      1/W of the group; bf16 with fp32 sums likewise          param._hp_mapping; a parameter may lie across two ranks
    3         1/W of each parameter, laid end to end                  optimizer.grad_position; the last rank's is padded

Whatever tensors of a flat's shape the optimizer holds for it are averages: exp_avg and exp_avg_sq
for AdamW, momentum_buffer for Muon. Its count of steps, which AdamW corrects its bias by, is one
number for all.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from training.engine.state_layout import TensorPartition, TensorSlice


class Fragment(NamedTuple):
    """`n` elements from `first` on of a flattened parameter, which lie in `flat` from `start` on.

    writes: those that this rank saves, counted from `first`; another rank holds the others as well,
    and saves them.
    """

    name: str
    first: int
    n: int
    writes: tuple[int, int]
    cut: TensorPartition | None
    flat: Tensor
    start: int

    def of(self, whole: Tensor) -> Tensor:
        """This fragment's elements of a tensor of `flat`'s shape, as a flat view."""
        return whole.detach().view(-1)[self.start : self.start + self.n]


def local_fragments(engine: Any) -> list[Fragment]:
    """What this rank holds, in the order of the model's parameters; each parameter at most once."""
    optimizer, found = engine.optimizer, []
    for name, parameter in engine.module.named_parameters():
        cut = getattr(parameter, "cut", None)
        if hasattr(parameter, "ds_tensor"):
            group, start, n = optimizer.grad_position[optimizer.get_param_id(parameter)]
            first = n * torch.distributed.get_rank(parameter.ds_process_group)
            count = max(0, min(n, parameter.ds_numel - first))
            flat = optimizer.fp32_partitioned_groups_flat[group]
            writes = (0, count)
        elif hasattr(parameter, "_hp_mapping"):
            if parameter._hp_mapping is None:
                continue
            mapping = parameter._hp_mapping
            (flat,) = optimizer.param_groups[mapping.param_group_index]["params"]
            first, count = mapping.lp_fragment_address.start, mapping.lp_fragment_address.numel
            start, writes = mapping.hp_fragment_address.start, (0, count)
        else:
            flat, first, start, count = _master(optimizer, parameter), 0, 0, parameter.numel()
            rank, n_ranks = data_parallel_rank(engine)
            writes = (count * rank // n_ranks, count * (rank + 1) // n_ranks)
        if cut is None and _model_rank(engine) > 0:
            writes = (0, 0)  # each tensor-parallel rank holds the whole of it
        if count:
            found.append(Fragment(name, first, count, writes, cut, flat, start))
    return found


def fragment_tensors(engine: Any, fragment: Fragment) -> dict[str, Tensor]:
    """Flat fp32 views of the fragment: its weights, "parameter", and each average that the
    optimizer holds by now.
    """
    flat = fragment.flat
    return {"parameter": fragment.of(flat)} | {
        key: fragment.of(value)
        for key, value in engine.basic_optimizer.state.get(flat, {}).items()
        if isinstance(value, Tensor) and value.shape == flat.shape and value.dim()
    }


def local_slices(engine: Any) -> list[tuple[TensorSlice, Tensor]]:
    """What this rank saves: flat fp32 views, and which elements of which whole tensor each is."""
    found = []
    for fragment in local_fragments(engine):
        first, end = fragment.writes
        for key, value in fragment_tensors(engine, fragment).items() if end > first else ():
            where = {
                "first": fragment.first + first,
                "count": end - first,
                "offset": 0,
                "cut": fragment.cut,
            }
            found.append((TensorSlice(name=fragment.name, key=key, **where), value[first:end]))
    return found


def init_optimizer_state(
    engine: Any, held: list[Fragment], keys: dict[str, set[str]], n_steps: int
) -> None:
    """Let the optimizer have exactly these averages of each parameter, still zero, as after
    `n_steps` steps.

    DeepSpeed makes them only in the first step.
    """
    optimizer, of_flat = engine.basic_optimizer, {}
    for fragment in held:
        of_flat.setdefault(fragment.flat, set()).update(keys[fragment.name] - {"parameter"})
    for flat, names in of_flat.items():
        optimizer.state.pop(flat, None)
        if names:
            count = (
                {"step": torch.tensor(float(n_steps), device=flat.device)}
                if "exp_avg" in names
                else {}
            )
            optimizer.state[flat] = count | {
                key: torch.zeros_like(flat, requires_grad=False) for key in sorted(names)
            }
    if hasattr(engine.optimizer, "_lazy_init_hp_params_optimizer_state"):
        engine.optimizer._hp_optimizer_states_linked = False
        if all(of_flat.values()):
            engine.optimizer._lazy_init_hp_params_optimizer_state()


def update_model_weights(engine: Any) -> None:
    """Make the weights that the model computes with from the fp32 ones; all ranks must call it."""
    optimizer = engine.optimizer
    if hasattr(optimizer, "fp32_partitioned_groups_flat"):
        optimizer.checkpoint_event_prologue()
        optimizer.reset_swap_buffers() if optimizer.swap_optimizer else _refresh_partitions(
            optimizer
        )
        optimizer.checkpoint_event_epilogue()
    elif hasattr(optimizer, "update_lp_params"):
        optimizer.update_lp_params()
    else:
        for parameter in engine.module.parameters():
            parameter.data.copy_(_master(optimizer, parameter).data)


def optimizer_steps(engine: Any) -> int:
    """Steps AdamW has taken, which its bias correction counts; one with a non-finite gradient is
    skipped and not counted.
    """
    steps = [state["step"] for state in engine.basic_optimizer.state.values() if "step" in state]
    return int(steps[0]) if steps else 0


def parameter_sizes(engine: Any) -> dict[str, int]:
    """Elements of each whole parameter."""
    return {
        name: cut.n_elements
        if (cut := getattr(parameter, "cut", None))
        else getattr(parameter, "ds_numel", parameter.numel())
        for name, parameter in engine.module.named_parameters()
    }


def gather_parameters(engine: Any) -> Iterator[tuple[str, Tensor]]:
    """(name, whole fp32 tensor) of each parameter, in one order; all ranks must iterate."""
    from deepspeed.utils import safe_get_full_fp32_param

    for name, parameter in engine.module.named_parameters():
        value = safe_get_full_fp32_param(parameter)
        value = _master(engine.optimizer, parameter).detach() if value is None else value
        yield name, engine.module.whole(parameter, value) if hasattr(parameter, "cut") else value


def _master(optimizer: Any, parameter: Any) -> Tensor:
    """Stage 0's fp32 copy of a parameter: in fp32 the parameter itself."""
    for ours, theirs in zip(
        getattr(optimizer, "fp16_groups", ()), getattr(optimizer, "fp32_groups", ()), strict=True
    ):
        for low, high in zip(ours, theirs, strict=True):
            if low is parameter:
                return high
    return parameter


def _refresh_partitions(optimizer: Any) -> None:
    for group in range(len(optimizer.fp16_groups)):
        optimizer._reassign_or_swap_out_partitioned_parameters(group)


def data_parallel_rank(engine: Any) -> tuple[int, int]:
    """(rank, number of ranks) among those that share out this state."""
    group = engine.seq_data_parallel_group
    return torch.distributed.get_rank(group), torch.distributed.get_world_size(group)


def _model_rank(engine: Any) -> int:
    return engine.mpu.get_model_parallel_rank() if engine.mpu else 0
