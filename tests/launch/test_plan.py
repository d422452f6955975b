import io
from dataclasses import replace

import pytest
from rich.console import Console

from data_prep.core.errors import ConfigurationError
from data_prep.core.settings import evolve
from launch import plan, recipes
from training.engine.devices import GIB, find_accelerator

H100 = plan.device_named("H100")


def test_a_run_costs_its_tokens_times_flops_over_what_the_card_delivers():
    run = recipes.paper().runs()[0]
    cost = plan.cost(run, 16, H100, 0.40)
    assert cost.n_tokens == 20_099_999_744 and cost.n_steps == 4793
    assert (
        cost.flops == cost.n_tokens * 7_865_892_864
    )  # 6N + 12·L·D·T (ANCHORS: 7.866 G with full attention)
    assert cost.device_hours == pytest.approx(cost.flops / (0.40 * 989e12) / 3600)
    assert cost.hours == pytest.approx(cost.device_hours / 16)


def test_sharing_states_over_ranks_and_stages_saves_memory():
    (run, *_), train = recipes.paper().runs(), recipes.paper().train
    states = [
        plan.cost(
            replace(run, train=evolve(train, {"parallel.zero_stage": stage, "micro_batch": 1})),
            n_ranks,
            H100,
            0.4,
        ).memory_bytes
        / GIB
        for n_ranks, stage in ((1, 1), (16, 1), (16, 2), (16, 3))
    ]
    assert states == sorted(states, reverse=True) and len(set(states)) == 4


def printed(experiment) -> str:
    console = Console(file=io.StringIO(), width=250)
    console.print(plan.render(experiment, H100, 0.4))
    return console.file.getvalue()  # type: ignore[attr-defined]


def test_the_plan_says_what_the_budget_counts_and_how_much_text_the_streams_must_hold():
    paper = replace(recipes.paper(), ratios=(0.0, 0.25), seeds=(0,))
    text = printed(paper)
    assert "20,100,000,000 clean tokens in every run, the toxic ones on top (clean_fixed)" in text
    assert (
        "at least 20,099,999,744 clean + 6,699,999,232 toxic tokens: 49.9 GiB of uint16 shards"
        in text
    )
    assert "read once at most" in text and "annotation" not in text
    repeated = printed(replace(paper, max_toxic_epochs=2.0, budget="total_fixed"))
    assert (
        "20,100,000,000 tokens in every run, the toxic ones in place of clean ones (total_fixed)"
        in repeated
    )
    assert (
        "20,099,999,744 clean + 2,512,500,736 toxic tokens" in repeated
        and "up to 2 times over" in repeated
    )


def test_the_plan_prints_the_wording_of_an_annotation_as_our_choice():
    paper = recipes.paper()
    text = printed(
        evolve(paper, {"data.annotation.kind": "inst", "data.annotation.tagged_ratio": 0.25})
    )
    assert (
        r"25% of the training documents begin with 'The following text is {verdict}.\n', scored by profanity, toxic from 0.5"
        in text
    )


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("NVIDIA H200", "NVIDIA H200"),
        ("h100", "NVIDIA H100"),
        ("NVIDIA GH200 480GB", "NVIDIA GH200"),
        ("NVIDIA A100-SXM4-80GB", "NVIDIA A100"),
        ("NVIDIA H100 80GB HBM3", "NVIDIA H100"),
        ("NVIDIA H100 PCIe", "NVIDIA H100 PCIe"),
        ("NVIDIA A100-PCIE-40GB", "NVIDIA A100 PCIE 40GB"),
        ("NVIDIA L40S", "NVIDIA L40S"),
        ("RTX 4090", "NVIDIA GeForce RTX 4090"),
        ("NVIDIA L40", None),
        ("abacus", None),
    ],
)
def test_a_card_is_known_by_its_own_name_only(name, found):
    device = find_accelerator(name)
    assert (device.name if device else None) == found


def test_an_unknown_card_is_refused_with_the_known_ones():
    with pytest.raises(ConfigurationError, match="H200"):
        plan.device_named("abacus")
