"""A text before every prompt that is too long is refused before any training."""

from pathlib import Path

import pytest

from data_prep.core.errors import ConfigurationError
from data_prep.core.settings import evolve
from data_prep.token_stream import tokenizer
from eval.config import ConditionConfig
from launch import sweep
from launch.experiment import Experiment
from launch.recipes import registry

SEQUENCE_LENGTH = 32  # leaves 8 positions to a prefix
CONDITIONS = {
    "plain": ConditionConfig(),
    "short": ConditionConfig(prefix="fog "),
    "control": ConditionConfig(control_text=True),
}


def requested(**more: object) -> Experiment:
    words = {
        "data.tokenizer.vocab_size": 257,  # bytes, and the end of a document
        "train.sequence_length": SEQUENCE_LENGTH,
        "data.annotation.meda_template": "{score}\n",
        "eval.conditions": CONDITIONS,
        "ratios": (0.1,),
        "arms": ("plain", "meda", "matched"),
    }
    return evolve(registry.named("laptop"), words | more)


def check(root: Path, experiment: Experiment) -> None:
    made = tokenizer.train(iter(["fog and rain"]), experiment.data.tokenizer)
    tokenizer.save(made, str(root / experiment.runs()[0].tokenizer))
    sweep._check_conditions(str(root), experiment)


def test_texts_that_leave_room_are_accepted(tmp_path: Path):
    check(tmp_path, requested())


def test_a_long_prefix_is_refused_with_the_arm_and_the_limit(tmp_path: Path):
    long = requested(**{"eval.conditions.short": ConditionConfig(prefix="123456789")})
    message = r"condition short of arm plain: .*has 9 tokens.* leaves 8 to it"
    with pytest.raises(ConfigurationError, match=message):
        check(tmp_path, long)


def test_a_long_control_text_is_refused_on_its_own_arm_only(tmp_path: Path):
    wordy = requested(**{"data.annotation.meda_template": "toxicity: {score}\n"})
    message = r"condition control of arm meda: .*annotation\.meda_template"
    with pytest.raises(ConfigurationError, match=message):
        check(tmp_path, wordy)
