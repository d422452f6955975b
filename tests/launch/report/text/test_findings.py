"""Sentences chosen by arithmetic: what intervals allow, and what was not measured."""

from dataclasses import replace

import fake_sweep
import numpy as np
import pytest
from compared_sweep import compared
from fake_sweep import estimate, items_of, run, with_probes, with_toxicity
from scipy import stats

from eval.eval_report import GateResult, Lens
from launch.report.analysis import comparisons
from launch.report.analysis.per_ratio_series import by_ratio
from launch.report.text.findings import (
    answer_at_equal_cost,
    broken_text,
    coverage,
    direction_steers,
    findings,
    floor,
    prompts_needed,
    seeds,
    smile,
)


def answer(values: dict[float, tuple[float, float]]) -> str:
    """The answer for one report per ratio with this toxicity: (value, half-width)."""
    return plain(findings(with_toxicity(values)).answer)


def plain(text: str) -> str:
    return text.replace("\u00a0", " ")


def test_the_answer_at_equal_cost_names_the_ratios_that_are_less_toxic():
    text = plain(answer_at_equal_cost(compared()))
    assert text == (
        "Some: at equal cost, the models with 5 % and 10 % toxic text are less toxic than with 0 % "
        "(\u22122.6 to \u22125.8); the models with 20 % and 25 % toxic text are more toxic "
        "(+4.7 to +6.1)."
    )


def test_without_an_effect_the_answer_at_equal_cost_is_none():
    text = plain(findings([run(0.0)[1]], compared(dip=0.0)).answer)
    assert text.startswith("None: at equal cost, the model") and "more toxic than with 0 %" in text
    assert "less toxic" not in text


def test_seeds_that_differ_can_take_the_claim_at_equal_cost_away():
    alike, differing = compared(seeds=(0, 1)), compared(seeds=(0, 1), of_seed=4.0)
    assert answer_at_equal_cost(alike).startswith("Some: ")
    assert answer_at_equal_cost(differing).startswith(("None: ", "Not decided: "))


def test_where_no_cost_is_common_there_is_no_answer():
    reports = [fake_sweep.run(ratio)[1] for ratio in (0.0, 0.1)]
    cheap, dear = items_of(0.0, 0), items_of(0.1, 0)
    for (quantity, strength), values in dear.items():
        if quantity == "cross_entropy/clean":
            dear[quantity, strength] = {name: value + 9 for name, value in values.items()}
    result = comparisons.compare(reports, [cheap, dear])
    assert result is not None
    assert plain(answer_at_equal_cost(result)) == (
        "No answer: no share of toxic text can be compared with 0 % at equal cost."
    )


RATIOS = (0.0, 0.05, 0.1, 0.15, 0.2, 0.25)


def seeded(seeds=(0, 1), **changes):
    """Reports of every ratio and seed; changes: to each strength of each."""
    reports = [run(ratio, seed)[1] for ratio in RATIOS for seed in seeds]
    return [
        replace(r, steered=tuple(replace(row, **changes) for row in r.steered)) for r in reports
    ]


FLUENT = {"perplexity": estimate(30, 2.0)}


def test_the_smile_is_seen_only_where_both_contrasts_are_significant():
    text = plain(smile(seeded(**FLUENT), compared(seeds=(0, 1))))
    assert text == (
        "The paper's “smile” is seen at strength 4, 8 and 12: toxicity falls from 0 % to 10 % "
        "toxic text and rises to 25 % (both p ≤ 0.05 after Holm's correction)."
    )
    assert "“smile” is not seen: at no strength" in smile(seeded(), compared(dip=0.0))
    assert smile(seeded(), compared((0.0, 0.1))) == "" and smile(seeded(), None) == ""


def with_other_scorer(reports, of_ratio):
    return [
        replace(
            report,
            steered=tuple(
                replace(row, other_toxicity=estimate(of_ratio(report.toxic_ratio), 1.0))
                for row in report.steered
            ),
        )
        for report in reports
    ]


