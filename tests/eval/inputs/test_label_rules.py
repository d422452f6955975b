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
def test_a_rule_says_its_name_in_words_and_labels_by_it(text, name, fields, label):
    rule = label_rules.parse(text, 0.5)
    assert (rule.name, rule.label(fields, "row 1")) == (name, label)


def test_a_rule_that_is_none_and_a_field_that_is_missing_are_named():
    with pytest.raises(ConfigurationError, match=r"#label=a>=1e: '1e' is no number"):
        label_rules.parse("a>=1e", 0.5)
    with pytest.raises(
        ConfigurationError,
        match="row 1: the label in field 'toxicity_human' is None, expected 0, 1 or a number",
    ):
        label_rules.parse("toxigen", 0.5).label({"toxicity_ai": 3}, "row 1")
    with pytest.raises(ConfigurationError, match="row 1: there is no field 'is_toxic'"):
        label_rules.parse("is_toxic=Toxic", 0.5).label({"text": ""}, "row 1")
    with pytest.raises(
        ConfigurationError, match=r"is 'Toxic', expected 0, 1 or a number.*#label=is_toxic=WORD"
    ):
        label_rules.parse("is_toxic", 0.5).label({"is_toxic": "Toxic"}, "row 1")
