"""products of the blocks in 8-bit floats, by torchao, and the gate that says whether the loss
stands it

Each factor is scaled by its largest value when it is used, e4m3 forward and e5m2 for gradients, and
the sum is made in bf16's own accumulators; weights, their names and the optimizer stay as they are.
The embedding, which is also the last product, stays in bf16. A GPU needs FP8 units (compute
capability 8.9); on a CPU the rounding is emulated, for tests. bf16 is the reference, so fp8 is part
of a run's identity, and `parity` is to be read before a run is begun.
"""

from dataclasses import replace
from importlib.util import find_spec
from typing import NamedTuple

import torch
from torch import Tensor, nn

from data_prep.core.errors import ConfigurationError
from training.config import TrainConfig
from training.model import compilation
from training.model.loss import TrainedOLMo

CAPABILITY = (8, 9)
TOLERANCE = 0.01  # relative, of the mean loss over the last half of the steps: our choice


class Parity(NamedTuple):
    """Losses of the same steps without and with FP8, nats per token."""

    reference: list[float]
    fp8: list[float]

    @property
    def gap(self) -> float:
        """The relative difference of their means over the last half; NaN if one diverged."""
        reference, fp8 = (sum(losses[len(losses) // 2 :]) for losses in self)
        return abs(fp8 - reference) / reference

    @property
    def holds(self) -> bool:
        return self.gap <= TOLERANCE


def convert(model: TrainedOLMo, device: torch.device) -> None:
    """Let the blocks' products be made in FP8; parameters keep their names and places."""
    if not find_spec("torchao"):
        raise ConfigurationError(
            "train.fp8 needs torchao, which is not installed: pip install 'hormesis[fp8]', or leave train.fp8 out"
        )
    if device.type == "cuda" and (has := torch.cuda.get_device_capability(device)) < CAPABILITY:
        raise ConfigurationError(
            f"train.fp8: {torch.cuda.get_device_name(device)} has compute capability {has}, FP8 products need {CAPABILITY}; "
            "leave train.fp8 out"
        )
    if odd := [size for size in (model.config.d_model, model.config.d_mlp) if size % 16]:
        raise ConfigurationError(
            f"train.fp8: FP8 products need widths that 16 divides, the model has {odd[0]}; leave train.fp8 out"
        )
    if not isinstance(model.blocks[0].mlp.down, nn.Linear):
        raise ConfigurationError(
            "train.fp8 does not know the layers of train.tensor_parallel; leave one of them out"
        )
    from torchao.float8 import Float8LinearConfig, convert_to_float8_training

    for block in model.blocks:
        convert_to_float8_training(block, config=Float8LinearConfig(emulate=device.type != "cuda"))  # pyright: ignore[reportArgumentType]


def parity(train: TrainConfig, batches: list[Tensor], device: torch.device) -> Parity:
    """Train from one init on the same batches of tokens, [B, T], without and with FP8, in plain
    PyTorch.
    """
    return Parity(*(_losses(replace(train, fp8=fp8), batches, device) for fp8 in (False, True)))


def _losses(train: TrainConfig, batches: list[Tensor], device: torch.device) -> list[float]:
    model = TrainedOLMo(train.model)
    model.initialise(0)
    model.to(device)
    compilation.prepare(model, train, device)
    optimizer = torch.optim.AdamW(
        model.parameters(),
        lr=train.learning_rate,
        betas=train.betas,
        weight_decay=train.weight_decay,
        fused=True,
    )
    losses = []
    for tokens_BT in batches:
        n = tokens_BT.numel() - len(tokens_BT)
        with torch.autocast(device.type, torch.bfloat16, enabled=train.precision == "bf16"):
            total, loss_B = model(
                tokens_BT.to(device), torch.full((len(tokens_BT),), 1 / n, device=device)
            )
        total.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), train.gradient_clip)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss_B.sum() / n)
    return torch.stack(losses).tolist()
