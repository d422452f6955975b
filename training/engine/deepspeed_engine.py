"""settings → DeepSpeed's dictionary; the only place its key names appear

Joining the ranks is here, too; what the engine holds inside is read and set in deepspeed_state.py.

    stage   each rank holds …                        gradients of a step
    0       everything                               summed once, after the last micro-batch
    1       1/W of weights' fp32 copy and averages   summed once, after the last micro-batch
    2       … and of the gradients                   summed at every micro-batch: more traffic, less memory
    3       … and of the weights themselves          as 2, and weights gathered layer by layer

Our choices. AdamW is torch's own fused kernel, on CPU and CUDA: no compiler is needed, and states
have one layout. Every parameter is decayed, the embedding too, as OLMo-1B does
(configs/official/OLMo-1B.yaml: decay_embeddings: true). The learning rate is set by the loop
(lr_schedule.py) and gradients are clipped, or refused, inside AdamW (step_guard.py); DeepSpeed's
schedulers, clipping and, where it can be turned off, overflow check are not used. With bf16 and
several micro-batches a step, gradients are summed in fp32: a bf16 sum of 32 terms loses the last of
them. DeepSpeed cannot do that at stage 0, which sums in bf16: it is for measuring and comparing,
and in fp32 it is plain PyTorch. An offloaded AdamW is torch's as well; DeepSpeed's own for the host
is compiled when it is first used.
"""

import logging
import os
import warnings
from collections.abc import Callable
from contextlib import redirect_stdout
from datetime import timedelta
from functools import partial
from importlib import import_module
from io import StringIO
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from data_prep.core.errors import ConfigurationError, HormesisError
from training.config import ADAM_EPS, TrainConfig
from training.engine import rank_env
from training.model.olmo import Block

R = TypeVar("R")

OURS = (  # keys that say what is trained, or that the loop sets: no overlay may change them
    "train_batch_size",
    "train_micro_batch_size_per_gpu",
    "gradient_accumulation_steps",
    "gradient_clipping",
    "optimizer",
    "scheduler",
    "bf16",
    "fp16",
    "torch_autocast",
    "data_types",
)
SILENCE = timedelta(
    minutes=30
)  # how long a collective may take: rank 0 may be bringing a checkpoint from the store


class Place(NamedTuple):
    """Where this process stands among the ranks, and the device it computes on.

    data_rank, n_data_ranks, peers: the same among those that hold the same part of the model but
    train on other rows; without tensor parallelism all ranks. peers is their process group, None
    for all; a sum over it counts each row once.
    """

    rank: int
    world_size: int
    device: torch.device
    data_rank: int
    n_data_ranks: int
    peers: Any = None


def connect(tensor_parallel: int = 1) -> Place:
    """Join the other ranks, in gangs of `tensor_parallel`; keeps a process group that a launcher
    (Ray Train) has made already.
    """
    cuda = torch.cuda.is_available()
    if not cuda:
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    rank, world_size = rank_env.world()
    local_rank = int(os.environ.get("LOCAL_RANK", "0"))
    device = (
        torch.device("cuda", local_rank % torch.cuda.device_count())
        if cuda
        else torch.device("cpu")
    )
    if cuda:
        torch.cuda.set_device(device)
    if not torch.distributed.is_initialized():
        alone = (
            {"store": torch.distributed.HashStore(), "rank": 0, "world_size": 1}
            if world_size == 1
            else {}
        )
        torch.distributed.init_process_group("nccl" if cuda else "gloo", timeout=SILENCE, **alone)
    asked, (rank, world_size) = (
        (rank, world_size),
        (torch.distributed.get_rank(), torch.distributed.get_world_size()),
    )
    if asked != (rank, world_size):
        raise ConfigurationError(
            f"the environment says rank {asked[0]} of {asked[1]} (RANK, WORLD_SIZE), the process group {rank} of {world_size}; "
            "start every rank with one launcher"
        )
    os.environ.setdefault("LOCAL_RANK", str(local_rank))  # DeepSpeed insists

    import deepspeed
    import deepspeed.ops

    warnings.filterwarnings(
        "ignore", category=FutureWarning, module="torch.distributed"
    )  # DeepSpeed's calls, at every step
    if not cuda:
        # Else a C++ compiler builds this op for a minute; made here, the table is not probed, which
        # runs a compiler as well.
        deepspeed.ops.__dict__.setdefault("__compatible_ops__", {})["deepspeed_shm_comm"] = False
    deepspeed.init_distributed(dist_init_required=False)
    _import_muon_uncompiled()
    _take_no_step_beforehand()
    deepspeed.utils.logger.addFilter(_is_news)
    if tensor_parallel == 1:
        return Place(rank, world_size, device, rank, world_size)
    from training.engine import tensor_parallel as parallel  # only here: it imports megatron-core

    return Place(rank, world_size, device, *parallel.connect(tensor_parallel))


