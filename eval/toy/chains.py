"""cyclic Markov chains over shared states: their sequences, and how often each is drawn

Chain c visits all S states in the order of its cycle. With start state s its sequence is feature
c·S + s. There are few different sequences, so a batch is written as counts: weighting the loss of
each sequence by how often it was drawn is the same SGD as a row per draw.

Shapes: N different sequences, T tokens, K optimizer steps, G ratios.
"""

import itertools
from typing import NamedTuple

import numpy as np

from data_prep.core import keyed_random
from eval.toy.config import ChainConfig, ToyConfig

UNDER_SAMPLED = 0  # the chain whose frequency is varied


class Sequences(NamedTuple):
    """Every different sequence: tokens [N, T], and its feature [N], in ascending order."""

    tokens_NT: np.ndarray
    feature_N: np.ndarray


def cycles(config: ChainConfig) -> list[tuple[int, ...]]:
    """The cycle of each chain, from state 0 on. A cycle comes before its reverse, so three chains
    over four states are none another's reverse.
    """
    orders = list(itertools.permutations(range(1, config.n_states)))
    one_way = [order for order in orders if order[0] < order[-1]]
    reverses = [order[::-1] for order in one_way]
    return [(0, *order) for order in [*one_way, *reverses][: config.n_chains]]


def sequences(config: ChainConfig) -> Sequences:
    """The sequences of all features; with noise, `n_variants` keyed draws of each."""
    rows = []
    for chain, cycle in enumerate(cycles(config)):
        following = dict(zip(cycle, (*cycle[1:], cycle[0]), strict=True))
        for start in range(config.n_states):
            for variant in range(config.n_variants):
                rows.append(_walk(config, following, (chain, start, variant)))
    n_features = config.n_chains * config.n_states
    return Sequences(np.array(rows), np.repeat(np.arange(n_features), config.n_variants))


def _walk(config: ChainConfig, following: dict[int, int], name: tuple[int, int, int]) -> list[int]:
    """One sequence of (chain, start, variant)."""
    keys = np.array(keyed_random.key("toy sequence", *name), dtype=np.uint64)
    uniform = keyed_random.uniforms(keys, np.arange(2 * config.length_tokens))
    states = [name[1]]
    for jump, place in uniform.reshape(-1, 2)[1:]:
        is_noise = jump < config.noise
        states.append(int(place * config.n_states) if is_noise else following[states[-1]])
    return states


def counts(config: ToyConfig, seed: int) -> np.ndarray:
    """How often each sequence is drawn in each step at each ratio: uint16 [K, G, N].

    All ratios read the same uniform numbers, so that they differ by as few draws as possible.
    """
    rows_KB = uniform_rows(config, seed)
    n_steps = len(rows_KB)
    n_sequences = len(sequences(config.chains).feature_N)
    drawn = np.empty((n_steps, len(config.ratios), n_sequences), dtype=np.uint16)
    for place, ratio in enumerate(config.ratios):
        sequence_KB = drawn_sequences(config.chains, ratio, rows_KB)
        flat = sequence_KB + n_sequences * np.arange(n_steps)[:, None]
        total = np.bincount(flat.ravel(), minlength=n_steps * n_sequences)
        drawn[:, place] = total.reshape(n_steps, n_sequences)
    return drawn


def uniform_rows(config: ToyConfig, seed: int) -> np.ndarray:
    """A uniform number per step and row of its batch: [K, batch]."""
    shape = (config.training.n_steps, config.training.batch_size)
    key = np.array(keyed_random.key("toy batch", seed), dtype=np.uint64)
    return keyed_random.uniforms(key, np.arange(shape[0] * shape[1])).reshape(shape)


def drawn_sequences(config: ChainConfig, ratio: float, uniform: np.ndarray) -> np.ndarray:
    """The sequence that each uniform number draws at this ratio, in the shape of `uniform`."""
    n_of_chain = config.n_states * config.n_variants
    frequency = np.ones(config.n_chains)
    frequency[UNDER_SAMPLED] = ratio
    each = np.repeat(frequency / (n_of_chain * frequency.sum()), n_of_chain)
    ends = np.cumsum(each)[:-1]  # what is above the last one is the last sequence, whatever rounds
    return np.searchsorted(ends, uniform, side="right")
