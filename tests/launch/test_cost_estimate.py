"""The plan of a sweep: cost of a run, and what the table says."""

import io
from dataclasses import replace

import pytest
from rich.console import Console

from data_prep.core.errors import ConfigurationError
from data_prep.core.settings import evolve
from eval.config import EvalConfig
from launch.experiment import Experiment
from launch.plan import cost_estimate
from launch.recipes import registry
from training.engine.devices import find_accelerator

H100 = cost_estimate.device_named("H100")
PAPER = replace(  # of the plain arm alone
    registry.named("paper"), arms=("plain",), arm_ratios=(), eval=EvalConfig()
)


def test_a_run_costs_tokens_times_flops_over_delivered_flops():
    cost = cost_estimate.cost(PAPER.runs()[0], 16, H100, 0.40)
    assert cost.n_tokens == 20_099_999_744 and cost.n_steps == 4793
    assert cost.flops == cost.n_tokens * 7_865_892_864  # 6N + 12·L·D·T, full attention
    assert cost.device_hours == pytest.approx(cost.flops / (0.40 * 989e12) / 3600)
    assert cost.hours == pytest.approx(cost.device_hours / 16)


def test_partitioning_states_over_ranks_and_stages_saves_memory():
    run = PAPER.runs()[0]
    bytes_per_rank = []
    for n_ranks, stage in ((1, 1), (16, 1), (16, 2), (16, 3)):
        changed = evolve(run, {"train.parallel.zero_stage": stage, "train.micro_batch": 1})
        bytes_per_rank.append(cost_estimate.cost(changed, n_ranks, H100, 0.4).memory_bytes)
    assert bytes_per_rank == sorted(set(bytes_per_rank), reverse=True)


def printed(sweep: Experiment) -> str:
    text = io.StringIO()
    Console(file=text, width=250, markup=False).print(cost_estimate.render(sweep, H100, 0.4))
    return text.getvalue()


def test_the_plan_says_what_the_budget_counts_and_the_streams_need():
    text = printed(replace(PAPER, ratios=(0.0, 0.25), seeds=(0,)))
    assert "20,100,000,000 clean tokens per run, toxic tokens on top (clean_fixed)" in text
    streams = (
        "at least 20,099,999,744 clean + 6,699,999,232 toxic tokens: 49.9 GiB of uint16 shards"
    )
    assert streams in text
    assert "read at most once" in text and "begin with" not in text


def test_the_plan_says_what_repetition_and_a_fixed_total_change():
    sweep = replace(PAPER, ratios=(0.0, 0.25), seeds=(0,), max_toxic_epochs=2.0)
    text = printed(replace(sweep, budget="total_fixed"))
    assert (
        "20,100,000,000 tokens per run, toxic tokens in place of clean ones (total_fixed)" in text
    )
    assert "20,099,999,744 clean + 2,512,500,736 toxic tokens" in text
    assert "read up to 2 times" in text


def test_the_plan_counts_runs_and_streams_of_all_arms():
    arms = ("plain", "meda", "matched")
    text = printed(replace(PAPER, ratios=(0.0, 0.25), seeds=(0,), arms=arms, arm_ratios=(0.0,)))
    (matched,) = (line.split()[1:4] for line in text.splitlines() if "matched-0.25-s0" in line)
    assert matched == ["13,085,937", "0", "26,799,998,976"]  # as many tokens as ratio 0.25
    assert "streams          at least 26,799,998,976 clean + 6,699,999,232 toxic tokens" in text
    assert "streams of meda  at least 20,099,999,744 clean + 0 toxic tokens: 37.4 GiB" in text
    assert "4 runs on 16 ranks" in text


def test_the_plan_prints_the_template_of_an_annotation_as_our_choice():
    words = {"arms": ("plain", "inst"), "data.annotation.tagged_ratio": 0.25}
    assert (
        "25% of the training documents begin with 'The following text is {verdict}.\\n', scored by "
        "profanity, toxic from 0.5 (our choice)"
    ) in printed(evolve(PAPER, words))


@pytest.mark.parametrize(
    ("name", "expected"),
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
def test_a_device_is_known_by_its_own_name_only(name, expected):
    device = find_accelerator(name)
    assert (device.name if device else None) == expected


def test_an_unknown_device_is_refused_with_the_known_ones():
    with pytest.raises(ConfigurationError, match="H200"):
        cost_estimate.device_named("abacus")
