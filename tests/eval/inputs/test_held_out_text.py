import json

import numpy as np
import pytest

from data_prep.config import TokenizerConfig
from data_prep.core.errors import ConfigurationError
from data_prep.token_stream import tokenizer
from eval.config import CapabilityConfig
from eval.inputs.held_out_text import HeldOutFiles

WORDS = ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"]


@pytest.fixture(scope="module")
def engine():
    return tokenizer.train(iter(WORDS * 20), TokenizerConfig(source="train", vocab_size=280))


def write_texts(path, texts):
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return str(path)


def test_a_sample_does_not_depend_on_the_order_of_the_file(tmp_path, engine):
    texts = [f"{first} {second}" for first in WORDS for second in WORDS]
    backwards = [*texts[::-1], *texts[:50]]  # with repeated texts
    files = HeldOutFiles(write_texts(tmp_path / "a.jsonl", texts), engine, 0)
    other_order = HeldOutFiles(write_texts(tmp_path / "b.jsonl", backwards), engine, 0)

    def sample(source, limit):
        return [engine.decode(ids) for ids in source.documents(limit)]

    first = sample(files, 12)
    assert len(set(first)) == 12 and set(first) < set(texts)
    assert sample(other_order, 12) == first
    assert sample(other_order, 40)[:12] == first
    assert sorted(sample(other_order, 1000)) == sorted(texts)
    assert sample(files._replace(seed=1), 12) != first


def test_windows_are_concatenated_documents(tmp_path, engine):
    files = HeldOutFiles(write_texts(tmp_path / "a.jsonl", WORDS), engine, 0)
    ids = np.concatenate([[*ids, engine.eos_id] for ids in files.documents(10)])
    assert files.windows(4, 2).tolist() == ids[:8].reshape(2, 4).tolist()
    assert files.windows(4, 1000).tolist() == ids[: len(ids) // 4 * 4].reshape(-1, 4).tolist()
    assert files.windows(10_000, 5).shape == (0, 10_000)


@pytest.mark.parametrize("held_out", [("clean",), ("clean=",), ("a=x.txt", "a=y.txt"), ("=x.txt",)])
def test_held_out_text_without_a_name_or_a_uri_is_refused(held_out):
    with pytest.raises(ConfigurationError, match="expected NAME=URI, each name once"):
        CapabilityConfig(held_out=held_out)


@pytest.mark.parametrize("name", ["openwebtext", "Clean", "", "owt.jsonl"])
def test_a_cost_on_a_text_that_is_not_held_out_is_refused(name):
    with pytest.raises(ConfigurationError, match=r"cost_text is .*expected .*: clean, toxic, web;"):
        CapabilityConfig(held_out=("web=x.txt",), cost_text=name)
    assert CapabilityConfig(held_out=("web=x.txt",), cost_text="web").cost_text == "web"
