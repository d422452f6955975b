"""contenders of bench_train.py: our optimizer step, that of plain PyTorch, and those of peers

All train a model of the same shape on the same tokens. Peers that import nothing of this project
are in train_peers.py.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from importlib.util import find_spec
from typing import Any

import torch
import train_peers as peers
from torch import Tensor, nn
from train_peers import Shape, Step

from data_prep.core.settings import evolve
from training.config import (
    SIZES,
    GuardConfig,
    MetricsConfig,
    ModelConfig,
    OptimizerConfig,
    TrainComputeConfig,
    TrainConfig,
    ValidationConfig,
)
from training.engine import deepspeed_engine
from training.model import compilation
from training.model.loss import OLMoForTraining
from training.optim import muon

SMALL = ModelConfig(
    d_model=256, n_layers=4, n_heads=4, d_mlp=1024, vocab_size=8192, max_sequence_length=256
)
OLMO_VOCABULARY = 50_304


def settings_of(size: str) -> TrainConfig:
    """Settings that a model of a named size, or the "small" one, is measured with."""
    small = size == "small"
    model = SMALL if small else ModelConfig(**SIZES[size]._asdict(), vocab_size=OLMO_VOCABULARY)
    precision = "bf16" if torch.cuda.is_available() else "fp32"
    return TrainConfig(
        model=model,
        sequence_length=model.max_sequence_length,
        global_batch=8 if small else 64,
        micro_batch=4 if small else 16,
        optimizer=OptimizerConfig(learning_rate=peers.LEARNING_RATE),
        compute=TrainComputeConfig(precision=precision),
        # a bare image may lack it
        metrics=MetricsConfig(every_steps=10, sinks=_installed_sinks()),
        validation=ValidationConfig(sequences=0),
        guard=GuardConfig(watchdog_seconds=0.0),
    )


def _installed_sinks() -> tuple[str, ...]:
    return tuple(name for name in MetricsConfig().sinks if find_spec(name))


def shape_of(train: TrainConfig, n_steps: int = 0) -> Shape:
    """What the contenders of these settings train; n_steps: timed steps, 0 for 8."""
    has_gpu = torch.cuda.is_available()
    model = train.model
    micro, _ = train.passes(1)
    compiles = train.compute.compile == "on" or (train.compute.compile == "auto" and has_gpu)
    return Shape(
        d_model=model.d_model,
        n_layers=model.n_layers,
        n_heads=model.n_heads,
        d_mlp=model.d_mlp,
        vocab_size=model.vocab_size,
        length=train.sequence_length,
        rows=train.global_batch,
        micro=micro,
        bf16=train.compute.precision == "bf16",
        compile=compiles,
        n_steps=n_steps or 8,
        n_warm_up=2 if has_gpu else 1,
    )


def builders(train: TrainConfig) -> dict[str, Callable[[Shape], Step]]:
    """Contenders that run in this process, by name; bench_train.py describes them."""
    return {
        "ours": partial(ours, train),
        "ours-fp8": partial(ours, evolve(train, {"compute.fp8": True})),
        "torch": partial(_ours_in_plain_pytorch, train),
        "hf-deepspeed": partial(_hf_deepspeed, train),
        "hf-ddp": peers.hugging_face_ddp,
        "hf-fsdp2": peers.hugging_face_fsdp2,
    }


def build_model(train: TrainConfig, device: torch.device | str) -> OLMoForTraining:
    """A model with random weights, drawn on the device and prepared as it is trained.

    `OLMo.initialise` draws on the CPU, which takes 15 s for the 1B.
    """
    with torch.device(device):
        model = OLMoForTraining(train.model, z_loss=train.z_loss)
    # torch's initial values would slow a CPU down with denormals
    nn.init.normal_(model.embedding.weight, std=0.02)
    compilation.prepare(model, train.compute, torch.device(device))
    return model


def ours(train: TrainConfig, shape: Shape) -> Step:
    """A step of this project's model, loss and engine, on tokens already on the device."""
    engine = _engine(build_model(train, shape.device), train, shape)
    n_predictions = shape.rows * (shape.length - 1)
    weight_B = torch.full((shape.micro,), 1 / n_predictions, device=shape.device)

    def step(tokens_BT: Tensor) -> None:
        passes = tokens_BT.split(shape.micro)
        for n, tokens in enumerate(passes, 1):
            loss = engine(tokens, weight_B).total
            deepspeed_engine.backward_and_step(engine, loss, last=n == len(passes))

    return step


def _engine(model: nn.Module, train: TrainConfig, shape: Shape) -> Any:
    train = replace(train, micro_batch=shape.micro)
    settings = deepspeed_engine.deepspeed_settings(train, 1)
    engine = deepspeed_engine.initialise(
        model,
        settings | {"gradient_clipping": peers.GRADIENT_CLIP},
        muon.optimizer_for(model, train.optimizer),
    )
    muon.assign_partitions(engine)
    return engine


def _ours_in_plain_pytorch(train: TrainConfig, shape: Shape) -> Step:
    model = nn.parallel.DistributedDataParallel(build_model(train, shape.device))
    n_predictions = shape.micro * (shape.length - 1)
    weight_B = torch.full((shape.micro,), 1 / n_predictions, device=shape.device)

    def loss_of(module: nn.Module, tokens_BT: Tensor) -> Tensor:
        return module(tokens_BT, weight_B).total

    return peers.plain_pytorch(model, loss_of, shape, autocast=True)


def _hf_deepspeed(train: TrainConfig, shape: Shape) -> Step:
    model = peers.hugging_face(shape)
    if shape.compile:
        for layer in model.model.layers:  # type: ignore[union-attr]
            layer.compile()
    engine = _engine(model, train, shape)

    def step(tokens_BT: Tensor) -> None:
        passes = tokens_BT.split(shape.micro)
        for n, tokens in enumerate(passes, 1):
            loss = peers.hugging_face_loss(engine, tokens) / len(passes)
            deepspeed_engine.backward_and_step(engine, loss, last=n == len(passes))

    return step
