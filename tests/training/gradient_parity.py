"""The gradient of one step, for the parity gate: a tiny model under DeepSpeed on these ranks,
whatever the stage and precision.

AdamW's first average after one step without clipping is (1 − β₁) · g, in fp32: the gradient that
the optimizer was given.
"""

import os
from pathlib import Path
from typing import Any, NamedTuple

N_ROWS, LENGTH, N_PASSES = 8, 16, 4  # passes of all ranks together
BETAS = (0.9, 0.95)


class Case(NamedTuple):
    """What differs between two ways to the same gradient. Without tensor parallelism it is taken by
    one rank and by two.
    """

    stage: int
    precision: str
    offload: bool = False
    tensor_parallel: int = 1
    data_parallel: int = 2

    @property
    def name(self) -> str:
        gangs = f"-{self.tensor_parallel}x{self.data_parallel}" if self.tensor_parallel > 1 else ""
        return f"stage-{self.stage}-{self.precision}{'-offload' * self.offload}{gangs}"


CASES = [Case(stage, precision) for stage in range(4) for precision in ("fp32", "bf16")]
GANGS = [
    Case(stage, precision, False, 2, n)
    for n in (1, 2)
    for stage in range(4)
    for precision in ("fp32", "bf16")
]
GANGS = [
    case for case in GANGS if (case.stage, case.precision) != (0, "bf16")
]  # refused: DeepSpeed's norm is wrong there
CASES += [Case(stage, precision, True) for stage in (1, 2, 3) for precision in ("fp32", "bf16")]


def config(case: Case) -> Any:
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


def rows() -> tuple[Any, Any]:
    """Tokens and the weight of each row in the objective; the last row is padding."""
    import torch

    tokens_BT = torch.randint(72, (N_ROWS, LENGTH), generator=torch.Generator().manual_seed(1))
    weight_B = torch.full((N_ROWS,), 1 / ((N_ROWS - 1) * (LENGTH - 1)))
    weight_B[-1] = 0.0
    return tokens_BT, weight_B


def reference(case: Case) -> dict[str, Any]:
    """The same in plain PyTorch: one pass over all rows in fp32, logits as a whole."""
    import torch

    from training.model.loss import next_token_loss
    from training.model.olmo import OLMo

    model = OLMo(config(case).model)
    model.initialise(0)
    tokens_BT, weight_B = rows()
    (next_token_loss(model(tokens_BT), tokens_BT) * weight_B).sum().backward()
    found = {name: parameter.grad for name, parameter in model.named_parameters()}
    norm = torch.stack(
        [gradient.norm() for gradient in found.values() if gradient is not None]
    ).norm()
    return found | {"norm": norm}


def gradients(case: Case, world: Any, *, scale: float = 1.0, tied: bool = True) -> dict[str, Any]:
    """Each parameter's gradient, whole, and "norm", as DeepSpeed has it; `scale` and `tied` are
    there to do it wrong.
    """

    from training.engine import deepspeed_engine
    from training.model.loss import OLMoForTraining, objective

    train = config(case)
    model = OLMoForTraining(train.model)
    if case.tensor_parallel > 1:
        from training.engine.tensor_parallel import TensorParallelOLMo

        model = TensorParallelOLMo(train.model)
    whole = getattr(model, "gather_whole", lambda _, value: value)
    model.initialise(0)
    if not tied:
        model.forward = lambda tokens_BT, weight_B: objective(  # type: ignore[method-assign]
            model.hidden(tokens_BT), model.embedding.weight.detach(), tokens_BT, weight_B
        )
    engine = deepspeed_engine.initialise(
        model, deepspeed_engine.deepspeed_settings(train, world.size)
    )
    tokens_BT, weight_B = rows()
    first, end = (
        N_ROWS * rank // world.n_data_ranks for rank in (world.data_rank, world.data_rank + 1)
    )
    mine = range(first, end, train.micro_batch)
    for start in mine:
        part = slice(start, start + train.micro_batch)
        total, _ = engine(tokens_BT[part], weight_B[part] * world.n_data_ranks * scale)
        deepspeed_engine.backward_and_step(engine, total, last=start == mine[-1])
    found = {
        name: whole(value, _first_average(engine, value)) / (1 - BETAS[0])
        for name, value in model.named_parameters()
    }
    found["norm"] = deepspeed_engine.grad_norm(engine).float()
    deepspeed_engine.release(engine)
    return found


def _first_average(engine: Any, parameter: Any) -> Any:
    from deepspeed.utils import safe_get_full_optimizer_state

    if (value := safe_get_full_optimizer_state(parameter, "exp_avg")) is not None:
        return value
    pairs = zip(
        getattr(engine.optimizer, "fp16_groups", [[]])[0],
        getattr(engine.optimizer, "fp32_groups", [[]])[0],
        strict=True,
    )
    master = next((high for low, high in pairs if low is parameter), parameter)  # stage 0
    return engine.basic_optimizer.state[master]["exp_avg"]


def error(found: dict[str, Any], expected: dict[str, Any]) -> float:
    """The largest relative error of any parameter's gradient, and of the norm."""
    assert found.keys() == expected.keys()
    return max(
        ((found[name] - value).norm() / value.norm()).item() for name, value in expected.items()
    )


def main(folder: str, rank: str, world_size: str, port: str) -> None:
    """One rank: its cases, the gradients saved as folder/<case>.safetensors."""
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
    for case in (
        case
        for case in CASES + GANGS
        if case.tensor_parallel * case.data_parallel == int(world_size)
    ):
        world = process_group.join(case.tensor_parallel)
        found = gradients(case, world)
        if world.rank == 0:
            save_file(
                {name: value.clone() for name, value in found.items()},
                Path(folder, f"{case.name}.safetensors"),
            )
    process_group.leave()
