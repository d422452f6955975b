"""A mixture is exact: counts, ratios, order, prefixes and repetition."""

import re
from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_prep.core.errors import ConfigurationError
from data_prep.core.records import digest
from data_prep.token_stream.mixture import (
    PADDING,
    BatchRows,
    Budget,
    Mixture,
    check_supply,
    read_rows,
    sequences_for,
)

GOLDEN = [[3, 2, 7, 1, 0, 4, 5, 6], [5, 6, 0, 7, 3, 4, 2, 1], [4, 2, 6, 0, 3, 7, 1, 5]]
RATIOS = (0.0, 0.05, 0.10, 0.15, 0.20, 0.25)
mixtures = st.builds(
    Mixture,
    n_clean=st.integers(1, 300),
    n_toxic=st.integers(0, 100),
    batch_size=st.integers(1, 40),
    seed=st.integers(-5, 2**63),
)


def unpadded_batches(mixture: Mixture) -> list[list[tuple[bool, int]]]:
    """Each batch as (toxic, sequence), without padding."""
    every = [mixture.rows(step) for step in range(mixture.n_steps)]
    return [
        [(bool(t), int(s)) for t, s in zip(*rows, strict=True) if s != PADDING] for rows in every
    ]


def samples_by_formula(mixture: Mixture) -> list[tuple[bool, int]]:
    """The samples k = 0, 1, … by the formula of the docstring, before the permutation."""
    n, toxic = mixture.n_sequences, mixture.n_toxic
    before = [k * toxic // n for k in range(n + 1)]
    return [
        (True, before[k]) if before[k + 1] > before[k] else (False, k - before[k]) for k in range(n)
    ]


@given(mixtures)
def test_every_sequence_of_both_streams_is_used_exactly_once(mixture: Mixture):
    used = Counter(sample for batch in unpadded_batches(mixture) for sample in batch)
    assert used == Counter(
        [(False, i) for i in range(mixture.n_clean)] + [(True, i) for i in range(mixture.n_toxic)]
    )


@given(mixtures)
def test_every_batch_is_within_one_row_of_the_ratio(mixture: Mixture):
    for batch in unpadded_batches(mixture):
        assert (
            abs(
                sum(toxic for toxic, _ in batch)
                - len(batch) * mixture.n_toxic / mixture.n_sequences
            )
            < 1
        )


@given(mixtures)
def test_every_prefix_is_within_one_row_of_the_ratio(mixture: Mixture):
    for k in range(mixture.n_sequences + 1):
        assert 0 <= k * mixture.n_toxic / mixture.n_sequences - mixture.toxic_before(k) < 1


@given(mixtures)
def test_a_batch_contains_the_samples_of_its_own_step(mixture: Mixture):
    samples = samples_by_formula(mixture)
    n_done = 0
    for step, batch in enumerate(unpadded_batches(mixture)):
        assert mixture.rows_before(step) == n_done
        assert sorted(batch) == sorted(samples[n_done : n_done + mixture.batch_size])
        n_done += mixture.batch_size
    assert mixture.rows_before(mixture.n_steps) == mixture.n_sequences <= n_done


@given(mixtures)
def test_only_the_last_batch_is_padded_and_padding_is_not_toxic(mixture: Mixture):
    for step in range(mixture.n_steps):
        toxic, sequence = mixture.rows(step)
        assert len(toxic) == len(sequence) == mixture.batch_size
        assert (sequence != PADDING).sum() == mixture.n_valid(step)
        assert mixture.n_valid(step) == mixture.batch_size or step == mixture.n_steps - 1
        assert not toxic[sequence == PADDING].any()
    assert sum(map(mixture.n_valid, range(mixture.n_steps))) == mixture.n_sequences


@given(mixtures, st.data())
def test_a_batch_does_not_depend_on_earlier_ones(mixture: Mixture, data: st.DataObject):
    step = data.draw(st.integers(0, mixture.n_steps - 1))
    again = replace(mixture)
    for column, same in zip(mixture.rows(step), again.rows(step), strict=True):
        np.testing.assert_array_equal(column, same)


def streams_read(mixture: Mixture) -> tuple[list[int], list[int]]:
    """The clean and the toxic sequences in the order of training (within a batch in their own
    order).
    """
    rows = [sorted(batch) for batch in unpadded_batches(mixture)]
    return tuple(
        [index for batch in rows for toxic, index in batch if toxic == wanted]
        for wanted in (False, True)
    )  # type: ignore[return-value]


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("budget", ["clean_fixed", "total_fixed"])
def test_all_ratios_read_the_same_clean_order_and_toxic_prefixes(seed: int, budget: Budget):
    for ratio in RATIOS:
        n_clean, n_toxic = sequences_for(200 * 64, ratio, 64, budget)
        clean, toxic = streams_read(
            Mixture(n_clean=n_clean, n_toxic=n_toxic, batch_size=16, seed=seed)
        )
        assert clean == list(range(200 if budget == "clean_fixed" else 200 - n_toxic))
        assert toxic == list(range(n_toxic))


class OneTokenStream:
    """Sequences of one token each: the number of the sequence, counted from `base`."""

    sequence_length = 1
    dtype = np.int64

    def __init__(self, base: int, n_sequences: int) -> None:
        self.base = base
        self.n_sequences = n_sequences

    def read(self, indices: np.ndarray, dtype: Any) -> np.ndarray:
        assert not len(indices) or (indices.min() >= 0 and indices.max() < self.n_sequences)
        return self.base + indices[:, None]


def toxic_sequences_read(mixture: Mixture, supply: int) -> list[int]:
    """The toxic sequences of a stream of `supply` that training reads, in order."""
    clean = OneTokenStream(10_000, mixture.n_clean)
    toxic = OneTokenStream(1, supply)
    tokens = []
    for step in range(mixture.n_steps):
        rows = mixture.rows(step)
        order = np.argsort(rows.sequence, kind="stable")
        sorted_rows = BatchRows(rows.toxic[order], rows.sequence[order])
        tokens += [
            int(token) - 1
            for token in read_rows(sorted_rows, clean, toxic)[:, 0]
            if 0 < token < 10_000
        ]
    return tokens


@given(
    st.integers(1, 60),
    st.integers(0, 60),
    st.integers(0, 60),
    st.integers(1, 30),
    st.integers(1, 20),
)
def test_toxic_text_is_repeated_from_its_start_and_still_nests(
    n_clean: int, n_first: int, n_second: int, supply: int, batch_size: int
):
    few, many = sorted((n_first, n_second))
    short, long = (
        toxic_sequences_read(
            Mixture(n_clean=n_clean, n_toxic=n, batch_size=batch_size, seed=3), supply
        )
        for n in (few, many)
    )
    assert long == [i % supply for i in range(many)]
    assert short == long[:few]
    assert not Counter(short) - Counter(long)
    mixture = Mixture(n_clean=n_clean, n_toxic=many, batch_size=batch_size, seed=3)
    assert len(set(long)) == mixture.n_distinct_toxic(supply)


def test_padding_rows_are_zeros():
    rows = Mixture(n_clean=1, n_toxic=1, batch_size=4, seed=0).rows(0)
    assert sorted(read_rows(rows, OneTokenStream(5, 1), OneTokenStream(7, 1))[:, 0]) == [0, 0, 5, 7]


def test_the_allowed_repetition_is_not_part_of_the_identity():
    once, twice = (
        Mixture(n_clean=6, n_toxic=2, batch_size=4, seed=0, max_toxic_epochs=n) for n in (1.0, 2.0)
    )
    assert (
        digest(once) == digest(twice) != digest(Mixture(n_clean=6, n_toxic=3, batch_size=4, seed=0))
    )


@pytest.mark.parametrize("epochs", [0.5, 0.0, -1.0, float("nan"), float("inf")])
def test_less_than_one_epoch_or_infinitely_many_are_refused(epochs: float):
    with pytest.raises(ConfigurationError, match=r"max_toxic_epochs is .*expected a number >= 1"):
        Mixture(n_clean=1, n_toxic=1, batch_size=1, seed=0, max_toxic_epochs=epochs)


def test_ratio_zero_is_the_clean_stream_alone():
    toxic, sequence = Mixture(n_clean=6, n_toxic=0, batch_size=4, seed=0).rows(1)
    assert not toxic.any()
    assert sorted(sequence) == [PADDING, PADDING, 4, 5]


def test_the_example_in_the_docstring_is_right():
    mixture = Mixture(n_clean=6, n_toxic=2, batch_size=8, seed=0)
    assert samples_by_formula(mixture) == [
        (False, 0),
        (False, 1),
        (False, 2),
        (True, 0),
        (False, 3),
        (False, 4),
        (False, 5),
        (True, 1),
    ]
    assert sorted(unpadded_batches(mixture)[0]) == sorted(samples_by_formula(mixture))


def test_every_rank_gets_its_share_of_the_toxic_rows():
    """Without a permutation, rows 3 and 7 of 8 would get all of a quarter toxic text."""
    mixture = Mixture(n_clean=6000, n_toxic=2000, batch_size=8, seed=0)
    share_of_row = np.mean([mixture.rows(step).toxic for step in range(mixture.n_steps)], axis=0)
    assert share_of_row == pytest.approx([0.25] * 8, abs=0.06)  # 1,000 steps: σ = 0.014


def test_the_order_within_a_batch_is_pinned_per_seed_and_step():
    """Golden values. Update them only if the order must change: earlier runs cannot resume then."""
    orders = [
        Mixture(n_clean=100, n_toxic=0, batch_size=8, seed=seed).rows(step).sequence
        for seed, step in ((0, 0), (0, 1), (1, 0))
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


@pytest.mark.parametrize(
    ("n_clean", "n_toxic"),
    [(10**12, 3 * 10**11), (5_000_000_000, 2_000_000_000), (9 * 10**18, 2 * 10**17), (9, 3)],
)
def test_rows_are_exact_where_products_exceed_64_bits(n_clean: int, n_toxic: int):
    mixture = Mixture(n_clean=n_clean, n_toxic=n_toxic, batch_size=8, seed=0)
    n = mixture.n_sequences
    for step in {0, mixture.n_steps // 2, mixture.n_steps - 1}:
        expected = []
        for k in range(step * 8, min(step * 8 + 8, n)):
            before, after = k * n_toxic // n, (k + 1) * n_toxic // n  # of any size in Python
            expected.append((True, before) if after > before else (False, k - before))
        rows = mixture.rows(step)
        assert rows.sequence.dtype == np.int64 and rows.toxic.dtype == bool
        samples = zip(rows.toxic.tolist(), rows.sequence.tolist(), strict=True)
        assert sorted(sample for sample in samples if sample[1] != PADDING) == sorted(expected)


def test_a_mixture_that_no_index_can_count_is_refused():
    with pytest.raises(ConfigurationError, match="more than the 2\\^63 that an index can count"):
        Mixture(n_clean=2**63 - 1, n_toxic=1, batch_size=8, seed=0)


@given(st.integers(1, 10**7), st.sampled_from(RATIOS) | st.floats(0, 0.9), st.integers(1, 4096))
def test_toxic_sequences_are_within_half_a_sequence_of_the_ratio(
    clean_tokens: int, ratio: float, sequence_length: int
):
    n_clean, n_toxic = sequences_for(clean_tokens, ratio, sequence_length)
    assert n_clean == clean_tokens // sequence_length
    assert abs(n_toxic - n_clean * ratio / (1 - ratio)) <= 0.5 + 1e-6


@given(st.integers(1, 10**7), st.sampled_from(RATIOS) | st.floats(0, 0.9), st.integers(1, 4096))
def test_a_fixed_total_is_exact_and_its_toxic_share_rounded(
    budget_tokens: int, ratio: float, sequence_length: int
):
    n_clean, n_toxic = sequences_for(budget_tokens, ratio, sequence_length, "total_fixed")
    assert n_clean + n_toxic == budget_tokens // sequence_length and n_clean >= 0
    assert abs(n_toxic - (n_clean + n_toxic) * ratio) <= 0.5 + 1e-6


@given(
    st.integers(1, 10**6),
    st.lists(st.floats(0, 0.95), min_size=2, max_size=6),
    st.sampled_from(["clean_fixed", "total_fixed"]),
)
def test_a_higher_ratio_needs_no_less_toxic_and_no_more_clean_text(
    budget_tokens: int, ratios: list[float], budget: Budget
):
    counts = [sequences_for(budget_tokens, ratio, 64, budget) for ratio in sorted(ratios)]
    assert [toxic for _, toxic in counts] == sorted(toxic for _, toxic in counts)
    assert [clean for clean, _ in counts] == sorted((clean for clean, _ in counts), reverse=True)


def test_a_ratio_of_a_tenth_is_exact():
    assert sequences_for(900 * 2048, 0.10, 2048) == (900, 100)
    assert sequences_for(1000 * 2048, 0.10, 2048, "total_fixed") == (900, 100)


@pytest.mark.parametrize("ratio", [-0.1, 1.0, 10.0, float("nan")])
def test_a_ratio_outside_zero_to_one_is_refused(ratio: float):
    with pytest.raises(
        ConfigurationError, match=r"toxic ratio .* is not in \[0, 1\); 0\.10 means ten percent"
    ):
        sequences_for(1000, ratio, 10)


def test_a_budget_below_one_sequence_is_refused():
    n_clean, n_toxic = sequences_for(9, 0.1, 10)
    with pytest.raises(ConfigurationError, match=r"0 clean and 0 toxic.*raise budget_tokens"):
        Mixture(n_clean=n_clean, n_toxic=n_toxic, batch_size=1, seed=0)


def plan(n_clean: int = 1, n_toxic: int = 0, max_toxic_epochs: float = 1.0) -> Mixture:
    return Mixture(
        n_clean=n_clean, n_toxic=n_toxic, batch_size=1, seed=0, max_toxic_epochs=max_toxic_epochs
    )


def test_too_little_text_is_refused_with_the_shortfall_in_tokens():
    check_supply(plan(10, 10), 10, 10, 64)
    with pytest.raises(
        ConfigurationError,
        match=r"toxic stream holds 1,000 .*64,000 tokens\).* 1,500 .*96,000 tokens.*"
        r" 32,000 tokens short.*_epochs=1\.5, now 1\)",
    ):
        check_supply(plan(1, 1500), 1, 1000, 64)
    with pytest.raises(ConfigurationError, match=r"clean stream .*lower budget_tokens"):
        check_supply(plan(2), 1, 0, 64)


def test_toxic_text_is_repeated_as_far_as_allowed_and_no_further():
    check_supply(plan(1, 1500, 1.5), 1, 1000, 64)
    with pytest.raises(
        ConfigurationError,
        match=r"64,000 tokens, read at most 1\.5 times\).* 64 tokens short.*max_toxic_epochs=1\.6",
    ):
        check_supply(plan(1, 1501, 1.5), 1, 1000, 64)
    with pytest.raises(
        ConfigurationError, match=r"holds 0 sequences .* add toxic documents, or shorten the run"
    ):
        check_supply(plan(1, 1, 9.0), 1, 0, 64)


@given(st.integers(1, 10**6), st.integers(1, 10**6))
def test_the_repetition_that_the_error_suggests_is_enough(needed: int, available: int):
    try:
        check_supply(plan(1, needed), 1, available, 64)
        assert needed <= available
    except ConfigurationError as error:
        named = re.search(r"max_toxic_epochs=([\d.e+]+)", str(error))
        assert named and needed > available
        check_supply(plan(1, needed, float(named[1])), 1, available, 64)


@given(mixtures, st.data())
def test_the_first_samples_have_the_same_rows_and_exact_counts(
    mixture: Mixture, data: st.DataObject
):
    first = mixture.first_of(n_clean=data.draw(st.integers(1, mixture.n_clean)))
    assert (
        first.n_sequences <= mixture.n_sequences
        and unpadded_batches(first)[:-1] == unpadded_batches(mixture)[: first.n_steps - 1]
    )
    assert sorted(unpadded_batches(first)[-1]) == sorted(
        samples_by_formula(mixture)[first.rows_before(first.n_steps - 1) : first.n_sequences]
    )
    assert first.first_of(n_sequences=first.n_sequences) == first
    assert (
        mixture.first_of(n_sequences=mixture.n_sequences).rows_before(10**6) == mixture.n_sequences
    )


@given(mixtures)
def test_first_of_takes_as_few_samples_as_possible(mixture: Mixture):
    for n_clean in range(1, mixture.n_clean + 1):
        first = mixture.first_of(n_clean=n_clean)
        assert first.n_clean == n_clean and samples_by_formula(mixture)[first.n_sequences - 1] == (
            False,
            n_clean - 1,
        )


def test_a_mixture_that_is_not_the_start_of_its_line_is_refused():
    with pytest.raises(
        ConfigurationError,
        match="4 clean and 2 toxic sequences is not the first samples of one with 2 toxic in 8",
    ):
        Mixture(n_clean=4, n_toxic=2, batch_size=2, seed=0, line=(2, 8))
