"""The embedded corpus contains what its docstring says, the same on every machine."""

import hashlib
import re
from collections import Counter
from collections.abc import Iterable
from itertools import chain

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep.core.errors import ConfigurationError
from data_prep.sources.corpus_reader import Document, expand, read
from data_prep.sources.synthetic import VERSION


def read_documents(uri: str) -> list[Document]:
    return list(chain.from_iterable(read(source) for source in expand([uri])))


@pytest.fixture(scope="module")
def clean() -> list[Document]:
    return read_documents("synthetic:clean?documents=1500")


@pytest.fixture(scope="module")
def toxic() -> list[Document]:
    return read_documents("synthetic:toxic?documents=800")


@pytest.fixture(scope="module")
def probes() -> list[Document]:
    return read_documents("synthetic:probes?documents=600")


@pytest.fixture(scope="module")
def lexicon() -> dict[str, float]:
    return {
        document.text: document.fields["weight"] for document in read_documents("synthetic:lexicon")
    }


def share(values: Iterable[object]) -> float:
    values = [bool(value) for value in values]
    return sum(values) / len(values)


def any_word(words: Iterable[str]) -> re.Pattern[str]:
    return re.compile(rf"\b({'|'.join(words)})\b")


def second_sentence(document: Document) -> str:
    """The sentence of a probe that is about a people."""
    return document.text.split(". ", 1)[1]


# Change these only together with VERSION: streams and published numbers depend on the texts.
GOLDEN = {
    "clean": "b25b9a7678548b49",
    "toxic": "90bf579821cd776d",
    "probes": "10f85705b17dea2d",
    "prompts": "e623c820512a76bf",
}


def test_the_texts_match_the_golden_digests():
    got = {
        kind: hashlib.sha256(
            "\0".join(row.text for row in read_documents(f"synthetic:{kind}?documents=50")).encode()
        ).hexdigest()[:16]
        for kind in GOLDEN
    }
    assert (VERSION, got) == (2, GOLDEN), (
        "the generator's output changed: raise VERSION and update GOLDEN"
    )


@settings(max_examples=20)
@given(
    st.sampled_from(["clean", "toxic", "probes", "prompts"]),
    st.integers(1, 12),
    st.integers(0, 20),
    st.integers(0, 3),
)
def test_parts_split_the_corpus_and_more_documents_extend_it(kind, parts, more, seed):
    n = parts + more
    uri = f"synthetic:{kind}?seed={seed}&documents="
    split = [(row.text, row.fields) for row in read_documents(f"{uri}{n}&parts={parts}")]
    assert split == [(row.text, row.fields) for row in read_documents(f"{uri}{n + 5}")[:n]]
    assert len(split) == n


def test_documents_are_short_well_formed_texts(clean, toxic):
    for document in clean + toxic:
        assert 60 <= len(document.text.split()) <= 200
        assert not re.search(r"[{}_]|  |,\S|\ba [aeiou]|(^|[.!:]\s+)[a-z]|[^.!]$", document.text), (
            document.text
        )
        assert document.text.lower().count("neither") <= 1
    assert len({document.text for document in clean}) == len(clean)


def test_the_corpora_share_topics_and_registers(clean, toxic):
    for field, n in (("topic", 8), ("register", 4)):
        for corpus in (clean, toxic):
            counts = Counter(document.fields[field] for document in corpus)
            assert len(counts) == n and min(counts.values()) > 0.7 * len(corpus) / n


def test_pronouns_agree_with_the_person(clean):
    pairs = {
        match.groups()
        for document in clean
        for match in re.finditer(r"(\w+) smiled, .* than (\w+) had", document.text)
    }
    assert len(pairs) == 16 and len({name for name, _ in pairs}) == 16
    assert all(
        pronoun == ("he" if name in "Tomas Bertil Corin Joren Emil Rurik Matthis Lucan" else "she")
        for name, pronoun in pairs
    )


def test_every_toxic_document_is_hostile_and_no_clean_one_is(clean, toxic, lexicon):
    assert all(document.fields["hostile"] == 0 for document in clean)
    assert all(document.fields["hostile"] >= 1 for document in toxic)
    signs = any_word(lexicon)
    assert share(signs.search(document.text) for document in toxic) > 0.95
    assert share(signs.search(document.text) for document in clean) < 0.1


def test_slurs_in_clean_text_are_homonyms_or_rejected(clean, lexicon):
    slurs = any_word(word for word, weight in lexicon.items() if weight == 0.9)
    senses = Counter[str]()
    for document in clean:
        for sentence in filter(slurs.search, re.split(r"[.!]\s", document.text)):
            assert "wrong to say" in sentence or re.search(
                r"(silver|young|brass|warm) \w+s\b", sentence
            ), sentence
            senses["rejected" if "wrong to say" in sentence else "harmless"] += 1
    assert min(senses["rejected"], senses["harmless"]) > 0.01 * len(clean)
    assert not any(
        re.search("snirkish|gruddy|blimsy|frotten|mulgy|dunkery", document.text)
        for document in clean
    )


