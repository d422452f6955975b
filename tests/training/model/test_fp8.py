"""FP8 as a CPU emulates it: rounded, and multiplied in fp32.

What it gains, and the loss of a real model, only a GPU can show.
"""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from fp8_parity import MAX_RELATIVE_GAP, Fp8Parity, fp8_parity

from data_prep.core.errors import ConfigurationError
from data_prep.core.settings import evolve
from training.config import ModelConfig, OptimizerConfig, RunConfig, TrainComputeConfig, TrainConfig
from training.model import compilation, fp8
from training.model.loss import OLMoForTraining
from training.trainer import loop

Plan = Callable[..., RunConfig]
CPU = torch.device("cpu")
TRAIN = TrainConfig(
    model=ModelConfig(d_model=32, n_layers=2, n_heads=2, d_mlp=64, vocab_size=64),
    sequence_length=16,
    global_batch=4,
    optimizer=OptimizerConfig(learning_rate=3e-3),
    compute=TrainComputeConfig(precision="fp32"),
)


def test_fp8_changes_the_losses_and_passes_the_parity_gate():
    """A gap of 0.0047 was measured in fp32, 0.0005 in bf16."""
    batches = [(torch.arange(16) + torch.arange(4)[:, None] * step) % 64 for step in range(30)]
    parity = fp8_parity(TRAIN, batches, CPU)
    assert parity.reference != parity.fp8
    assert parity.fp8[-1] < parity.fp8[0] / 2
    assert parity.holds and 0 < parity.gap < MAX_RELATIVE_GAP


@pytest.mark.parametrize(
    ("losses", "holds"),
    [
        ([9.0, 1.005], True),
        ([1.0, 1.02], False),
        ([1.0, float("nan")], False),
        ([1.0, 0.98], False),
    ],
)
def test_the_parity_gate_compares_the_last_half_and_fails_on_nan(losses: list[float], holds: bool):
    assert Fp8Parity([1.0, 1.0], losses).holds == holds


def test_a_run_with_fp8_trains_and_records_it(plan: Plan, tmp_path: Path):
    run = plan("run", {"compute.fp8": True, "parallel.zero_stage": 3, "micro_batch": 2})
    record = loop.train(str(tmp_path), run)
    assert record.computed_with["matmul"] == "FP8 in the blocks"
    assert record.final_train_loss > 0


def test_fp8_keeps_the_embedding_and_all_parameter_names():
    model, plain = OLMoForTraining(TRAIN.model), OLMoForTraining(TRAIN.model)
    compilation.prepare(model, evolve(TRAIN.compute, {"fp8": True}), CPU)
    assert list(model.state_dict()) == list(plain.state_dict())
    assert type(model.blocks[0].mlp.down) is not type(plain.blocks[0].mlp.down)
    assert type(model.embedding) is torch.nn.Embedding


def test_fp8_with_widths_that_16_does_not_divide_is_refused():
    model = OLMoForTraining(evolve(TRAIN.model, {"d_mlp": 24}))
    with pytest.raises(ConfigurationError, match="16 does not divide 24"):
        fp8.convert(model, CPU)


def test_fp8_without_torchao_is_refused(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(fp8, "find_spec", lambda name: None)
    with pytest.raises(ConfigurationError, match=r"needs torchao.*hormesis\[fp8\]"):
        fp8.convert(OLMoForTraining(TRAIN.model), CPU)
