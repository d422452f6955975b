"""Documents that contain a 13-gram of an evaluation text are first_hits, and no others."""

import pickle
import unicodedata

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep.cleaning import ngrams
from data_prep.cleaning.decontaminate import MIN_WORDS, NGrams

QUESTION = "the cat sat on a mat and the dog saw it run far away from here today"
WORDS = QUESTION.split()  # 17
word = st.sampled_from(
    ["a", "b", "c", "wonderful", "incomprehensibilities", "é", "É", "e\u0301", "b\u200b", "ｃ", "½"]
)
prose = st.lists(word, max_size=24).map(" ".join)


def hits_by_definition(document: str, texts: list[str], n: int) -> set[int]:
    """Every evaluation text of which `document` contains an n-gram."""
    words = ngrams.words(document)
    hit = set()
    for index, text in enumerate(texts):
        sought = ngrams.words(text)
        length = min(n, len(sought))
        grams = (
            [sought[i : i + length] for i in range(len(sought) - length + 1)]
            if length >= min(MIN_WORDS, n)
            else []
        )
        if any(words[i : i + length] in grams for i in range(len(words) - length + 1)):
            hit.add(index)
    return hit


@settings(max_examples=200)
@given(
    st.lists(prose, max_size=5),
    st.lists(prose, max_size=5),
    st.sampled_from([2, 3, 9, 13]),
    st.data(),
)
def test_hits_are_those_of_the_plain_definition(texts, documents, n, data):
    if texts:  # otherwise hardly any document of 13 random words would be a hit
        source = data.draw(st.sampled_from(texts))
        documents = [
            *documents,
            f"Well, {source.upper()}!",
            f"x {source[3:]} y",
            source[: len(source) * 2 // 3],
        ]
    first_hits = NGrams.of(texts, n).first_hits(documents)
    for document, hit in zip(documents, first_hits.tolist(), strict=True):
        expected = hits_by_definition(document, texts, n)
        assert hit in expected if expected else hit == -1
    is_found = np.zeros(len(texts), bool)
    NGrams.of(texts, n).mark_found(documents, is_found)
    every = set().union(*(hits_by_definition(document, texts, n) for document in documents))
    assert set(np.flatnonzero(is_found).tolist()) == every


@pytest.mark.parametrize(
    ("document", "is_hit"),
    [
        (QUESTION, True),
        (f"Before. {QUESTION} After.", True),
        (" ".join(WORDS[2:15]), True),
        (" ".join(WORDS[2:14]), False),
        ("The CAT sat — on a “mat”,\nand the dog saw it... RUN far", True),
        (" ".join([*WORDS[:12], "x", *WORDS[12:]]), False),
        ("", False),
    ],
)
def test_thirteen_words_in_a_row_are_a_hit(document, is_hit):
    assert NGrams.of([QUESTION]).hits([document]).tolist() == [is_hit]


ACCENTED = "the café où Élodie met Zoë served a naïve cœur à la crème brûlée for ten euros"


@pytest.mark.parametrize(
    "copy",
    [
        ACCENTED.upper(),
        ACCENTED.lower(),
        unicodedata.normalize("NFD", ACCENTED),
        unicodedata.normalize("NFD", ACCENTED.upper()),
        "\u200b".join(ACCENTED),
        ACCENTED.replace("served", "ser\xadved").replace("euros", "eu\u2060ros"),
        ACCENTED.translate({code: code + 0xFEE0 for code in range(ord("a"), ord("z") + 1)}),
        ACCENTED.replace(" ", "\xa0"),
        ACCENTED.replace(" ", "\u3000"),
        ACCENTED.replace(" ", "… "),
    ],
)
def test_the_form_of_characters_hides_no_copy(copy):
    """Case beyond ASCII, combining marks, zero-width characters, full-width letters."""
    assert NGrams.of([ACCENTED]).first_hits(["nothing", f"x {copy} y"]).tolist() == [-1, 0]
    assert NGrams.of([copy]).first_hits([f"x {ACCENTED} y"]).tolist() == [0]
    assert NGrams.of([ACCENTED]).identity == NGrams.of([copy]).identity


def test_an_ngram_across_two_documents_is_not_a_hit():
    assert not NGrams.of([QUESTION]).hits([" ".join(WORDS[:9]), " ".join(WORDS[9:])]).any()


def test_a_short_text_counts_as_a_whole_from_eight_words_on():
    eight, seven = " ".join(WORDS[:8]), " ".join(WORDS[:7])
    grams = NGrams.of([seven, eight])
    assert grams.n_searched == 1
    assert grams.first_hits(
        [f"and {eight} too", f"and {seven} too", " ".join(WORDS[:9])]
    ).tolist() == [1, -1, 1]


def test_the_hit_names_the_evaluation_text():
    other = " ".join(f"w{i}" for i in range(20))
    documents = ["nothing", f"x {other}", QUESTION, f"{QUESTION} {other}"]
    assert NGrams.of([QUESTION, other]).first_hits(documents).tolist() == [-1, 1, 0, 0]


def test_a_hash_collision_is_not_a_hit(monkeypatch):
    """With all hashes equal, the words themselves decide."""
    rolling = ngrams.rolling
    monkeypatch.setattr(ngrams, "rolling", lambda hashes, n: np.zeros_like(rolling(hashes, n)))
    other = " ".join(reversed(WORDS))
    assert NGrams.of([QUESTION, "y " * 20]).hits([other, QUESTION, "y " * 13]).tolist() == [
        False,
        True,
        True,
    ]


def test_without_evaluation_texts_nothing_is_a_hit():
    assert not NGrams.of([]).hits([QUESTION, ""]).any()
    assert NGrams.of([QUESTION]).hits([]).tolist() == []


def test_ngrams_have_an_identity_and_can_be_pickled():
    grams = NGrams.of([QUESTION])
    assert pickle.loads(pickle.dumps(grams)).hits([QUESTION]).all()
    assert grams.identity == NGrams.of([QUESTION.upper()]).identity
    assert (
        len(
            {
                grams.identity,
                NGrams.of([QUESTION], 12).identity,
                NGrams.of([QUESTION, "x"]).identity,
            }
        )
        == 3
    )
