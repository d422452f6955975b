"""Hashes of words and of their n-grams follow the plain definition."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_prep.cleaning import ngrams

chars = (
    st.sampled_from(
        "aAbB9 \n.'’“—…é\xa0«ÉµИ中。\u3000\ud800👩\u2070ª½ｆ，"
        "\u0301\u0327\xad\u200b\u200d\ufe0fßςﬁ각ᆨ𝓱™€−\u0345"
    )
    | st.characters()
)
texts = st.lists(
    st.text(chars, max_size=30)
    | st.sampled_from(["", "x" * 64, "x" * 65, "y" * 200 + " z", "abcdefgh abcdefghi"]),
    max_size=6,
)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("The CAT’s “end”—a\xa0b…", ["the", "cat", "s", "end", "a", "b"]),
        ("don't/stop_it 3.5", ["don", "t", "stop", "it", "3", "5"]),
        ("naïve ÉTÉ 中文。好", ["naïve", "été", "中文", "好"]),
        ("nai\u0308ve E\u0301TE\u0301", ["naïve", "été"]),  # combining marks
        ("zero\u200bwidth so\xadft jo\u2060i\u200dn", ["zerowidth", "soft", "join"]),
        ("Ｆｕｌｌ　ｗｉｄｔｈ，１２", ["full", "width", "12"]),
        ("ﬁne Straße ΣΊΣΥΦΟΣ Σίσυφος", ["fine", "strasse", "σίσυφοσ", "σίσυφοσ"]),
        ("x² 𝓱𝓲 ½", ["x2", "hi", "1", "2"]),
        ("𐐀 İ", ["𐐨", "i̇"]),
        ("", []),
        ("?! …", []),
    ],
)
def test_words_are_runs_of_letters_and_digits(text, words):
    assert ngrams.words(text) == [word.encode() for word in words]


@given(texts)
def test_only_equal_words_have_equal_hashes(batch):
    words = [word for text in batch for word in ngrams.words(text)]
    hashes, ends = ngrams.hash_words(batch)
    assert ends.tolist() == np.cumsum([len(ngrams.words(text)) for text in batch]).tolist()
    assert len(hashes) == len(words)
    assert (
        len(set(zip(words, hashes.tolist(), strict=True)))
        == len(set(words))
        == len(set(hashes.tolist()))
    )


def test_every_character_makes_the_words_of_the_definition():
    """Alone, inside a word, and before an accent."""
    codes = [*range(0x80, 0x20000), *range(0xE0000, 0xE0200)]
    batch = [f"a{char}b {char} c{char}\u0301" for char in map(chr, codes)]
    words = [ngrams.words(text) for text in batch]
    hashes, ends = ngrams.hash_words(batch)
    assert ends.tolist() == np.cumsum(list(map(len, words))).tolist()
    hash_of = dict(zip([word for of_text in words for word in of_text], hashes, strict=True))
    assert [hash_of[word] for of_text in words for word in of_text] == hashes.tolist()
    assert len(set(hash_of.values())) == len(hash_of)


@given(st.text(chars))
def test_folding_twice_gives_the_same_as_folding_once(text):
    assert ngrams.fold(ngrams.fold(text)) == ngrams.fold(text)
    assert ngrams.words(" ".join(word.decode() for word in ngrams.words(text))) == ngrams.words(
        text
    )


@given(texts, st.integers(1, 4))
def test_windows_are_the_runs_of_words_within_each_text(batch, n):
    grams = [
        [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]
        for words in map(ngrams.words, batch)
    ]
    hashes, ends = ngrams.windows(ngrams.hash_words(batch), n)
    flat = [gram for of_text in grams for gram in of_text]
    assert ends.tolist() == np.cumsum([len(of_text) for of_text in grams]).tolist()
    assert len(hashes) == len(flat)
    assert (
        len(set(zip(flat, hashes.tolist(), strict=True)))
        == len(set(flat))
        == len(set(hashes.tolist()))
    )


def test_a_hash_is_the_same_in_any_batch_and_place():
    alone = ngrams.windows(ngrams.hash_words(["one two three"]), 3).hashes
    among = ngrams.windows(ngrams.hash_words(["w " * 5000, "x ONE, two (three) four"]), 3).hashes
    assert among[4998 + 1] == alone[0]


@given(st.lists(st.integers(0, 3000), max_size=20))
def test_batches_contain_every_text_once_in_order(sizes):
    texts = ["x" * size * 100 for size in sizes]
    parts = list(ngrams.batches(texts))
    assert [i for part in parts for i in range(part.start, part.stop)] == list(range(len(texts)))
    assert all(sum(map(len, texts[part][:-1])) < ngrams.BATCH_CHARS for part in parts)


def test_every_byte_of_a_word_changes_its_hash():
    words = [f"{'a' * at}b{'a' * (n - at - 1)}" for n in range(1, 81) for at in range(n)] + [
        "a" * n for n in range(1, 81)
    ]
    assert len(set(ngrams.hash_words([" ".join(words)]).hashes.tolist())) == len(words)
