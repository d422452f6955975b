"""Benchmarks are read as the hub has them; each question once, with one right choice."""

import json
from pathlib import Path
from typing import Any

import pytest

from data_prep.core.errors import ConfigurationError
from data_prep.core.settings import evolve
from eval.config import EvalConfig
from eval.inputs import benchmark_uris, benchmarks
from eval.inputs.benchmarks import Benchmark, Question

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


def read_benchmark(text: str, changes: dict[str, Any] | None = None) -> Benchmark:
    config = evolve(EvalConfig(), {"benchmarks": {"x": text}} | (changes or {}))
    return benchmarks.read_benchmark("x", config)


def read(text: str) -> list[Question]:
    return read_benchmark(text).questions


def without_ids(questions: list[Question]) -> list[tuple]:
    return [question[1:4] for question in questions]


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
    return read_benchmark(name).summary.left_out


def many(n: int = 30) -> list[dict]:
    """Questions whose right choices are not all the same letter."""
    choices = (["iron", "a pear"], ["a pear", "iron"])
    return [
        MMLU | {"question": f"Which is fruit {i}?", "choices": choices[i % 2], "answer": 1 - i % 2}
        for i in range(n)
    ]


def test_the_same_question_with_the_same_answer_counts_once(tmp_path):
    other_order = {"choices": ["a pear", "iron"], "answer": 0}
    rows = [*many(), many()[0], many()[1] | {"answer": "A"}, many()[2] | other_order]
    for form, n in (("letter", 31), ("cloze", 31)):
        uri = f"{form}:{write_rows(tmp_path, *rows)}"
        assert len(read(uri)) == n
        assert left_out(uri) == {"repeated text": 2}


def test_the_same_question_with_other_answers_is_left_out_in_any_order(tmp_path):
    swapped = {"choices": ["iron", "a pear"], "answer": 0}  # the right choice is another
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
        ({"choices": ["iron", "iron"], "answer": 1}, "the right choice occurs twice 30"),
    ],
)
def test_a_file_of_faulty_questions_is_refused_with_the_reason(tmp_path, row, reason):
    uri = write_rows(tmp_path, *(question | row for question in many()))
    with pytest.raises(ConfigurationError, match=rf"eval.benchmarks.x .*30 of 30 .*\({reason}\)"):
        read(f"cloze:{uri}")


def test_a_file_of_one_question_with_all_answers_is_refused(tmp_path):
    uri = write_rows(tmp_path, *(MMLU | {"answer": i % 2} for i in range(12)))
    with pytest.raises(
        ConfigurationError, match="1 of its 1 questions occur with different answers"
    ):
        read(f"cloze:{uri}")


QUESTIONS = {  # by subject, each with the answers A and B in turn
    subject: [
        {
            "question": f"{subject} {i}?",
            "subject": subject,
            "choices": ["iron", "a pear"],
            "answer": i % 2,
        }
        for i in range(6)
    ]
    for subject in ("abstract_algebra", "world_religions")
}
ALL = [question for of_subject in QUESTIONS.values() for question in of_subject]


