"""Of each group of duplicates the first in stream order is kept."""

import importlib.util
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_prep.build import dedup
from data_prep.core.errors import ConfigurationError
from data_prep.sources import corpus_reader
from data_prep.token_stream import text_hashes

needs_rensa = pytest.mark.skipif(
    importlib.util.find_spec("rensa") is None,
    reason="the extra `near` is not installed",
)


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 3)), max_size=12))
def test_of_equal_hashes_the_first_in_order_is_kept(rows):
    order = np.array([row[0] for row in rows], np.int64)
    hashes = np.array([row[1] for row in rows], np.uint64)
    groups: dict[int, list[int]] = {}
    for i, (_, value) in enumerate(rows):
        groups.setdefault(value, []).append(i)
    first = [min(group, key=lambda i: (rows[i][0], i)) for group in groups.values()]
    kept = np.flatnonzero(~dedup.repeats(order, hashes)).tolist()
    assert kept == sorted(first)


@given(st.lists(st.text(max_size=4), max_size=8))
def test_only_equal_texts_have_equal_hashes(texts):
    hashes = dedup.exact_hashes(texts)
    assert hashes.dtype == np.uint64
    assert len(set(hashes.tolist())) == len(set(texts))
    assert len(set(zip(texts, hashes.tolist(), strict=True))) == len(set(texts))


@needs_rensa
def test_the_hashes_are_the_same_on_every_machine():
    """Golden values: they decide which documents are dropped. They change only with dedup.VERSION
    or with rensa's algorithm.
    """
    exact = [3244421341483603138, 13825000225174374663]
    bands = [6239404378434583080, 15896993852068782797]
    assert dedup.exact_hashes(["", "a é 👩"]).tolist() == exact
    text = "one two three four five six seven"
    assert dedup.minhash_bands([text])[0, :2].tolist() == bands


def edited(text: str, every: int) -> str:
    """`text` with one word in `every` replaced."""
    words = enumerate(text.split(), 1)
    return " ".join(word if i % every else f"changed{i}" for i, word in words)


def shingles(text: str) -> set[tuple[str, ...]]:
    words = text.split()
    return {tuple(words[i : i + 5]) for i in range(len(words) - 4)}


def jaccard(a: str, b: str) -> float:
    return len(shingles(a) & shingles(b)) / len(shingles(a) | shingles(b))


@pytest.fixture(scope="module")
def unrelated() -> list[str]:
    rng = np.random.default_rng(7)
    return [" ".join(f"w{i}" for i in rng.integers(0, 500, 300)) for _ in range(150)]


@needs_rensa
def test_near_duplicates_are_found_and_unrelated_texts_are_not(unrelated):
    close = [edited(text, 100) for text in unrelated]  # Jaccard 0.90
    far = [edited(text, 12) for text in unrelated]  # Jaccard 0.39
    assert jaccard(unrelated[0], close[0]) > 0.85
    assert jaccard(unrelated[0], far[0]) < 0.5
    texts = [*unrelated, *close, *far]
    order = np.arange(len(texts))
    assert not dedup.repeats(order, dedup.exact_hashes(texts)).any()
    by_band = [dedup.repeats(order, band) for band in dedup.minhash_bands(texts).T]
    is_near = np.any(by_band, axis=0).reshape(3, -1)
    assert not is_near[0].any()
    assert is_near[1].mean() > 0.97
    assert is_near[2].mean() < 0.1


@needs_rensa
def test_layout_case_and_quotes_do_not_hide_near_duplicates():
    text = "He said “no”, and that was that; nobody asked why he had come at all."
    other = text.upper().replace("“", '"').replace("”", '"').replace(" ", "\n")
    bands = dedup.minhash_bands([text, other])
    assert np.array_equal(bands[0], bands[1])


@needs_rensa
@pytest.mark.parametrize(
    "texts",
    [
        ["!!! ??? …", "— — — —"],
        ["yes", "no"],
        ["", "?"],
        ["one two three four", "one two three five"],
    ],
)
def test_texts_too_short_for_a_shingle_are_compared_as_a_whole(texts):
    bands = dedup.minhash_bands([*texts, *texts])
    assert np.array_equal(bands[:2], bands[2:])
    assert not (bands[0] == bands[1]).any()


@needs_rensa
def test_bands_do_not_depend_on_the_batch():
    texts = [
        document.text
        for source in corpus_reader.expand(["synthetic:clean?documents=40"])
        for document in corpus_reader.read(source)
    ]
    alone = np.concatenate([dedup.minhash_bands([text]) for text in texts])
    assert np.array_equal(dedup.minhash_bands(texts), alone)


def test_without_rensa_the_error_states_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "rensa", None)
    with pytest.raises(ConfigurationError, match=r"hormesis\[near\].*data\.dedup=exact"):
        dedup.minhash_bands(["a"])


def test_the_hash_table_has_one_exact_hash_per_text():
    table = dedup.hash_table(["a", "b", "a"], "exact")
    assert dedup.hash_table(["a", "b", "a"], "keep") == table
    assert table is not None
    columns = table.to_pydict()
    assert columns["hash"] == dedup.exact_hashes(["a", "b", "a"]).tolist()
    assert columns["document"] == [0, 1, 2]
    assert columns["near"] == [False] * 3


@given(st.integers(1, 1 << 40))
def test_hash_ranges_partition_the_hashes(n_hashes):
    ranges = dedup.hash_ranges(n_hashes)
    lows, highs = zip(*ranges, strict=True)
    assert (lows[0], highs[-1]) == (0, text_hashes.HASH_SPACE)
    assert lows[1:] == highs[:-1]
    assert n_hashes / len(ranges) <= dedup.HASHES_PER_TASK
