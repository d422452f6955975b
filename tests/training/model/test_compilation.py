"""However a model is run, it computes the same; compiled, on several ranks and sharded, it is in test_pretrain.py as well."""

import gc
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from data_prep.core.settings import evolve
from training.config import ModelConfig, OptimizerConfig, RunConfig, TrainComputeConfig, TrainConfig
from training.model import compilation
from training.model.loss import OLMoForTraining
from training.trainer import loop

Plan = Callable[..., RunConfig]
CPU = torch.device("cpu")
WARM_UP_STEPS = compilation.WARM_UP_STEPS  # which conftest.py changes for the runs of the tests
TRAIN = TrainConfig(
    model=ModelConfig(d_model=16, n_layers=2, n_heads=2, d_mlp=24, vocab_size=32),
    sequence_length=8,
    global_batch=2,
    optimizer=OptimizerConfig(learning_rate=1e-3),
    compute=TrainComputeConfig(precision="fp32"),
)


class Operations(TorchDispatchMode):
    """How often each operation was called."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.seen[str(func.overloadpacket)] += 1
        return func(*args, **(kwargs or {}))


def step(changes: dict[str, Any] | None = None) -> tuple[Tensor, dict[str, Tensor], Counter[str]]:
    """(objective, gradients, operations) of one pass of a model prepared with these settings."""
    train = evolve(TRAIN, changes or {})
    model = OLMoForTraining(train.model)
    model.initialise(0)
    names = list(model.state_dict())
    compilation.prepare(model, train, CPU)
    assert list(model.state_dict()) == names
    tokens = torch.arange(16).view(2, 8)
    with Operations() as operations:
        total = model(tokens, torch.full((2,), 1 / 14)).total
        total.backward()
    return (
        total,
        {name: value.grad for name, value in model.named_parameters() if value.grad is not None},
        operations.seen,
    )


@pytest.mark.parametrize("how", ["selective", "block"])
def test_activations_computed_again_give_the_same_loss_and_gradients_bit_for_bit(how: str):
    total, gradients, _ = step()
    again, same, _ = step({"compute.activation_checkpointing": how})
    assert torch.equal(total, again) and gradients.keys() == same.keys() and len(same) == 9
    assert all(torch.equal(gradients[name], same[name]) for name in gradients)


def test_selective_computes_the_norms_again_and_no_product_while_block_computes_all():
    seen = {
        how: step({"compute.activation_checkpointing": how})[2]
        for how in ("none", "selective", "block")
    }
    norms = {how: seen[how]["aten.native_layer_norm"] for how in seen}
    products = {how: seen[how]["aten.mm"] for how in seen}
    attention = {how: seen[how]["aten._scaled_dot_product_flash_attention_for_cpu"] for how in seen}
    assert (norms["none"], norms["selective"], norms["block"]) == (
        5,
        9,
        9,
    )  # two a block and the last
    assert attention == {"none": 2, "selective": 2, "block": 4}
    assert products["selective"] == products["none"] and products["block"] >= products["none"] + 6


@pytest.mark.slow
def test_compiled_blocks_train_like_plain_ones(plan: Plan, tmp_path: Path):
    losses = []
    for run_id, how in (("plain", "off"), ("compiled", "on")):
        made = loop.train(str(tmp_path), plan(run_id, {"compute.compile": how, "micro_batch": 2}))
        losses.append([made.final_train_loss, *(part.loss for part in made.held_out)])
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)
    assert losses[1] != losses[0]  # another order of sums: it was compiled


def test_auto_compiles_on_cuda_alone():
    assert compilation.describe(TRAIN, CPU)["compiled"] == "nothing"
    assert compilation.describe(TRAIN, torch.device("cuda"))["compiled"] == "each block, the loss"
    assert (
        compilation.describe(evolve(TRAIN, {"compute.compile": "off"}), torch.device("cuda"))[
            "compiled"
        ]
        == "nothing"
    )


@pytest.fixture
def two_steps_of_warm_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compilation, "WARM_UP_STEPS", WARM_UP_STEPS)


@pytest.mark.slow
def test_garbage_is_collected_after_the_warm_up_then_seldom_and_by_itself_again_after_the_steps(
    two_steps_of_warm_up: None, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(compilation, "COLLECT_EVERY_STEPS", 4)
    seen, collected = [], []

    def note(phase: str, info: dict[str, int]) -> None:
        if phase == "start" and info["generation"] == 2:
            collected.append(len(seen))

    gc.callbacks.append(note)
    try:
        for _ in compilation.gc_between_steps(range(10)):
            seen.append((gc.isenabled(), gc.get_freeze_count() > 0))
    finally:
        gc.callbacks.remove(note)
    assert seen == [(True, False)] * 2 + [(False, True)] * 8
    assert collected == [2, 4, 8]
    assert gc.isenabled() and gc.get_freeze_count() == 0


@pytest.mark.slow
def test_leaving_the_steps_by_an_error_gives_the_collector_back(two_steps_of_warm_up: None):
    with pytest.raises(ValueError, match="left"):
        for n in compilation.gc_between_steps(range(9)):
            if n == 3:
                raise ValueError("left")
    gc.collect()
    assert gc.isenabled()
