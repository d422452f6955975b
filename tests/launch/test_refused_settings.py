"""Settings that no sweep could use are refused when they are constructed."""

from dataclasses import replace

import pytest

from data_prep.config import CleaningConfig, DataConfig, TokenizerConfig
from data_prep.core.errors import ConfigurationError
from data_prep.core.settings import evolve
from launch.recipes import registry

DATA = DataConfig(
    clean=("a",), toxic=("b",), tokenizer=TokenizerConfig(source="train", vocab_size=300)
)


@pytest.mark.parametrize("n_tokens", [1, 63])
def test_tiny_shards_are_refused(n_tokens: int):
    with pytest.raises(ConfigurationError, match=r"data\.shard_tokens is \d+; expected .*>= 64"):
        replace(DATA, shard_tokens=n_tokens)
    assert replace(DATA, shard_tokens=64).shard_tokens == 64


def test_a_sweep_with_too_many_shards_is_refused_before_it_starts():
    with pytest.raises(ConfigurationError, match=r"data\.shard_tokens is 64.*at least 201,000"):
        evolve(registry.named("paper"), {"data.shard_tokens": 64})
    assert evolve(registry.named("paper"), {"data.shard_tokens": 201_000})


def test_a_warm_up_and_a_decay_longer_than_the_run_are_refused():
    shares = {"train.schedule.warmup_ratio": 0.6, "train.schedule.decay_ratio": 0.5}
    with pytest.raises(ConfigurationError, match=r"0\.6 and decay_ratio 0\.5 add up to more"):
        evolve(registry.named("laptop"), shares | {"train.schedule.kind": "wsd"})
    assert evolve(registry.named("laptop"), shares | {"train.schedule.kind": "cosine"})


def test_lengths_that_no_document_has_are_refused():
    with pytest.raises(ConfigurationError, match=r"min_chars is 50, .*max_chars is 40"):
        CleaningConfig(min_chars=50, max_chars=40)
    assert CleaningConfig(min_chars=40, max_chars=40)


def test_an_empty_end_token_is_refused():
    with pytest.raises(ConfigurationError, match=r"data\.tokenizer\.eos is ''"):
        replace(DATA.tokenizer, eos="")