def _import_muon_uncompiled() -> None:
    """Import DeepSpeed's Muon, which its ZeRO classes do anyway, without torch.compile: 2
    CPU-seconds for what we never call.
    """
    from deepspeed.runtime import compiler

    original = compiler.compile
    compiler.compile = lambda *_, **__: lambda function: function
    try:
        import_module("deepspeed.runtime.zero.muon.muon_optimizer")
    finally:
        compiler.compile = original


def _take_no_step_beforehand() -> None:
    """Keep DeepSpeed's optimizer for bf16 at stage 0 from making averages by a step with gradients
    of zero, which AdamW would count and decay the weights by: its first real step was 0.73 of what
    it should be.
    """
    from deepspeed.runtime.fp16.unfused_optimizer import FP16_UnfusedOptimizer

    FP16_UnfusedOptimizer.initialize_optimizer_states = lambda self: None


def _is_news(line: logging.LogRecord) -> bool:
    """Untested by DeepSpeed is Muon (muon.py), and tested by us."""
    return "untested optimizer" not in line.getMessage()


def disconnect() -> None:
    """Leave the other ranks, all at once; for a process that ends next."""
    if torch.distributed.is_initialized():
        torch.distributed.barrier()  # rank 0 holds the store that the others still talk to
        torch.distributed.destroy_process_group()


def agree(decide: Callable[[], R]) -> R:
    """Rank 0's decision on every rank; an error of ours in it is raised on every rank alike."""
    outcome: list[Any] = [None]
    if torch.distributed.get_rank() == 0:
        try:
            outcome = [decide()]
        except HormesisError as error:
            outcome = [error]
    torch.distributed.broadcast_object_list(outcome, src=0)
    if isinstance(outcome[0], HormesisError):
        raise outcome[0]
    return outcome[0]


def add_up(tensor: Tensor, peers: Any = None) -> None:
    """Replace this rank's tensor by the sum over all ranks, or over `peers`; the device waits for
    it, the host does not.
    """
    torch.distributed.all_reduce(tensor, group=peers)


def first_problem(work: Callable[[], None]) -> HormesisError | None:
    """Let every rank do its own `work`; the first rank's error of ours, if there was one, on every
    rank alike.
    """
    problem: HormesisError | None = None
    try:
        work()
    except HormesisError as error:
        problem = error
    problems: list[Any] = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(problems, problem)
    return next((each for each in problems if each), None)


def total(place: Place, *values: float | Tensor) -> list[float]:
    """The sums of these over all ranks, in fp64."""
    tensor = torch.stack(
        [torch.as_tensor(value, dtype=torch.float64, device=place.device) for value in values]
    )
    torch.distributed.all_reduce(tensor)
    return tensor.tolist()


def deepspeed_settings(
    train: TrainConfig, world_size: int, overlay: dict[str, Any] | None = None
) -> dict[str, Any]:
    """DeepSpeed's dictionary for these settings; `overlay` may add to it and tune it, not change
    what is trained.
    """
    micro_batch, accumulation = train.passes(world_size)
    settings: dict[str, Any] = {
        "train_batch_size": train.global_batch,
        "train_micro_batch_size_per_gpu": micro_batch,
        "gradient_accumulation_steps": accumulation,
        "gradient_clipping": 0.0,
        "zero_optimization": {"stage": train.parallel.zero_stage}
        | (
            {"offload_optimizer": {"device": "cpu", "pin_memory": torch.cuda.is_available()}}
            if train.parallel.offload_optimizer
            else {}
        ),
        "bf16": {"enabled": train.compute.precision == "bf16", "check_grad_overflow": False},
        "optimizer": {
            "type": "AdamW",
            "params": {
                "lr": train.optimizer.learning_rate,
                "betas": list(train.optimizer.betas),
                "eps": ADAM_EPS,
                "weight_decay": train.optimizer.weight_decay,
                "torch_adam": True,
                "fused": True,
            },
        },
        "steps_per_print": 1_000_000_000,
    }
    if train.optimizer.kind == "muon":
        del settings["optimizer"]
        settings["zero_allow_untested_optimizer"] = (
            True  # muon.py, which the tests hold to be the same at every stage
        )
    if train.compute.precision == "bf16" and accumulation > 1 and train.parallel.zero_stage > 0:
        settings["data_types"] = {"grad_accum_dtype": "fp32"}
    _merge(settings, overlay or {}, train)
    return settings


