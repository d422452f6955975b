"""However a model is run, it computes the same; with several ranks see test_pretrain.py."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import tolerances
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from data_prep.core.settings import evolve
from training.config import ModelConfig, RunConfig, TrainComputeConfig
from training.model import compilation
from training.model.loss import OLMoForTraining
from training.trainer import loop

Plan = Callable[..., RunConfig]
CPU, CUDA = torch.device("cpu"), torch.device("cuda")
MODEL = ModelConfig(d_model=16, n_layers=2, n_heads=2, d_mlp=24, vocab_size=32)
FP32 = TrainComputeConfig(precision="fp32")


class OperationCounter(TorchDispatchMode):
    """Counts the calls of each operation."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.calls[str(func.overloadpacket)] += 1
        return func(*args, **(kwargs or {}))


class ForwardBackward(NamedTuple):
    """A forward and a backward pass, with the calls of each operation."""

    objective: Tensor
    gradients: dict[str, Tensor]
    calls: Counter[str]


def run_pass(activation_checkpointing: str = "none") -> ForwardBackward:
    compute = evolve(FP32, {"activation_checkpointing": activation_checkpointing})
    model = OLMoForTraining(MODEL)
    model.initialise(0)
    names = list(model.state_dict())
    compilation.prepare(model, compute, CPU)
    assert list(model.state_dict()) == names
    with OperationCounter() as counter:
        objective = model(torch.arange(16).view(2, 8), torch.full((2,), 1 / 14)).total
        objective.backward()
    gradients = {
        name: value.grad for name, value in model.named_parameters() if value.grad is not None
    }
    return ForwardBackward(objective, gradients, counter.calls)


@pytest.mark.parametrize("activation_checkpointing", ["selective", "block"])
def test_recomputed_activations_give_the_same_gradients_bit_for_bit(activation_checkpointing: str):
    plain, recomputed = run_pass(), run_pass(activation_checkpointing)
    assert torch.equal(plain.objective, recomputed.objective)
    assert plain.gradients.keys() == recomputed.gradients.keys()
    assert len(plain.gradients) == 9
    for name, gradient in plain.gradients.items():
        assert torch.equal(gradient, recomputed.gradients[name])


def test_selective_recomputes_norms_but_no_matmul_and_block_recomputes_all():
    calls = {kind: run_pass(kind).calls for kind in ("none", "selective", "block")}

    def counts(operation: str) -> dict[str, int]:
        return {kind: calls[kind][operation] for kind in calls}

    # two per block, and the last one
    assert counts("aten.native_layer_norm") == {"none": 5, "selective": 9, "block": 9}
    attention = counts("aten._scaled_dot_product_flash_attention_for_cpu")
    assert attention == {"none": 2, "selective": 2, "block": 4}
    matmuls = counts("aten.mm")
    assert matmuls["selective"] == matmuls["none"]
    assert matmuls["block"] >= matmuls["none"] + 6


@pytest.mark.slow
def test_compiled_blocks_train_like_plain_ones(plan: Plan, tmp_path: Path):
    losses = []
    for run_id, compile_ in (("plain", "off"), ("compiled", "on")):
        run = plan(run_id, {"compute.compile": compile_, "micro_batch": 2})
        record = loop.train(str(tmp_path), run)
        losses.append([record.final_train_loss, *(part.loss for part in record.held_out)])
    assert losses[1] == pytest.approx(losses[0], rel=tolerances.ADAMW_LOSS)
    assert losses[1] != losses[0]  # sums in another order: it was compiled


def test_auto_compiles_on_cuda_without_tensor_parallelism_only(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(compilation, "describe_kernel", lambda *_, **__: "asks the device")

    def compiled(compute: TrainComputeConfig, device: torch.device, **options: Any) -> str:
        return compilation.describe(compute, device, **options)["compiled"]

    assert compiled(FP32, CPU) == "nothing"
    assert compiled(FP32, CUDA) == "each block, the loss"
    assert compiled(FP32, CUDA, tensor_parallel=2) == "nothing"
    assert compiled(evolve(FP32, {"compile": "off"}), CUDA) == "nothing"
