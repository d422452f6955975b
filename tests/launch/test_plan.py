from dataclasses import replace

import pytest

from data_prep.records import ConfigurationError
from launch import plan, recipes
from training.hardware import GIB, known

H100 = plan.device_named("H100")


def test_a_run_costs_its_tokens_times_flops_over_what_the_card_delivers():
    run = recipes.paper().runs()[0]
    cost = plan.cost(run, 16, H100, 0.40)
    assert cost.n_tokens == 20_099_999_744 and cost.n_steps == 4793
    assert cost.flops == cost.n_tokens * 7_865_892_864  # 6N + 12·L·D·T (ANCHORS: 7.866 G with full attention)
    assert cost.device_hours == pytest.approx(cost.flops / (0.40 * 989e12) / 3600)
    assert cost.hours == pytest.approx(cost.device_hours / 16)


def test_sharing_states_over_ranks_and_stages_saves_memory():
    (run, *_), train = recipes.paper().runs(), recipes.paper().train
    states = [
        plan.cost(replace(run, train=replace(train, zero_stage=stage, micro_batch=1)), n_ranks, H100, 0.4).memory_bytes / GIB
        for n_ranks, stage in ((1, 1), (16, 1), (16, 2), (16, 3))
    ]
    assert states == sorted(states, reverse=True) and len(set(states)) == 4


@pytest.mark.parametrize(
    ("name", "found"),
    [("NVIDIA H200", "NVIDIA H200"), ("h100", "NVIDIA H100"), ("NVIDIA GH200 480GB", "NVIDIA GH200"), ("abacus", None)],
)
def test_a_card_is_known_by_its_own_name_only(name, found):
    device = known(name)
    assert (device.name if device else None) == found


def test_an_unknown_card_is_refused_with_the_known_ones():
    with pytest.raises(ConfigurationError, match="H200"):
        plan.device_named("abacus")
