import pytest

from data_prep.core.errors import ConfigurationError
from eval.inputs import label_rules


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


@pytest.mark.parametrize(
    ("rule", "fields", "message"),
    [
        (
            "toxigen",
            {"toxicity_ai": 3},
            "row 1: the label in field 'toxicity_human' is None, expected 0, 1 or a number",
        ),
        ("is_toxic=Toxic", {"text": ""}, "row 1: there is no field 'is_toxic'"),
        (
            "is_toxic",
            {"is_toxic": "Toxic"},
            r"is 'Toxic', expected 0, 1 or a number.*#label=is_toxic=WORD",
        ),
    ],
)
def test_a_field_without_a_label_is_refused_by_name(rule, fields, message):
    with pytest.raises(ConfigurationError, match=message):
        label_rules.parse_rule(rule, 0.5).label(fields, "row 1")
