import pytest

from data_prep.core.errors import ConfigurationError
from eval.inputs import benchmark_uris, question_rows
from eval.inputs.benchmark_uris import QuestionColumns
from eval.inputs.text_rows import Reason

TEXTS = ["iron", "a pear", "sand", "salt"]


def answer(wanted, choices=TEXTS, **fields):
    """The index of the right choice, or the reason why there is none."""
    row = question_rows.read("Which?", {"choices": choices, "answer": wanted} | fields, "row 1")
    return row if isinstance(row, Reason) else row.answer


def named(*names):
    return {"text": TEXTS, "label": list(names)}


@pytest.mark.parametrize(
    ("wanted", "choices"),
    [
        (1, TEXTS),
        (1.0, TEXTS),
        ("B", TEXTS),
        (" b ", TEXTS),
        ("Ｂ", TEXTS),
        ("A pear ", TEXTS),
        ("B", named(*"ABCD")),
        ("b", named(*"ABCD")),
        ("2", named(*"ABCD")),
        (1, named(*"ABCD")),
        ("a pear", named(*"ABCD")),
        ("2", named(*"1234")),
        (2, named(*"1234")),
        ("2", named(1, 2, 3, 4)),
        ("B", named(*"1234")),
        ("1", named(*"0123")),
        ("two", named("one", "Two", "three", "four")),
    ],
)
def test_the_right_choice_is_named_by_number_name_letter_or_text(wanted, choices):
    assert answer(wanted, choices) == 1


@pytest.mark.parametrize(
    ("wanted", "index"),
    [(True, 1), (False, 0), ("true", 1), ("False", 0), ("Yes", 1), (" no", 0), (1, 1), ("1", 1)],
)
def test_a_passage_is_answered_with_no_or_yes(wanted, index):
    assert answer(wanted, None, passage="Pears grow.") == index


@pytest.mark.parametrize("wanted", [None, "", " ", -1, "-1", -1.0, float("nan"), "n/a"])
def test_a_hidden_answer_is_left_out(wanted):
    assert answer(wanted) is Reason.NO_ANSWER


@pytest.mark.parametrize(
    ("choices", "reason"),
    [
        (["iron", "", "sand"], Reason.EMPTY_CHOICE),
        (["iron", " \u00a0", "sand"], Reason.EMPTY_CHOICE),
        (["iron", "a pear", "a  pear "], Reason.NOT_UNIQUE),
    ],
)
def test_a_question_without_one_right_choice_is_left_out(choices, reason):
    assert answer(1, choices) is reason


def test_a_wrong_choice_may_occur_twice():
    assert answer(1, ["iron", "a pear", "iron"]) == 1


@pytest.mark.parametrize(
    ("wanted", "choices", "message"),
    [
        (4, TEXTS, r"the answer is 4, which is none of \[0, 1, 2, 3\]"),
        (-2, TEXTS, "the answer is -2, which is none of"),
        (1.5, TEXTS, "the answer is 1.5, which is none of"),
        (True, TEXTS, "the answer is True, which is none of"),
        ("E", TEXTS, "the answer is 'E', which is none of"),
        (
            "1",
            TEXTS,
            r"'1', which may mean any of the choices \[0, 1\]; say .* #first=0 or .* from 0",
        ),
        ("A", ["B", "A"], r"'A', which may mean any of the choices \[0, 1\]"),
        ("Z", named(*"1234"), r"the answer is 'Z', which is none of \['1', '2', '3', '4'\]"),
        (0, named(*"1234"), "the answer is 0, which is none of"),
        (["B"], TEXTS, r"the answer in `answer` is \['B'\]; expected 4 numbers"),
        (0, named(*"ABC"), "expected 4 different names, one per choice"),
        (0, named(*"ABCC"), "expected 4 different names, one per choice"),
        (0, "['iron', 'sand']", "`choices` is .*; expected 2 to 26 texts .* the row has answer, c"),
        (0, [1, 2], r"`choices` is \[1, 2\]; expected 2 to 26 texts"),
        (0, {"A": "iron", "B": "sand"}, "`choices` is .*; expected 2 to 26 texts"),
    ],
)
def test_a_row_of_another_shape_is_refused_by_name(wanted, choices, message):
    with pytest.raises(ConfigurationError, match=f"row 1: .*{message}"):
        answer(wanted, choices)


