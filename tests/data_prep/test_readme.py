"""The README of data_prep lists what exists."""

import re
from pathlib import Path

from data_prep.config import DataConfig, TokenizerConfig
from data_prep.core.settings import describe

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "data_prep" / "README.md").read_text()
CONFIG = DataConfig(
    clean=("a",), toxic=("b",), tokenizer=TokenizerConfig(source="train", vocab_size=300)
)


def test_the_readme_lists_every_setting_of_data():
    table = README[README.index("## Settings") : README.index("## Life of a token")]
    group = ""
    listed = set()
    for names in re.findall(r"^\| (`.*?) \|", table, re.MULTILINE):
        for name in re.findall(r"`([\w.]+)`", names):
            group = name.rpartition(".")[0] or ("" if "." not in names else group)
            listed.add(name if "." in name or not group else f"{group}.{name}")
    assert listed == {setting.path for setting in describe(CONFIG)}


def test_every_module_that_the_readme_mentions_exists():
    text = README[README.index("## Life of a token") : README.index("## Layout")]
    for name in re.findall(r"`([\w/]+\.py)`", text):
        assert (ROOT / "data_prep" / name).is_file() or (ROOT / name).is_file(), name
