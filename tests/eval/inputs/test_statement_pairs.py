import pytest

from data_prep.core.errors import ConfigurationError
from eval.config import EvalConfig
from eval.inputs import benchmarks


def read(uri):
    config = EvalConfig(benchmarks={"x": f"pairs:{uri}"})
    return benchmarks.read_benchmark("x", config)


def row(pair, label, text):
    return {"pair": pair, "label": label, "text": text}


def test_the_halves_of_a_pair_are_the_ends_behind_what_they_share(table):
    rows = [
        row("a", 1, "They are all bad."),
        row("b", 0, "It is fine here"),
        row("a", 0, "They are all better."),
        row("b", 1, "It is not"),
    ]
    questions = read(table(rows)).questions
    assert {(q.context, q.choices, q.answer) for q in questions} == {
        ("They are all", ("better.", "bad."), 0),
        ("It is", ("fine here", "not"), 0),
    }


def test_rows_that_make_no_pair_are_left_out_and_counted(table):
    rows = [
        row("a", 1, "They are bad"),
        row("a", 0, "They are good"),
        row("b", 1, "alone"),
        row("c", 1, "two toxic"),
        row("c", 1, "two worse"),
        row("d", 0, "no common"),
        row("d", 1, "beginning"),
        row("e", 0, "It ends"),
        row("e", 1, "It ends early"),
        row(None, 1, "without a pair"),
    ]
    benchmark = read(table(rows))
    assert len(benchmark.questions) == 1
    assert benchmark.summary.left_out == {
        "no group": 1,
        "not one of two rows that differ in their label": 3,
        "halves of a pair that do not begin alike, or end early": 4,
    }


@pytest.mark.parametrize(
    ("rows", "options", "fault"),
    [
        ([row("a", 1, "x y")], "", r"no pair is left: 1 of 1 rows"),
        ([{"label": 1, "text": "x"}], "", r"there is no field 'pair'.*#group=FIELD"),
        ([row("a", 1, "x y"), row("a", 0, "x z")], "#shots=2", r"has no use for #shots="),
        ([row("a", 1, "x y"), row("a", 0, "x z")], "#group=other", r"there is no field 'other'"),
    ],
)
def test_pairs_that_cannot_be_meant_are_refused(table, rows, options, fault):
    with pytest.raises(ConfigurationError, match=fault):
        read(table(rows) + options)


def test_only_pairs_have_an_option_for_their_field(table):
    config = EvalConfig(benchmarks={"x": "detection:a.jsonl#group=p"})
    with pytest.raises(ConfigurationError, match=r"detection has no use for #group="):
        benchmarks.read_benchmark("x", config)
