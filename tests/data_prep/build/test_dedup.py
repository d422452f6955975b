"""Of each group of duplicates the first in stream order stays."""

import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_prep.build import dedup
from data_prep.core.errors import ConfigurationError
from data_prep.sources import corpus_reader


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 3)), max_size=12))
def test_of_those_with_equal_hashes_the_first_in_order_stays(rows):
    order, hashes = (
        np.array([row[0] for row in rows], np.int64),
        np.array([row[1] for row in rows], np.uint64),
    )
    first = {
        same: min(
            (i for i in range(len(rows)) if rows[i][1] == same), key=lambda i: (rows[i][0], i)
        )
        for _, same in rows
    }
    assert np.flatnonzero(~dedup.repeats(order, hashes)).tolist() == sorted(first.values())


@given(st.lists(st.text(max_size=4), max_size=8))
def test_equal_texts_and_only_they_have_equal_hashes(texts):
    hashes = dedup.exact_hashes(texts)
    assert hashes.dtype == np.uint64 and len(set(hashes.tolist())) == len(set(texts))
    assert len(set(zip(texts, hashes.tolist(), strict=True))) == len(set(texts))


def test_the_hashes_are_the_same_on_every_machine():
    """Golden: they decide who goes. They change only with duplicates.VERSION or with rensa's
    algorithm.
    """
    pytest.importorskip("rensa", reason="the extra `near` is not installed")
    assert dedup.exact_hashes(["", "a é 👩"]).tolist() == EXACT
    assert dedup.minhash_bands(["one two three four five six seven"])[0, :2].tolist() == BANDS


EXACT = [3244421341483603138, 13825000225174374663]
BANDS = [6239404378434583080, 15896993852068782797]


def edited(text: str, every: int) -> str:
    """`text` with one word in `every` replaced."""
    return " ".join(word if i % every else f"changed{i}" for i, word in enumerate(text.split(), 1))


def jaccard(a: str, b: str) -> float:
    one, other = (
        {tuple(words[i : i + 5]) for i in range(len(words) - 4)} for words in (a.split(), b.split())
    )
    return len(one & other) / len(one | other)


@pytest.fixture(scope="module")
def unrelated() -> list[str]:
    rng = np.random.default_rng(7)
    return [" ".join(f"w{i}" for i in rng.integers(0, 500, 300)) for _ in range(150)]


def test_near_duplicates_are_found_and_unrelated_texts_kept(unrelated):
    pytest.importorskip("rensa", reason="the extra `near` is not installed")
    close = [edited(text, 100) for text in unrelated]  # Jaccard 0.90
    far = [edited(text, 12) for text in unrelated]  # Jaccard 0.39
    assert jaccard(unrelated[0], close[0]) > 0.85 and jaccard(unrelated[0], far[0]) < 0.5
    texts = [*unrelated, *close, *far]
    assert not dedup.repeats(np.arange(len(texts)), dedup.exact_hashes(texts)).any()
    near = np.any(
        [dedup.repeats(np.arange(len(texts)), band) for band in dedup.minhash_bands(texts).T],
        axis=0,
    ).reshape(3, -1)
    assert not near[0].any()
    assert near[1].mean() > 0.97
    assert near[2].mean() < 0.1


def test_layout_case_and_quotes_make_no_difference_to_near_duplicates():
    pytest.importorskip("rensa", reason="the extra `near` is not installed")
    text = "He said “no”, and that was that; nobody asked why he had come at all."
    bands = dedup.minhash_bands(
        [text, text.upper().replace("“", '"').replace("”", '"').replace(" ", "\n")]
    )
    assert np.array_equal(bands[0], bands[1])


@pytest.mark.parametrize(
    "texts",
    [
        ["!!! ??? …", "— — — —"],
        ["yes", "no"],
        ["", "?"],
        ["one two three four", "one two three five"],
    ],
)
def test_texts_too_short_for_a_shingle_are_compared_whole(texts):
    pytest.importorskip("rensa", reason="the extra `near` is not installed")
    bands = dedup.minhash_bands([*texts, *texts])
    assert np.array_equal(bands[:2], bands[2:]) and not (bands[0] == bands[1]).any()


def test_bands_do_not_depend_on_the_batch():
    pytest.importorskip("rensa", reason="the extra `near` is not installed")
    texts = [
        row.text
        for source in corpus_reader.expand(["synthetic:clean?documents=40"])
        for row in corpus_reader.read(source)
    ]
    alone = np.concatenate([dedup.minhash_bands([text]) for text in texts])
    assert np.array_equal(dedup.minhash_bands(texts), alone)


def test_without_the_library_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "rensa", None)
    with pytest.raises(ConfigurationError, match=r"hormesis\[near\].*data\.dedup=exact"):
        dedup.minhash_bands(["a"])
