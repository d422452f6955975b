"""evaluations of models that are not our OLMo, from a folder to the report"""

import json
import math
import os
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"

import pytest
import torch
from model_families import build, write_folder
from tolerances import FP32_VALUE

from data_prep.core.errors import ConfigurationError
from data_prep.core.settings import evolve
from eval.config import (
    KNOWN_CONDITIONS,
    CapabilityConfig,
    ConditionConfig,
    EvalConfig,
    GenerationConfig,
    ProbingConfig,
    SteeringConfig,
)
from eval.model import model_source
from eval.model.loaded_model import load_folder
from eval.pipeline.evaluate_model import evaluate_model
from eval.tools.bake_steering import bake
from eval.tools.saved_direction import load_saved_direction

transformers = pytest.importorskip("transformers", reason="the parity oracle is not installed")

TEXTS = tuple(f"{name}=synthetic:{name}?documents=40&seed=1" for name in ("clean", "toxic"))
CONFIG = EvalConfig(
    conditions={
        "plain": KNOWN_CONDITIONS["plain"],
        "polite": ConditionConfig(prefix="Be polite. "),
        "iti": KNOWN_CONDITIONS["iti"],
    },
    probing=ProbingConfig(n_rows=60, n_permutations=0),
    generation=GenerationConfig(n_prompts=3, max_new_tokens=4),
    steering=SteeringConfig(strengths=(4.0,), top_heads=3),
    capability=CapabilityConfig(held_out=TEXTS, cross_entropy_sequences=3),
)


@pytest.fixture(scope="module", params=["qwen3", "gpt2", "mistral window"])
def evaluated(request, tmp_path_factory):
    """A source and its report."""
    root = tmp_path_factory.mktemp("root")
    folder = write_folder(request.param, root / "model")
    source = model_source.from_folder(str(root), folder)
    return source, evaluate_model(source, CONFIG), build(request.param)


def test_the_cost_is_the_loss_of_transformers_in_nats_and_in_bits(evaluated):
    source, report, model = evaluated
    loaded = load_folder(source.run_or_folder, CONFIG.compute)
    tokens_RT = loaded.with_held_out_files(TEXTS, CONFIG.seed).held_out_sequences(3)["toxic"]
    tokens = torch.from_numpy(tokens_RT)
    loss = float(model(tokens, labels=tokens).loss)
    point = report.conditions["plain"][0]
    assert point.cross_entropy["toxic"].value == pytest.approx(loss, rel=FP32_VALUE)
    reader = transformers.PreTrainedTokenizerFast.from_pretrained(source.run_or_folder)
    texts = [reader.decode(row, skip_special_tokens=True) for row in tokens_RT[:, 1:]]
    n_bits = loss * tokens_RT[:, 1:].size / math.log(2)
    n_bytes = sum(len(text.encode()) for text in texts)
    in_bits = point.bits_per_byte["toxic"]
    assert in_bits.value == pytest.approx(n_bits / n_bytes, rel=FP32_VALUE)
    assert in_bits.unit == "bits/byte" and in_bits.low < in_bits.value < in_bits.high


def test_a_report_says_what_was_measured(evaluated):
    source, report, _ = evaluated
    assert report.run_id == source.name and source.name.startswith("model-")
    assert set(report.conditions) == {"plain", "polite", "iti"}
    assert [point.strength for point in report.conditions["iti"]] == [4.0]
    assert report.computed_with["attention"] == "SDPA"
    assert len(report.probe_sets["held_out"].chosen_heads) == 3
    assert evaluate_model(source, CONFIG) == report


def test_a_baked_model_costs_what_steering_costs(evaluated, tmp_path):
    source, report, _ = evaluated
    (evaluation,) = (path.parent.name for path in Path(source.home).glob("eval-*/report.json"))
    shift_LD = load_saved_direction(source, evaluation).shift_LD
    try:
        bake(source.run_or_folder, shift_LD, 4.0, tmp_path / "steered")
    except ConfigurationError as error:
        assert "a sliding window of 5 tokens" in str(error)
        return
    baked = model_source.from_folder(str(tmp_path), tmp_path / "steered")
    plain = evolve(CONFIG, {"conditions": {"plain": KNOWN_CONDITIONS["plain"]}})
    of_baked = evaluate_model(baked, plain).conditions["plain"][0]
    steered = report.conditions["iti"][0]
    for text in ("clean", "toxic"):
        expected = steered.cross_entropy[text].value
        assert of_baked.cross_entropy[text].value == pytest.approx(expected, rel=FP32_VALUE)
    unsteered = report.conditions["plain"][0].cross_entropy["clean"].value
    assert abs(steered.cross_entropy["clean"].value - unsteered) > 1e-3


def test_more_heads_than_the_model_has_are_refused(tmp_path):
    folder = write_folder("llama", tmp_path / "model")
    source = model_source.from_folder(str(tmp_path), folder)
    with pytest.raises(
        ConfigurationError, match=r"top_heads is 13, and the model has 12 heads \(3 layers of 4\)"
    ):
        evaluate_model(source, evolve(CONFIG, {"steering.top_heads": 13}))
    residual = {"steering.top_heads": 13, "probing.site": "residual"}
    report = evaluate_model(source, evolve(CONFIG, residual))
    assert len(report.probe_sets["held_out"].chosen_heads) == 3


def test_the_command_refuses_a_model_in_one_line(entry, tmp_path):
    folder = write_folder("llama", tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"architectures": ["BertModel"]}))
    status, _, error = entry("evaluate_run.py", "--out", str(tmp_path), "--model", str(folder))
    assert status == 2
    assert "the architecture is ['BertModel']; expected one of OlmoForCausalLM" in error
    assert len(error.splitlines()) == 1
