from dataclasses import replace

from fake_sweep import experiment, run

from data_prep.core.settings import evolve
from eval.stats.scorer_agreement import scorer_agreement
from launch.report.text import choices_vs_paper


def choices_of(sweep, agreement=None):
    """What the sweep did, by subject."""
    record, seen = run(0.10)
    rows = choices_vs_paper.choices(sweep, record, replace(seen, agreement=agreement))
    return {row.subject: row.sweep.replace("\u00a0", " ") for row in rows}


def test_a_second_scorer_is_named_with_its_agreement():
    agreement = scorer_agreement([0.9, 0.8, 0.1, 0.2, 0.3], [0.8, 0.9, 0.2, 0.1, 0.6])
    sweep = evolve(experiment(), {"eval.scoring.second_scorer": "classifier:org/polite"})
    second = choices_of(sweep, agreement)["second scorer"]
    assert second.startswith("the classifier org/polite; Spearman's ρ with the first 0.80 [")
    assert "the same side of 0.5 for 80 % [38, 96], Cohen's κ 0.62 [" in second
    assert second.endswith("(5 continuations of the plain model)")


def test_one_scorer_has_no_second_row():
    assert "second scorer" not in choices_of(experiment())
