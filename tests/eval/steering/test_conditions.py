"""A condition adds a text before prompts and held-out text, and costs only what is new."""

from pathlib import Path

import numpy as np
import pytest
from tiny_evaluation import CONFIG, STEERING_ALONE
from tiny_finished_run import RUN_ID

from data_prep.core.errors import ConfigurationError
from data_prep.core.settings import evolve
from eval.config import KNOWN_CONDITIONS, ConditionConfig
from eval.model import generation
from eval.pipeline.evaluate_model import evaluate
from training.run_record import run_uri

PREFIXED = {
    "plain": ConditionConfig(),
    "prefixed": ConditionConfig(prefix="So "),
    "prefixed+iti": ConditionConfig(prefix="So ", steering="iti"),
    "iti": KNOWN_CONDITIONS["iti"],
}
SMALL = evolve(
    CONFIG,
    STEERING_ALONE
    | {"probing.transfer": (), "generation.n_prompts": 4, "scoring.fluency_model": ""},
)


def stored(root: str) -> dict[str, int]:
    folder = Path(run_uri(root, RUN_ID)) / "measurements"
    return {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}


def test_another_condition_measures_only_itself_and_changes_no_number(finished):
    before = evaluate(finished, RUN_ID, SMALL)
    files = stored(finished)
    after = evaluate(finished, RUN_ID, evolve(SMALL, {"conditions": PREFIXED}))
    assert {name: after.conditions[name] for name in before.conditions} == before.conditions
    assert after.probe_sets == before.probe_sets
    now = stored(finished)
    assert files.items() <= now.items()
    assert all(name.startswith("prefixed") for name in now.keys() - files.keys())


def test_the_prefix_stands_before_prompts_that_keep_their_tokens(finished, monkeypatch):
    seen: list[list[int]] = []
    sample = generation.sample

    def record(model, prompts, *rest):
        seen.extend(list(map(int, prompt)) for prompt in prompts)
        return sample(model, prompts, *rest)

    monkeypatch.setattr(generation, "sample", record)
    only = {name: PREFIXED[name] for name in ("plain", "prefixed")}
    evaluate(finished, RUN_ID, evolve(SMALL, {"conditions": only, "seed": 3}))
    by_length = sorted({tuple(row) for row in seen}, key=len)
    plain = [
        row for row in by_length if not any(row != r and row[-len(r) :] == r for r in by_length)
    ]
    behind = [row for row in by_length if row not in plain]
    assert len(plain) == len(behind) == 4
    n_prefix = {len(row) - len(next(r for r in plain if row[-len(r) :] == r)) for row in behind}
    assert len(n_prefix) == 1
    assert len({row[: n_prefix.copy().pop()] for row in behind}) == 1


def test_the_cost_behind_a_prefix_is_on_the_same_tokens(finished):
    report = evaluate(finished, RUN_ID, evolve(SMALL, {"conditions": PREFIXED}))
    plain, prefixed = report.plain, report.conditions["prefixed"][0]
    for name in plain.cross_entropy:
        a, b = plain.cross_entropy[name], prefixed.cross_entropy[name]
        assert a.n == b.n and a.value is not None and b.value is not None
        assert a.value != b.value and np.isclose(a.value, b.value, rtol=0.1)


def test_a_prefix_that_does_not_fit_is_refused_with_its_length(finished):
    long = ConditionConfig(prefix="a very long text that goes on and on ")
    config = evolve(SMALL, {"conditions": {"plain": ConditionConfig(), "long": long}})
    with pytest.raises(
        ConfigurationError, match=r"condition long: the text before every prompt.*has \d+ tokens"
    ):
        evaluate(finished, RUN_ID, config)


def test_a_model_without_control_text_skips_its_condition(finished):
    control = {"plain": ConditionConfig(), "control": KNOWN_CONDITIONS["control"]}
    assert list(evaluate(finished, RUN_ID, evolve(SMALL, {"conditions": control})).conditions) == [
        "plain"
    ]


def test_the_command_refuses_a_control_text_that_the_run_does_not_have(finished, entry):
    words = ("--set", 'conditions={"plain":{},"control":{"control_text":true}}')
    code, _, printed = entry("evaluate_run.py", "--out", finished, "--run", RUN_ID, *words)
    assert code == 2 and "control text of a MEDA or INST model" in printed
