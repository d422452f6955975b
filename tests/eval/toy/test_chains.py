"""The chains' sequences, and the batches that are drawn of them."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
from toy_settings import TINY

from data_prep.core.errors import ConfigurationError
from eval.toy import chains
from eval.toy.config import ChainConfig, ToyConfig, ToyModelConfig, ToyTrainingConfig
from eval.toy.replicas import train_replicas


def test_three_chains_give_twelve_sequences_none_twice():
    found = chains.sequences(ChainConfig())
    assert found.tokens_NT.shape == (12, 8)
    assert len({tuple(row) for row in found.tokens_NT}) == 12
    assert found.feature_N.tolist() == list(range(12))
    assert found.tokens_NT[:4, 0].tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize(("n_states", "n_chains"), [(4, 6), (5, 24)])
def test_every_chain_has_a_cycle_of_its_own(n_states: int, n_chains: int):
    config = ChainConfig(n_states=n_states, n_chains=n_chains, length_tokens=2 * n_states)
    steps = {
        tuple(sorted(zip(cycle, (*cycle[1:], cycle[0]), strict=True)))
        for cycle in chains.cycles(config)
    }
    assert len(steps) == n_chains
    for row in chains.sequences(config).tokens_NT:
        assert sorted(row[:n_states]) == list(range(n_states))
        assert (row[n_states:] == row[:n_states]).all()


def test_without_reverses_where_cycles_suffice():
    ways = chains.cycles(ChainConfig())
    assert ways == [(0, 1, 2, 3), (0, 1, 3, 2), (0, 2, 1, 3)]


def test_noise_replaces_its_share_of_steps():
    noisy = ChainConfig(noise=0.4, n_variants=200)
    found = chains.sequences(noisy)
    follows = {
        chain: dict(zip(cycle, (*cycle[1:], cycle[0]), strict=True))
        for chain, cycle in enumerate(chains.cycles(noisy))
    }
    n_right = n = 0
    for row, feature in zip(found.tokens_NT, found.feature_N, strict=True):
        for now, then in itertools.pairwise(row):
            n_right += follows[feature // 4][now] == then
            n += 1
    expected = 0.6 + 0.4 / 4  # a noisy step may go to the next state by chance
    assert abs(n_right / n - expected) < 4 * (expected * (1 - expected) / n) ** 0.5


def test_counts_are_the_drawn_rows_counted():
    drawn = chains.counts(TINY, seed=1)
    rows = chains.uniform_rows(TINY, seed=1)
    for place, ratio in enumerate(TINY.ratios):
        for step, row in enumerate(chains.drawn_sequences(TINY.chains, ratio, rows)):
            assert np.bincount(row, minlength=12).tolist() == drawn[step, place].tolist()
    assert (drawn.sum(axis=2) == 32).all()


def test_the_ratio_is_that_of_the_chains_frequencies():
    config = replace(TINY, training=ToyTrainingConfig(n_steps=400, warmup_steps=4, batch_size=500))
    n_of_chain = chains.counts(config, seed=0).sum(axis=0).reshape(2, 3, 4).sum(axis=2)
    n = 400 * 500
    for place, ratio in enumerate(config.ratios):
        share = ratio / (2 + ratio)
        assert abs(n_of_chain[place, 0] / n - share) < 4 * (share * (1 - share) / n) ** 0.5


def test_batches_of_two_ratios_differ_only_where_they_must():
    rows = chains.uniform_rows(TINY, seed=2)
    low, high = (chains.drawn_sequences(TINY.chains, ratio, rows) for ratio in (0.1, 1.0))
    assert ((low // 4 == 0) <= (high // 4 == 0)).all()  # the rare rows are nested


def test_seeds_draw_other_batches():
    first, second = (chains.counts(TINY, seed) for seed in (0, 1))
    assert not (first == second).all()


def test_a_replica_without_under_sampled_sequences_is_refused():
    config = replace(TINY, ratios=(1e-9, 1.0))
    with pytest.raises(ConfigurationError, match=r"1e-09, seed 0 draws no sequence .* raise"):
        train_replicas.draw_all(config)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ToyConfig(ratios=(0.0, 1.0)), "ratios is"),
        (lambda: ToyConfig(ratios=(0.1, 1.5)), "ratios is"),
        (lambda: ToyConfig(ratios=(1.0,)), "ratios is"),
        (lambda: ToyConfig(ratios=(1.0, 0.1)), "ascending"),
        (lambda: ToyConfig(ratios=(0.1, 0.1)), "each value once"),
        (lambda: ToyConfig(n_seeds=2), "n_seeds is 2"),
        (lambda: ChainConfig(n_chains=1), "chains.n_chains is 1"),
        (lambda: ChainConfig(n_chains=7), "4 states have 6 cycles"),
        (lambda: ChainConfig(length_tokens=7), "at least 8"),
        (lambda: ChainConfig(noise=0.1), "set both or neither"),
        (lambda: ChainConfig(n_variants=3), "set both or neither"),
        (lambda: ToyModelConfig(d_model=5), "that the heads divide"),
        (lambda: ToyTrainingConfig(warmup_steps=4000), "less than training.n_steps"),
        (lambda: ToyTrainingConfig(weight_decays=(1.0, 1.0)), "each value once"),
    ],
)
def test_impossible_settings_are_refused(make, message: str):
    with pytest.raises(ConfigurationError, match=message):
        make()
