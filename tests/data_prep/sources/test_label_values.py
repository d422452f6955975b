from decimal import Decimal

import pytest

from data_prep.sources import label_values

NAN = float("nan")


@pytest.mark.parametrize(
    ("value", "number"),
    [
        (True, 1.0),
        ("TRUE ", 1.0),
        ("false", 0.0),
        (1, 1.0),
        ("1", 1.0),
        (" 1.0\u00a0", 1.0),
        ("１", 1.0),
        ("+.5", 0.5),
        ("1e-1", 0.1),
        ("−1", -1.0),
        (Decimal("0.25"), 0.25),
    ],
)
def test_numbers_are_read_from_numbers_truth_values_and_texts(value, number):
    assert label_values.as_number(value) == number


@pytest.mark.parametrize(
    "value",
    ["0,5", "85%", "1_000", "0x1", "inf", float("inf"), 10**400, NAN, "", None, [1], {}, b"1", "a"],
)
def test_nothing_else_is_a_number(value):
    assert label_values.as_number(value) is None


@pytest.mark.parametrize("value", [None, NAN, Decimal("NaN"), "", " \u200b", "NaN", "N/A", "null"])
def test_a_missing_label_is_recognised(value):
    assert label_values.is_missing(value)


@pytest.mark.parametrize("value", [0, False, "0", "none", [], {}, "no"])
def test_a_label_is_not_taken_for_a_missing_one(value):
    assert not label_values.is_missing(value)


@pytest.mark.parametrize(
    ("value", "word"),
    [
        ("Toxic", "toxic"),
        ("\u00a0TOXIC \ufeff", "toxic"),
        ("ｔｏｘｉｃ", "toxic"),
        ("non‑toxic", "non-toxic"),
        ("Straße  1", "strasse 1"),
        (0, "0"),
        (0.0, "0"),
        ("0.0", "0"),
        (False, "0"),
        (2.5, "2.5"),
        ([0], None),
        (None, None),
    ],
)
def test_words_are_compared_folded_and_numbers_by_value(value, word):
    assert label_values.as_word(value) == word
