import shlex

import pytest

from data_prep.core.errors import ConfigurationError
from data_prep.core.settings import describe, parse_overrides
from launch.list_settings import settings_list
from launch.recipes import registry

LAPTOP = registry.named("laptop")


def test_every_setting_is_listed_once_under_its_group():
    lines = settings_list(LAPTOP).splitlines()
    listed = [line.split()[0].rstrip("*") for line in lines if " = " in line]
    assert sorted(listed) == sorted(setting.path for setting in describe(LAPTOP))
    headings = [line for line in lines if line and " " not in line]
    assert len(headings) == len(set(headings)) and {"experiment", "data", "train"} <= {*headings}


def test_a_setting_is_listed_with_its_value_type_and_meaning():
    text = settings_list(LAPTOP, "data.tokenizer.vocab_size")
    assert "data.tokenizer.vocab_size = 1024   (whole number >= 257)\n      Number of ids" in text


def test_operational_settings_are_marked():
    assert "\n  n_ranks* = 2 " in settings_list(LAPTOP, "n_ranks")
    assert "\n  budget_tokens = " in settings_list(LAPTOP, "budget_tokens")


def test_an_unknown_prefix_is_refused_with_the_nearest():
    assert "data.cleaning.min_chars" in settings_list(LAPTOP, "data.cleaning")
    with pytest.raises(ConfigurationError, match=r"did you mean data\.cleaning"):
        settings_list(LAPTOP, "data.claening")


def test_every_setting_of_a_sweep_has_a_meaning():
    assert [setting.path for setting in describe(LAPTOP) if not setting.meaning] == []


@pytest.mark.parametrize("path", [setting.path for setting in describe(LAPTOP)])
def test_the_example_in_the_error_of_each_setting_works(path):
    for wrong in ("[[[]]]", '{"a": []}', "null"):
        try:
            parse_overrides(LAPTOP, [f"{path}={wrong}"])
        except ConfigurationError as error:
            _, _, text = str(error).rpartition("e.g. --set ")
            for word in shlex.split(text if "e.g. --set " in str(error) else ""):
                assert word.startswith(f"{path}=")
                parse_overrides(LAPTOP, [word])
