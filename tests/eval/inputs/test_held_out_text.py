import json

import numpy as np
import pytest

from data_prep.config import TokenizerConfig
from data_prep.core.errors import ConfigurationError
from data_prep.token_stream import tokenizer
from eval.config import CapabilityConfig, EvalConfig, GenerationConfig, ProbingConfig, ScoringConfig
from eval.inputs.held_out_text import Files

WORDS = ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"]


@pytest.fixture(scope="module")
def engine():
    return tokenizer.train(iter(WORDS * 20), TokenizerConfig(source="train", vocab_size=280))


def written(path, texts):
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return str(path)


def test_a_sample_depends_on_the_texts_alone_and_a_larger_one_goes_on_from_it(tmp_path, engine):
    texts = [f"{first} {second}" for first in WORDS for second in WORDS]
    forward = Files(written(tmp_path / "a.jsonl", texts), engine, 0)
    backward = Files(written(tmp_path / "b.jsonl", [*texts[::-1], *texts[:50]]), engine, 0)
    sample = [engine.decode(ids) for ids in forward.documents(12)]
    assert len(set(sample)) == 12 and set(sample) < set(texts)
    assert [engine.decode(ids) for ids in backward.documents(12)] == sample
    assert [engine.decode(ids) for ids in backward.documents(40)][:12] == sample
    assert sorted(engine.decode(ids) for ids in backward.documents(1000)) == sorted(texts)
    assert [engine.decode(ids) for ids in forward._replace(seed=1).documents(12)] != sample


def test_windows_are_documents_end_to_end_and_fewer_where_there_is_too_little_text(
    tmp_path, engine
):
    files = Files(written(tmp_path / "a.jsonl", WORDS), engine, 0)
    whole = np.concatenate([[*ids, engine.eos_id] for ids in files.documents(10)])
    assert files.windows(4, 2).tolist() == whole[:8].reshape(2, 4).tolist()
    assert files.windows(4, 1000).tolist() == whole[: len(whole) // 4 * 4].reshape(-1, 4).tolist()
    assert files.windows(10_000, 5).shape == (0, 10_000)


@pytest.mark.parametrize("given", [("clean",), ("clean=",), ("a=x.txt", "a=y.txt"), ("=x.txt",)])
def test_text_without_a_name_or_a_uri_is_refused(given):
    with pytest.raises(ConfigurationError, match="expected NAME=URI, each name once"):
        EvalConfig(
            probing=ProbingConfig(rows="held_out"),
            generation=GenerationConfig(prompts="held_out"),
            scoring=ScoringConfig(scorer="profanity"),
            capability=CapabilityConfig(held_out=given),
        )
