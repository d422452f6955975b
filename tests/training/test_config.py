"""Training settings: what is refused when they are constructed, and how a batch is divided."""

from typing import Any

import pytest
from tiny_run import TRAIN

from data_prep.core.errors import ConfigurationError
from data_prep.core.records import digest
from data_prep.core.settings import describe, evolve, parse_overrides
from training.config import SIZES


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sequence_length": 1}, r"train\.sequence_length is 1; expected whole number >= 2"),
        ({"sequence_length": 64}, r"train\.sequence_length 64 exceeds .*max_sequence_length 32"),
        ({"global_batch": 0}, r"train\.global_batch is 0"),
        ({"micro_batch": -1}, r"train\.micro_batch is -1"),
        ({"model.n_heads": 5}, r"train\.model: d_model 32 / n_heads 5 must be an even whole"),
        ({"optimizer.learning_rate": float("nan")}, r"train\.optimizer\.learning_rate is nan"),
        ({"optimizer.betas": (0.9, 1.0)}, r"train\.optimizer\.betas is \[0\.9, 1\.0\]"),
        ({"schedule.warmup_ratio": 1.5}, r"train\.schedule\.warmup_ratio is 1\.5"),
        ({"cache_gib": 1e300}, r"train\.cache_gib is 1e\+300"),
        ({"guard.spike_sigma": -1.0}, r"train\.guard\.spike_sigma is -1"),
        ({"guard.max_bad_steps": 0}, r"train\.guard\.max_bad_steps is 0"),
        (
            {"parallel.zero_stage": 0, "parallel.offload_optimizer": True},
            r"offload_optimizer needs train\.parallel\.zero_stage 1, 2 or 3",
        ),
        (
            {"parallel.tensor_parallel": 2, "init_from": "folder"},
            r"train\.init_from and train\.validation\.probe_every_steps need whole matrices",
        ),
        ({"parallel.tensor_parallel": 2, "micro_batch": "auto"}, "micro_batch auto tries a whole"),
        (
            {
                "parallel.tensor_parallel": 2,
                "parallel.zero_stage": 0,
                "compute.precision": "bf16",
            },
            "gradient norm omits the parts of the other ranks",
        ),
    ],
)
def test_settings_that_cannot_work_are_refused(changes: dict[str, Any], message: str):
    with pytest.raises(ConfigurationError, match=message):
        evolve(TRAIN, changes)


def test_the_order_of_overrides_does_not_matter():
    words = ["parallel.zero_stage=0", "compute.precision=bf16", "parallel.tensor_parallel=1"]
    assert parse_overrides(TRAIN, words) == parse_overrides(TRAIN, words[::-1])


@pytest.mark.parametrize(
    ("micro_batch", "world_size", "expected"),
    [(0, 1, (4, 1)), (0, 2, (2, 1)), (1, 2, (1, 2)), ("auto", 1, (4, 1))],
)
def test_the_global_batch_is_divided_into_passes(
    micro_batch: Any, world_size: int, expected: tuple[int, int]
):
    assert evolve(TRAIN, {"micro_batch": micro_batch}).passes(world_size) == expected


def test_a_batch_that_does_not_divide_is_refused():
    with pytest.raises(ConfigurationError, match="4 is not divisible by 3 data-parallel ranks"):
        TRAIN.passes(3)
    with pytest.raises(ConfigurationError, match="micro_batch 3 does not divide the 4 rows"):
        evolve(TRAIN, {"micro_batch": 3}).passes(1)


def test_a_model_is_set_by_name_and_keeps_its_vocabulary():
    train = parse_overrides(TRAIN, ["model=olmo-20m"])
    assert train.model.d_model == SIZES["olmo-20m"].d_model
    assert train.model.vocab_size == TRAIN.model.vocab_size
    with pytest.raises(ConfigurationError, match="no model size 'olmo-9b'; the sizes are"):
        parse_overrides(TRAIN, ["model=olmo-9b"])


def test_operational_settings_are_not_in_the_digest():
    changes = {"micro_batch": 2, "parallel.zero_stage": 3, "checkpoint.every_steps": 5}
    assert digest(evolve(TRAIN, changes)) == digest(TRAIN)
    assert digest(evolve(TRAIN, {"validation.sequences": 6})) != digest(TRAIN)


def test_every_setting_has_a_meaning():
    assert [setting.path for setting in describe(TRAIN) if not setting.meaning] == []
