"""FP8 matrix products in the transformer blocks, by torchao

Each factor is scaled by its largest absolute value when it is used, e4m3 forward and e5m2 for
gradients, and the sum is accumulated in higher precision; weights, their names and the optimizer
stay as they are. The embedding, which is also the output matrix, stays in bf16. A GPU needs FP8
units (compute capability 8.9); on a CPU the rounding is emulated, for tests. bf16 is the reference,
so `fp8` is part of a run's identity. Check that the loss tolerates FP8 before a run is started:
`make bench-train ARGS="--shape olmo-1b --only parity"` (tests/benchmarks/fp8_parity.py).
"""

from importlib.util import find_spec

import torch
from torch import nn

from data_prep.core.errors import ConfigurationError
from training.model.loss import OLMoForTraining

CAPABILITY = (8, 9)


def convert(model: OLMoForTraining, device: torch.device) -> None:
    """Let the blocks' products be made in FP8; parameters keep their names and places."""
    if not find_spec("torchao"):
        raise ConfigurationError(
            "train.compute.fp8 needs torchao, which is not installed: pip install 'hormesis[fp8]', or leave train.compute.fp8 out"
        )
    if device.type == "cuda" and (has := torch.cuda.get_device_capability(device)) < CAPABILITY:
        raise ConfigurationError(
            f"train.compute.fp8: {torch.cuda.get_device_name(device)} has compute capability {has}, FP8 products need {CAPABILITY}; "
            "leave train.compute.fp8 out"
        )
    if odd := [size for size in (model.config.d_model, model.config.d_mlp) if size % 16]:
        raise ConfigurationError(
            f"train.compute.fp8: FP8 products need widths that 16 divides, the model has {odd[0]}; leave train.compute.fp8 out"
        )
    if not isinstance(model.blocks[0].mlp.down, nn.Linear):
        raise ConfigurationError(
            "train.compute.fp8 does not know the layers of train.parallel.tensor_parallel; leave one of them out"
        )
    from torchao.float8 import Float8LinearConfig, convert_to_float8_training

    for block in model.blocks:
        convert_to_float8_training(block, config=Float8LinearConfig(emulate=device.type != "cuda"))  # pyright: ignore[reportArgumentType]
