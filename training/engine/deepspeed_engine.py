"""DeepSpeed: its settings dictionary from ours, its engine, and one step of it

Only this module knows DeepSpeed's setting names; deepspeed_state.py reads and sets what its engine
holds inside.

    stage   each rank holds …                              gradients are averaged over the ranks …
    0       everything                                     once, after the last micro-batch
    1       1/W of the fp32 weights and optimizer state    once, after the last micro-batch
    2       … and of the gradients                         at every micro-batch: more traffic
    3       … and of the weights themselves                as 2; weights are gathered by layer

Our choices. AdamW is torch's own fused kernel, on CPU and CUDA: no compiler is needed, and its
state has one layout. Every parameter is decayed, the embedding too, as OLMo-1B does
(configs/official/OLMo-1B.yaml: decay_embeddings: true). The loop sets the learning rate
(lr_schedule.py), and gradients are clipped, or the step is skipped, inside AdamW (step_guard.py);
DeepSpeed's schedulers, clipping and, where it can be turned off, overflow check are not used, nor
is its throughput timer, which waits for the device twice in every micro-batch. An offloaded AdamW
is torch's as well; DeepSpeed's own CPU AdamW would be compiled when it is first used.

Formats of bf16 training. A micro-batch's gradient is bf16. Several are summed in fp32, for a bf16
sum of 32 terms loses the last of them. Stage 1 adds each gradient to its sum as soon as it is
computed, and sends the sums in fp32. Stages 2 and 3 send every micro-batch's gradients in bf16 and
sum in fp32 what arrives. A single micro-batch is sent in bf16. Where the network is slow,
"communication_data_type": "bf16" in --deepspeed_config halves stage 1's traffic. DeepSpeed cannot
sum in fp32 at stage 0: that stage is for measuring and comparing, and in fp32 it is plain PyTorch.

With several micro-batches stage 1 averages after the last backward pass (DeepSpeed's
BF16_Optimizer), and no setting of DeepSpeed overlaps the two: a step of the 1B on two nodes with 40
GB/s between them waits about 0.2 s (an estimate). Stage 2 overlaps, but sends once for each
micro-batch. A larger global batch makes the wait a smaller share.
"""

import logging
import os
import warnings
from collections.abc import Callable
from contextlib import redirect_stdout
from functools import partial
from importlib import import_module
from io import StringIO
from typing import Any

import torch
from torch import Tensor, nn

from data_prep.core.errors import ConfigurationError
from training.config import ADAM_EPS, OptimizerConfig, TrainConfig
from training.model.olmo import Block

