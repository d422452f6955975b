"""`--conditions` names known conditions, those of `--set`, and combinations."""

import pytest

from data_prep.core.errors import ConfigurationError
from eval.config import PREAMBLE, ConditionConfig
from launch import cli
from launch.experiment import Experiment


def requested(*words: str) -> Experiment:
    return cli.requested_experiment(cli.parser().parse_args(words))


def test_named_conditions_bring_what_they_need():
    conditions = requested("--recipe", "paper", "--conditions", "prompt+iti").eval.conditions
    assert conditions == {
        "plain": ConditionConfig(),
        "prompt": ConditionConfig(prefix=PREAMBLE),
        "prompt+iti": ConditionConfig(prefix=PREAMBLE, steering="iti"),
    }


def test_a_condition_of_set_is_named_and_combined():
    polite = ["--set", 'eval.conditions.polite={"prefix":"Be polite. "}']
    named = requested(*polite, "--conditions", "polite+iti").eval.conditions
    assert named["polite+iti"] == ConditionConfig(prefix="Be polite. ", steering="iti")
    kept = requested(*polite, "--conditions", "iti").eval.conditions
    assert list(kept) == ["plain", "polite", "iti"]


def test_control_adds_the_arms_that_it_needs():
    sweep = requested("--ratios", "0", "0.25", "0.1", "--conditions", "control")
    assert (sweep.arms, sweep.arm_ratios) == (("plain", "matched", "meda", "inst"), (0.1,))
    own = requested("--set", 'arms=["plain","inst"]', "--conditions", "control")
    assert own.arms == ("plain", "inst")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("polite", "there is no condition 'polite'; expected some of plain, prompt"),
        ("iti+flipped", "two of its parts steer"),
        ("prompt+prompt", "a part is named twice"),
    ],
)
def test_a_wrong_name_is_refused(name: str, message: str):
    with pytest.raises(ConfigurationError, match=message):
        requested("--conditions", name)


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("eval.steering.strengths=[]", "strengths is empty, and iti, random_directions of"),
        ("eval.probes.x=", r"eval.probes.x is empty; expected a document URI"),
        ("eval.conditions.iti.steering=none", r"the whole of it: --set 'eval.conditions.iti=…'"),
        ('eval.conditions.x={"steering":"itii"}', r"\(steering: Input should be 'none', 'iti'"),
        ('eval.conditions.x={"prefix":"a","steering":"iti"}', r"eval.conditions.x-base=\{"),
        ('eval.conditions={"iti":{"steering":"iti"}}', "expected 'plain': {} among them"),
        ('eval.prompts={"a":"x.jsonl","b":"x.jsonl"}', "'a' and 'b' are both 'x.jsonl'"),
        ('eval.prompts={"con/cat":"x.jsonl"}', "'con/cat' is no name"),
        ("eval.steering.strengths=[0,4]", "greater than|> 0"),
        ('eval.conditions.c={"control_text":true}', "c starts with the control text of an arm"),
    ],
)
def test_a_wrong_condition_or_set_is_refused(word: str, message: str):
    with pytest.raises(ConfigurationError, match=message):
        requested("--set", word)