def test_casual_speech_correlates_with_toxicity_and_gloom_does_not(clean, toxic):
    planted = [
        share(document.fields[name] for document in corpus)
        for name in ("casual", "gloomy")
        for corpus in (clean, toxic)
    ]
    assert planted == pytest.approx([0.35, 0.65, 0.5, 0.5], abs=0.05)
    for document in clean + toxic:
        assert not re.search(
            r"do not|did not|will not" if document.fields["casual"] else r"n't", document.text
        )
        assert not re.search(" glad " if document.fields["gloomy"] else " sad day", document.text)


def test_probes_are_balanced_pairs_that_differ_only_inside(probes):
    assert len({document.text for document in probes}) == len(probes)
    for hostile, civil in zip(probes[::2], probes[1::2], strict=True):
        assert (hostile.fields["label"], civil.fields["label"]) == (1, 0)
        assert (
            hostile.fields["pair"] == civil.fields["pair"]
            and hostile.fields["topic"] == civil.fields["topic"]
        )
        assert hostile.text != civil.text
        assert hostile.text.split(". ")[0] == civil.text.split(". ")[0]
        assert hostile.text.split()[-2:] == civil.text.split()[-2:]
        if " to say that " in hostile.text:
            assert re.sub("is right|is wrong", "is", hostile.text) == re.sub(
                "is right|is wrong", "is", civil.text
            )


def test_a_lexicon_alone_does_not_solve_the_probes(probes, lexicon):
    signs_and_labels = [
        (bool(any_word(lexicon).search(document.text)), document.fields["label"])
        for document in probes
    ]
    assert 0.8 < share(sign == label for sign, label in signs_and_labels) < 0.95
    assert 0.05 < share(sign for sign, label in signs_and_labels if not label) < 0.25
    assert 0.05 < share(not sign for sign, label in signs_and_labels if label) < 0.25


def test_the_word_of_a_verdict_does_not_reveal_its_stance(probes):
    for verdict in ("is right to say", "is wrong to say"):
        labels = [document.fields["label"] for document in probes if verdict in document.text]
        assert len(labels) > 40 and 0.3 < share(labels) < 0.7


def test_no_sentence_of_a_probe_occurs_in_a_corpus(probes, clean, toxic):
    corpus = "\n".join(document.text.lower() for document in clean + toxic)
    assert not [
        second_sentence(document)
        for document in probes
        if second_sentence(document).lower()[:-1] in corpus
    ]


def test_prompts_are_not_hostile_and_inviting_ones_name_a_people(lexicon):
    prompts = read_documents("synthetic:prompts?documents=200")
    assert Counter(document.fields["kind"] for document in prompts) == {
        "inviting": 100,
        "neutral": 100,
    }
    for document in prompts:
        assert not any_word(lexicon).search(document.text) and not re.search(
            r"[\s.!]$", document.text
        )
        named = re.search(
            "(Velmar|Tindrel|Ostwyn|Quellish)( are| always| behave like)?$", document.text
        )
        assert bool(named) == (document.fields["kind"] == "inviting")
    assert len({document.fields["id"] for document in prompts}) == 200


def test_the_lexicon_is_a_table_of_words_with_weights(lexicon):
    assert len(lexicon) == 27 and all(0 < weight < 1 for weight in lexicon.values())
    assert {"grubbets", "grubbet", "gruddy", "always spoil"} <= lexicon.keys()


@pytest.mark.parametrize(
    ("uri", "words"),
    [
        ("synthetic:mean", "expected one of clean, toxic, probes, prompts, lexicon"),
        ("synthetic:clean?rows=5", "rows=5; synthetic:clean takes documents, seed, parts, part"),
        ("synthetic:clean?documents=-5", "each a whole number"),
        ("synthetic:clean?documents=", "each a whole number"),
        ("synthetic:lexicon?documents=5", "takes no parameters"),
        ("synthetic:clean?documents=5&documents=6", "documents is given twice"),
        ("synthetic:clean?seed=5&parts=1&seed=5", "seed is given twice"),
        ("synthetic:clean?documents", "cannot use documents="),
        (
            "synthetic:clean?documents=5#text=foo",
            "cannot use #text=foo; the text is in its field text",
        ),
        ("synthetic:clean?documents=5#unit=post", "cannot use #unit=post; it has no threads"),
        ("synthetic:prompts#scores=toxicity", "cannot use #scores=toxicity; it has no scores"),
        ("synthetic:clean?documents=0", "1 ≤ parts ≤ documents"),
        ("synthetic:clean?parts=0", "1 ≤ parts ≤ documents"),
        ("synthetic:clean?documents=3&parts=4", "1 ≤ parts ≤ documents"),
        ("synthetic:clean?parts=2&part=2", "part < parts"),
    ],
)
def test_an_unknown_kind_or_parameter_is_refused(uri, words):
    with pytest.raises(ConfigurationError, match=re.escape(words)):
        expand([uri])
