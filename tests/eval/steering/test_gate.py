"""The gate: interpolation by hand, planted effects pass, no effect passes as often as it should."""

import numpy as np
import pytest

from data_prep.core.settings import evolve
from eval.config import KNOWN_CONDITIONS, EvalConfig, SteeringConfig
from eval.eval_report import TextSet
from eval.inputs.benchmarks import Benchmark, Question
from eval.steering import gate
from eval.steering.measure_strengths import ConditionResult, ExpectedScores
from eval.steering.measures.multiple_choice import Answers

STRENGTHS = (2.0, 4.0)
CONFIG = EvalConfig(
    conditions={
        name: KNOWN_CONDITIONS[name]
        for name in ("plain", "iti", "random_heads", "random_directions")
    },
    steering=SteeringConfig(strengths=STRENGTHS),
)
NO_SUMMARY = TextSet(setting="", uri="", n_read=0, n_used=0, left_out={}, other_words={})


def result(strengths, scores_PS, cost_S, p_toxic_NS=None) -> ConditionResult:
    """cost_S: cross-entropy at each strength."""
    answers = {}
    if p_toxic_NS is not None:
        questions = [Question(str(i), "x", ("good", "bad"), 0) for i in range(len(p_toxic_NS))]
        log_odds = np.log(p_toxic_NS) - np.log1p(-p_toxic_NS)
        nats = np.stack([np.zeros_like(log_odds), log_odds], axis=1)
        benchmark = Benchmark("pairs", questions, NO_SUMMARY)
        none = np.zeros(len(questions), dtype=int)
        answers = {"verdicts": Answers(benchmark, nats, none, none.astype(bool))}
    ids = [str(i) for i in range(len(scores_PS))]
    return ConditionResult(
        strengths,
        {},
        {"clean": np.tile(cost_S, (3, 1))},
        answers,
        {},
        {"prompts": ExpectedScores(ids, np.asarray(scores_PS))},
    )


def judged(iti, heads, directions, costs=(2.04, 2.08), n=60, pairs=None, config=CONFIG):
    """The gate where each condition lowers the score of every prompt by this much at the first and
    twice as much at the second strength; each prompt differs by noise of its own.
    """
    generator = np.random.default_rng(0)
    base = generator.uniform(0.3, 0.7, n)
    noise = {name: generator.normal(0, 0.01, n) for name in ("iti", "heads", "directions")}

    def shifted(name, by):
        return np.stack([base + k * by + noise[name] for k in (1, 2)], axis=1)

    p = pairs or dict.fromkeys(("plain", "iti", "heads", "directions"), 0.4)
    spread = np.linspace(-0.05, 0.05, 40)

    def toxic_ends(name, n_strengths):
        return np.tile(p[name] + spread, (n_strengths, 1)).T

    found = gate.judge(
        {
            "plain": result((0.0,), base[:, None], [2.0], toxic_ends("plain", 1)),
            "iti": result(STRENGTHS, shifted("iti", iti), costs, toxic_ends("iti", 2)),
            "random_heads": result(
                STRENGTHS, shifted("heads", heads), costs, toxic_ends("heads", 2)
            ),
            "random_directions": result(
                STRENGTHS, shifted("directions", directions), costs, toxic_ends("directions", 2)
            ),
        },
        config,
    )
    assert found is not None
    return found


def test_a_planted_effect_steers_and_a_common_one_does_not():
    assert judged(-0.05, 0.0, 0.01).steers
    assert not judged(-0.05, -0.05, 0.0).steers  # as good as random heads
    assert not judged(-0.05, 0.0, -0.06).steers
    assert not judged(0.05, 0.1, 0.1).steers  # less bad than random is not good


def test_values_at_the_budget_are_interpolated_between_strengths():
    found = judged(-0.05, 0.0, 0.0)
    # +0.04 and +0.08 nats: a quarter of the way, 1.25 of the step
    change = found.changes["expected_toxicity"]
    assert change.value == pytest.approx(-6.25, abs=0.5)
    assert found.budget_reached == dict.fromkeys(("iti", "random_heads", "random_directions"), True)
    before = judged(-0.05, 0.0, 0.0, costs=(2.1, 2.2))  # half of the first strength
    assert before.changes["expected_toxicity"].value == pytest.approx(-2.5, abs=0.5)


def test_a_budget_that_is_not_reached_is_told_and_the_last_strength_counts():
    found = judged(-0.05, 0.0, 0.0, costs=(2.01, 2.02))
    assert not any(found.budget_reached.values())
    assert found.changes["expected_toxicity"].value == pytest.approx(-10, abs=0.5)


def test_a_likelier_toxic_end_fails_the_gate():
    pairs = {"plain": 0.4, "iti": 0.5, "heads": 0.4, "directions": 0.4}
    found = judged(-0.05, 0.0, 0.0, pairs=pairs)
    assert found.differences["pairs/verdicts"]["random_heads"].value == pytest.approx(0.1)
    assert not found.steers
    assert judged(-0.05, 0.0, 0.0, pairs={**pairs, "iti": 0.3}).steers


def test_in_the_residual_stream_other_layers_are_no_control():
    config = evolve(CONFIG, {"probing.site": "residual"})
    assert judged(-0.05, -0.06, 0.0, config=config).steers
    assert not judged(-0.05, 0.0, -0.06, config=config).steers


def test_without_a_control_there_is_no_gate():
    plain = result((0.0,), np.full((9, 1), 0.5), [2.0])
    steered = result(STRENGTHS, np.full((9, 2), 0.5), [2.0, 2.1])
    config = EvalConfig(steering=SteeringConfig(strengths=STRENGTHS))
    assert gate.judge({"plain": plain, "iti": steered}, config) is None


@pytest.mark.numeric
def test_a_random_direction_passes_rarely():
    generator = np.random.default_rng(1)
    n, n_passed, n_trials = 40, 0, 300
    for _ in range(n_trials):
        base = generator.uniform(0.2, 0.8, n)

        def noisy(base=base):
            return base[:, None] + generator.normal(0, 0.05, (n, 2))

        costs = [2.05, 2.1]
        found = gate.judge(
            {
                "plain": result((0.0,), base[:, None], [2.0]),
                **{
                    name: result(STRENGTHS, noisy(), costs)
                    for name in ("iti", "random_heads", "random_directions")
                },
            },
            CONFIG,
        )
        n_passed += bool(found and found.steers)
    assert n_passed / n_trials <= 0.03  # each of three differences is below 0 by chance in 2.5 %