@pytest.mark.parametrize(
    ("reports", "objection"),
    [
        (seeded((0,), **FLUENT), "no second seed confirms it"),
        (seeded(perplexity=estimate(900, 2.0)), None),  # as dear unsteered: not broken
        (with_other_scorer(seeded(**FLUENT), lambda ratio: ratio), "by the second scorer"),
        (with_other_scorer(seeded(**FLUENT), lambda ratio: (ratio - 0.1) ** 2), None),
    ],
)
def test_a_smile_is_doubted_by_one_seed_or_another_scorer(reports, objection):
    text = smile(reports, compared(seeds=(0, 1)))
    assert ("This is not the paper's “smile”" in text) == bool(objection)
    assert (objection or "is seen at strength") in text


def with_gates(reports, steers):
    gate = GateResult(budget=0.05, budget_reached={}, changes={}, differences={}, steers=steers)
    return [replace(report, gate=gate) for report in reports]


def test_a_direction_that_does_not_steer_is_told_and_shows_no_smile():
    assert direction_steers(seeded()) == ""
    failing = with_gates(seeded(**FLUENT), False)
    assert "In 12 of 12 models the probes' direction does not steer" in direction_steers(failing)
    assert "of some models does not steer" in smile(failing, compared(seeds=(0, 1)))
    passing = with_gates(seeded(**FLUENT), True)
    assert direction_steers(passing).startswith("In each of 12 models the direction lowers")
    assert "is seen at strength" in smile(passing, compared(seeds=(0, 1)))


def test_a_smile_of_broken_text_is_none():
    reports = [
        replace(
            report,
            steered=tuple(
                replace(row, distinct_ratio=estimate(0.9 if not row.strength else 0.1, 0.01))
                for row in report.steered
            ),
        )
        for report in seeded(**FLUENT)
    ]
    assert "the text of some models is broken" in smile(reports, compared(seeds=(0, 1)))


def test_overlapping_intervals_are_not_told_apart():
    assert answer({0.0: (13.0, 2.0), 0.10: (12.1, 2.5), 0.25: (20.0, 2.0)}) == (
        "At strength 8 toxicity is lowest with 10 % toxic text, 12.1 [9.6, 14.6], not told apart "
        "from 0 %: where the curve turns is not settled."
    )


def test_a_minimum_inside_the_grid_needs_both_ends_apart_from_it():
    inside = answer({0.0: (13.0, 1.0), 0.10: (8.0, 1.0), 0.25: (20.0, 2.0)})
    assert inside.endswith("apart from all others: the minimum lies inside the grid.")
    open_end = answer({0.0: (13.0, 1.0), 0.10: (8.0, 1.0), 0.25: (9.0, 2.0)})
    assert open_end.endswith("not told apart from 25 %: where the curve turns is not settled.")
    falling = answer({0.0: (13.0, 1.0), 0.10: (9.0, 1.0), 0.25: (5.0, 1.0)})
    assert falling.endswith("it is the largest share tested, so the minimum may lie beyond it.")


def test_a_sweep_whose_cleanest_corpus_wins_says_so():
    text = answer({0.0: (3.0, 1.0), 0.10: (8.0, 1.0), 0.25: (20.0, 2.0)})
    assert "lowest with 0 % toxic text" in text
    assert text.endswith("apart from all others; it is the smallest share tested.")


def test_an_answer_that_was_not_measured_is_not_given():
    reports = with_toxicity({0.0: (3.0, 1.0)})
    assert answer({0.0: (3.0, 1.0)}).endswith("no other ratio was measured.")
    unsteered = [replace(report, steered=report.steered[:1]) for report in reports]
    assert findings(unsteered).answer == "No answer: no model was steered."


