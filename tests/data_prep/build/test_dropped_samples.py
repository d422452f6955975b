import json

from data_prep.build import dropped_samples
from data_prep.build.dropped_samples import Drop


def test_words_of_four_letters_or_more_are_hidden_and_long_texts_cut() -> None:
    assert (
        dropped_samples.masked("The worst of it: naïve don't x1234!")
        == "The w**** of it: n**** don't x****!"
    )
    assert dropped_samples.masked("ab " * 100) == "ab " * 66 + "ab…"


def test_the_first_of_each_reason_are_kept_also_when_a_file_is_read_on() -> None:
    samples = dropped_samples.Samples()
    for row in range(5):
        samples.note("short", row, 0, f"text {row}")
    samples.note("empty", 9, 1, "")
    assert [(drop.reason, drop.row) for drop in samples.kept] == [
        ("short", 0),
        ("short", 1),
        ("short", 2),
        ("empty", 9),
    ]
    later = dropped_samples.Samples(samples.kept)
    for row in (11, 12, 13):
        later.note("empty", row, 0, "")
        later.note("short", row, 0, "")
    assert [(drop.reason, drop.row) for drop in later.kept] == [("empty", 11), ("empty", 12)]


def test_every_files_first_comes_before_any_files_second_and_a_reason_is_capped() -> None:
    files = [
        (f"f{i:02}", [_drop(row) for row in range(2)], ["7 is not JSON"] if i == 3 else [])
        for i in range(20)
    ]
    rows = [json.loads(line) for line in dropped_samples.encode(files).splitlines()]
    assert [row["place"] for row in rows if row["reason"] == "short"] == [
        f"f{i:02}:1" for i in range(20)
    ] + [f"f{i:02}:2" for i in range(4)]
    assert rows[-1] == {"reason": "unreadable", "place": "f03:7", "text": "is not JSON"}


def test_a_part_of_a_row_is_named() -> None:
    (row,) = dropped_samples.encode(
        [("f", [Drop(reason="r", row=4, part=2, text="é")], [])]
    ).splitlines()
    assert json.loads(row) == {"reason": "r", "place": "f:5 part 3", "text": "é"}


def _drop(row: int) -> Drop:
    return Drop(reason="short", row=row, part=0, text="")