def test_two_answers_that_differ_are_refused_and_equal_ones_are_one():
    assert answer(1, answerKey="B") == 1
    assert answer(None, answerKey="B") == 1
    with pytest.raises(ConfigurationError, match="`answer` is 1 and `answerKey` is 'C', which are"):
        answer(1, answerKey="C")


def test_a_row_without_a_field_for_the_answer_is_refused_with_its_columns():
    with pytest.raises(
        ConfigurationError, match="no field 'answer' or 'answerKey'; the row has ch"
    ):
        question_rows.read("Which?", {"choices": TEXTS, "label": 1}, "row 1")


KNOWN_ROWS = {
    "hellaswag": {"ctx": "A man", "endings": ["sits.", "runs.", "eats.", "is."], "label": "3"},
    "piqa": {"goal": "To rest", "sol1": "stand", "sol2": "sit", "label": 1},
    "sciq": {
        "question": "Which?",
        "support": "Pears grow.",
        "correct_answer": "a pear",
        "distractor1": "iron",
        "distractor2": "sand",
        "distractor3": "salt",
    },
    "winogrande": {"sentence": "The _ fell.", "option1": "tree", "option2": "sea", "answer": "2"},
    "truthfulqa": {
        "question": "Which?",
        "mc1_targets": {"choices": ["a pear", "iron"], "labels": [1, 0]},
    },
    "social_iqa": {
        "context": "Kim sat.",
        "question": "Why?",
        "answerA": "to rest",
        "answerB": "to run",
        "answerC": "to eat",
        "label": "1",
    },
    "medmcqa": {"question": "Q?", "opa": "w", "opb": "x", "opc": "y", "opd": "z", "cop": 2},
}
RIGHT = dict(
    zip(KNOWN_ROWS, ("is.", "sit", "a pear", "sea", "a pear", "to rest", "y"), strict=True)
)


@pytest.mark.parametrize("name", KNOWN_ROWS)
def test_a_well_known_row_is_refused_with_the_options_that_read_it(name):
    row = KNOWN_ROWS[name]
    with pytest.raises(ConfigurationError) as refused:
        question_rows.read("Which?", row, "row 1")
    message = str(refused.value)
    assert message.startswith("row 1: `choices` is None; expected 2 to 26 texts")
    assert all(column in message for column in row)
    options = message.partition("name its columns: #")[2]
    uri = benchmark_uris.parse(f"cloze:rows.jsonl#{options}", "x")
    text_field = dict(item.split("=") for item in options.split("&"))["text"]
    found = question_rows.read(row[text_field], row, "row 1", uri.columns)
    assert not isinstance(found, Reason)
    assert found.choices[found.answer] == RIGHT[name]


def columns(**named) -> QuestionColumns:
    return QuestionColumns()._replace(**named)


@pytest.mark.parametrize(
    ("fields", "of", "message"),
    [
        ({"choices": TEXTS, "key": 4}, columns(answer="key"), r"none of \[0, 1, 2, 3\].* `key`"),
        ({"choices": TEXTS, "key": 0}, columns(answer="key", first=1), r"none of \[1, 2, 3, 4\]"),
        (
            {"choices": TEXTS, "answer": [1, 1, 0, 0]},
            columns(),
            "expected 4 numbers, one per choice",
        ),
        ({"choices": TEXTS, "answer": [1, 0]}, columns(), "expected 4 numbers, one per choice"),
        ({"choices": TEXTS, "key": 0}, columns(answer="kee"), "no field 'kee'; the row has cho"),
        ({"a": "iron"}, columns(choices=("a", "b")), r"`a\+b` is \['iron', None\]; expected 2 to"),
        (
            {"options": 3},
            columns(choices=("options",)),
            "`options` is 3; .* name its columns, e.g.",
        ),
        ({"choices": TEXTS, "answer": 0}, columns(passage="p"), "no field 'p' for #passage="),
        (
            {"choices": TEXTS, "answer": 0},
            columns(subject="s"),
            "`s` is None; expected the name of",
        ),
    ],
)
def test_columns_that_a_row_lacks_are_refused_by_name(fields, of, message):
    with pytest.raises(ConfigurationError, match=f"row 1: .*{message}"):
        question_rows.read("Which?", fields, "row 1", of)


@pytest.mark.parametrize(("first", "index"), [(0, 2), (1, 1)])
def test_a_number_in_quotes_counts_from_the_number_of_the_first_choice(first, index):
    row = question_rows.read("?", {"choices": TEXTS, "answer": "2"}, "row 1", columns(first=first))
    assert not isinstance(row, Reason)
    assert row.answer == index
