"""Benchmarks are read as the hub has them; each question once, with one right choice."""

import json
from pathlib import Path

import pytest

from data_prep.core.errors import ConfigurationError
from eval.inputs import benchmarks
from eval.inputs.benchmarks import Question

MMLU = {
    "question": " Which is a fruit? ",
    "subject": "x",
    "choices": ["iron", "a pear"],
    "answer": 1,
}
ARC = {
    "question": "Which is a fruit?",
    "choices": {"text": ["iron", "a pear", "sand"], "label": ["1", "2", "3"]},
    "answerKey": "2",
}
BOOLQ = {"question": "is a pear a fruit", "passage": "Pears grow on trees.", "answer": True}


def write_rows(folder: Path, *rows: dict) -> str:
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return f"{folder}/rows.jsonl#text=question"


def read(name: str) -> list[Question]:
    return benchmarks.read_questions(name, 500, seed=0).questions


def without_ids(questions: list[Question]) -> list[tuple]:
    return [question[1:] for question in questions]


@pytest.mark.parametrize(
    ("row", "letter", "cloze"),
    [
        (
            MMLU,
            ("Which is a fruit?\nA. iron\nB. a pear\nAnswer:", ("A", "B"), 1),
            ("Question: Which is a fruit?\nAnswer:", ("iron", "a pear"), 1),
        ),
        (
            ARC,
            ("Which is a fruit?\nA. iron\nB. a pear\nC. sand\nAnswer:", ("A", "B", "C"), 1),
            ("Question: Which is a fruit?\nAnswer:", ("iron", "a pear", "sand"), 1),
        ),
        (
            BOOLQ,
            (
                "Pears grow on trees.\nQuestion: is a pear a fruit?\nA. no\nB. yes\nAnswer:",
                ("A", "B"),
                1,
            ),
            ("Pears grow on trees.\nQuestion: is a pear a fruit?\nAnswer:", ("no", "yes"), 1),
        ),
    ],
    ids=["mmlu", "arc", "boolq"],
)
def test_rows_of_a_benchmark_are_read_in_both_forms(tmp_path, row, letter, cloze):
    uri = write_rows(tmp_path, row)
    assert without_ids(read(f"letter:{uri}")) == [letter]
    assert without_ids(read(f"cloze:{uri}")) == [cloze]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"question": "?", "answer": 0}, "row 0: `choices` is None; expected 2 to 26 texts"),
        ({"question": "?", "choices": ["one"], "answer": 0}, r"`choices` is \['one'\]"),
        (MMLU | {"answer": 2}, r"row 0: the answer is 2, which is none of \[0, 1\]"),
        (ARC | {"answerKey": "Z"}, r"the answer is 'Z', which is none of \['1', '2', '3'\]"),
    ],
)
def test_a_row_that_is_not_a_question_is_refused_by_its_place(tmp_path, row, message):
    with pytest.raises(ConfigurationError, match=message):
        read(f"cloze:{write_rows(tmp_path, row)}")


def left_out(name: str) -> dict[str, int]:
    return benchmarks.read_questions(name, 500, seed=0).summary.left_out


def many(n: int = 30) -> list[dict]:
    return [MMLU | {"question": f"Which is fruit {i}?"} for i in range(n)]


def test_the_same_question_with_the_same_answer_counts_once(tmp_path):
    other_order = {"choices": ["a pear", "iron"], "answer": 0}
    rows = [*many(), many()[0], many()[1] | {"answer": "B"}, many()[2] | other_order]
    for form, n in (("letter", 31), ("cloze", 31)):
        uri = f"{form}:{write_rows(tmp_path, *rows)}"
        assert len(read(uri)) == n
        assert left_out(uri) == {"repeated text": 2}


def test_the_same_question_with_other_answers_is_left_out_in_any_order(tmp_path):
    swapped = {"choices": ["a pear", "iron"], "answer": 1}  # the right choice is another
    rows = [*many(), many()[0] | {"answer": 0}, many()[1] | swapped]
    found = read(f"cloze:{write_rows(tmp_path, *rows)}")
    assert len(found) == 28
    assert left_out(f"cloze:{write_rows(tmp_path, *rows)}") == {
        "same question with another answer": 4
    }
    assert read(f"cloze:{write_rows(tmp_path, *rows[::-1])}") == found


def test_questions_with_faults_are_left_out_and_counted(tmp_path):
    faulty = [
        MMLU | {"question": "one?", "answer": -1},
        MMLU | {"question": "two?", "choices": ["", "a pear"]},
        MMLU | {"question": "three?", "choices": ["a pear", "a pear"]},
        MMLU | {"question": " "},
    ]
    uri = f"cloze:{write_rows(tmp_path, *many(), *faulty)}"
    assert len(read(uri)) == 30
    assert left_out(uri) == {
        "an empty choice": 1,
        "empty text": 1,
        "no answer": 1,
        "the right choice occurs twice": 1,
    }


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"answer": None}, "no answer 30"),
        ({"choices": ["iron", ""], "answer": 0}, "an empty choice 30"),
        ({"choices": ["iron", "iron"]}, "the right choice occurs twice 30"),
    ],
)
def test_a_file_of_faulty_questions_is_refused_with_the_reason(tmp_path, row, reason):
    uri = write_rows(tmp_path, *(question | row for question in many()))
    with pytest.raises(
        ConfigurationError, match=rf"eval.capability.benchmarks .*30 of 30 .*\({reason}\)"
    ):
        read(f"cloze:{uri}")


def test_a_file_of_one_question_with_all_answers_is_refused(tmp_path):
    uri = write_rows(tmp_path, *(MMLU | {"answer": i % 2} for i in range(12)))
    with pytest.raises(
        ConfigurationError, match="1 of its 1 questions occur with different answers"
    ):
        read(f"cloze:{uri}")