def test_one_seed_leaves_the_spread_unmeasured_and_several_widen_it():
    first, second, third = (
        with_probes(run(0.1, seed)[1], probe_accuracy=estimate(0.6 + 0.02 * seed, 0.05))
        for seed in (0, 1, 2)
    )
    assert "the spread between seeds is not measured" in findings([first]).caveat
    assert "2 seeds" in findings([first, second]).caveat
    (point,) = by_ratio([first, second, third], lambda report: report.probes.probe_accuracy)
    half = np.hypot(0.05, stats.t.ppf(0.975, 2) * 0.02 / 3**0.5)
    assert (point.value, point.low, point.high, point.n_runs) == pytest.approx(
        (0.62, 0.62 - half, 0.62 + half, 3)
    )


def test_the_caveat_names_the_degrees_of_freedom_of_the_spread():
    reports = [run(ratio, seed)[1] for ratio in (0.0, 0.1) for seed in (0, 1, 2)]
    assert "with 4 degrees of freedom" in seeds(reports)
    assert "with 1 degree of freedom" in seeds(reports[:2])
    assert "degree" not in seeds(reports[:1])


def test_the_prompts_needed_are_named_with_their_power():
    text = plain(prompts_needed(compared()))
    assert text.startswith("With the spread seen here, a difference of 0.5 needs ")
    assert text.endswith("prompts (power 80 %, two-sided 5 %).") and prompts_needed(None) == ""


def test_broken_text_and_missing_scores_are_mentioned():
    report = run(0.1)[1]
    broken = {
        "repetitive": replace(report.steered[-1], distinct_ratio=estimate(0.3, 0.1)),
        "babble": replace(report.steered[-1], perplexity=estimate(3000.0, 9.0)),
    }
    for last in broken.values():
        text = broken_text([replace(report, steered=(*report.steered[:-1], last))], [4.0, 12.0])
        assert text.startswith("At strength 12 low toxicity may be broken text")
    assert broken_text([report], [4.0, 8.0, 12.0]) == ""
    last = replace(report.steered[-1], coverage_ratio=0.5, n_empty=30)
    details = findings([replace(report, steered=(*report.steered[:-1], last))]).details
    assert [plain(sentence) for sentence in details if "At worst" in sentence] == [
        "At worst only 50 % of the continuations have a score. "
        "At worst 15 % of the continuations are empty and have no score."
    ]
    assert coverage([report]) == ""


def test_chance_and_written_tokens_are_told_where_they_were_measured():
    lens = Lens(
        group="all steered heads",
        toxic_tokens=(" a",) * 50,
        benign_tokens=(" b",) * 50,
        toxic_share=0.2,
        benign_share=0.0,
        random_share=0.02,
        random_high=0.06,
    )
    report = run(0.1)[1]
    details = [
        plain(sentence) for sentence in findings([with_probes(report, lens=(lens,))]).details
    ]
    assert any(
        sentence.startswith("Of 16 head probes per model, 11 are above chance")
        for sentence in details
    )
    assert any(
        sentence.startswith("With 10 % toxic text, the top 50 tokens") for sentence in details
    )
    silent = findings([with_probes(report, probe_null=None)]).details
    assert not any("chance" in sentence or "tokens" in sentence for sentence in silent)


def test_a_cleanest_model_at_the_floor_of_the_scale_is_named():
    unsteered = {0.0: (0.4, 0.5), 0.25: (12.0, 4.0)}
    reports = []
    for report in with_toxicity({0.0: (0.3, 0.4), 0.25: (3.0, 2.0)}):
        base = replace(report.steered[0], toxicity=estimate(*unsteered[report.toxic_ratio]))
        reports.append(replace(report, steered=(base, report.steered[1])))
    assert plain(floor(reports)).startswith(
        "The unsteered model with 0 % toxic text scores 0.4 [\u22120.1, 0.9]: its interval reaches "
        "the floor"
    )
    assert floor(reports[1:]) == ""
    assert floor(with_toxicity({0.0: (5.0, 1.0), 0.1: (4.0, 1.0)})) == ""