RESERVED_KEYS = (  # they define what is trained, or the loop sets them: no overlay may change them
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


def deepspeed_settings(
    train: TrainConfig, world_size: int, overlay: dict[str, Any] | None = None
) -> dict[str, Any]:
    """DeepSpeed's dictionary for these settings.

    `overlay`, the user's own DeepSpeed settings, may add to it and tune it, but not change what is
    trained.
    """
    micro_batch, accumulation = train.passes(world_size)
    parallel, is_bf16 = train.parallel, train.compute.precision == "bf16"
    zero: dict[str, Any] = {"stage": parallel.zero_stage}
    if parallel.offload_optimizer:
        zero["offload_optimizer"] = {"device": "cpu", "pin_memory": torch.cuda.is_available()}
    settings: dict[str, Any] = {
        "train_batch_size": train.global_batch,
        "train_micro_batch_size_per_gpu": micro_batch,
        "gradient_accumulation_steps": accumulation,
        "gradient_clipping": 0.0,
        "zero_optimization": zero,
        "bf16": {"enabled": is_bf16, "check_grad_overflow": False},
        "timers": {"throughput": {"enabled": False}},
        "steps_per_print": 1_000_000_000,
    }
    if train.optimizer.kind == "muon":
        # DeepSpeed has not tested it; our tests compare muon.py at every stage
        settings["zero_allow_untested_optimizer"] = True
    else:
        settings["optimizer"] = {"type": "AdamW", "params": _adamw_parameters(train.optimizer)}
    if is_bf16 and accumulation > 1 and parallel.zero_stage > 0:
        settings["data_types"] = {"grad_accum_dtype": "fp32"}
        if parallel.zero_stage == 1:
            settings["communication_data_type"] = "fp32"
            settings["bf16"]["immediate_grad_update"] = True
    _merge_overlay(settings, overlay or {}, parallel.zero_stage)
    return settings


def _adamw_parameters(optimizer: OptimizerConfig) -> dict[str, Any]:
    return {
        "lr": optimizer.learning_rate,
        "betas": list(optimizer.betas),
        "eps": ADAM_EPS,
        "weight_decay": optimizer.weight_decay,
        "torch_adam": True,
        "fused": True,
    }


def _merge_overlay(settings: dict[str, Any], overlay: dict[str, Any], zero_stage: int) -> None:
    for key, value in overlay.items():
        ours = settings.get(key)
        if key in RESERVED_KEYS:
            raise ConfigurationError(
                f"--deepspeed_config sets {key!r}, which this project derives from the run's "
                "settings; remove it there and change train.global_batch, train.micro_batch, "
                "train.compute.precision, train.optimizer.learning_rate, … instead"
            )
        if isinstance(ours, dict) and not isinstance(value, dict):
            raise ConfigurationError(
                f"--deepspeed_config sets {key!r} to {value!r}, expected a JSON object"
            )
        if key == "zero_optimization" and value.get("stage", zero_stage) != zero_stage:
            raise ConfigurationError(
                f"--deepspeed_config sets ZeRO stage {value['stage']}, the run has {zero_stage}; "
                "remove it there and give --set train.parallel.zero_stage"
            )
        settings[key] = {**ours, **value} if isinstance(ours, dict) else value


def initialise(
    model: nn.Module, settings: dict[str, Any], optimizer: torch.optim.Optimizer | None = None
) -> Any:
    """The engine that trains `model`, with `optimizer` instead of AdamW if given.

    Use: `engine(tokens)`, then `backward_and_step(engine, loss, last=…)`.
    """
    _prepare_deepspeed()
    import deepspeed
    from deepspeed.utils import groups

    # `groups` would keep the one of the previous engine
    mpu = groups.mpu = getattr(model, "mpu", None)
    parameters: Any = list(model.parameters())  # DeepSpeed's annotation says Module
    if settings["zero_optimization"]["stage"] == 3:
        # gather a block's weights in one go; inside a compiled block no hook would run
        for block in (module for module in model.modules() if isinstance(module, Block)):
            deepspeed.utils.set_z3_leaf_module(block, True)
    with redirect_stdout(StringIO()):  # one of its optimizers prints a table of memory
        engine, *_ = deepspeed.initialize(
            model=model, optimizer=optimizer, model_parameters=parameters, config=settings, mpu=mpu
        )
    plain: Any = engine.basic_optimizer
    if engine.optimizer is plain:
        plain.register_step_pre_hook(partial(_store_grad_norm, mpu))
    return engine


def _prepare_deepspeed() -> None:
    """Import DeepSpeed and turn off what costs time and is not needed here; may be called again."""
    if not torch.cuda.is_available():
        os.environ.setdefault("DS_ACCELERATOR", "cpu")

    import deepspeed
    import deepspeed.ops

    # DeepSpeed calls deprecated functions of torch at every step
    warnings.filterwarnings("ignore", category=FutureWarning, module="torch.distributed")
    if not torch.cuda.is_available():
        # Otherwise a C++ compiler builds this op for a minute. With an entry in the table DeepSpeed
        # does not probe for compatible ops, which would run a compiler as well.
        deepspeed.ops.__dict__.setdefault("__compatible_ops__", {})["deepspeed_shm_comm"] = False
    deepspeed.init_distributed(dist_init_required=False)
    _import_muon_uncompiled()
    _skip_initial_optimizer_step()
    deepspeed.utils.logger.addFilter(_is_relevant)


def _import_muon_uncompiled() -> None:
    """Import DeepSpeed's Muon without torch.compile, which costs 2 CPU-seconds.

    Its ZeRO classes import that module in any case; we never call it.
    """
    from deepspeed.runtime import compiler

    original = compiler.compile
    compiler.compile = lambda *_, **__: lambda function: function
    try:
        import_module("deepspeed.runtime.zero.muon.muon_optimizer")
    finally:
        compiler.compile = original


def _skip_initial_optimizer_step() -> None:
    """Keep DeepSpeed's bf16 optimizer at stage 0 from stepping once to create its state.

    That step has gradients of zero, but AdamW would count it and decay the weights: the first real
    step was 0.73 of what it should be.
    """
    from deepspeed.runtime.fp16.unfused_optimizer import FP16_UnfusedOptimizer

    FP16_UnfusedOptimizer.initialize_optimizer_states = lambda self: None


def _is_relevant(line: logging.LogRecord) -> bool:
    """DeepSpeed warns that it has not tested Muon (muon.py); our tests have."""
    return "untested optimizer" not in line.getMessage()


def _store_grad_norm(mpu: Any, optimizer: Any, *_: Any) -> None:
    """Store the gradient's norm before the optimizer's step.

    Every other optimizer of DeepSpeed's does this; plain PyTorch's, at stage 0 in fp32, does not.
    """
    gradients = [
        parameter.grad for group in optimizer.param_groups for parameter in group["params"]
    ]
    norm = torch.nn.utils.get_total_norm(gradients)
    if mpu:  # every tensor-parallel rank has its partition of each parameter
        square = norm.square()
        torch.distributed.all_reduce(square, group=mpu.get_model_parallel_group())
        norm = square.sqrt()
    optimizer._global_grad_norm = norm


def backward_and_step(engine: Any, loss: Tensor, *, last: bool) -> None:
    """Add the gradient of one micro-batch's loss, averaged over the ranks; step after the `last`.

    The loop says which micro-batch is the last of a step, rather than DeepSpeed's own count. Where
    the loss is the very tensor that the module returned, DeepSpeed's hook divides by the number of
    micro-batches all the same, so a different tensor is passed on.
    """
    engine.set_gradient_accumulation_boundary(last)
    engine.backward(loss * 1.0, scale_wrt_gas=False)
    engine.step()


def release(engine: Any) -> None:
    """Free the engine's hooks and buffers; the process may train another model afterwards."""
    engine.destroy()


def set_learning_rate(engine: Any, rate: float) -> None:
    for group in engine.optimizer.param_groups:
        group["lr"] = rate


def grad_norm(engine: Any) -> Tensor:
    """The global norm of the step's gradient before clipping, on the device; ∞ if not finite.

    Valid from the hooks of `register_pre_step_hook` on.
    """
    norm = engine.optimizer._global_grad_norm
    return norm if isinstance(norm, Tensor) else torch.tensor(norm, device=engine.device)


def register_pre_step_hook(engine: Any, hook: Callable[[torch.optim.Optimizer], None]) -> None:
    """Call `hook` with torch's optimizer before each of its steps.

    It is not called for a step that DeepSpeed itself skips.
    """
    engine.basic_optimizer.register_step_pre_hook(lambda optimizer, *_: hook(optimizer))
