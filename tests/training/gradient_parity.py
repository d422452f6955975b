"""The gradient of one step of a tiny model, under DeepSpeed on these ranks or in plain PyTorch.

After one step without clipping AdamW's first moment is (1 − β₁)·g, in fp32: the gradient that the
optimizer was given.
"""

import os
from pathlib import Path
from typing import Any, NamedTuple

N_ROWS, LENGTH = 8, 16
N_PASSES = 4  # over all ranks
BETAS = (0.9, 0.95)


class ParityCase(NamedTuple):
    """A way to compute the gradient of the step.

    Without tensor parallelism it is computed by one rank and by two.
    """

    stage: int
    precision: str
    offload: bool = False
    tensor_parallel: int = 1
    data_parallel: int = 2

    @property
    def n_ranks(self) -> int:
        return self.tensor_parallel * self.data_parallel

    @property
    def name(self) -> str:
        offload = "-offload" if self.offload else ""
        ranks = f"-{self.tensor_parallel}x{self.data_parallel}" if self.tensor_parallel > 1 else ""
        return f"stage-{self.stage}-{self.precision}{offload}{ranks}"


DATA_PARALLEL_CASES = [
    *(ParityCase(stage, precision) for stage in range(4) for precision in ("fp32", "bf16")),
    *(ParityCase(stage, precision, True) for stage in (1, 2, 3) for precision in ("fp32", "bf16")),
]
TENSOR_PARALLEL_CASES = [
    ParityCase(stage, precision, False, 2, n)
    for n in (1, 2)
    for stage in range(4)
    for precision in ("fp32", "bf16")
    if (stage, precision) != (0, "bf16")  # refused: DeepSpeed's norm is wrong there
]


def train_config(case: ParityCase) -> Any:
    from training.config import (
        ModelConfig,
        OptimizerConfig,
        ParallelConfig,
        TrainComputeConfig,
        TrainConfig,
    )

    return TrainConfig(
        model=ModelConfig(
            d_model=32, n_layers=2, n_heads=4, d_mlp=48, vocab_size=72, max_sequence_length=LENGTH
        ),
        sequence_length=LENGTH,
        global_batch=N_ROWS,
        micro_batch=N_ROWS // N_PASSES,
        optimizer=OptimizerConfig(learning_rate=1e-3, betas=BETAS, gradient_clip=0.0),
        compute=TrainComputeConfig(precision=case.precision),  # type: ignore[arg-type]
        parallel=ParallelConfig(
            zero_stage=case.stage,  # type: ignore[arg-type]
            tensor_parallel=case.tensor_parallel,
            offload_optimizer=case.offload,
        ),
    )


def global_batch() -> tuple[Any, Any]:
    """Tokens, and the weight of each row in the objective; the last row is padding."""
    import torch

    tokens_BT = torch.randint(72, (N_ROWS, LENGTH), generator=torch.Generator().manual_seed(1))
    weight_B = torch.full((N_ROWS,), 1 / ((N_ROWS - 1) * (LENGTH - 1)))
    weight_B[-1] = 0.0
    return tokens_BT, weight_B


def plain_gradients(case: ParityCase) -> dict[str, Any]:
    """Each parameter's gradient and their "norm" in plain PyTorch: one pass in fp32."""
    import torch

    from training.model.loss import next_token_loss
    from training.model.olmo import OLMo

    model = OLMo(train_config(case).model)
    model.initialise(0)
    tokens_BT, weight_B = global_batch()
    (next_token_loss(model(tokens_BT), tokens_BT) * weight_B).sum().backward()
    gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
    norms = [gradient.norm() for gradient in gradients.values() if gradient is not None]
    return gradients | {"norm": torch.stack(norms).norm()}


def deepspeed_gradients(
    case: ParityCase, world: Any, *, scale: float = 1.0, tied: bool = True
) -> dict[str, Any]:
    """Each parameter's whole gradient and their "norm", under DeepSpeed.

    scale, tied: to compute it wrongly on purpose.
    """
    from training.engine import deepspeed_engine
    from training.model.loss import OLMoForTraining, objective

    train = train_config(case)
    model = OLMoForTraining(train.model)
    if case.tensor_parallel > 1:
        from training.engine.tensor_parallel import TensorParallelOLMo

        model = TensorParallelOLMo(train.model)
    gather_whole = getattr(model, "gather_whole", lambda _, value: value)
    model.initialise(0)
    if not tied:
        model.forward = lambda tokens_BT, weight_B: objective(  # type: ignore[method-assign]
            model.hidden(tokens_BT), model.embedding.weight.detach(), tokens_BT, weight_B
        )
    settings = deepspeed_engine.deepspeed_settings(train, world.size)
    engine = deepspeed_engine.initialise(model, settings)
    tokens_BT, weight_B = global_batch()
    first, end = (
        N_ROWS * rank // world.n_data_ranks for rank in (world.data_rank, world.data_rank + 1)
    )
    starts = range(first, end, train.micro_batch)
    for start in starts:
        rows = slice(start, start + train.micro_batch)
        total, _ = engine(tokens_BT[rows], weight_B[rows] * world.n_data_ranks * scale)
        deepspeed_engine.backward_and_step(engine, total, last=start == starts[-1])
    gradients = {
        name: gather_whole(parameter, _first_moment(engine, parameter)) / (1 - BETAS[0])
        for name, parameter in model.named_parameters()
    }
    gradients["norm"] = deepspeed_engine.grad_norm(engine).float()
    deepspeed_engine.release(engine)
    return gradients


def _first_moment(engine: Any, parameter: Any) -> Any:
    from deepspeed.utils import safe_get_full_optimizer_state

    if (value := safe_get_full_optimizer_state(parameter, "exp_avg")) is not None:
        return value
    # stage 0
    low_group = getattr(engine.optimizer, "fp16_groups", [[]])[0]
    fp32_group = getattr(engine.optimizer, "fp32_groups", [[]])[0]
    pairs = zip(low_group, fp32_group, strict=True)
    fp32_copy = next((fp32 for low, fp32 in pairs if low is parameter), parameter)
    return engine.basic_optimizer.state[fp32_copy]["exp_avg"]


def main(folder: str, rank: str, world_size: str, port: str) -> None:
    """One rank: compute its cases, and save their gradients as folder/<case>.safetensors."""
    os.environ |= {
        "RANK": rank,
        "WORLD_SIZE": world_size,
        "LOCAL_RANK": rank,
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": port,
    }

    from safetensors.torch import save_file

    from training.engine import process_group

    process_group.join()
    for case in DATA_PARALLEL_CASES + TENSOR_PARALLEL_CASES:
        if case.n_ranks != int(world_size):
            continue
        world = process_group.join(case.tensor_parallel)
        gradients = deepspeed_gradients(case, world)
        if world.rank == 0:
            contiguous = {name: value.clone() for name, value in gradients.items()}
            save_file(contiguous, Path(folder, f"{case.name}.safetensors"))
    process_group.leave()