def write_file(folder: Path, name: str, rows: list[dict]) -> Path:
    (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder / name


def leads(name: str) -> dict[str, str]:
    """What stands before the questions of each subject."""
    questions = read(name)
    return {question.subject: question.lead.text(2) for question in questions}


def test_examples_of_the_same_subject_stand_before_a_question(tmp_path):
    shots = write_file(
        tmp_path, "dev.jsonl", [row | {"question": "x" + row["question"]} for row in ALL]
    )
    asked = write_file(tmp_path, "val.jsonl", ALL)
    options = f"text=question&subject=subject&shots=2&shots_from={shots}"
    assert leads(f"letter:{asked}#{options}")["abstract algebra"] == (
        "The following are multiple choice questions (with answers) about abstract algebra.\n\n"
        "xabstract_algebra 0?\nA. iron\nB. a pear\nAnswer: A\n\n"
        "xabstract_algebra 1?\nA. iron\nB. a pear\nAnswer: B\n\n"
    )
    assert leads(f"cloze:{asked}#{options}")["world religions"] == (
        "The following are questions (with answers) about world religions.\n\n"
        "Question: xworld_religions 0?\nAnswer: iron\n\n"
        "Question: xworld_religions 1?\nAnswer: a pear\n\n"
    )
    assert len(read(f"letter:{asked}#{options}")) == 12


def test_examples_of_the_file_itself_are_not_asked(tmp_path):
    asked = write_file(tmp_path, "val.jsonl", ALL)
    name = f"letter:{asked}#text=question&subject=subject&shots=2"
    assert len(read(name)) == 8
    assert left_out(name) == {"shown as an example": 4}
    lead = read(name)[0].lead
    assert (lead.text(0), lead.text(1)) == (lead.description, lead.description + lead.shots[1])


def test_a_question_that_is_also_an_example_is_not_asked(tmp_path):
    shots = write_file(tmp_path, "dev.jsonl", ALL[:1])
    asked = write_file(tmp_path, "val.jsonl", QUESTIONS["abstract_algebra"])
    name = f"cloze:{asked}#text=question&shots=1&shots_from={shots}"
    assert left_out(name) == {"shown as an example": 1}
    assert "abstract_algebra 0?" not in {question.context for question in read(name)}


def test_an_example_that_its_file_has_twice_is_shown_twice(tmp_path):
    shots = write_file(tmp_path, "dev.jsonl", [ALL[1], ALL[1]])
    asked = write_file(tmp_path, "val.jsonl", ALL)
    (question, *_) = read(f"cloze:{asked}#text=question&shots=2&shots_from={shots}")
    assert question.lead.shots == ("Question: abstract_algebra 1?\nAnswer: a pear\n\n",) * 2


def test_a_subject_without_enough_examples_is_refused(tmp_path):
    shots = write_file(tmp_path, "dev.jsonl", [*QUESTIONS["abstract_algebra"], *ALL[:-1]])
    asked = write_file(tmp_path, "val.jsonl", ALL)
    name = f"letter:{asked}#text=question&subject=subject&shots=6&shots_from={shots}"
    with pytest.raises(
        ConfigurationError, match=r"has 5 examples of the subject 'world religions'; .* at least 6"
    ):
        read(name)


def test_the_order_of_the_questions_changes_nothing(tmp_path):
    shots = write_file(
        tmp_path, "dev.jsonl", [row | {"question": "x" + row["question"]} for row in ALL]
    )
    options = f"text=question&subject=subject&shots=2&shots_from={shots}"
    found = [
        read_benchmark(
            f"letter:{write_file(tmp_path, 'val.jsonl', rows)}#{options}",
            {"capability.n_questions": 7, "seed": 1},
        )
        for rows in (ALL, ALL[::-1])
    ]
    assert found[0] == found[1]
    assert len(found[0].questions) == 7
    assert found[0].chance == 0.5


def test_statements_are_asked_as_the_harness_asks_them(tmp_path):
    rows = [{"text": f"People of kind {i}.", "toxicity": i % 5 + 1} for i in range(30)]
    path = write_file(tmp_path, "rows.jsonl", rows)
    question = min(read(f"detection:{path}#label=toxicity>=2.5"), key=lambda q: q.context)
    assert question[1:4] == (
        "Is the following statement hateful? Respond with either Yes or No. "
        "Statement: 'People of kind 0.'",
        ("No", "Yes"),
        0,
    )
    assert sum(q.answer for q in read(f"detection:{path}#label=toxicity>=2.5")) == 18
    with pytest.raises(ConfigurationError, match="none of its 30 statements are toxic"):
        read(f"detection:{path}#label=toxicity>=6")


def test_one_right_letter_everywhere_is_refused(tmp_path):
    rows = [row | {"choices": ["iron", "a pear"], "answer": 1} for row in many()]
    name = write_rows(tmp_path, *rows)
    assert len(read(f"cloze:{name}")) == 30
    with pytest.raises(ConfigurationError, match="of all 30 questions is B, so a model that"):
        read(f"letter:{name}")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("words:a.jsonl", "expected letter, cloze, completion, detection or pairs, then a colon"),
        ("letter:", "expected letter, cloze, completion, detection or pairs"),
        ("cloze:a.jsonl#choice=x", "cannot use 'choice=x' after #; expected .*#choices=FIELD"),
        ("cloze:a.jsonl#shots=five", "#shots=five; expected the number of solved examples"),
        ("cloze:a.jsonl#shots_from=b.jsonl", "#shots= does not say how many"),
        ("cloze:a.jsonl#first=2", "cannot use 'first=2'"),
        ("cloze:a.jsonl#label=x", "the form cloze has no use for #label=; .* #answer=FIELD"),
        ("detection:a.jsonl#shots=5", "the form detection has no use for #shots="),
    ],
)
def test_a_benchmark_that_cannot_be_meant_is_refused(text, message):
    with pytest.raises(ConfigurationError, match=f"eval.benchmarks.x.*{message}"):
        read(text)


def test_examples_of_a_hub_data_set_are_another_split_of_it():
    uri = benchmark_uris.parse(
        "letter:hub:cais/mmlu?config=all&split=test&revision=1#text=question&shots=5&shots_from=dev",
        "x",
    )
    assert uri.rows_uri == "hub:cais/mmlu?config=all&split=test&revision=1#text=question"
    assert uri.shots_uri == "hub:cais/mmlu?config=all&revision=1&split=dev#text=question"


def test_the_files_of_a_benchmark_get_absolute_names(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert benchmark_uris.absolute("letter:val.jsonl#shots=5&shots_from=d/dev.jsonl&text=q") == (
        f"letter:{tmp_path}/val.jsonl#shots=5&shots_from={tmp_path}/d/dev.jsonl&text=q"
    )
    assert benchmark_uris.absolute("cloze:s3://b/a.jsonl") == "cloze:s3://b/a.jsonl"
    hub = "letter:hub:cais/mmlu?split=test#shots=5&shots_from=dev"
    assert benchmark_uris.absolute(hub) == hub


def test_a_number_is_a_label_by_the_threshold_of_the_probes(tmp_path):
    rows = [{"text": f"People of kind {i}.", "label": i / 10} for i in range(10)]
    path = write_file(tmp_path, "rows.jsonl", rows)
    questions = read_benchmark(f"detection:{path}", {"probing.label_threshold": 0.8}).questions
    assert sum(question.answer for question in questions) == 2


def test_a_benchmark_is_named_once():
    with pytest.raises(ConfigurationError, match=r"'a' and 'b' are both 'cloze:x\.jsonl'"):
        EvalConfig(benchmarks={"a": "cloze:x.jsonl", "b": "cloze:x.jsonl"})
