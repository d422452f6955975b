"""The plan of a sweep's evaluations: what is counted, and what each setting changes."""

import io
import math
from dataclasses import replace

import pytest
from rich.console import Console

from data_prep.core.settings import evolve
from eval.config import KNOWN_CONDITIONS, PREAMBLE, EvalConfig, SteeringConfig
from eval.model import batch_size
from launch.plan import cost_estimate, evaluation_cost
from launch.plan.evaluation_cost import Processor
from launch.recipes import registry

LAPTOP = registry.named("laptop")
MODEL = LAPTOP.train.model
H100 = cost_estimate.device_named("H100")
CPU = Processor("a CPU", 1e9, 1e9, 4, 100)


def tokens(config: EvalConfig, **options: bool) -> dict[str, int]:
    parts = evaluation_cost.evaluation_parts(MODEL, 128, config, CPU, **options)
    return {part.name: part.n_tokens for part in parts}


def seconds(config: EvalConfig, on: Processor = CPU) -> dict[str, float]:
    parts = evaluation_cost.evaluation_parts(MODEL, 128, config, on)
    return {part.name: part.seconds or 0.0 for part in parts}


def conditions(*names: str) -> dict:
    return {name: KNOWN_CONDITIONS[name] for name in names}


CONFIG = evolve(
    LAPTOP.eval,
    {
        "conditions": conditions("plain", "iti"),
        "probes": {"pairs": "synthetic:probes"},
        "probing.baselines": False,
        "expected_toxicity.n_paths": 0,
        "generation.max_new_tokens": 24,
        "steering": SteeringConfig(strengths=(2.0, 4.0, 8.0)),
        "prompts": {"a": "a.jsonl", "held_out": "held_out"},
        "benchmarks": {"a": "cloze:a.jsonl", "b": "letter:b.jsonl"},
        "capability.n_questions": 7,
    },
)


def test_tokens_follow_from_sets_prompts_samples_strengths_and_conditions():
    # 150 prompts of 40 and of 10 tokens, 24 new ones; plain and three strengths; 64 sequences of
    # two streams
    assert tokens(CONFIG) == {
        "probes": 1000 * 40,
        "prompts": 150 * (40 + 10),
        "decoding": 4 * 2 * 150 * 24,
        "fluency": 4 * 2 * 150 * 24 + 150 * (40 + 10),
        "cross-entropy": 4 * 2 * 64 * 128,
        "benchmarks": 4 * 2 * 7 * 100,
        "scores of lexicon": 4 * 2 * 150 * 24,
    }


def test_an_untrained_model_is_probed_and_paths_are_walked_where_asked_for():
    more = tokens(evolve(CONFIG, {"probing.baselines": True, "expected_toxicity.n_paths": 3}))
    assert more["probes"] == 2 * tokens(CONFIG)["probes"]
    assert more["expected toxicity"] == 4 * 2 * 150 * 3 * 8
    without = evolve(CONFIG, {"expected_toxicity.n_paths": 3, "scoring.scorer": "profanity"})
    assert "expected toxicity" not in tokens(without)


def test_samples_share_the_pass_over_their_prompt():
    more = tokens(evolve(CONFIG, {"generation.samples_per_prompt": 25}))
    assert more["prompts"] == tokens(CONFIG)["prompts"]
    assert more["decoding"] == 25 * tokens(CONFIG)["decoding"]


def test_strengths_that_shift_all_positions_read_their_prompts_apart():
    apart = tokens(evolve(CONFIG, {"steering.positions": "all"}))
    assert apart["prompts"] == 4 * tokens(CONFIG)["prompts"]  # plain and three strengths


def test_conditions_share_the_prompts_behind_the_same_text():
    more = evolve(CONFIG, {"conditions": conditions("plain", "iti", "random_heads", "prompt")})
    n_prefix = math.ceil(len(PREAMBLE) / 4)
    own = 150 * (40 + n_prefix + 10 + n_prefix)
    assert tokens(more)["prompts"] == tokens(CONFIG)["prompts"] + own


def test_a_condition_with_a_control_text_counts_on_its_own_arms_alone():
    config = evolve(CONFIG, {"conditions": conditions("plain", "control")})
    plain, annotated = (tokens(config, has_control_text=value) for value in (False, True))
    assert annotated["decoding"] == 2 * plain["decoding"]


def test_few_rows_decode_at_the_speed_of_memory_and_many_of_products():
    few = Processor("few rows", 1e12, 1e9, 4, 1)
    many = Processor("many rows", 1e9, 1e12, 4, 1000)
    model_bytes = 4 * MODEL.n_parameters
    n_rows, n_new = 4 * 2 * 150, 24
    assert seconds(CONFIG, few)["decoding"] > n_rows * n_new * model_bytes / 1e9
    flops = 2 * MODEL.n_parameters * n_rows * n_new
    n_steps = math.ceil(n_rows * n_new / 1000)
    overhead = n_steps * MODEL.n_layers * evaluation_cost.LAYER_SECONDS
    assert seconds(CONFIG, many)["decoding"] == pytest.approx(flops / 1e9 + overhead, rel=1e-3)


def test_a_services_time_is_unknown():
    config = evolve(CONFIG, {"scoring.scorer": "openai"})
    (part,) = evaluation_cost.evaluation_parts(MODEL, 128, config, CPU)[-1:]
    assert part.name == "scores of openai" and part.seconds is None


def test_the_plan_shows_every_part_and_their_sum():
    sweep = replace(LAPTOP, eval=evolve(CONFIG, {"scoring.second_scorer": "openai"}))
    text = io.StringIO()
    Console(file=text, width=200, markup=False).print(cost_estimate.render(sweep, H100, 0.4))
    table = text.getvalue().split("evaluation on 2 CPU cores")[1]
    rows = [line.split() for line in table.splitlines() if line.strip()]
    for name, n_tokens in tokens(sweep.eval).items():
        words = name.split()
        assert any(row[: len(words)] == words and f"{n_tokens:,}" in row for row in rows)
    assert ["scores", "of", "openai", f"{4 * 2 * 150 * 24:,}", "?", "?"] in rows
    (together,) = (row for row in rows if row[0] == "together")
    assert together[2] == "s"


def test_constants_are_those_of_the_evaluation():
    assert {
        "cpu": evaluation_cost.MOST_ROWS["cpu"],
        "cuda": evaluation_cost.MOST_ROWS["gpu"],
    } == batch_size.MOST_ROWS
    assert evaluation_cost.SAMPLING_BYTES == batch_size.SAMPLING_BYTES