def initialise(
    model: nn.Module, settings: dict[str, Any], optimizer: torch.optim.Optimizer | None = None
) -> Any:
    """The engine that trains `model`: `engine(tokens)`, `engine.backward(loss)`, `engine.step()`.
    optimizer: in place of AdamW.
    """
    import deepspeed
    from deepspeed.utils import groups

    mpu = groups.mpu = getattr(model, "mpu", None)  # groups keeps that of the engine before
    parameters: Any = list(model.parameters())  # its annotation says Module
    if (
        settings["zero_optimization"]["stage"] == 3
    ):  # gather a block's weights at once; a compiled one knows no hooks inside
        for block in (module for module in model.modules() if isinstance(module, Block)):
            deepspeed.utils.set_z3_leaf_module(block, True)
    with redirect_stdout(StringIO()):  # one of its optimizers prints a table of memory
        engine, *_ = deepspeed.initialize(
            model=model, optimizer=optimizer, model_parameters=parameters, config=settings, mpu=mpu
        )
    plain: Any = engine.basic_optimizer
    if engine.optimizer is plain:
        plain.register_step_pre_hook(partial(_keep_norm, mpu))
    return engine


def _keep_norm(mpu: Any, optimizer: Any, *_: Any) -> None:
    """What every other optimizer of DeepSpeed's does before it takes a step, and plain PyTorch's,
    at stage 0 in fp32, does not.
    """
    gradients = [
        parameter.grad for group in optimizer.param_groups for parameter in group["params"]
    ]
    norm = torch.nn.utils.get_total_norm(gradients)
    if mpu:  # each rank of a gang has its part of every parameter
        square = norm.square()
        torch.distributed.all_reduce(square, group=mpu.get_model_parallel_group())
        norm = square.sqrt()
    optimizer._global_grad_norm = norm


def descend(engine: Any, loss: Tensor, *, last: bool) -> None:
    """Add the gradient of a micro-batch's loss, averaged over the ranks; after the last of a step,
    take the step.

    Micro-batches are counted by the loop, not by DeepSpeed, for a growing batch has more of them
    with time. Where the loss is the very tensor that the module returned, its hook divides by their
    number all the same, so another one is handed over.
    """
    engine.set_gradient_accumulation_boundary(last)
    engine.backward(loss * 1.0, scale_wrt_gas=False)
    engine.step()


def release(engine: Any) -> None:
    """Let go of the engine's hooks and buffers; the process may train another model, or end."""
    engine.destroy()


def set_learning_rate(engine: Any, rate: float) -> None:
    for group in engine.optimizer.param_groups:
        group["lr"] = rate


def grad_norm(engine: Any) -> Tensor:
    """The global norm of the step's gradient before clipping, on the device, ∞ if it is not finite;
    from `before_optimizer` on.
    """
    norm = engine.optimizer._global_grad_norm
    return norm if isinstance(norm, Tensor) else torch.tensor(norm, device=engine.device)


def before_optimizer(engine: Any, call: Callable[[torch.optim.Optimizer], None]) -> None:
    """Have torch's optimizer pass itself to `call` before it takes a step; a step that DeepSpeed
    itself refuses has no call.
    """
    engine.basic_optimizer.register_step_pre_hook(lambda optimizer, *_: call(optimizer))


def _merge(settings: dict[str, Any], overlay: dict[str, Any], train: TrainConfig) -> None:
    for key, value in overlay.items():
        ours = settings.get(key)
        if key in OURS:
            raise ConfigurationError(
                f"--deepspeed_config sets {key!r}, which this project derives from the run's settings; remove it there and "
                "change training.global_batch, micro_batch, precision, learning_rate, … instead"
            )
        if isinstance(ours, dict) and not isinstance(value, dict):
            raise ConfigurationError(
                f"--deepspeed_config sets {key!r} to {value!r}, expected a JSON object"
            )
        if (
            key == "zero_optimization"
            and value.get("stage", train.parallel.zero_stage) != train.parallel.zero_stage
        ):
            raise ConfigurationError(
                f"--deepspeed_config asks for ZeRO stage {value['stage']}, the run for {train.parallel.zero_stage}; "
                "remove it there and give --set train.parallel.zero_stage"
            )
        settings[key] = {**ours, **value} if isinstance(ours, dict) else value
