import pytest

from data_prep.core.errors import ConfigurationError
from eval.inputs import label_rules
from eval.inputs.text_rows import Reason


@pytest.mark.parametrize(
    ("text", "name", "fields", "label"),
    [
        ("hate", "hate ≥ 0.5", {"hate": 0.5}, 1),
        ("hate", "hate ≥ 0.5", {"hate": "false"}, 0),
        ("a+b", "a+b ≥ 0.5", {"a+b": 1}, 1),
        ("score>=2.5", "score ≥ 2.5", {"score": 2.5}, 1),
        ("score>2.5", "score > 2.5", {"score": 2.5}, 0),
        ("prompt.toxicity>=-1e1", "prompt.toxicity ≥ -10", {"prompt.toxicity": "-10"}, 1),
        (
            "toxigen",
            "toxigen: toxicity_ai + toxicity_human > 5.5",
            {"toxicity_ai": 3.5, "toxicity_human": 2.0},
            0,
        ),
        (
            "toxigen",
            "toxigen: toxicity_ai + toxicity_human > 5.5",
            {"toxicity_ai": "3.6", "toxicity_human": 2},
            1,
        ),
        ("is_toxic=Toxic", "is_toxic is Toxic", {"is_toxic": "Toxic"}, 1),
        ("is_toxic=Toxic", "is_toxic is Toxic", {"is_toxic": "Not Toxic"}, 0),
        ("class=0", "class is 0", {"class": 0}, 1),
        ("toxigen_human", "toxigen_human: toxicity_human ≥ 2.5", {"toxicity_human": 2.67}, 1),
    ],
)
def test_a_rule_labels_rows_and_names_itself_in_words(text, name, fields, label):
    rule = label_rules.parse_rule(text, 0.5)
    assert (rule.name, rule.label(fields, "row 1")) == (name, label)


def test_a_rule_that_cannot_be_read_is_refused():
    with pytest.raises(ConfigurationError, match=r"#label=a>=1e: '1e' is not a number"):
        label_rules.parse_rule("a>=1e", 0.5)


NO_LABEL, NEGATIVE, OFF_SCALE = Reason.NO_LABEL, Reason.NEGATIVE, Reason.OFF_SCALE


@pytest.mark.parametrize(
    ("rule", "value", "label"),
    [
        ("x", -1, NEGATIVE),
        ("x", "-1", NEGATIVE),
        ("x", "−1.0", NEGATIVE),
        ("x>=0.5", -1, NEGATIVE),
        ("x>0", -1, NEGATIVE),
        ("x=1", -1, NEGATIVE),
        ("x=1", "-1.0", NEGATIVE),
        ("x", None, NO_LABEL),
        ("x", "", NO_LABEL),
        ("x", float("nan"), NO_LABEL),
        ("x>0.5", "NaN", NO_LABEL),
        ("x", "n/a", NO_LABEL),
        ("x", "None", NO_LABEL),
        ("x", "?", NO_LABEL),
        ("x=Toxic", None, NO_LABEL),
        ("x=Toxic", " ", NO_LABEL),
        ("x=Toxic", "N/A", NO_LABEL),
        ("x+y>1", 3, NO_LABEL),
        ("x>0.5[-9:7]", -8, 0),
        ("x>0.5[-9:7]", 0.6, 1),
        ("x>0.5[-9:7]", 8, OFF_SCALE),
        ("x>0[-1:1]", -1, 0),
        ("x>=-2", -1, 1),
        ("x=-1", -1, 1),
        ("x=-1", 1, 0),
    ],
)
def test_a_row_without_a_class_is_left_out_and_never_benign(rule, value, label):
    assert label_rules.parse_rule(rule, 0.5).label({"x": value}, "row 1") == label


@pytest.mark.parametrize(
    ("rule", "value", "label"),
    [
        ("x=Toxic", "toxic", 1),
        ("x=Toxic", "TOXIC ", 1),
        ("x=Toxic", "\u00a0ｔｏｘｉｃ", 1),
        ("x=toxic ", "Toxic", 1),
        ("x=Toxic", "Not Toxic", 0),
        ("x=Non-Toxic", "non‑toxic", 1),
        ("x=0", 0.0, 1),
        ("x=0", "0.0", 1),
        ("x=0", False, 1),
        ("x=true", 1, 1),
        ("x=NOT", "none", 0),
        ("x=none", "None", 1),
    ],
)
def test_words_match_folded_and_numbers_by_value(rule, value, label):
    assert label_rules.parse_rule(rule, 0.5).label({"x": value}, "row 1") == label


@pytest.mark.parametrize(
    ("rule", "value", "message"),
    [
        ("x", "Toxic", r"is 'Toxic', expected 0, 1 or a number.*#label=x=WORD"),
        ("x", "0,5", r"is '0,5', expected 0, 1 or a number; write numbers with a point"),
        ("x", "85%", r"is '85%', expected 0, 1 or a number; write numbers with a point, without %"),
        ("x", "inf", "is 'inf', expected 0, 1 or a number"),
        ("x", 85, r"is 85, expected 0 to 1; .* #label=x>=NUMBER, or #label=x=WORD"),
        ("x", [0, 1, 1], "is a list of 3, expected 0, 1 or a number; expected one label per row"),
        ("x>=0.5", {"a": 1}, "is an object, .* name a field inside it, #label=x.a"),
        ("x=Toxic", ["Toxic", "Toxic"], "is a list of 2; expected one label per row; reduce"),
    ],
)
def test_a_value_that_is_no_label_is_refused_by_name(rule, value, message):
    with pytest.raises(ConfigurationError, match=f"row 1: the label in field 'x' {message}"):
        label_rules.parse_rule(rule, 0.5).label({"x": value}, "row 1")


def test_a_threshold_above_one_has_another_scale():
    rule = label_rules.parse_rule("score", 2.5)
    assert [rule.label({"score": value}, "row 1") for value in (1, 2.5, 5)] == [0, 1, 1]


def test_fields_of_a_sum_may_be_dotted():
    fields = {"ai": {"score": 3}, "human": {"score": 2.6}}
    assert label_rules.parse_rule("ai.score+human.score>5.5", 0.5).label(fields, "row 1") == 1


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        ("x<=0.5", "expected one of FIELD, FIELD>=NUMBER"),
        ("x==1", "expected one of FIELD"),
        ("x!=1", "expected one of FIELD"),
        ("x>=nan", "'nan' is not a number"),
        ("x>1_0", "'1_0' is not a number"),
        ("x>0[7:-9]", r"expected a scale \[LOW:HIGH\] of two numbers"),
    ],
)
def test_rules_of_other_forms_are_refused(rule, message):
    with pytest.raises(ConfigurationError, match=f"#label={rule[:2]}.*{message}"):
        label_rules.parse_rule(rule, 0.5)
