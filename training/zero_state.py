"""the state DeepSpeed trains: fp32 weights and optimizer averages of each parameter, read and set whatever the stage shares out"""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

AVERAGES = ("exp_avg", "exp_avg_sq")


def full_state(engine: Any) -> Iterator[tuple[str, str, Tensor]]:
    """(parameter's name, "parameter" | "exp_avg" | "exp_avg_sq", whole fp32 tensor), in one order; all ranks must iterate."""
    from deepspeed.utils import safe_get_full_optimizer_state

    yield from ((name, "parameter", value) for name, value in full_parameters(engine))
    for name, parameter in engine.module.named_parameters():
        for key in AVERAGES:
            value = safe_get_full_optimizer_state(parameter, key)
            assert value is not None, (name, key)
            yield name, key, value


def full_parameters(engine: Any) -> Iterator[tuple[str, Tensor]]:
    """(name, whole fp32 tensor) of each parameter, in one order; all ranks must iterate."""
    from deepspeed.utils import safe_get_full_fp32_param

    for name, parameter in engine.module.named_parameters():
        value = safe_get_full_fp32_param(parameter)
        assert value is not None, name
        yield name, value


def optimizer_steps(engine: Any) -> int:
    """Steps AdamW has taken, which its bias correction counts; one with a non-finite gradient is skipped and not counted."""
    states = list(engine.basic_optimizer.state.values())
    return int(states[0]["step"].item()) if states else 0


def restore_state(engine: Any, n_steps: int, value_of: Callable[[str, str], Tensor]) -> None:
    """Set every fp32 weight and average from `value_of(name, key)`, and AdamW's count; all ranks must call it alike.

    The engine must be new and its model already hold these weights, so that the bf16 copies are right by construction.
    """
    _make_averages(engine, n_steps)
    for name, parameter in engine.module.named_parameters():
        for key in ("parameter", *AVERAGES):
            _set_full(parameter, key, value_of(name, key))


def _set_full(parameter: Any, key: str, value: Tensor) -> None:
    """Put the part of `value` that this rank holds into its fp32 copy or average."""
    from deepspeed import utils

    if hasattr(parameter, "ds_tensor"):  # stage 3, whose own setter fails where W does not divide the parameter
        n, rank = parameter.ds_tensor.numel(), torch.distributed.get_rank()
        part = nn.functional.pad(value.flatten(), (0, n * torch.distributed.get_world_size() - value.numel()))[
            n * rank : n * (rank + 1)
        ]
        if key == "parameter":
            utils.safe_set_local_fp32_param(parameter, part)
        else:
            utils.safe_set_local_optimizer_state(parameter, part, key)
    elif key == "parameter":
        utils.safe_set_full_fp32_param(parameter, value)
    else:
        utils.safe_set_full_optimizer_state(parameter, value, key)


def _make_averages(engine: Any, n_steps: int) -> None:
    """AdamW's state as after `n_steps` steps, averages still zero: DeepSpeed makes it only in the first step."""
    optimizer = engine.optimizer
    for attribute in ("single_partition_of_fp32_groups", "fp32_groups_flat_partition", "fp32_partitioned_groups_flat"):
        for flat in getattr(optimizer, attribute, ()):
            engine.basic_optimizer.state[flat] = {
                "step": torch.tensor(float(n_steps), dtype=torch.float32, device=flat.device),
                **{key: torch.zeros_like(flat, requires_grad=False) for key in AVERAGES},
            }
    if hasattr(optimizer, "_lazy_init_hp_params_optimizer_state"):
        optimizer._lazy_init_hp_params_optimizer_state()
