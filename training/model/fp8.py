"""FP8 matrix products in the transformer blocks, by torchao

Each factor is scaled by its largest absolute value when it is used, e4m3 forward and e5m2 for
gradients, and products are accumulated in higher precision; weights, their names and the optimizer
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

MIN_CAPABILITY = (8, 9)


def convert(model: OLMoForTraining, device: torch.device) -> None:
    """Compute the blocks' matrix products in FP8; parameters keep their names and positions."""
    if not find_spec("torchao"):
        raise ConfigurationError(
            "train.compute.fp8 needs torchao, which is not installed; "
            "pip install 'hormesis[fp8]', or set train.compute.fp8=false"
        )
    if device.type == "cuda":
        capability = torch.cuda.get_device_capability(device)
        if capability < MIN_CAPABILITY:
            raise ConfigurationError(
                f"train.compute.fp8: {torch.cuda.get_device_name(device)} has compute capability "
                f"{capability}, expected at least {MIN_CAPABILITY}; set train.compute.fp8=false"
            )
    widths = (model.config.d_model, model.config.d_mlp)
    if uneven := [width for width in widths if width % 16]:
        raise ConfigurationError(
            f"train.compute.fp8 needs widths that are multiples of 16, and 16 does not divide "
            f"{uneven[0]}; change train.model or set train.compute.fp8=false"
        )
    if not isinstance(model.blocks[0].mlp.down, nn.Linear):
        raise ConfigurationError(
            "train.compute.fp8 does not support the layers of train.parallel.tensor_parallel; "
            "use one or the other"
        )
    from torchao.float8 import Float8LinearConfig, convert_to_float8_training

    config = Float8LinearConfig(emulate=device.type != "cuda")
    for block in model.blocks:
        convert_to_float8_training(block, config=config)  # pyright: ignore[reportArgumentType]
