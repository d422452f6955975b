from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_prep.mixture import PADDING, Mixture, check_supply, sequences_for
from data_prep.records import ConfigurationError

GOLDEN = [[3, 2, 7, 1, 0, 4, 5, 6], [5, 6, 0, 7, 3, 4, 2, 1], [4, 2, 6, 0, 3, 7, 1, 5]]
RATIOS = (0.0, 0.05, 0.10, 0.15, 0.20, 0.25)
mixtures = st.builds(
    Mixture, n_clean=st.integers(1, 300), n_toxic=st.integers(0, 100), batch_size=st.integers(1, 40), seed=st.integers(-5, 2**63)
)


def batches(mixture: Mixture) -> list[list[tuple[bool, int]]]:
    """Each batch as (toxic, sequence), without padding."""
    every = [mixture.rows(step) for step in range(mixture.n_steps)]
    return [[(bool(t), int(s)) for t, s in zip(*rows, strict=True) if s != PADDING] for rows in every]


def in_sample_order(mixture: Mixture) -> list[tuple[bool, int]]:
    """The samples k = 0, 1, …: what rows() permutes within a batch, sorted back by the formula written out."""
    n, toxic = mixture.n_sequences, mixture.n_toxic
    before = [k * toxic // n for k in range(n + 1)]
    return [(True, before[k]) if before[k + 1] > before[k] else (False, k - before[k]) for k in range(n)]


@given(mixtures)
def test_every_sequence_of_both_streams_is_used_exactly_once(mixture: Mixture):
    used = Counter(sample for batch in batches(mixture) for sample in batch)
    assert used == Counter([(False, i) for i in range(mixture.n_clean)] + [(True, i) for i in range(mixture.n_toxic)])


@given(mixtures)
def test_every_batch_is_within_one_row_of_the_ratio(mixture: Mixture):
    for batch in batches(mixture):
        assert abs(sum(toxic for toxic, _ in batch) - len(batch) * mixture.n_toxic / mixture.n_sequences) < 1


@given(mixtures)
def test_the_toxic_share_so_far_is_within_one_row_of_the_ratio(mixture: Mixture):
    for k in range(mixture.n_sequences + 1):
        assert 0 <= k * mixture.n_toxic / mixture.n_sequences - mixture.toxic_before(k) < 1


@given(mixtures)
def test_a_batch_holds_the_samples_of_its_own_steps_only(mixture: Mixture):
    samples, size = in_sample_order(mixture), mixture.batch_size
    for step, batch in enumerate(batches(mixture)):
        assert sorted(batch) == sorted(samples[step * size : (step + 1) * size])


@given(mixtures)
def test_only_the_last_batch_is_padded_and_its_padding_is_not_toxic(mixture: Mixture):
    for step in range(mixture.n_steps):
        toxic, sequence = mixture.rows(step)
        assert len(toxic) == len(sequence) == mixture.batch_size
        assert (sequence != PADDING).sum() == mixture.n_valid(step)
        assert mixture.n_valid(step) == mixture.batch_size or step == mixture.n_steps - 1
        assert not toxic[sequence == PADDING].any()
    assert sum(map(mixture.n_valid, range(mixture.n_steps))) == mixture.n_sequences


@given(mixtures, st.data())
def test_a_batch_does_not_depend_on_those_before_it(mixture: Mixture, data: st.DataObject):
    step = data.draw(st.integers(0, mixture.n_steps - 1))
    again = Mixture(n_clean=mixture.n_clean, n_toxic=mixture.n_toxic, batch_size=mixture.batch_size, seed=mixture.seed)
    for one, other in zip(mixture.rows(step), again.rows(step), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("seed", [0, 1])
def test_all_ratios_read_the_clean_stream_in_the_same_order_and_nested_toxic_prefixes(seed: int):
    for ratio in RATIOS:
        n_clean, n_toxic = sequences_for(200 * 64, ratio, 64)
        read: dict[bool, list[int]] = {False: [], True: []}
        for batch in batches(Mixture(n_clean=n_clean, n_toxic=n_toxic, batch_size=16, seed=seed)):
            for toxic in (False, True):
                read[toxic] += sorted(index for of, index in batch if of == toxic)
        assert read[False] == list(range(200))
        assert read[True] == list(range(n_toxic))


def test_ratio_zero_is_the_clean_stream_alone():
    toxic, sequence = Mixture(n_clean=6, n_toxic=0, batch_size=4, seed=0).rows(1)
    assert not toxic.any()
    assert sorted(sequence) == [PADDING, PADDING, 4, 5]


def test_the_example_of_the_docstring():
    mixture = Mixture(n_clean=6, n_toxic=2, batch_size=8, seed=0)
    assert in_sample_order(mixture) == [
        (False, 0),
        (False, 1),
        (False, 2),
        (True, 0),
        (False, 3),
        (False, 4),
        (False, 5),
        (True, 1),
    ]
    assert sorted(batches(mixture)[0]) == sorted(in_sample_order(mixture))


def test_every_rank_gets_its_part_of_the_toxic_rows():
    """Unpermuted, a quarter toxic in batches of 8 would give rows 3 and 7 all of it."""
    mixture = Mixture(n_clean=6000, n_toxic=2000, batch_size=8, seed=0)
    share_of_row = np.mean([mixture.rows(step).toxic for step in range(mixture.n_steps)], axis=0)
    assert share_of_row == pytest.approx([0.25] * 8, abs=0.06)  # 1,000 steps: σ = 0.014


def test_order_within_a_batch_depends_on_seed_and_step_and_is_pinned():
    """Update only when the order is meant to change: every run made before then cannot be resumed."""
    orders = [
        Mixture(n_clean=100, n_toxic=0, batch_size=8, seed=seed).rows(step).sequence for seed, step in ((0, 0), (0, 1), (1, 0))
    ]
    assert [list(order - order.min()) for order in orders] == GOLDEN


def test_rows_of_a_huge_mixture_are_exact():
    """10¹² clean tokens in sequences of 2,048: no overflow, no rounding."""
    n_clean, n_toxic = sequences_for(10**12, 0.25, 2048)
    mixture = Mixture(n_clean=n_clean, n_toxic=n_toxic, batch_size=1024, seed=0)
    step = mixture.n_steps - 2
    toxic, sequence = mixture.rows(step)
    first = step * 1024
    wanted = [mixture.toxic_before(first), mixture.toxic_before(first + 1024)]
    assert sorted(sequence[toxic]) == list(range(*wanted))
    assert sorted(sequence[~toxic]) == list(range(first - wanted[0], first + 1024 - wanted[1]))


@given(st.integers(1, 10**7), st.sampled_from(RATIOS) | st.floats(0, 0.9), st.integers(1, 4096))
def test_toxic_sequences_are_within_half_a_sequence_of_the_ratio(clean_tokens: int, ratio: float, sequence_length: int):
    n_clean, n_toxic = sequences_for(clean_tokens, ratio, sequence_length)
    assert n_clean == clean_tokens // sequence_length
    assert abs(n_toxic - n_clean * ratio / (1 - ratio)) <= 0.5 + 1e-6


def test_a_tenth_is_a_tenth():
    assert sequences_for(900 * 2048, 0.10, 2048) == (900, 100)


@pytest.mark.parametrize("ratio", [-0.1, 1.0, 10.0, float("nan")])
def test_a_ratio_outside_zero_to_one_is_refused(ratio: float):
    with pytest.raises(ConfigurationError, match=r"toxic ratio .* is not in \[0, 1\); 0\.10 means ten percent"):
        sequences_for(1000, ratio, 10)


def test_a_budget_below_one_sequence_is_refused():
    n_clean, n_toxic = sequences_for(9, 0.1, 10)
    with pytest.raises(ConfigurationError, match=r"0 clean and 0 toxic.*raise clean_tokens"):
        Mixture(n_clean=n_clean, n_toxic=n_toxic, batch_size=1, seed=0)


def test_too_little_text_is_an_error_that_names_the_shortfall_in_tokens():
    check_supply("toxic", 10, 10, 64)
    with pytest.raises(
        ConfigurationError, match=r"toxic stream holds 1,000 .*64,000 tokens.* 1,500 .*96,000 tokens.* 32,000 tokens short"
    ):
        check_supply("toxic", 1500, 1000, 64)
    with pytest.raises(ConfigurationError, match=r"clean stream .*lower clean_tokens"):
        check_supply("clean", 2, 1, 64)
