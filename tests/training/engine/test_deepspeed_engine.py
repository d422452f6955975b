from typing import Any

import pytest

from data_prep.core.errors import ConfigurationError
from data_prep.core.settings import evolve
from training.config import ModelConfig, OptimizerConfig, TrainConfig
from training.engine.deepspeed_engine import deepspeed_settings

TRAIN = TrainConfig(
    model=ModelConfig(d_model=8, n_layers=1, n_heads=2, d_mlp=8, vocab_size=8),
    sequence_length=8,
    global_batch=12,
    micro_batch=2,
    optimizer=OptimizerConfig(learning_rate=1e-3),
)


def test_batch_sizes_stage_and_precision_follow_from_our_settings():
    settings = deepspeed_settings(evolve(TRAIN, {"parallel.zero_stage": 2}), world_size=3)
    assert settings["train_batch_size"] == 12
    assert settings["train_micro_batch_size_per_gpu"] == 2
    assert settings["gradient_accumulation_steps"] == 2
    assert settings["zero_optimization"] == {"stage": 2}
    assert settings["bf16"]["enabled"] is True
    assert "scheduler" not in settings


@pytest.mark.parametrize(
    ("precision", "micro_batch", "is_summed_in_fp32"),
    [("bf16", 4, False), ("bf16", 2, True), ("fp32", 2, False)],
)
def test_bf16_gradients_of_several_micro_batches_are_summed_in_fp32(
    precision: Any, micro_batch: int, is_summed_in_fp32: bool
):
    changes = {"compute.precision": precision, "micro_batch": micro_batch}
    settings = deepspeed_settings(evolve(TRAIN, changes), world_size=3)
    assert (settings.get("data_types") == {"grad_accum_dtype": "fp32"}) == is_summed_in_fp32


def test_an_overlay_may_send_fp32_sums_in_bf16():
    assert deepspeed_settings(TRAIN, 3)["communication_data_type"] == "fp32"
    overlay = {"communication_data_type": "bf16"}
    assert deepspeed_settings(TRAIN, 3, overlay)["communication_data_type"] == "bf16"


def test_an_offloaded_optimizer_is_torchs_and_needs_partitioned_state():
    offload = {"parallel.offload_optimizer": True}
    settings = deepspeed_settings(evolve(TRAIN, offload | {"parallel.zero_stage": 2}), 1)
    assert settings["zero_optimization"]["offload_optimizer"]["device"] == "cpu"
    assert settings["optimizer"]["params"]["torch_adam"] is True
    expected = r"offload_optimizer needs train\.parallel\.zero_stage 1, 2 or 3, it is 0"
    with pytest.raises(ConfigurationError, match=expected):
        evolve(TRAIN, offload | {"parallel.zero_stage": 0})


def test_an_overlay_is_merged_into_our_settings():
    overlay = {"zero_optimization": {"overlap_comm": True}, "wall_clock_breakdown": True}
    settings = deepspeed_settings(TRAIN, 1, overlay)
    assert settings["zero_optimization"] == {"stage": 1, "overlap_comm": True}
    assert settings["wall_clock_breakdown"] is True


@pytest.mark.parametrize(
    ("overlay", "named"),
    [
        ({"train_batch_size": 8}, "'train_batch_size'"),
        ({"optimizer": {"type": "Lion"}}, "'optimizer'"),
        ({"scheduler": {"type": "WarmupLR"}}, "'scheduler'"),
        ({"zero_optimization": {"stage": 3}}, r"train\.parallel\.zero_stage"),
        ({"zero_optimization": 3}, "zero_optimization"),
    ],
)
def test_an_overlay_that_changes_what_is_trained_is_refused(overlay: dict[str, Any], named: str):
    with pytest.raises(ConfigurationError, match=named):
        deepspeed_settings(TRAIN, 1, overlay)


@pytest.mark.parametrize("world_size", [5, 24])
def test_a_batch_that_ranks_do_not_divide_is_refused(world_size: int):
    expected = f"not divisible by {world_size} data-parallel ranks"
    with pytest.raises(ConfigurationError, match=expected):
        deepspeed_settings(TRAIN, world_size)
